//! Closes segments: open pages become chunks, counters are saved, pages that nobody needs are deleted.
//!
//! The work is done on the caller's thread; the writer thread gets it in pieces that fit between the commits of records that wait for
//! their acknowledgement.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::OptionalExtension;
use store::{Fault, Readers, Ticket, Writer};
use wire::{At, Epoch, Record, RunView};

use crate::append::Lane;
use crate::buffer::OpenRun;
use crate::chunk::{ChunkRow, Readings};
use crate::engine::{Done, Engine, Frozen, Job, Publish};
use crate::error::{Damage, ReadError};
use crate::held::StateId;
use crate::ledger;
use crate::shared::Shared;
use crate::workshop::{Haste, Order, Workshop};

/// Counters saved in one commit.
const SAVE_PIECE: usize = 1024;
/// Chunks kept in one commit, and bytes.
const CHUNKS_PIECE: usize = 256;
const CHUNK_BYTES_PIECE: usize = 1 << 20;
/// Roots completed in one round.
const ROOTS_PIECE: usize = 64;
/// Above this share of the outgoing budget delivered pages are deleted early, though not more often than this.
const SHORT_SHARE: u64 = 4;
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// What closing did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    /// Chunks made.
    pub chunks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Chunks that got the root they lacked.
    pub roots: u64,
}

/// What the upkeep remembers between two rounds. One at a time.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// When a record was first seen in the open segment.
    buffer_since: Option<At>,
    /// The same for pages whose counters are not saved.
    outgoing_since: Option<(At, u64)>,
    /// Chunks of a close that failed may be there.
    unclean: bool,
    /// The first outgoing page whose numbers are not saved, and when that was last so.
    outgoing_next: u64,
    saved_at: Option<At>,
}

/// What closing works with.
pub(crate) struct Closer<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) writer: &'a Writer<Engine>,
    pub(crate) readers: &'a Readers,
    pub(crate) upkeep: &'a mut Upkeep,
    /// How many wait for this to end.
    pub(crate) wanted: &'a AtomicUsize,
}

impl Closer<'_> {
    /// Whether the open segment is due to be closed.
    pub(crate) fn is_due(&mut self, now: At) -> bool {
        let limits = self.shared.options.segment;
        let total = self.shared.gauges.buffer.total();
        let has_pages = self.shared.buffer.last_page().is_some();
        self.upkeep.buffer_since = has_pages.then(|| self.upkeep.buffer_since.unwrap_or(now));
        has_pages
            && (total.records >= limits.records_max
                || total.bytes >= limits.bytes_max
                || self.upkeep.buffer_since.is_some_and(|since| since_then(since, now) >= limits.age_max))
    }

    /// Closes the open segment, if told so, and does all else that is due at `now`.
    pub(crate) fn tend(&mut self, now: At, last_outgoing: u64, close: bool) -> Result<Closed, ReadError> {
        let age_max = self.shared.options.segment.age_max;
        let (since, last) = *self.upkeep.outgoing_since.get_or_insert((now, last_outgoing));
        // Live pages come and go; their age is what bounds the replay.
        let outgoing_due = last != last_outgoing && since_then(since, now) >= age_max;
        if last == last_outgoing {
            self.upkeep.outgoing_since = Some((now, last));
        }
        let mut closed = Closed::default();
        if close || outgoing_due || self.is_short(now) {
            closed = self.close(close)?;
            self.upkeep.outgoing_since = Some((now, last_outgoing));
            self.upkeep.saved_at = Some(now);
        }
        self.purge()?;
        closed.roots = self.complete_roots()?;
        Ok(closed)
    }

    /// Whether delivered pages that can't be deleted before counters are saved take up room that is wanted.
    fn is_short(&self, now: At) -> bool {
        let shared = self.shared;
        shared.gauges.against_budget(Lane::Live) > shared.options.budgets.outgoing_bytes_max / SHORT_SHARE
            && shared.outgoing.has_delivered_from(self.upkeep.outgoing_next)
            && self.upkeep.saved_at.is_none_or(|at| since_then(at, now) >= SHORT_PAUSE)
    }

    /// Closes everything that is in the open segment now, a segment's size at a time.
    pub(crate) fn close_all(&mut self) -> Result<Closed, ReadError> {
        let mut closed = Closed::default();
        let Some(last) = self.shared.buffer.last_page() else { return self.close(true) };
        while self.shared.buffer.first_page().is_some_and(|first| first <= last) {
            let more = self.close(true)?;
            closed.chunks += more.chunks;
            closed.records += more.records;
            closed.bytes += more.bytes;
        }
        Ok(closed)
    }

    /// Closes the open segment (`buffer`), as far as it fits the size of one, and saves the counters.
    fn close(&mut self, buffer: bool) -> Result<Closed, ReadError> {
        self.clean()?;
        let mut frozen = match self.ask(Job::Freeze)? {
            Done::Frozen(frozen) => frozen,
            other => return Err(other.unexpected().into()),
        };
        // What came while the segment before was closed may be more than memory should hold at once.
        frozen.buffer_last = self.shared.buffer.segment_end(frozen.buffer_last, self.shared.options.segment.bytes_max);
        let (rest, closed) = self.close_frozen(buffer, &frozen);
        if closed.is_err() {
            self.upkeep.unclean = true;
            // They count as changed again only if somebody says so. If the writer is gone, the next opening replays the pages.
            self.ask(Job::PutBack(rest.to_vec()))?;
        } else if buffer {
            self.upkeep.buffer_since = None;
        }
        closed
    }

    /// Throws away what a close that failed has left: what is published next would publish it, too.
    fn clean(&mut self) -> Result<(), ReadError> {
        if self.upkeep.unclean {
            self.ask(Job::Discard)?;
            self.upkeep.unclean = false;
        }
        Ok(())
    }

    /// Gives the counters that were not saved, and what was done.
    fn close_frozen<'f>(&mut self, buffer: bool, frozen: &'f Frozen) -> (&'f [StateId], Result<Closed, ReadError>) {
        let mut closed = Closed::default();
        if buffer && let Err(error) = self.build(frozen.buffer_last, &mut closed) {
            return (&frozen.changed, Err(error));
        }
        for piece in frozen.changed.chunks(SAVE_PIECE) {
            if let Err(error) = self.ask(Job::Save(piece.to_vec())) {
                return (&frozen.changed, Err(error));
            }
        }
        let publish = Publish {
            buffer_last: buffer.then_some(frozen.buffer_last),
            outgoing_next: frozen.outgoing_next,
            chunks: closed.chunks.cast_signed(),
            records: closed.records.cast_signed(),
            bytes: closed.bytes.cast_signed(),
        };
        match self.ask(Job::Publish(publish)) {
            Ok(_) => {
                self.upkeep.outgoing_next = frozen.outgoing_next;
                (&[], Ok(closed))
            }
            // Saved counters do no harm, but the mark behind them is not set: save them again with the next one.
            Err(error) => (&frozen.changed, Err(error)),
        }
    }

    /// Makes chunks of the pages up to `last`.
    fn build(&mut self, last: u64, closed: &mut Closed) -> Result<(), ReadError> {
        let pages = Pages::load(self.shared, self.readers, last)?;
        let taken_at = self.readers.read(|tx| {
            let sql = "SELECT taken_at FROM buffer WHERE id <= ?1 ORDER BY id DESC LIMIT 1";
            Ok::<_, ReadError>(tx.prepare_cached(sql)?.query_row([last.cast_signed()], |row| row.get(0)).optional()?)
        })?;
        let mut outbox = Outbox { taken_at: taken_at.unwrap_or_default(), ..Outbox::default() };
        let haste = || match self.wanted.load(Ordering::Relaxed) {
            0 => Haste::of(self.shared.gauges.buffer.total(), &self.shared.options.segment),
            _ => Haste::Needed,
        };
        thread::scope(|scope| {
            let mut workshop = Workshop::open(scope, self.shared.options.chunk_records_max, haste())?;
            for series in self.shared.buffer.series_up_to(last) {
                let name = self.shared.series.name(series).ok_or(Damage::Row("a series has no name"))?;
                let mut runs = self.shared.buffer.runs(series, |at, _| at.page <= last);
                // Sorting is stable: of two records under one key the one committed first comes first, and stays.
                runs.sort_by_key(|run| (run.at.epoch, run.page.via, run.at.first_seq));
                for group in runs.chunk_by(|one, other| (one.at.epoch, one.page.via) == (other.at.epoch, other.page.via)) {
                    let (epoch, via) = (group[0].at.epoch, group[0].page.via);
                    let (readings, others) = gather(&pages, group)?;
                    if !others.is_empty() {
                        self.ask(Job::KeepAside(others.into_iter().map(|record| (via, record)).collect()))?;
                    }
                    outbox.put(workshop.hurry(haste())?, closed, self.writer)?;
                    let secret = self.shared.secrets.of(&name, Epoch(epoch));
                    let order = Order { series, name: name.clone(), epoch, via, secret, readings };
                    outbox.put(workshop.order(order)?.unwrap_or_default(), closed, self.writer)?;
                }
            }
            while let Some(rows) = workshop.next()? {
                outbox.put(rows, closed, self.writer)?;
            }
            Ok::<_, ReadError>(())
        })?;
        outbox.send(self.writer)?;
        outbox.settle()
    }

    /// Deletes pages in chunks and delivered ones, piece by piece.
    pub(crate) fn purge(&mut self) -> Result<(), ReadError> {
        while let Done::Purged { more: true } = self.ask(Job::Purge)? {}
        Ok(())
    }

    /// Computes roots of chunks whose epoch's secret came later than they.
    fn complete_roots(&mut self) -> Result<u64, ReadError> {
        self.clean()?;
        let roots = self.readers.read(|tx| ledger::missing_roots(tx, self.shared, ROOTS_PIECE))?;
        let count = roots.len() as u64;
        let tickets: Result<Vec<_>, Fault> =
            roots.into_iter().map(|(chunk, root)| self.writer.submit_ahead(Job::Root { chunk, root })).collect();
        for ticket in tickets? {
            ticket.wait()?;
        }
        Ok(count)
    }

    pub(crate) fn ask(&self, job: Job) -> Result<Done, ReadError> {
        Ok(self.writer.submit_ahead(job)?.wait()?)
    }
}

fn since_then(since: At, now: At) -> Duration {
    Duration::from_nanos(now.saturating_sub(since).max(0).cast_unsigned())
}

/// Chunks on their way to the writer thread: one piece is built while the piece before it is committed.
#[derive(Default)]
struct Outbox {
    rows: Vec<ChunkRow>,
    /// When the last page of the segment was committed.
    taken_at: At,
    counted: usize,
    bytes: usize,
    under_way: Option<Ticket<Done>>,
}

impl Outbox {
    fn put(&mut self, rows: Vec<ChunkRow>, closed: &mut Closed, writer: &Writer<Engine>) -> Result<(), ReadError> {
        for row in rows {
            self.rows.push(row);
            self.count(closed);
            if self.is_full() {
                self.send(writer)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, closed: &mut Closed) {
        for row in &self.rows[self.counted..] {
            closed.chunks += 1;
            closed.records += row.seqs.count();
            closed.bytes += row.body.len() as u64;
            self.bytes += row.body.len();
        }
        self.counted = self.rows.len();
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= CHUNKS_PIECE || self.bytes >= CHUNK_BYTES_PIECE
    }

    fn send(&mut self, writer: &Writer<Engine>) -> Result<(), ReadError> {
        self.settle()?;
        self.counted = 0;
        self.bytes = 0;
        self.under_way = Some(writer.submit_ahead(Job::Chunks(std::mem::take(&mut self.rows), self.taken_at))?);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), ReadError> {
        if let Some(ticket) = self.under_way.take() {
            ticket.wait()?;
        }
        Ok(())
    }
}

/// Bodies of the pages of a segment. Held for as long as it is closed, because meanwhile newer pages push older ones out of memory.
pub(crate) struct Pages(BTreeMap<u64, Bytes>);

impl Pages {
    fn load(shared: &Shared, readers: &Readers, last: u64) -> Result<Self, ReadError> {
        let (mut pages, mut missing) = (BTreeMap::new(), Vec::new());
        for (id, body) in shared.buffer.bodies_up_to(last) {
            match body {
                Some(body) => drop(pages.insert(id, body)),
                None => missing.push(id),
            }
        }
        Self(pages).with(readers, missing)
    }

    /// The pages of these runs.
    pub(crate) fn load_some(readers: &Readers, runs: &[OpenRun]) -> Result<Self, ReadError> {
        let (mut pages, mut missing) = (BTreeMap::new(), Vec::new());
        for run in runs {
            match &run.page.body {
                Some(body) => drop(pages.insert(run.at.page, body.clone())),
                None => missing.push(run.at.page),
            }
        }
        missing.dedup();
        Self(pages).with(readers, missing)
    }

    fn with(self, readers: &Readers, missing: Vec<u64>) -> Result<Self, ReadError> {
        let Self(mut pages) = self;
        if missing.is_empty() {
            return Ok(Self(pages));
        }
        readers.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT body FROM buffer WHERE id = ?1")?;
            for id in missing {
                let body: Vec<u8> = statement.query_row([id.cast_signed()], |row| row.get(0))?;
                pages.insert(id, Bytes::from(body));
            }
            Ok(Self(pages))
        })
    }

    pub(crate) fn bytes(&self, run: &OpenRun) -> Result<&[u8], ReadError> {
        let bytes = self.0.get(&run.at.page).and_then(|body| body.get(run.at.offset as usize..));
        bytes.ok_or(ReadError::Damaged(Damage::Row("a page is missing or ends before its runs")))
    }
}

/// The readings of runs that are sorted by their first number: sorted, and each number once. A record that came twice is one; one that came
/// again with another content is given beside.
fn gather(pages: &Pages, runs: &[OpenRun]) -> Result<(Readings, Vec<Record>), ReadError> {
    let mut readings = Readings::default();
    let mut overlap = None;
    let mut last = 0;
    for run in runs {
        let (view, _) = RunView::parse(pages.bytes(run)?).map_err(|fault| Damage::Page { page: run.at.page, fault })?;
        if view.first_seq() <= last {
            overlap = Some(view);
        }
        last = last.max(view.last_seq());
        view.records().for_each(|record| readings.push(&record));
    }
    let Some(run) = overlap else { return Ok((readings, Vec::new())) };
    let (sorted, others) = readings.sorted();
    let others = others.into_iter().map(|index| readings.view(run.series(), run.epoch(), index).to_record()).collect();
    Ok((sorted, others))
}
