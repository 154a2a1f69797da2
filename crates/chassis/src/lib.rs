//! How we live: configuration, supervised units, ordered shutdown, the admin port, the clock and exit codes.
//!
//! Nothing here is global: only `main` calls [`logging::init`], reads the process environment and listens for signals.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod admin;
mod clock;
mod config;
mod exit;
pub mod logging;
mod quantity;
mod readiness;
mod registry;
mod signals;
mod stop;
mod units;
pub mod web;

pub use admin::{Admin, AdminFault, AdminParts};
/// Routes of an admin port, as `axum` has them.
pub use axum::Router as Routes;
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{ConfigFault, load_config};
pub use exit::Exit;
pub use quantity::{QuantityFault, Size, Span};
pub use readiness::{Latch, Readiness};
pub use registry::Registry;
pub use signals::Signals;
pub use stop::{Stop, Stopper};
pub use units::{BoxError, Cause, Policy, Units, UnitsFault};
