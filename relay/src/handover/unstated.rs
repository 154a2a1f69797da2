//! Says what this relay holds, or has under way, and the index does not name (C6).

use std::time::Duration;

use archive::{Archive, ReadError};
use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::index::Outcome;
use wire::unstated::SERIES_MAX;
use wire::{Epoch, Intervals};

use crate::index::{Asked, Progress};

/// Asks that wait, at most.
const ASKS_MAX: usize = 64;
/// Bytes of names in one reply, about.
const NAMES_BYTES: usize = 256 * 1024;
/// Series with chunks without a root that one reply names. With more, the relay can't say what it holds.
const ROOTLESS_MAX: usize = 4_096;
/// How long the index may take to be said. The cloud waits no longer, by default.
const INDEX_WAIT: Duration = Duration::from_secs(4);

/// What an ask knows already: database, segment, page.
pub(super) type Knows = (Epoch, u64, u64);

/// Asks that wait.
#[derive(Debug, Default)]
pub(super) struct Asks {
    waiting: Mutex<Vec<(u64, Knows)>>,
    told: Notify,
}

impl Asks {
    /// Adds the ask of command `id`. `false` if too many wait.
    pub(super) fn add(&self, id: u64, knows: Knows) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= ASKS_MAX {
            return false;
        }
        waiting.push((id, knows));
        self.told.notify_one();
        true
    }

    /// All that wait.
    pub(super) async fn take(&self) -> Vec<(u64, Knows)> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock());
            if !taken.is_empty() {
                return taken;
            }
            self.told.notified().await;
        }
    }
}

/// The answer. Everything that was acknowledged before this call is in it by its series, in a frame that it names, in the index as the
/// cloud has acknowledged it, or at the cloud.
pub(super) async fn say(archive: &Archive, progress: &Progress, asked: &Asked, (epoch, segment, page): Knows) -> Outcome {
    let known = if epoch == archive.epoch() { (segment, page) } else { (0, 0) };
    // Orders come one after the other: what the cloud had asked for before this is in the count.
    let asked = asked.times();
    let looked = {
        let archive = archive.clone();
        crate::blocking(move || archive.not_indexed(known, NAMES_BYTES, ROOTLESS_MAX)).await
    };
    let found = match looked {
        Ok(found) => found,
        Err(error) => return failed(&error),
    };
    if tokio::time::timeout(INDEX_WAIT, progress.reaches(found.index, asked)).await.is_err() {
        return Outcome::Failed { reason: "the cloud has not taken all of the index".to_owned() };
    }
    // Last: what left the segment or the index meanwhile is on its way, or there.
    let frames: Intervals = archive.all_undelivered();
    Outcome::Unstated { frames, unstated: found.unstated }
}

fn failed(error: &ReadError) -> Outcome {
    tracing::error!(%error, "what is not in the index can't be said");
    Outcome::Failed { reason: error.to_string() }
}

const _: () = assert!(ROOTLESS_MAX <= SERIES_MAX && NAMES_BYTES / 5 <= SERIES_MAX);
