//! The storage area's keeper: segments move in when they are due, or everything goes to the cloud first (A5, A6).
//!
//! What it decides by is in [`spill`]; here the archive is done as told. A process that dies in the middle forgets only that it was
//! spilling: what was handed over is on its way, what was not is in the storage area, and the next segment that is due asks anew.

mod spill;
mod threshold;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use archive::{Archive, HandingOver, ReadError, Selection};
use chassis::{Clock, Stop};

use crate::config::Storage;
use crate::metrics::Metrics;
use crate::room::Room;
use spill::{Rules, Spill, View};
pub use threshold::{Threshold, ThresholdFault};

/// How often the archive is looked at, and how often while pages are handed over.
const EVERY: Duration = Duration::from_millis(250);
const EVERY_SPILLING: Duration = Duration::from_millis(25);
/// A round that fails is logged at the first time and then each time so many have failed: once a minute.
const FAILURES_A_LINE: u64 = 240;
/// How long a segment that is being closed is waited for at the end; it is closed again at the next start if that was too short.
const GOODBYE: Duration = Duration::from_secs(1);
/// Segments that the buffer area may hold while a spill waits for the cloud.
const BUFFER_SEGMENTS: u64 = 4;
/// Size of a page of the backlog, about; see `archive::Options::page_bytes_max`.
const PAGE_BYTES: u64 = 1 << 20;

/// What the keeper works with.
pub(crate) struct Parts {
    pub(crate) archive: Archive,
    /// Folder of the database: where room is needed.
    pub(crate) folder: PathBuf,
    pub(crate) storage: Storage,
    /// Without a cloud nothing can be sent anywhere, and segments move in until the budget is used up.
    pub(crate) has_cloud: bool,
    pub(crate) room: Room,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
}

/// Keeps the storage area of one relay.
pub(crate) struct Keeper {
    parts: Parts,
    rules: Rules,
    spill: Spill,
    handing: Option<HandingOver>,
}

impl Keeper {
    pub(crate) fn new(parts: Parts) -> Self {
        let storage = &parts.storage;
        let rules = Rules {
            budget: storage.budget.bytes(),
            free_min: if parts.has_cloud { storage.free_min.of(storage.budget) } else { 0 },
            disk_free_min: if parts.has_cloud { storage.disk_free_min.bytes() } else { 0 },
            buffer: (
                storage.segment_records.saturating_mul(BUFFER_SEGMENTS),
                storage.segment_bytes.bytes().saturating_mul(BUFFER_SEGMENTS),
            ),
            outgoing_budget: storage.outgoing_budget.bytes(),
        };
        Self { parts, rules, spill: Spill::default(), handing: None }
    }

    /// Runs until told to stop.
    ///
    /// A failure is no reason to end: on a full disk this fails until there is room, while what is here is still read and sent, and
    /// every publish is answered. If the writer itself is gone, the archive's unit says so.
    ///
    /// # Errors
    /// Never.
    pub(crate) async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        let mut failures = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => return Ok(()),
                () = tokio::time::sleep(if self.spill == Spill::Spilling && failures == 0 { EVERY_SPILLING } else { EVERY }) => {}
            }
            let round = crate::blocking(move || {
                let outcome = self.round();
                (self, outcome)
            });
            tokio::pin!(round);
            let outcome = tokio::select! {
                (keeper, outcome) = &mut round => {
                    self = keeper;
                    outcome
                }
                () = stop.stopped() => {
                    // What is not done soon ends with the archive.
                    let _ = tokio::time::timeout(GOODBYE, round).await;
                    return Ok(());
                }
            };
            match outcome {
                Ok(()) => failures = 0,
                Err(error) => {
                    if failures % FAILURES_A_LINE == 0 {
                        tracing::error!(%error, failures, "the storage area can't be tended; everything stays as it is and is tried again");
                    }
                    failures += 1;
                }
            }
            self.parts.room.look();
        }
    }

    /// One look at the archive, and what follows from it. Blocks.
    fn round(&mut self) -> Result<(), ReadError> {
        let now = self.parts.clock.now();
        let view = self.view(now);
        let (next, acts) = self.spill.step(&self.rules, &view, PAGE_BYTES);
        if acts.begin {
            tracing::info!(
                free = self.rules.free(&view),
                disk_free = view.disk_free,
                "the storage area is short of room: everything in it goes to the cloud"
            );
            self.handing = Some(HandingOver::new(Selection::Chunks));
            self.parts.metrics.spilling(true);
            self.parts.metrics.spill_began();
        }
        let handed = self.hand_over(acts.pages);
        // Whatever came of it: receipts make room only when what they are for is deleted.
        self.parts.archive.tend(now, acts.move_in)?;
        handed?;
        if next == Spill::Holding && self.spill == Spill::Spilling {
            let handed = self.handing.take().map(HandingOver::into_handed).unwrap_or_default();
            tracing::info!(
                records = handed.moved,
                damaged = handed.damaged.len(),
                "the cloud holds what was in the storage area"
            );
        }
        self.spill = next;
        self.parts.metrics.spilling(self.spill == Spill::Spilling);
        Ok(())
    }

    fn view(&self, now: i64) -> View {
        let Parts { archive, folder, .. } = &self.parts;
        let stats = archive.stats();
        let frames = self.handing.as_ref().map(|handing| archive.undelivered(&handing.so_far().frames));
        View {
            due: archive.is_due(now),
            chunks: stats.chunks.bytes,
            buffer: (stats.buffer.records, stats.buffer.bytes),
            disk_free: disk_free(folder, archive),
            undelivered: frames.map_or(0, |frames| frames.count()),
            outgoing: stats.live.bytes + stats.backlog.bytes,
            handed_over: self.handing.as_ref().is_some_and(HandingOver::is_done),
        }
    }

    fn hand_over(&mut self, pages: u64) -> Result<(), ReadError> {
        let Some(handing) = &mut self.handing else { return Ok(()) };
        let (moved, damaged) = (handing.so_far().moved, handing.so_far().damaged.len());
        let mut outcome = Ok(());
        for _ in 0..pages {
            if handing.is_done() || outcome.is_err() {
                break;
            }
            outcome = self.parts.archive.hand_over_page(handing);
        }
        self.parts.metrics.handed_over(handing.so_far().moved - moved);
        self.parts.metrics.chunks_unreadable((handing.so_far().damaged.len() - damaged) as u64);
        outcome
    }
}

/// Bytes that the database may still grow by: what the file system has for us, and what the file has to be used again.
fn disk_free(folder: &Path, archive: &Archive) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    let reusable = archive.reusable_bytes().ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize).saturating_add(reusable))
}
