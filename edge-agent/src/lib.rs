//! Beside a sensor: outbox, sending to a relay, and terminal-side anchoring.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod agent;
mod anchoring;
mod choice;
mod chunker;
pub mod config;
mod demand;
mod evidence;
mod flying;
mod frames;
mod inputs;
mod limits;
mod metrics;
mod outbox;
mod probing;
mod progress;
mod reading;
mod reporter;
mod rules;
mod sender;
mod sponsor;
mod state;
mod target;
pub mod terminal;

pub use agent::{Agent, Parts, StartError, start};
pub use choice::Why;
pub use config::Config;
pub use demand::Setpoint;
pub use inputs::InputError;
pub use metrics::Metrics;
pub use outbox::reading_back::ReadFault;
pub use outbox::{Origin, Outbox, OutboxError, TakeError};
pub use progress::Progress;
pub use reading::{Position, Reading, ReadingFault};
pub use rules::{Rules, StreamFault};
pub use sender::SendError;
pub use state::{Event, Impossible, State};
pub use terminal::Terminal;
