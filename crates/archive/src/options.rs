//! What can be set, with the reason for each default.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wire::{At, RelayId};

use crate::append::Lane;

const MIB: u64 = 1 << 20;

/// Gives the time, in nanoseconds since 1970. Injected, so that tests own it.
pub type Now = Arc<dyn Fn() -> At + Send + Sync>;

/// Is shown the runs found new, on the writer thread, after the verdict and before the commit, also before the commit's wait for company.
/// It must not block.
pub type Observer = Arc<dyn Fn(Fresh) + Send + Sync>;

/// New runs on their way into the database.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The relay that they came through.
    pub via: RelayId,
    /// Where they go.
    pub lane: Lane,
    /// Canonical runs, one behind the other.
    pub runs: Bytes,
}

/// How an archive is opened.
#[derive(Clone)]
pub struct Options {
    /// Who this is: the `via` of every record that did not come through another relay.
    pub name: RelayId,
    /// The clock.
    pub now: Now,
    /// Is shown what is new. See [`Observer`].
    pub observer: Option<Observer>,
    /// Whether small pages of the live lane are visible to [`crate::Archive::outgoing`] before their commit. See [`crate::Archive::watch_visible`].
    pub ahead: bool,
    /// When a segment is closed.
    pub segment: Segment,
    /// How much may be kept.
    pub budgets: Budgets,
    /// A page is split above this, so that a page in its frame stays far below an MQTT packet's 16 MiB.
    pub page_bytes_max: usize,
    /// Committed pages kept in memory, newest first: the uplink and scans of the last minutes read them from there.
    pub cache_bytes_max: usize,
    /// Most records in one chunk: what one lookup decompresses, and what one chunk root covers.
    pub chunk_records_max: usize,
    /// Most connections that read at the same time.
    pub readers_max: usize,
    /// How the database is opened.
    pub database: store::Options,
    /// Queue and groups of the writer thread.
    pub writer: store::Limits,
}

impl Options {
    /// The defaults for an archive of this name.
    pub fn new(name: RelayId, now: Now) -> Self {
        Self {
            name,
            now,
            observer: None,
            ahead: false,
            segment: Segment::default(),
            budgets: Budgets::default(),
            page_bytes_max: MIB as usize,
            cache_bytes_max: (64 * MIB) as usize,
            chunk_records_max: 8192,
            readers_max: 4,
            database: store::Options::default(),
            writer: store::Limits::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("segment", &self.segment)
            .field("budgets", &self.budgets)
            .finish_non_exhaustive()
    }
}

/// When the open segment becomes chunks: at the first of these. Larger segments compress better; smaller ones are indexed and
/// anchored sooner, and are replayed faster after a crash.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Records in it.
    pub records_max: u64,
    /// Bytes in it.
    pub bytes_max: u64,
    /// Time since its first record was seen by [`crate::Archive::close_due`].
    pub age_max: Duration,
}

impl Default for Segment {
    fn default() -> Self {
        Self { records_max: 1_000_000, bytes_max: 64 * MIB, age_max: Duration::from_secs(60) }
    }
}

/// Byte budgets. What comes above one is refused with [`crate::AppendError::Full`], never taken and dropped.
#[derive(Debug, Clone, Copy)]
pub struct Budgets {
    /// Buffer and chunks together.
    pub store_bytes_max: u64,
    /// What waits for the cloud's receipt, live and backlog together.
    pub outgoing_bytes_max: u64,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { store_bytes_max: 8 << 30, outgoing_bytes_max: 8 << 30 }
    }
}
