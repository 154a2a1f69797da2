//! Records of one series and epoch by their sequence numbers, over open pages and chunks together, piece by piece.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Transaction;
use wire::{At, Epoch, Intervals, Operation, RunView, Series, filter};

use crate::archive::Archive;
use crate::buffer::OpenRun;
use crate::chunk::{self, Readings};
use crate::error::{Damage, ReadError};
use crate::find::{received, with_run};
use crate::schema::{decode, from_sql, to_sql};
use crate::shared::Shared;
use crate::tail::SeriesId;

/// Records that are looked at for each one that may be given, before a piece ends without having found enough.
const LOOKS_PER_RECORD: usize = 16;

/// What to walk over.
#[derive(Debug, Clone, Copy)]
pub struct Walk<'a> {
    /// The series.
    pub series: SeriesId,
    /// The epoch.
    pub epoch: Epoch,
    /// The sequence numbers wanted.
    pub wanted: &'a Intervals,
    /// Earliest generation time; older records are passed over.
    pub from: At,
    /// Most records in the answer; at least one is given if there is one.
    pub records_max: usize,
    /// Most bytes of payloads in the answer, with the same exception.
    pub bytes_max: usize,
}

/// A piece of a walk.
#[derive(Debug, Default)]
pub struct Walked {
    /// The records, in order of their numbers, each once.
    pub records: Vec<Passed>,
    /// All that was wanted up to here was looked at.
    pub to: u64,
    /// Wanted numbers that stand in a chunk that can't be read.
    pub unreadable: u64,
}

/// One record of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Its sequence number.
    pub seq: u64,
    /// When it was generated.
    pub at: At,
    /// What the relay was told to do with it.
    pub operation: Operation,
    /// The relay that it came through.
    pub via: Arc<str>,
    /// The reading's bytes.
    pub payload: Bytes,
}

/// What is held of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOf {
    /// Sequence numbers by epoch.
    pub epochs: Vec<(Epoch, Intervals)>,
    /// `false`: all of it was generated before the time that was asked for.
    pub since: bool,
}

/// Records of one source, as far as they are wanted.
struct Loaded {
    via: u32,
    readings: Readings,
    place: usize,
}

impl Loaded {
    /// The number at the first place from `place` on that is wanted.
    fn settle(&mut self, wanted: &Intervals) -> Option<u64> {
        loop {
            let seq = *self.readings.seqs.get(self.place)?;
            if wanted.contains(seq) {
                return Some(seq);
            }
            self.place += 1;
        }
    }
}

/// A chunk, not looked into before its turn.
struct Head {
    id: i64,
    first: u64,
    last: u64,
    at_max: At,
}

fn head(row: Option<&rusqlite::Row<'_>>) -> Result<Option<Head>, ReadError> {
    let Some(row) = row else { return Ok(None) };
    let (first, last) = (row.get::<_, i64>(1)?.cast_unsigned(), row.get::<_, i64>(2)?.cast_unsigned());
    Ok(Some(Head { id: row.get(0)?, first, last, at_max: row.get(3)? }))
}

/// Sources that are open, and the one with the next number on top.
#[derive(Default)]
struct Merge {
    sources: Vec<Option<Loaded>>,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Merge {
    fn add(&mut self, mut source: Loaded, wanted: &Intervals) {
        let seq = source.settle(wanted);
        self.put(seq, self.sources.len());
        self.sources.push(seq.map(|_| source));
    }

    fn put(&mut self, seq: Option<u64>, index: usize) {
        self.heap.extend(seq.map(|seq| Reverse((seq, index))));
    }

    /// Whether a source that begins at `first` has to be open before the next number is taken.
    fn needs(&self, first: u64) -> bool {
        self.heap.peek().is_none_or(|Reverse((next, _))| first <= *next)
    }

    /// Shows the next record and steps over it.
    fn next<T>(&mut self, wanted: &Intervals, show: impl FnOnce(u64, &Loaded) -> T) -> Option<T> {
        let Reverse((seq, index)) = self.heap.pop()?;
        let source = self.sources.get_mut(index)?.as_mut()?;
        let shown = show(seq, source);
        source.place += 1;
        match source.settle(wanted) {
            None => self.sources[index] = None,
            next => self.put(next, index),
        }
        Some(shown)
    }
}

fn walk(tx: &Transaction<'_>, shared: &Shared, what: &Walk<'_>, mut open: Vec<OpenRun>) -> Result<Walked, ReadError> {
    let wanted = what.wanted;
    let (Some(low), Some(high)) = (wanted.first(), wanted.last()) else { return Ok(Walked::default()) };
    open.sort_by_key(|run| run.at.first_seq);
    let mut open = open.into_iter().peekable();
    let mut statement = tx.prepare_cached(
        "SELECT id, seq_first, seq_last, at_max FROM chunks
         WHERE series = ?1 AND epoch = ?2 AND seq_first <= ?3 AND seq_last >= ?4 ORDER BY seq_first",
    )?;
    let mut rows = statement.query((what.series.0, to_sql(what.epoch.0), high.cast_signed(), low.cast_signed()))?;
    let mut chunk = head(rows.next()?)?;
    let mut merge = Merge::default();
    let mut walked = Walked { to: high, ..Walked::default() };
    let (mut payloads, mut ends) = (Vec::new(), Vec::new());
    let mut last = None;
    let mut looks = 0;
    loop {
        // Whatever may hold the next number is opened first.
        if let Some(run) = open.next_if(|run| merge.needs(run.at.first_seq)) {
            with_run(tx, &run, |bytes| {
                let (view, _) = RunView::parse(bytes).map_err(|fault| Damage::Page { page: run.at.page, fault })?;
                merge.add(Loaded { via: run.page.via, readings: Readings::of_run(&view), place: 0 }, wanted);
                Ok(())
            })?;
            continue;
        }
        if let Some(next) = chunk.take_if(|chunk| merge.needs(chunk.first)) {
            chunk = head(rows.next()?)?;
            if next.at_max >= what.from && wanted.overlaps(next.first, next.last) {
                match load(tx, next.id) {
                    Ok(loaded) => merge.add(loaded, wanted),
                    Err(ReadError::Damaged(damage)) => {
                        tracing::error!(chunk = next.id, %damage, "a chunk can't be read; its records are passed over");
                        walked.unreadable += overlap(wanted, next.first, next.last);
                    }
                    Err(other) => return Err(other),
                }
            }
            continue;
        }
        let full = walked.records.len() >= what.records_max.max(1) || payloads.len() >= what.bytes_max;
        if full && !walked.records.is_empty() || looks >= what.records_max.max(1) * LOOKS_PER_RECORD {
            walked.to = last.unwrap_or(low);
            break;
        }
        looks += 1;
        let taken = merge.next(wanted, |seq, source| {
            let (at, again) = (source.readings.ats[source.place], last == Some(seq));
            last = Some(seq);
            // Again: the same record in a page and in a chunk.
            if again || at < what.from {
                return Ok::<_, ReadError>(None);
            }
            let no_relay = Damage::Row("a record came through a relay without a name");
            let via = shared.relays.name(source.via).ok_or(ReadError::Damaged(no_relay))?;
            payloads.extend_from_slice(source.readings.payload(source.place));
            ends.push(payloads.len());
            Ok(Some(Passed { seq, at, operation: source.readings.operations[source.place], via, payload: Bytes::new() }))
        });
        match taken.transpose()? {
            None => break,
            Some(record) => walked.records.extend(record),
        }
    }
    let (payloads, mut start) = (Bytes::from(payloads), 0);
    for (record, end) in walked.records.iter_mut().zip(ends) {
        record.payload = payloads.slice(start..end);
        start = end;
    }
    Ok(walked)
}

fn load(tx: &Transaction<'_>, id: i64) -> Result<Loaded, ReadError> {
    let mut statement = tx.prepare_cached("SELECT via, seqs, body FROM chunks WHERE id = ?1")?;
    let (via, seqs, body): (u32, Vec<u8>, Vec<u8>) =
        statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let seqs = decode(&seqs).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
    Ok(Loaded { via, readings: chunk::decode(&body, &seqs)?, place: 0 })
}

/// How many of `set` are within `low..=high`.
fn overlap(set: &Intervals, low: u64, high: u64) -> u64 {
    let within = set.as_slice().iter().filter(|(l, h)| *l <= high && *h >= low);
    within.map(|(l, h)| (*h).min(high) - (*l).max(low) + 1).sum()
}

impl Archive {
    /// A piece of the records of one series and epoch in order of their sequence numbers. Sees every record of the storage area that was
    /// durable when it was called. A chunk that can't be read is passed over, logged and counted.
    ///
    /// # Errors
    /// The disk failed, or what it gave is damaged beyond one chunk.
    pub fn walk(&self, what: &Walk<'_>) -> Result<Walked, ReadError> {
        let shared = &*self.inner.shared;
        let touches = |first, last| what.wanted.overlaps(first, last);
        // First the open pages, then the snapshot: see `buffer`.
        let open = shared.buffer.runs(what.series.0, |at, page| {
            at.epoch == what.epoch.0 && page.at_max >= what.from && touches(at.first_seq, at.last_seq())
        });
        self.inner.readers.read(|tx| walk(tx, shared, what, open))
    }

    /// Numbers of the series that an MQTT topic filter matches, in order of their names; see [`Archive::series_like`].
    pub fn series_ids(&self, pattern: &str) -> Vec<SeriesId> {
        let names = &self.inner.shared.series;
        let found = names.filter(|name| filter::matches(pattern, name));
        found.iter().filter_map(|name| names.get(name).map(SeriesId)).collect()
    }

    /// The number of a series, if it has one.
    pub fn series_id(&self, series: &Series) -> Option<SeriesId> {
        self.inner.shared.series.get(series.as_str()).map(SeriesId)
    }

    /// The series with this number.
    pub fn series_of(&self, id: SeriesId) -> Option<Series> {
        self.inner.shared.series.name(id.0)?.parse().ok()
    }

    /// [`Archive::received`] by numbers of series, and whether anything of it may have been generated at `from` or later.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn held_of(&self, series: &[SeriesId], from: At) -> Result<Vec<HeldOf>, ReadError> {
        let shared = &*self.inner.shared;
        // First the open pages, then the snapshot: see `buffer`.
        let open: Vec<_> = series.iter().map(|id| (id.0, shared.buffer.runs(id.0, |_, _| true))).collect();
        self.inner.readers.read(|tx| {
            let mut later = tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM chunks WHERE series = ?1 AND at_max >= ?2)")?;
            let mut held = Vec::with_capacity(open.len());
            for (id, runs) in &open {
                let since =
                    runs.iter().any(|run| run.page.at_max >= from) || later.query_row((id, from), |row| row.get::<_, bool>(0))?;
                held.push(HeldOf { epochs: received(tx, *id, runs)?, since });
            }
            Ok::<_, ReadError>(held)
        })
    }

    /// The epochs of a series that have records here, the one with the oldest record first.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn epochs_by_age(&self, series: SeriesId) -> Result<Vec<Epoch>, ReadError> {
        let open = self.inner.shared.buffer.runs(series.0, |_, _| true);
        self.inner.readers.read(|tx| {
            let mut oldest: BTreeMap<u64, At> = BTreeMap::new();
            let mut note = |epoch, at: At| {
                let known = oldest.entry(epoch).or_insert(at);
                *known = (*known).min(at);
            };
            open.iter().for_each(|run| note(run.at.epoch, run.page.at_min));
            let mut statement = tx.prepare_cached("SELECT epoch, min(at_min) FROM chunks WHERE series = ?1 GROUP BY epoch")?;
            let mut rows = statement.query([series.0])?;
            while let Some(row) = rows.next()? {
                note(from_sql(row.get(0)?), row.get(1)?);
            }
            let mut epochs: Vec<(At, u64)> = oldest.into_iter().map(|(epoch, at)| (at, epoch)).collect();
            epochs.sort_unstable();
            Ok::<_, ReadError>(epochs.into_iter().map(|(_, epoch)| Epoch(epoch)).collect())
        })
    }
}
