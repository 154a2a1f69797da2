//! Demand response that is accountable (B6, C13; DESIGN.md section 11): what was asked, promised and measured, each a record.
//!
//! The cloud adds up the power of an area's sensors from the archive when an interval has ended, so that a sum is over what is held,
//! de-duplicated and anchored. When it is above the program's limit, an event is written as a record of the cloud's own, then published
//! to `demand/{program}/events`. Terminals answer with records under `forebay/demand/{program}`, clients of other makers with reports over
//! HTTP that the cloud writes as records. When the event is over a settlement is written, again as a record. The events are read back
//! from the archive at a start: there is no second truth beside it.

pub mod baseline;
mod book;
mod callbacks;
mod clients;
pub mod config;
mod events;
pub mod logic;
mod made;
mod measure;
mod notices;
mod records;
mod service;
mod sight;
pub mod sums;
mod unit;

pub use callbacks::Callbacks;
pub use config::{Demand, Program, Unit};
pub use logic::{Ask, Part, Settlement, Window};

pub(crate) use book::{Book, PostFault, ReportFault};
pub(crate) use callbacks::run as call;
pub(crate) use clients::subscriptions::Notice;
pub(crate) use clients::{Clients, ClientsFault, Desk, Whose};
pub(crate) use events::RequestFault;
pub(crate) use made::Made;
pub(crate) use notices::report_object;
pub use service::OpenFault;
pub(crate) use service::Service;
pub(crate) use sight::{CLIENTS, Sees};
pub(crate) use unit::run;
