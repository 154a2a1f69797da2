//! Groups of relays and their proxy (A7 to A10), and the fence that keeps a stale proxy's frames out (C11).
//!
//! Heartbeats of members go from ingest to the keeper, which has one state machine a group ([`lease`]), keeps each new term in a database of
//! its own before anybody is told, and answers every heartbeat with the lease as it stands. What it decides is read by
//! ingest, without a lock, through the [`fence`].

mod book;
mod collected;
mod fence;
mod keeper;
mod lease;
mod rounds;
#[cfg(test)]
mod scenarios;
pub mod score;
pub mod settings;
#[cfg(test)]
mod simulation;
pub mod view;

pub(crate) use book::{Book, BookError};
pub(crate) use fence::{Fence, Pass, Speaker};
pub(crate) use keeper::{Groups, HEARD_MAX, Heard, Keeper};
pub use lease::Reason;
