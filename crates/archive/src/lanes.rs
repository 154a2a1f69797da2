//! How much is where, and what goes up: the outgoing pages of the last minutes in memory, the receipts, the totals of each lane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::{At, Intervals};

use crate::append::Lane;

/// A page on its way to the cloud. Its content never changes, so a frame that is sent again is the same frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its id, which is the frame's number.
    pub id: u64,
    /// Records in it.
    pub records: u64,
    /// When it was committed.
    pub taken_at: At,
    /// Canonical runs, one behind the other.
    pub body: Bytes,
}

/// What one lane holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Records.
    pub records: u64,
    /// Bytes of pages or compressed chunks.
    pub bytes: u64,
}

/// A running total that is right again after every commit.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    records: AtomicI64,
    bytes: AtomicI64,
}

impl Gauge {
    pub(crate) fn add(&self, records: i64, bytes: i64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> Total {
        let read = |gauge: &AtomicI64| gauge.load(Ordering::Relaxed).max(0).cast_unsigned();
        Total { records: read(&self.records), bytes: read(&self.bytes) }
    }
}

/// The outgoing lanes as readers see them.
#[derive(Debug)]
pub(crate) struct Outgoing {
    inner: Mutex<Inner>,
    cache_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// Every undelivered page from `tail_from` on.
    tail: BTreeMap<u64, (Lane, Page)>,
    tail_from: u64,
    tail_bytes: usize,
    last: u64,
    delivered: Intervals,
}

/// What of a lane is to be read from the file, and what is in memory behind that.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) from_file: Vec<(u64, u64)>,
    pub(crate) in_memory: Vec<Page>,
}

impl Outgoing {
    pub(crate) fn new(cache_bytes_max: usize, last: u64, delivered: Intervals) -> Self {
        Self { inner: Mutex::new(Inner { tail_from: last + 1, last, delivered, ..Inner::default() }), cache_bytes_max }
    }

    pub(crate) fn add(&self, lane: Lane, page: Page) {
        let inner = &mut *self.inner.lock();
        inner.last = page.id;
        inner.tail_bytes += page.body.len();
        if let Some((_, seen)) = inner.tail.insert(page.id, (lane, page)) {
            inner.tail_bytes -= seen.body.len();
        }
        while inner.tail_bytes > self.cache_bytes_max {
            let Some((id, (_, page))) = inner.tail.pop_first() else { break };
            inner.tail_bytes -= page.body.len();
            inner.tail_from = id + 1;
        }
    }

    /// Pages from this one on, which were added before their commit, do not exist.
    pub(crate) fn withdraw(&self, from: u64) {
        let inner = &mut *self.inner.lock();
        let gone: usize = inner.tail.split_off(&from).values().map(|(_, page)| page.body.len()).sum();
        inner.tail_bytes -= gone;
    }

    pub(crate) fn deliver(&self, numbers: &Intervals) {
        let inner = &mut *self.inner.lock();
        inner.delivered.extend(numbers);
        for (low, high) in numbers.as_slice() {
            let gone: Vec<u64> = inner.tail.range(*low..=*high).map(|(id, _)| *id).collect();
            for id in gone {
                inner.tail_bytes -= inner.tail.remove(&id).map_or(0, |(_, page)| page.body.len());
            }
        }
    }

    /// What of `lane` follows page `after`.
    pub(crate) fn plan(&self, lane: Lane, after: u64, bytes_max: usize) -> Plan {
        let inner = self.inner.lock();
        let from = after.saturating_add(1);
        let from_file = if from < inner.tail_from { inner.delivered.missing(from, inner.tail_from - 1) } else { Vec::new() };
        let mut left = bytes_max;
        let mut in_memory = Vec::new();
        for (own, page) in inner.tail.range(from..).map(|(_, page)| page) {
            if *own != lane {
                continue;
            }
            if page.body.len() > left && !in_memory.is_empty() {
                break;
            }
            left = left.saturating_sub(page.body.len());
            in_memory.push(page.clone());
            if left == 0 {
                break;
            }
        }
        Plan { from_file, in_memory }
    }

    /// Those of `numbers` that the cloud has not confirmed.
    pub(crate) fn undelivered(&self, numbers: &Intervals) -> Intervals {
        let inner = self.inner.lock();
        numbers.as_slice().iter().flat_map(|(low, high)| inner.delivered.missing(*low, *high)).collect()
    }

    /// All pages that the cloud has not confirmed.
    pub(crate) fn all_undelivered(&self) -> Intervals {
        let inner = self.inner.lock();
        inner.delivered.missing(1, inner.last).into_iter().collect()
    }

    /// Whether the cloud has confirmed a page from `from` on.
    pub(crate) fn has_delivered_from(&self, from: u64) -> bool {
        self.inner.lock().delivered.last().is_some_and(|last| last >= from)
    }

    /// Pages that the cloud has not confirmed.
    pub(crate) fn waiting(&self) -> u64 {
        let inner = self.inner.lock();
        inner.last.saturating_sub(inner.delivered.count())
    }
}
