//! Whether the storage has room, by lane: asked for every publish, so it must cost nothing.
//!
//! The archive refuses an append above its budget. But what one connection sent between two commits is acknowledged together: if only
//! one of its lanes is full, the others would be refused with it, after they were kept, and raw readings that are sent again are new
//! readings. So a full lane is known beforehand and its publishes are refused one by one, before anything of the batch is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use archive::{Archive, Budgets, Lane};
use wire::Operation;

use crate::metrics::Metrics;

/// What is known about the room in the two lanes that the intake fills. Clones share it.
#[derive(Debug, Clone)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    archive: Archive,
    budgets: Budgets,
    metrics: Metrics,
    store_full: AtomicBool,
    outgoing_full: AtomicBool,
}

impl Room {
    /// The room in `archive`, which was opened with `budgets`.
    pub fn new(archive: Archive, budgets: Budgets, metrics: Metrics) -> Self {
        let inner =
            Inner { archive, budgets, metrics, store_full: AtomicBool::new(false), outgoing_full: AtomicBool::new(false) };
        let room = Self(Arc::new(inner));
        room.look();
        room
    }

    /// Looks at the totals: now and then, and whenever something was deleted.
    pub fn look(&self) {
        let stats = self.0.archive.stats();
        let store = stats.buffer.bytes + stats.chunks.bytes;
        let outgoing = stats.live.bytes + stats.backlog.bytes;
        self.0.store_full.store(store >= self.0.budgets.store_bytes_max, Ordering::Relaxed);
        self.0.outgoing_full.store(outgoing >= self.0.budgets.outgoing_bytes_max, Ordering::Relaxed);
        self.0.metrics.held(store, outgoing, stats.waiting_pages);
    }

    /// Whether readings with this operation are taken.
    pub(crate) fn has_room(&self, operation: Operation) -> bool {
        let full = match operation {
            Operation::Store => &self.0.store_full,
            Operation::Forward => &self.0.outgoing_full,
        };
        !full.load(Ordering::Relaxed)
    }

    /// The archive has refused an append to `lane`: nothing is taken until the next look.
    pub(crate) fn is_full(&self, lane: Lane) {
        let full = match lane {
            Lane::Store => &self.0.store_full,
            Lane::Live | Lane::Backlog => &self.0.outgoing_full,
        };
        full.store(true, Ordering::Relaxed);
    }
}
