//! What the relay counts. `docs/metrics.md` lists it for operators.

use std::sync::Arc;

use chassis::Registry;
use link::PublishError;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::pace::is_for_good;
use crate::window::Window;

/// Why the intake refused a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Refused {
    /// The topic names no series.
    Topic,
    /// The payload is too large, or not a frame of this sensor.
    Payload,
    /// The storage budget is used up.
    Full,
    /// The commit failed.
    Store,
}

/// Why the cloud did not take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum NotTaken {
    /// It may take it later.
    Now,
    /// It will not take it as it is.
    ForGood,
}

/// What was said of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Said {
    /// Sums of everything, once a connection.
    Sums,
    /// Entries.
    Page,
}

/// How a pull went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Pulled {
    Done,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SaidLabels {
    kind: Said,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PulledLabels {
    outcome: Pulled,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotTakenLabels {
    reason: NotTaken,
}

#[derive(Debug, Default)]
struct Families {
    taken: Counter,
    refused: Family<RefusedLabels, Counter>,
    frames_sent: Counter,
    frames_resent: Counter,
    frames_historical: Counter,
    backlog_window: Gauge,
    frames_receipted: Counter,
    frames_refused: Family<NotTakenLabels, Counter>,
    pages_aside: Gauge,
    window_frames: Gauge,
    connected: Gauge,
    store_bytes: Gauge,
    outgoing_bytes: Gauge,
    outgoing_pages: Gauge,
    handed_over: Counter,
    spills: Counter,
    spilling: Gauge,
    chunks_unreadable: Counter,
    pulls: Family<PulledLabels, Counter>,
    index_said: Family<SaidLabels, Counter>,
    index_not_taken: Counter,
}

/// The relay's metrics; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Families>);

impl Metrics {
    /// Registers the relay's metrics.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let f = &metrics.0;
        registry.register("relay_records_taken", "Records committed and acknowledged", f.taken.clone());
        registry.register("relay_publishes_refused", "Publishes refused, by reason", f.refused.clone());
        registry.register("relay_frames_sent", "Frames sent to the cloud for the first time", f.frames_sent.clone());
        registry.register("relay_frames_resent", "Frames sent again", f.frames_resent.clone());
        registry.register(
            "relay_frames_historical",
            "Frames sent, first or again, of late pages or the backlog",
            f.frames_historical.clone(),
        );
        registry.register("relay_backlog_window_bytes", "Bytes of old frames that may be on their way", f.backlog_window.clone());
        registry.register("relay_frames_receipted", "Frames that the cloud holds", f.frames_receipted.clone());
        registry.register("relay_frames_refused", "Frames that the cloud did not take, by reason", f.frames_refused.clone());
        registry.register(
            "relay_pages_aside",
            "Pages that the cloud refused for good; kept and tried again",
            f.pages_aside.clone(),
        );
        registry.register("relay_uplink_connected", "Whether the relay is connected to its cloud", f.connected.clone());
        registry.register("relay_store_bytes", "Bytes in the storage area", f.store_bytes.clone());
        registry.register(
            "relay_outgoing_bytes",
            "Bytes of pages for the cloud that are still on the disk",
            f.outgoing_bytes.clone(),
        );
        registry.register("relay_outgoing_pages", "Pages that wait for the receipt of the cloud", f.outgoing_pages.clone());
        registry.register("relay_window_frames", "Frames on their way to the cloud", f.window_frames.clone());
        registry.register(
            "relay_records_handed_over",
            "Stored records moved to the backlog, by a spill, a pull or a flush",
            f.handed_over.clone(),
        );
        registry.register(
            "relay_spills",
            "Times that the storage area was short of room and sent to the cloud",
            f.spills.clone(),
        );
        registry.register("relay_spilling", "Whether the storage area is being sent to the cloud", f.spilling.clone());
        registry.register(
            "relay_chunks_unreadable",
            "Chunks that a hand-over found damaged; they stay in the storage area",
            f.chunks_unreadable.clone(),
        );
        registry.register("relay_pulls", "Pulls of the cloud, by outcome", f.pulls.clone());
        registry.register("relay_index_messages", "Messages about the index that the cloud took, by kind", f.index_said.clone());
        registry.register(
            "relay_index_messages_not_taken",
            "Messages about the index that did not arrive and are said again",
            f.index_not_taken.clone(),
        );
        metrics
    }

    pub(crate) fn taken(&self, records: u64) {
        self.0.taken.inc_by(records);
    }

    pub(crate) fn refused(&self, reason: Refused) {
        self.0.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    pub(crate) fn sent(&self, again: bool, old: bool) {
        if again { &self.0.frames_resent } else { &self.0.frames_sent }.inc();
        if old {
            self.0.frames_historical.inc();
        }
    }

    pub(crate) fn receipted(&self, frames: u64) {
        self.0.frames_receipted.inc_by(frames);
    }

    pub(crate) fn frame_refused(&self, error: &PublishError) {
        let reason = if is_for_good(error) { NotTaken::ForGood } else { NotTaken::Now };
        self.0.frames_refused.get_or_create(&NotTakenLabels { reason }).inc();
    }

    pub(crate) fn uplink(&self, connected: bool, window: &Window, aside: usize) {
        self.0.connected.set(i64::from(connected));
        self.0.window_frames.set(window.len() as i64);
        self.0.backlog_window.set(window.share() as i64);
        self.0.pages_aside.set(aside as i64);
    }

    pub(crate) fn held(&self, store_bytes: u64, outgoing_bytes: u64, outgoing_pages: u64) {
        self.0.store_bytes.set(store_bytes.cast_signed());
        self.0.outgoing_bytes.set(outgoing_bytes.cast_signed());
        self.0.outgoing_pages.set(outgoing_pages.cast_signed());
    }

    pub(crate) fn handed_over(&self, records: u64) {
        self.0.handed_over.inc_by(records);
    }

    pub(crate) fn spill_began(&self) {
        self.0.spills.inc();
    }

    pub(crate) fn spilling(&self, spilling: bool) {
        self.0.spilling.set(i64::from(spilling));
    }

    pub(crate) fn chunks_unreadable(&self, chunks: u64) {
        self.0.chunks_unreadable.inc_by(chunks);
    }

    pub(crate) fn pulled(&self, done: bool) {
        let outcome = if done { Pulled::Done } else { Pulled::Failed };
        self.0.pulls.get_or_create(&PulledLabels { outcome }).inc();
    }

    pub(crate) fn index_said(&self, kind: Said) {
        self.0.index_said.get_or_create(&SaidLabels { kind }).inc();
    }

    pub(crate) fn index_not_taken(&self) {
        self.0.index_not_taken.inc();
    }
}
