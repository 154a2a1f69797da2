//! The load generator: publishes from many connections on one thread, subscribes on another, and reports what was
//! acknowledged and what arrived.
//!
//! It is meant to cost less than any broker it measures: packets are made once and patched, a write carries all that the
//! window allows, acknowledgements are parsed in bulk, and the clock is read once a write and once a read. On a timetable
//! (`--rate`) latencies count from when a message was due, so a stalled broker can't hide behind a waiting publisher.
//! It speaks to loopback addresses only.

mod alarm;
mod args;
mod clock;
mod disk;
mod faults;
mod flow;
mod idle;
mod inbox;
mod lane;
mod latency;
mod ledger;
mod mqtt;
mod pace;
mod payload;
mod publisher;
mod report;
mod session;
mod subscriber;
mod traffic;

use std::io;

use thiserror::Error;

pub use args::Args;
pub use latency::Percentiles;
pub use report::{DeliveryReport, DiskReport, IdleReport, Report, TrafficReport};

use args::Plan;

/// Why a run could not be made. What goes wrong during a run is counted in its report instead.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An option does not hold.
    #[error("--{option} {reason}")]
    Option {
        /// Which one.
        option: &'static str,
        /// What it must be.
        reason: String,
    },
    /// An address is not of this machine.
    #[error("--{option} {address} is not a loopback address: use 127.0.0.1:PORT, load is put on this machine only")]
    NotLoopback {
        /// Which option.
        option: &'static str,
        /// Its value.
        address: String,
    },
    /// Not one connection was to be had.
    #[error("{address} took no connection: {reason}")]
    NoConnection {
        /// The broker.
        address: String,
        /// The first refusal.
        reason: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What it was about.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A part of the load generator panicked.
    #[error("the subscribing thread ended by a panic")]
    Panicked,
}

impl Error {
    pub(crate) fn option(option: &'static str, reason: &str) -> Self {
        Self::Option { option, reason: reason.to_owned() }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

/// Makes one run. Blocks for as long as it lasts.
///
/// # Errors
/// [`Error`] when the options do not hold or nothing could be begun; what goes wrong later is in the report.
pub fn run(args: Args) -> Result<Report, Error> {
    match args.plan()? {
        Plan::Traffic(plan) => traffic::run(&plan).map(|report| Report::Traffic(Box::new(report))),
        Plan::Idle { endpoint, count, pid, settle } => idle::run(&endpoint, count, pid, settle).map(Report::Idle),
        Plan::Disk { directory, seconds } => disk::run(&directory, seconds).map(Report::Disk),
    }
}
