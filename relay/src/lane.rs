//! One lane's pages on their way from the archive to the uplink.
//!
//! In the steady state the archive has new pages in memory and reading them costs a lock. After an outage they are in the file: then
//! they are read in portions on a thread that may block, never on the runtime's.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use archive::{Archive, Lane, Page, ReadError};
use tokio::task::JoinHandle;

/// Pages are read from the archive in portions of this size.
const PORTION_BYTES: usize = 4 * 1024 * 1024;
/// Pause after pages could not be read: the other lane and the intake go on.
const PAUSE: Duration = Duration::from_secs(5);

type Read = Result<Vec<Page>, ReadError>;

/// A read on a thread that may block. Dropping it forgets the outcome.
#[derive(Debug)]
pub(crate) struct Reading(JoinHandle<Read>);

impl Reading {
    /// Starts to read pages of `lane` behind `after`.
    pub(crate) fn start(archive: &Archive, lane: Lane, after: u64, bytes_max: usize) -> Self {
        let archive = archive.clone();
        Self(tokio::task::spawn_blocking(move || archive.outgoing(lane, after, bytes_max)))
    }

    /// The pages, when they are there.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| match outcome {
            Ok(read) => read,
            Err(fault) => match fault.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is ending.
                Err(_) => Ok(Vec::new()),
            },
        })
    }
}

/// Pages of one lane that wait to be sent.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    lane: Lane,
    /// The last page that is of interest.
    through: u64,
    /// The last page that was taken from the archive, or a later one of the other lane.
    after: u64,
    pages: VecDeque<Page>,
    /// A read under way, and the last page that was committed when it began.
    reading: Option<(Reading, u64)>,
    /// Nothing was left in the file at the last read, so that what came since is in memory.
    caught_up: bool,
    paused_until: Option<Instant>,
}

impl LaneQueue {
    /// Pages behind `after`, from the oldest that has no receipt, up to `through`.
    pub(crate) fn between(lane: Lane, after: u64, through: u64) -> Self {
        Self { lane, through, after, pages: VecDeque::new(), reading: None, caught_up: false, paused_until: None }
    }

    /// All pages behind `after`.
    pub(crate) fn behind(lane: Lane, after: u64) -> Self {
        Self::between(lane, after, u64::MAX)
    }

    /// Goes on with pages up to `through`; if it has come to its end, not before the one behind `after`.
    pub(crate) fn extend(&mut self, after: u64, through: u64) {
        if self.pages.is_empty() && self.reading.is_none() && self.after >= self.through {
            self.after = self.after.max(after);
        }
        self.through = self.through.max(through);
        self.caught_up = false;
    }

    /// Leaves out everything up to and with `page`. What is behind it has just been committed and is in memory.
    pub(crate) fn skip_to(&mut self, page: u64) {
        *self = Self { caught_up: true, ..Self::between(self.lane, page, self.through) };
    }

    /// The next page.
    pub(crate) fn front(&self) -> Option<&Page> {
        self.pages.front()
    }

    /// Takes the next page.
    pub(crate) fn pop(&mut self) -> Option<Page> {
        self.pages.pop_front()
    }

    /// Whether no page is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// When a lane that can't be read is tried again.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Reads on if no page is ready. `last` is the last page of either lane that is committed. If a read is under way, `cx` is woken at
    /// its end.
    pub(crate) fn refill(&mut self, cx: &mut Context<'_>, archive: &Archive, last: u64, now: Instant) {
        if !self.pages.is_empty() || self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        self.paused_until = None;
        let last = last.min(self.through);
        while self.pages.is_empty() && (self.reading.is_some() || self.after < last) {
            let (read, last) = match &mut self.reading {
                None if self.caught_up => (archive.outgoing(self.lane, self.after, PORTION_BYTES), last),
                None => {
                    self.reading = Some((Reading::start(archive, self.lane, self.after, PORTION_BYTES), last));
                    continue;
                }
                Some((reading, began_at)) => match reading.poll(cx) {
                    Poll::Pending => return,
                    Poll::Ready(read) => {
                        let began_at = *began_at;
                        self.reading = None;
                        (read, began_at)
                    }
                },
            };
            match read {
                Ok(pages) => self.take(pages, last),
                Err(error) => {
                    tracing::error!(lane = %self.lane, %error, "pages can't be read; they stay and are tried again");
                    self.paused_until = Some(now + PAUSE);
                    return;
                }
            }
        }
    }

    fn take(&mut self, pages: Vec<Page>, last: u64) {
        let bytes: usize = pages.iter().map(|page| page.body.len()).sum();
        // A portion that is far from full was ended by the last page.
        self.caught_up = bytes < PORTION_BYTES / 2;
        self.after = match pages.last() {
            // What lies beyond is read when it is of interest.
            Some(page) => page.id.min(self.through),
            // All up to the one that was the last when the read began are the other lane's, or have their receipts.
            None => last,
        };
        let through = self.through;
        self.pages.extend(pages.into_iter().filter(|page| page.id <= through));
    }
}
