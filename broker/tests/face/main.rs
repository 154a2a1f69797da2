//! The face over real sockets, with a client that says exactly the bytes it is told to.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it does")]

mod acks;
mod connect;
mod deliver;
mod feeds;
mod grants;
mod host;
mod peer;
mod strict;
