//! The cloud: ingest, archive, live delivery, history and access.
//!
//! A cloud is one archive with a broker and an HTTP interface in front and an anchor worker beside. Relays publish frames to the
//! broker; ingest gives them to the archive, with a verdict for each record, lets the broker acknowledge after the
//! commit, and sends [`receipts`]: only then may a relay delete. What is new goes to live subscribers without waiting for
//! the commit. What is past is asked for over MQTT or HTTP, and goes through [`History`], which takes a [`Viewer`] for every read. The same
//! grants serve all of it.

pub mod access;
mod anchoring;
mod answers;
pub mod audit;
mod catchup;
mod cloud;
mod commands;
pub mod completeness;
pub mod config;
pub mod demand;
pub mod gaps;
pub mod graves;
pub mod groups;
pub mod history;
mod http;
mod index;
mod ingest;
pub mod ladder;
mod late;
mod live;
mod metrics;
pub mod moment;
pub mod problem;
mod proving;
mod pull;
pub mod question;
pub mod reading;
pub mod receipts;
pub mod registry;
pub mod sponsor;
mod walk;

pub use broker::Access;
pub use cloud::{Cloud, Parts, StartError};
pub use config::{Config, ConfigError};
pub use history::{History, Viewer};
pub use http::access as access_api;
pub use http::{DemandView, EventView, PartView, Receipt, Status};
pub use index::OpenError as IndexError;
pub use ladder::Rung;
pub use problem::Problem;
pub use pull::Unheard;
pub use question::Ask;
pub use reading::{Page, Payload, Reading};
pub use wire::state::ServerState;
