//! Who we talk to: an MQTT 5 client whose publish resolves at the acknowledgement.
//!
//! Contract: a [`Ticket`] resolves `Ok` only after the peer's PUBACK. When a connection ends, every unacknowledged ticket
//! resolves to [`PublishError::Lost`] and nothing is sent again by this crate: the caller's durable outbox decides.
//! Subscriptions are remembered and made again on every connection before [`Link::connected`] says true.
//! While there is no connection, [`Link::enqueue`] and [`Link::publish`] wait for one; look at [`Link::state`] for why.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod backoff;
mod connection;
mod driver;
mod fault;
mod handle;
mod inbox;
mod message;
mod mqtt;
mod session;
mod settings;
mod shared;

pub use backoff::{Backoff, BackoffFault};
pub use fault::{PublishError, SubscribeError, reason_text};
pub use handle::{Link, LinkState, Ticket};
pub use inbox::Incoming;
pub use message::{Message, Qos, Received};
pub use settings::{Credentials, KEEP_ALIVE_MIN, LinkConfig};
