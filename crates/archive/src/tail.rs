//! Following what is committed: the pages of the last moments, for readers that want everything once and soon.
//!
//! The writer thread adds a page after its commit and never waits. Pages are kept for a while and only as long as somebody follows;
//! who falls behind is told so, and finds out from what is held what he has not seen.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use wire::{Epoch, RunView};

use crate::archive::Archive;
use crate::buffer::{RunAt, Written};
use crate::shared::Shared;

/// Bytes of pages that are kept for followers, their runs' places counted too.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Number of a series within one opening of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub(crate) u32);

impl SeriesId {
    /// The number; numbers are dense, so it may index a vector.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What stands in a page: one run, without its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The series.
    pub series: SeriesId,
    /// The epoch.
    pub epoch: Epoch,
    /// The first sequence number.
    pub first_seq: u64,
    /// The last one.
    pub last_seq: u64,
    offset: u32,
}

/// A page of the storage area that is durable.
#[derive(Debug)]
pub struct Committed {
    page: u64,
    via: u32,
    runs: Vec<(u32, RunAt)>,
    body: Bytes,
}

impl Committed {
    /// What it holds, in the order of the commit.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> {
        self.runs.iter().map(|(series, at)| Stretch {
            series: SeriesId(*series),
            epoch: Epoch(at.epoch),
            first_seq: at.first_seq,
            last_seq: at.last_seq(),
            offset: at.offset,
        })
    }

    /// The readings of one of its stretches. `None` for a stretch of another page.
    pub fn run(&self, stretch: &Stretch) -> Option<RunView<'_>> {
        let (run, _) = RunView::parse(self.body.get(stretch.offset as usize..)?).ok()?;
        (run.first_seq() == stretch.first_seq && run.epoch() == stretch.epoch).then_some(run)
    }

    /// The page's bytes; payloads of its runs can be shared from it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    fn cost(&self) -> usize {
        self.body.len() + self.runs.len() * size_of::<(u32, RunAt)>() + size_of::<Self>()
    }
}

/// The pages of the last moments.
#[derive(Debug)]
pub(crate) struct Tail {
    last: watch::Sender<u64>,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Without a gap, up to `last`.
    pages: VecDeque<Arc<Committed>>,
    bytes: usize,
    last: u64,
}

impl Default for Tail {
    fn default() -> Self {
        Self { last: watch::Sender::new(0), recent: Mutex::default() }
    }
}

impl Tail {
    /// What followers are to be told of a page, if there are any.
    pub(crate) fn news(&self, written: &Written) -> News {
        let body = written.page.body.as_ref().filter(|_| !self.last.is_closed());
        let runs = || written.runs.clone();
        let page = body.map(|body| Committed { page: written.id, via: written.page.via, runs: runs(), body: body.clone() });
        News { page: written.id, kept: page.map(Arc::new) }
    }

    /// Tells it. The page must be in the buffer by now, so that whoever hears of it finds it there.
    pub(crate) fn tell(&self, news: News) {
        let mut recent = self.recent.lock();
        recent.last = news.page;
        match news.kept {
            None => {
                recent.pages = VecDeque::new();
                recent.bytes = 0;
            }
            Some(page) => {
                recent.bytes += page.cost();
                recent.pages.push_back(page);
            }
        }
        while recent.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = recent.pages.pop_front()
        {
            recent.bytes -= oldest.cost();
        }
        drop(recent);
        self.last.send_replace(news.page);
    }
}

/// A page on its way to followers.
pub(crate) struct News {
    page: u64,
    kept: Option<Arc<Committed>>,
}

/// Something was committed that is not kept any more: look at what is held. What is committed from now on comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fell behind what is committed")]
pub struct Behind;

/// Follows the commits of an archive. Pages are kept in memory while a follower lives.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    last: watch::Receiver<u64>,
    seen: u64,
}

impl Follower {
    /// Resolves when there is something to take. Cancel safe.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        // The sender lives as long as what we share with it.
        let _ = self.last.wait_for(|last| *last != seen).await;
    }

    /// The relay that the records of a page came through.
    pub fn relay(&self, page: &Committed) -> Option<Arc<str>> {
        self.shared.relays.name(page.via)
    }

    /// Pages since the last call, oldest first, at most `pages_max`.
    ///
    /// # Errors
    /// [`Behind`], once; then it goes on behind the last page.
    pub fn take(&mut self, pages_max: usize) -> Result<Vec<Arc<Committed>>, Behind> {
        let recent = self.shared.buffer.tail.recent.lock();
        if recent.last == self.seen {
            return Ok(Vec::new());
        }
        match recent.pages.front() {
            Some(first) if first.page <= self.seen + 1 && recent.pages.back().is_some_and(|page| page.page == recent.last) => {
                let skip = usize::try_from(self.seen + 1 - first.page).unwrap_or(usize::MAX);
                let pages: Vec<_> = recent.pages.iter().skip(skip).take(pages_max).cloned().collect();
                self.seen = pages.last().map_or(self.seen, |page| page.page);
                Ok(pages)
            }
            _ => {
                self.seen = recent.last;
                Err(Behind)
            }
        }
    }
}

impl Archive {
    /// Follows the storage area from now on: what was committed before the call is in [`Archive::held_of`], what comes after it comes
    /// through the follower, and a commit at this very moment may show in both.
    pub fn follow(&self) -> Follower {
        let shared = self.inner.shared.clone();
        let last = shared.buffer.tail.last.subscribe();
        let seen = shared.buffer.tail.recent.lock().last;
        Follower { shared, last, seen }
    }
}
