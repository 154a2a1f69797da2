//! Upkeep in the writer's transactions: each piece small, each safe to repeat, so that a crash between any two loses nothing.
//!
//! A segment is closed in this order: freeze (where it ends, which counters changed) - chunks, in pieces - counters, in pieces -
//! publish - purge, in pieces. Before the publish its pages count and its chunks do not; after it the other way round.

use rusqlite::Transaction;
use store::Fault;
use wire::{At, Digest, Intervals, RunView};

use super::{Done, Effect, Engine};
use crate::append::Lane;
use crate::chunk::ChunkRow;
use crate::held::StateId;
use crate::schema::{encode, execute, to_sql};

/// Rows that one purge deletes at most, and bytes: it shares the commit with records that wait for their acknowledgement.
const PURGE_ROWS_MAX: usize = 4096;
const PURGE_BYTES_MAX: u64 = 4 << 20;

/// Where a segment ends.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// The last buffer page in it.
    pub(crate) buffer_last: u64,
    /// The first outgoing page behind it.
    pub(crate) outgoing_next: u64,
    /// The counters that changed in it.
    pub(crate) changed: Vec<StateId>,
}

/// What makes a segment closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publish {
    /// Buffer pages up to here are in chunks now, if any are.
    pub(crate) buffer_last: Option<u64>,
    /// Outgoing pages below are counted in the saved counters.
    pub(crate) outgoing_next: u64,
    /// What the new chunks hold.
    pub(crate) chunks: i64,
    pub(crate) records: i64,
    pub(crate) bytes: i64,
}

/// What moves to the backlog lane in one page.
#[derive(Debug)]
pub(crate) struct HandOver {
    /// Chunks with their records and bytes.
    pub(crate) chunks: Vec<(i64, i64, i64)>,
    /// Or runs of the open segment.
    pub(crate) gone: Option<GoneRuns>,
    pub(crate) records: u64,
    /// The records as canonical runs.
    pub(crate) runs: Vec<u8>,
}

/// Runs of one series that leave the open segment: all in its pages up to `page`.
#[derive(Debug)]
pub(crate) struct GoneRuns {
    pub(crate) series: u32,
    pub(crate) page: u64,
    pub(crate) parts: Vec<GonePart>,
}

/// Those of one epoch.
#[derive(Debug)]
pub(crate) struct GonePart {
    epoch: u64,
    seqs: Intervals,
    at_min: At,
    at_max: At,
}

impl GoneRuns {
    pub(crate) fn add(&mut self, run: &RunView<'_>) {
        let epoch = run.epoch().0;
        let place = self.parts.iter().position(|part| part.epoch == epoch).unwrap_or_else(|| {
            self.parts.push(GonePart { epoch, seqs: Intervals::new(), at_min: At::MAX, at_max: At::MIN });
            self.parts.len() - 1
        });
        let part = &mut self.parts[place];
        part.seqs.insert(run.first_seq(), run.last_seq());
        part.at_min = part.at_min.min(run.at_min());
        part.at_max = part.at_max.max(run.at_max());
    }
}

impl Engine {
    pub(super) fn delivered(&mut self, tx: &Transaction<'_>, mut numbers: Intervals) -> Result<Done, Fault> {
        // A receipt for a page that does not exist must not make a later page look delivered.
        numbers.remove(self.pages.committed_outgoing(), u64::MAX);
        numbers.remove(0, 0);
        let mut delivered = self.start.delivered.clone();
        for effect in &self.effects {
            if let Effect::Delivered(earlier) = effect {
                delivered.extend(earlier);
            }
        }
        let fresh: Intervals = numbers.as_slice().iter().flat_map(|(low, high)| delivered.missing(*low, *high)).collect();
        if fresh.is_empty() {
            return Ok(Done::Plain);
        }
        delivered.extend(&fresh);
        execute(
            tx,
            "INSERT INTO receipts (one, delivered) VALUES (1, ?1) ON CONFLICT DO UPDATE SET delivered = excluded.delivered",
            [encode(&delivered)],
        )?;
        self.arrived(tx, &fresh)?;
        self.effects.push(Effect::Delivered(fresh));
        Ok(Done::Plain)
    }

    /// The cloud holds what these pages carried: it leaves the index.
    fn arrived(&mut self, tx: &Transaction<'_>, pages: &Intervals) -> Result<(), Fault> {
        let mut removed = Intervals::new();
        for (low, high) in pages.as_slice() {
            let mut statement = tx.prepare_cached("DELETE FROM leaving WHERE page BETWEEN ?1 AND ?2 RETURNING chunk")?;
            let mut rows = statement.query((low.cast_signed(), high.cast_signed()))?;
            while let Some(row) = rows.next()? {
                if let Some(chunk) = row.get::<_, Option<i64>>(0)? {
                    removed.insert(chunk.cast_unsigned(), chunk.cast_unsigned());
                }
            }
        }
        if !removed.is_empty() {
            self.effects.push(Effect::Index(removed));
        }
        Ok(())
    }

    pub(super) fn freeze(&mut self, tx: &Transaction<'_>, now: At) -> Result<Done, Fault> {
        self.pages.flush_all(tx, &self.shared, now, &mut self.effects)?;
        let changed = self.start.held.take_dirty();
        self.frozen.extend_from_slice(&changed);
        let next = self.pages.next();
        Ok(Done::Frozen(Frozen { buffer_last: next.buffer - 1, outgoing_next: next.outgoing, changed }))
    }

    pub(super) fn save(&mut self, tx: &Transaction<'_>, ids: &[StateId]) -> Result<Done, Fault> {
        self.save_series(tx, ids.iter().map(|id| id.series))?;
        for id in ids {
            let held = encode(self.start.held.of(*id));
            execute(
                tx,
                "INSERT INTO held (series, epoch, seqs) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET seqs = excluded.seqs",
                (id.series, to_sql(self.start.held.epoch(*id)), held),
            )?;
        }
        Ok(Done::Plain)
    }

    fn save_series(&mut self, tx: &Transaction<'_>, ids: impl Iterator<Item = u32>) -> Result<(), Fault> {
        let mut saved = Vec::new();
        for id in ids {
            if self.start.series_saved.get(id as usize).copied().unwrap_or(false) {
                continue;
            }
            let name = self.shared.series.name(id).ok_or(Fault::Work("a series has no name".into()))?;
            execute(tx, "INSERT OR IGNORE INTO series (id, name) VALUES (?1, ?2)", (id, &*name))?;
            saved.push(id);
        }
        if !saved.is_empty() {
            self.effects.push(Effect::SeriesSaved(saved));
        }
        Ok(())
    }

    pub(super) fn chunks(&mut self, tx: &Transaction<'_>, rows: &[ChunkRow], taken_at: At) -> Result<Done, Fault> {
        self.save_series(tx, rows.iter().map(|row| row.series))?;
        for row in rows {
            let (Some(first), Some(last)) = (row.seqs.first(), row.seqs.last()) else { continue };
            let id = self.start.next_chunk;
            self.start.next_chunk += 1;
            execute(
                tx,
                "INSERT INTO chunks (id, series, epoch, via, seq_first, seq_last, at_min, at_max, records, seqs, root, body, taken_at, spans)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                (
                    id,
                    row.series,
                    to_sql(row.epoch),
                    row.via,
                    first.cast_signed(),
                    last.cast_signed(),
                    row.at_min,
                    row.at_max,
                    row.seqs.count().cast_signed(),
                    encode(&row.seqs),
                    row.root.as_ref().map(|root| &root[..]),
                    &row.body[..],
                    taken_at,
                    (row.seqs.as_slice().len() > 1).then(|| spans(&row.seqs)),
                ),
            )?;
        }
        Ok(Done::Plain)
    }

    pub(super) fn discard(&mut self, tx: &Transaction<'_>) -> Result<Done, Fault> {
        execute(tx, "DELETE FROM chunks WHERE id > (SELECT chunks_published FROM marks)", [])?;
        Ok(Done::Plain)
    }

    pub(super) fn publish(&mut self, tx: &Transaction<'_>, publish: &Publish) -> Result<Done, Fault> {
        let buffer_done = publish.buffer_last.unwrap_or(self.start.buffer_done);
        let before: i64 = tx.prepare_cached("SELECT chunks_published FROM marks")?.query_row([], |row| row.get(0))?;
        let last = self.start.next_chunk - 1;
        execute(
            tx,
            "UPDATE marks SET buffer_done = ?1, outgoing_saved = ?2, chunks_published = ?3, chunk_count = chunk_count + ?4,
             chunk_records = chunk_records + ?5, chunk_bytes = chunk_bytes + ?6",
            (
                buffer_done.cast_signed(),
                publish.outgoing_next.cast_signed(),
                last,
                publish.chunks,
                publish.records,
                publish.bytes,
            ),
        )?;
        self.effects.push(Effect::Marks { outgoing_saved: publish.outgoing_next, buffer_done });
        self.effects.push(Effect::ChunksAdded { records: publish.records, bytes: publish.bytes });
        if before < last {
            self.effects.push(Effect::Index(Intervals::of(before.cast_unsigned() + 1, last.cast_unsigned())));
        }
        if let Some(last) = publish.buffer_last {
            execute(tx, "DELETE FROM gone WHERE page <= ?1", [last.cast_signed()])?;
            self.effects.push(Effect::BufferDone(last));
        }
        Ok(Done::Plain)
    }

    /// Deletes some of the pages that are in chunks, or delivered and counted.
    pub(super) fn purge(&mut self, tx: &Transaction<'_>) -> Result<Done, Fault> {
        let mut budget = Budget { rows: PURGE_ROWS_MAX, bytes: PURGE_BYTES_MAX };
        let mut more = self.purge_range(tx, Lane::Store, (0, self.start.buffer_done), &mut budget)?;
        let ranges = self.start.delivered.as_slice().to_vec();
        for (low, high) in ranges {
            let high = high.min(self.start.outgoing_saved - 1);
            if low > high {
                break;
            }
            for lane in [Lane::Live, Lane::Backlog] {
                more |= self.purge_range(tx, lane, (low, high), &mut budget)?;
            }
        }
        Ok(Done::Purged { more })
    }

    fn purge_range(
        &mut self,
        tx: &Transaction<'_>,
        lane: Lane,
        (low, high): (u64, u64),
        budget: &mut Budget,
    ) -> Result<bool, Fault> {
        let (select, delete) = match lane {
            Lane::Store => (
                "SELECT id, records, length(body) FROM buffer WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
                "DELETE FROM buffer WHERE id BETWEEN ?1 AND ?2",
            ),
            Lane::Live => (
                "SELECT id, records, length(body) FROM live WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
                "DELETE FROM live WHERE id BETWEEN ?1 AND ?2",
            ),
            Lane::Backlog => (
                "SELECT id, records, length(body) FROM backlog WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
                "DELETE FROM backlog WHERE id BETWEEN ?1 AND ?2",
            ),
        };
        let (mut last, mut records, mut bytes, mut rows_found) = (None, 0, 0, 0);
        {
            let mut statement = tx.prepare_cached(select)?;
            let mut rows = statement.query((low.cast_signed(), high.cast_signed(), budget.rows as i64 + 1))?;
            while let Some(row) = rows.next()? {
                rows_found += 1;
                if budget.rows == 0 || budget.bytes == 0 {
                    break;
                }
                budget.rows -= 1;
                let length: i64 = row.get(2)?;
                budget.bytes = budget.bytes.saturating_sub(length.cast_unsigned());
                last = Some(row.get::<_, i64>(0)?);
                records += row.get::<_, i64>(1)?.cast_unsigned();
                bytes += length.cast_unsigned();
            }
        }
        if let Some(last) = last {
            execute(tx, delete, (low.cast_signed(), last))?;
            self.effects.push(Effect::Purged { lane, records, bytes });
        }
        Ok(rows_found > 0 && (budget.rows == 0 || budget.bytes == 0))
    }

    /// Gives a chunk its root and, so that whoever reads on from the last chunk he saw finds it, the next id.
    pub(super) fn root(&mut self, tx: &Transaction<'_>, chunk: i64, root: &Digest) -> Result<Done, Fault> {
        let id = self.start.next_chunk;
        self.start.next_chunk += 1;
        let changed = execute(tx, "UPDATE chunks SET id = ?1, root = ?2 WHERE id = ?3 AND root IS NULL", (id, &root[..], chunk))?;
        if changed == 1 {
            execute(tx, "UPDATE marks SET chunks_published = ?1", [id])?;
            self.effects.push(Effect::Index(Intervals::of(id.cast_unsigned(), id.cast_unsigned())));
        }
        Ok(Done::Plain)
    }

    /// Writes one page of the backlog and notes what it carries.
    pub(super) fn hand_over(&mut self, tx: &Transaction<'_>, handed: HandOver, now: At) -> Result<Done, Fault> {
        let own = self.shared.own;
        // A page of its own, so that its number is known here.
        let before = self.pages.flush(tx, &self.shared, Lane::Backlog, own, now)?;
        self.effects.extend(before);
        let page = self.pages.next().outgoing;
        let HandOver { chunks, gone, records, runs } = handed;
        self.pages.write_outgoing(Lane::Backlog, own, records, |out| out.extend_from_slice(&runs));
        let written = self.pages.flush(tx, &self.shared, Lane::Backlog, own, now)?;
        self.effects.extend(written);
        let (mut moved, mut bytes) = (0, 0);
        for (chunk, chunk_records, chunk_bytes) in &chunks {
            execute(
                tx,
                "INSERT INTO leaving (page, chunk, series, epoch, at_min, at_max, records, seqs, root)
                 SELECT ?1, id, series, epoch, at_min, at_max, records, seqs, root FROM chunks WHERE id = ?2",
                (page.cast_signed(), chunk),
            )?;
            if execute(tx, "DELETE FROM chunks WHERE id = ?1", [chunk])? != 1 {
                return Err(Fault::Work("a chunk was handed over twice".into()));
            }
            moved += chunk_records;
            bytes += chunk_bytes;
        }
        if !chunks.is_empty() {
            execute(
                tx,
                "UPDATE marks SET chunk_count = chunk_count - ?1, chunk_records = chunk_records - ?2, chunk_bytes = chunk_bytes - ?3",
                (chunks.len() as i64, moved, bytes),
            )?;
            self.effects.push(Effect::ChunksAdded { records: -moved, bytes: -bytes });
        }
        if let Some(gone) = gone {
            self.gone(tx, &gone, page)?;
        }
        Ok(Done::HandedOver(page))
    }

    fn gone(&mut self, tx: &Transaction<'_>, gone: &GoneRuns, page: u64) -> Result<(), Fault> {
        self.save_series(tx, std::iter::once(gone.series))?;
        execute(
            tx,
            "INSERT INTO gone (series, page) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET page = max(page, excluded.page)",
            (gone.series, gone.page.cast_signed()),
        )?;
        for part in &gone.parts {
            execute(
                tx,
                "INSERT INTO leaving (page, series, epoch, at_min, at_max, records, seqs) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    page.cast_signed(),
                    gone.series,
                    to_sql(part.epoch),
                    part.at_min,
                    part.at_max,
                    part.seqs.count().cast_signed(),
                    encode(&part.seqs),
                ),
            )?;
        }
        self.effects.push(Effect::Gone { series: gone.series, page: gone.page });
        Ok(())
    }
}

/// Intervals for those who read with SQL.
fn spans(seqs: &Intervals) -> String {
    let pairs: Vec<String> = seqs.as_slice().iter().map(|(first, last)| format!("[{first},{last}]")).collect();
    format!("[{}]", pairs.join(","))
}

/// How much one purge may still delete.
struct Budget {
    rows: usize,
    bytes: u64,
}
