//! Access requests (A11): somebody asks with an identity, an authority vouches for it, a rule or an operator approves, and what is
//! granted is in force beside the file of grants until it ends or is revoked.

pub mod audit;
mod authorities;
pub mod config;
mod directory;
mod keys;
mod ledger;
mod registrar;
mod rule;
mod source;
mod state;
mod token;
mod want;
mod watch;

pub use authorities::AuthorityFault;
pub use directory::DirectoryFault;
pub use keys::{Algorithm, KeysFault};
pub use ledger::LedgerFault;
pub(crate) use ledger::{Identity, Request};
pub(crate) use registrar::Registrar;
pub use source::SourceFault;
pub(crate) use state::Event;
pub use state::State;
pub use want::{Ask, Bounds, Narrowed};
pub(crate) use watch::watch;
