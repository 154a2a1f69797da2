//! What the writer thread shares with everybody else.

use std::sync::atomic::AtomicU64;

use wire::Epoch;

use crate::append::Lane;
use crate::buffer::Buffer;
use crate::index::Changes;
use crate::lanes::{Gauge, Outgoing, Total};
use crate::names::Names;
use crate::options::Options;
use crate::secrets::Secrets;

/// Everything in memory that is not the writer thread's own.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// This database.
    pub(crate) epoch: Epoch,
    /// The epoch of raw readings: that of the database, until readings of it were seen that are not here.
    pub(crate) origin: AtomicU64,
    /// Our own number among the relays.
    pub(crate) own: u32,
    pub(crate) series: Names,
    pub(crate) relays: Names,
    pub(crate) secrets: Secrets,
    pub(crate) buffer: Buffer,
    pub(crate) outgoing: Outgoing,
    pub(crate) gauges: Gauges,
    pub(crate) index: Changes,
    /// Conflicts found since the start.
    pub(crate) conflicts: AtomicU64,
}

/// Totals of what is where.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) buffer: Gauge,
    pub(crate) chunks: Gauge,
    pub(crate) live: Gauge,
    pub(crate) backlog: Gauge,
}

impl Gauges {
    pub(crate) fn lane(&self, lane: Lane) -> &Gauge {
        match lane {
            Lane::Store => &self.buffer,
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
        }
    }

    /// Bytes that count against the budget of `lane`.
    pub(crate) fn against_budget(&self, lane: Lane) -> u64 {
        let both = |one: &Gauge, other: &Gauge| -> u64 { one.total().bytes + other.total().bytes };
        match lane {
            Lane::Store => both(&self.buffer, &self.chunks),
            Lane::Live | Lane::Backlog => both(&self.live, &self.backlog),
        }
    }

    pub(crate) fn total(&self, lane: Lane) -> Total {
        self.lane(lane).total()
    }
}
