//! The relay with real sockets and files, before a cloud that the test scripts.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod commands;
mod config;
mod custody;
mod group;
mod index;
mod intake;
mod lanes;
mod outlet;
mod refusals;
mod region;
mod resend;
mod secrets;
mod spill;
mod stop;
mod town;
mod unstated;
