//! Telling the cloud the secrets of epochs, once a connection, with the frames that go up anyway.
//!
//! The cloud keeps the first secret that it hears of an epoch and scope, so telling again changes nothing, and forgetting what was told
//! when the connection ends is always safe.

use std::time::{Duration, Instant};

use archive::Archive;
use rustc_hash::FxHashMap;
use wire::{Announcement, Epoch, EpochSecret, Runs};

use crate::announcing::Announcing;

/// Secrets told in one frame, at most: with long names some 180 KiB beside the page.
pub(crate) const SECRETS_PER_FRAME: usize = 1_000;
/// Pause after the secrets could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// What was told on this connection, and what is to be.
pub(crate) struct Telling {
    archive: Archive,
    announcing: Announcing,
    /// The last of the own epochs that was told.
    told_own: Option<Epoch>,
    /// Last row of the archive's secrets that was read.
    row: i64,
    /// How far the intake had settled when nothing more was found; `None` before the first complete look.
    mark: Option<u64>,
    /// Read, and not told yet.
    waiting: Vec<Announcement>,
    paused_until: Option<Instant>,
}

impl Telling {
    /// Nothing told yet.
    pub(crate) fn new(archive: Archive, announcing: Announcing) -> Self {
        Self { archive, announcing, told_own: None, row: 0, mark: None, waiting: Vec::new(), paused_until: None }
    }

    /// Everything is to be told again: another connection, or the frame that told it was refused.
    pub(crate) fn start_over(&mut self) {
        self.told_own = None;
        self.row = 0;
        self.mark = None;
        self.waiting.clear();
    }

    /// What goes with a frame of these runs. Nearly always nothing, and then it costs two loads.
    pub(crate) fn take(&mut self, runs: &[u8]) -> Vec<Announcement> {
        let mut secrets = Vec::new();
        if self.told_own.is_none() {
            secrets.push(Announcement { epoch: self.archive.epoch(), scope: None, secret: self.archive.secret().clone() });
            self.told_own = Some(self.archive.epoch());
        }
        let origin = self.archive.origin();
        if self.told_own != Some(origin)
            && let Some(secret) = self.archive.origin_secret(origin)
        {
            secrets.push(Announcement { epoch: origin, scope: None, secret: EpochSecret::clone(&secret) });
            self.told_own = Some(origin);
        }
        if self.mark.is_none_or(|mark| self.announcing.is_news(mark)) {
            self.look();
        }
        if !self.waiting.is_empty() {
            let (fitting, others) = std::mem::take(&mut self.waiting).into_iter().partition(fits(runs));
            self.waiting = others;
            secrets.extend::<Vec<_>>(fitting);
        }
        secrets
    }

    /// Reads the next portion. A few rows of a small table that is in memory: done on the caller's thread.
    fn look(&mut self) {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        if self.waiting.len() >= SECRETS_PER_FRAME {
            // Nobody's records fit them. They may not keep the others from being told.
            tracing::warn!("secrets of epochs whose records are another sensor's are not told on this connection");
            self.waiting.clear();
        }
        let mark = self.announcing.mark();
        let limit = SECRETS_PER_FRAME - self.waiting.len();
        match self.archive.announcements_after(self.row, limit) {
            Ok(found) => {
                // A full portion may have more behind it: the next frame looks again.
                self.mark = (found.len() < limit).then_some(mark);
                for (row, announcement) in found {
                    self.row = row;
                    self.waiting.push(announcement);
                }
            }
            Err(error) => {
                tracing::error!(%error, "secrets of epochs can't be read and are told later");
                self.paused_until = Some(Instant::now() + PAUSE);
            }
        }
    }
}

/// Which announcements may go with these runs. The cloud refuses a frame that announces an epoch as one sensor's and brings records of
/// another in it, and nobody may make a page unsendable by announcing an epoch that is not his.
fn fits(runs: &[u8]) -> impl Fn(&Announcement) -> bool + use<> {
    let mut series: FxHashMap<Epoch, Vec<String>> = FxHashMap::default();
    for run in Runs::new(runs).flatten() {
        let known = series.entry(run.epoch()).or_default();
        if known.last().is_none_or(|last| last != run.series()) {
            known.push(run.series().to_owned());
        }
    }
    move |announcement| {
        let Some(sensor) = &announcement.scope else { return true };
        series.get(&announcement.epoch).is_none_or(|series| series.iter().all(|series| sensor.owns(series)))
    }
}
