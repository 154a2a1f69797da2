//! The open segment of the storage area, as readers see it: which pages there are and which runs of which series they hold.
//!
//! The writer thread adds to it after a commit and before the answers, so whoever was told that a record is durable finds it. A reader
//! looks here first and takes its snapshot of the database second: a page that became chunks in between is then missing from the
//! snapshot while its chunks are there, never both.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use wire::At;

use crate::tail::Tail;

/// Where one run stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunAt {
    pub(crate) page: u64,
    pub(crate) epoch: u64,
    pub(crate) first_seq: u64,
    pub(crate) offset: u32,
    pub(crate) count: u32,
}

impl RunAt {
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }
}

/// One page of the open segment.
#[derive(Debug, Clone)]
pub(crate) struct OpenPage {
    pub(crate) via: u32,
    pub(crate) at_min: At,
    pub(crate) at_max: At,
    /// Length of its body.
    pub(crate) bytes: u32,
    /// Its runs, while the page is recent enough to be kept in memory.
    pub(crate) body: Option<Bytes>,
}

/// A run with what a reader needs to get at it.
#[derive(Debug, Clone)]
pub(crate) struct OpenRun {
    pub(crate) at: RunAt,
    pub(crate) page: OpenPage,
}

/// The open segment.
#[derive(Debug)]
pub(crate) struct Buffer {
    inner: RwLock<Inner>,
    cache_bytes_max: usize,
    pub(crate) tail: Tail,
}

#[derive(Debug, Default)]
struct Inner {
    /// Page `first`, and those behind it without a gap.
    pages: VecDeque<OpenPage>,
    first: u64,
    series: FxHashMap<u32, Vec<RunAt>>,
    cached_bytes: usize,
    /// No page below this one has its body in memory.
    cached_from: u64,
    /// The last page that was closed.
    done: u64,
}

/// Which series the open segment holds, by when they came into it.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The last page that was closed before it.
    pub(crate) done: u64,
    /// The first page with runs of a series, and the series; sorted.
    pub(crate) series: Vec<(u64, u32)>,
    /// The last page.
    pub(crate) last: u64,
    /// The times of its pages.
    pub(crate) at: Option<(At, At)>,
}

/// A page that was committed, or is about to be.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) id: u64,
    pub(crate) page: OpenPage,
    /// Its runs with their series.
    pub(crate) runs: Vec<(u32, RunAt)>,
}

impl Inner {
    fn page(&self, id: u64) -> Option<&OpenPage> {
        self.pages.get(id.checked_sub(self.first)? as usize)
    }

    /// Pages with their ids, oldest first.
    fn numbered(&self) -> impl Iterator<Item = (u64, &OpenPage)> {
        (self.first..).zip(&self.pages)
    }
}

impl Buffer {
    pub(crate) fn new(cache_bytes_max: usize) -> Self {
        Self { inner: RwLock::default(), cache_bytes_max, tail: Tail::default() }
    }

    pub(crate) fn add(&self, written: Written) {
        let news = self.tail.news(&written);
        self.keep(written);
        self.tail.tell(news);
    }

    fn keep(&self, written: Written) {
        let inner = &mut *self.inner.write();
        for (series, at) in written.runs {
            inner.series.entry(series).or_default().push(at);
        }
        inner.cached_bytes += written.page.body.as_ref().map_or(0, Bytes::len);
        if inner.pages.is_empty() {
            inner.first = written.id;
        }
        inner.pages.push_back(written.page);
        while inner.cached_bytes > self.cache_bytes_max {
            let oldest = inner.cached_from.max(inner.first);
            let Some(page) = inner.pages.get_mut((oldest - inner.first) as usize) else { break };
            inner.cached_bytes -= page.body.take().map_or(0, |body| body.len());
            inner.cached_from = oldest + 1;
        }
    }

    /// Forgets the pages up to `last`: they are chunks now.
    pub(crate) fn remove_up_to(&self, last: u64) {
        let inner = &mut *self.inner.write();
        inner.done = inner.done.max(last);
        while inner.first <= last
            && let Some(page) = inner.pages.pop_front()
        {
            inner.cached_bytes -= page.body.map_or(0, |body| body.len());
            inner.first += 1;
        }
        inner.series.retain(|_, runs| {
            // Pages are added in order, so the runs of each series are sorted by page.
            let kept = runs.partition_point(|run| run.page <= last);
            runs.drain(..kept);
            !runs.is_empty()
        });
    }

    /// Forgets the runs of one series in pages up to `last`: they were handed over.
    pub(crate) fn remove_series_up_to(&self, series: u32, last: u64) {
        let inner = &mut *self.inner.write();
        if let Some(runs) = inner.series.get_mut(&series) {
            runs.drain(..runs.partition_point(|run| run.page <= last));
            if runs.is_empty() {
                inner.series.remove(&series);
            }
        }
    }

    /// What is in the open segment: all series, or those that came behind page `after` if it is still the segment behind page `done`.
    pub(crate) fn listing(&self, (done, after): (u64, u64)) -> Listing {
        let inner = self.inner.read();
        let after = if done == inner.done { after } else { 0 };
        let came = |(series, runs): (&u32, &Vec<RunAt>)| Some((runs.first()?.page, *series)).filter(|(page, _)| *page > after);
        let mut series: Vec<(u64, u32)> = inner.series.iter().filter_map(came).collect();
        series.sort_unstable();
        let wider = |at: Option<(At, At)>, page: &OpenPage| {
            let (min, max) = at.unwrap_or((page.at_min, page.at_max));
            Some((min.min(page.at_min), max.max(page.at_max)))
        };
        let last = (inner.first + inner.pages.len() as u64).saturating_sub(1);
        Listing { done: inner.done, series, last: last.max(after), at: inner.pages.iter().fold(None, wider) }
    }

    /// The runs of one series that pass, in the order they were committed.
    pub(crate) fn runs(&self, series: u32, pass: impl Fn(&RunAt, &OpenPage) -> bool) -> Vec<OpenRun> {
        let inner = self.inner.read();
        let Some(runs) = inner.series.get(&series) else { return Vec::new() };
        let run = |at: &RunAt| {
            let page = inner.page(at.page)?;
            pass(at, page).then(|| OpenRun { at: *at, page: page.clone() })
        };
        runs.iter().filter_map(run).collect()
    }

    /// All series with runs in pages up to `last`.
    pub(crate) fn series_up_to(&self, last: u64) -> Vec<u32> {
        let inner = self.inner.read();
        let mut series: Vec<u32> =
            inner.series.iter().filter(|(_, runs)| runs.first().is_some_and(|run| run.page <= last)).map(|(id, _)| *id).collect();
        series.sort_unstable();
        series
    }

    /// The last page of a segment that ends at `last` at the latest and holds about `bytes_max`; at least one page.
    pub(crate) fn segment_end(&self, last: u64, bytes_max: u64) -> u64 {
        let inner = self.inner.read();
        let mut bytes = 0;
        for (id, page) in inner.numbered().take_while(|(id, _)| *id <= last) {
            bytes += u64::from(page.bytes);
            if bytes >= bytes_max {
                return id;
            }
        }
        last
    }

    /// The bodies of the pages up to `last`, as far as they are in memory.
    pub(crate) fn bodies_up_to(&self, last: u64) -> Vec<(u64, Option<Bytes>)> {
        let inner = self.inner.read();
        inner.numbered().take_while(|(id, _)| *id <= last).map(|(id, page)| (id, page.body.clone())).collect()
    }

    /// The first page, if there is one.
    pub(crate) fn first_page(&self) -> Option<u64> {
        let inner = self.inner.read();
        (!inner.pages.is_empty()).then_some(inner.first)
    }

    /// The last page, if there is one.
    pub(crate) fn last_page(&self) -> Option<u64> {
        let inner = self.inner.read();
        (!inner.pages.is_empty()).then(|| inner.first + inner.pages.len() as u64 - 1)
    }
}
