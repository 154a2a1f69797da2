//! Purging what is done with (B7), then making chunks of what the relay accepted, all in one transaction.
//!
//! A chunk is one stretch of consecutive numbers of one series. It waits for numbers that are still open, and ends at a number
//! that was given up: the hole between two chunks is the proof that something is missing, and a tombstone says why.

use store::Fault;
use store::rusqlite::{OptionalExtension, Transaction, params};
use wire::{At, Digest, merkle};

use super::desk::Desk;
use super::sending::stored_state;
use crate::limits::{CHUNKS_PER_PASS_MAX, PURGE_ROWS_MAX};
use crate::state::State;

/// When a chunk is made, and how many leaves are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkLimits {
    /// A chunk is due at so many records.
    pub(crate) records_max: u64,
    /// A chunk is due when its oldest record was accepted so many nanoseconds ago.
    pub(crate) age_max: i64,
    /// Leaves above this many bytes are dropped, oldest first.
    pub(crate) leaf_bytes_max: u64,
    /// Whether only leaves of chunks on chain may be dropped.
    pub(crate) anchored_only: bool,
}

/// Records that were given up.
pub(crate) struct Grave<'a> {
    pub(crate) series: i64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) reason: &'a str,
    pub(crate) taken: bool,
    pub(crate) at: At,
}

/// Writes a tombstone, or makes the one right before it longer.
pub(crate) fn bury(tx: &Transaction<'_>, grave: &Grave<'_>) -> Result<(), Fault> {
    let (first, last) = (grave.first.cast_signed(), grave.last.cast_signed());
    let longer = tx
        .prepare_cached(
            "UPDATE tombstones SET seq_last = ?2 WHERE series = ?1 AND seq_last = ?3 - 1 AND reason = ?4 AND taken = ?5",
        )?
        .execute(params![grave.series, last, first, grave.reason, grave.taken])?;
    if longer == 0 {
        tx.prepare_cached(
            "INSERT INTO tombstones (series, seq_first, seq_last, reason, taken, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![grave.series, first, last, grave.reason, grave.taken, grave.at])?;
    }
    Ok(())
}

/// One pass. Says whether there may be more to do at once.
pub(crate) fn pass(desk: &mut Desk, tx: &Transaction<'_>, limits: &ChunkLimits, now: At) -> Result<bool, Fault> {
    // B7: nobody looks for accepted rows while there is something to purge. Readings are let in between two steps of a large purge.
    if purge(tx, now)? >= PURGE_ROWS_MAX {
        return Ok(true);
    }
    let made = group(desk, tx, limits, now)?;
    drop_leaves(desk, tx, limits)?;
    Ok(made >= CHUNKS_PER_PASS_MAX)
}

/// Deletes rows that are rejected or on chain, up to a number of them, and says how many they were; the rejected leave tombstones.
fn purge(tx: &Transaction<'_>, now: At) -> Result<usize, Fault> {
    let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
    let mut rejected = tx.prepare_cached(
        "SELECT id, series, seq_first, seq_last, reason, since FROM outbox WHERE state = 3 ORDER BY id LIMIT ?1",
    )?;
    let rejected = rejected
        .query_map([PURGE_ROWS_MAX as i64], |row| {
            let reason: Option<String> = row.get(4)?;
            let (first, last) = (row.get::<_, i64>(2)?.cast_unsigned(), row.get::<_, i64>(3)?.cast_unsigned());
            Ok((row.get::<_, i64>(0)?, row.get(1)?, first, last, reason, row.get::<_, Option<At>>(5)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    for (id, series, first, last, reason, since) in &rejected {
        let reason = reason.as_deref().unwrap_or("rejected by the relay");
        let at = since.unwrap_or(now);
        bury(tx, &Grave { series: *series, first: *first, last: *last, reason, taken: true, at })?;
        delete.execute([id])?;
    }
    let room = PURGE_ROWS_MAX - rejected.len();
    let mut finished = tx.prepare_cached("SELECT id FROM chunks WHERE state = 5 AND purged = 0 ORDER BY id LIMIT ?1")?;
    let finished = finished.query_map([room as i64], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE chunk = ?1")?;
    let mut mark = tx.prepare_cached("UPDATE chunks SET purged = 1 WHERE id = ?1")?;
    for chunk in &finished {
        delete.execute([chunk])?;
        mark.execute([chunk])?;
    }
    Ok(rejected.len() + finished.len())
}

/// A chunk that is being collected.
#[derive(Default)]
struct Stretch {
    rows: Vec<i64>,
    first: u64,
    last: u64,
    at_min: i64,
    at_max: i64,
    oldest: i64,
    newest: i64,
    leaves: Vec<u8>,
}

struct Accepted {
    id: i64,
    first: u64,
    last: u64,
    at_min: i64,
    at_max: i64,
    accepted_at: i64,
    leaves: Vec<u8>,
}

impl Stretch {
    fn count(&self) -> u64 {
        if self.rows.is_empty() { 0 } else { self.last - self.first + 1 }
    }

    fn push(&mut self, row: Accepted) {
        if self.rows.is_empty() {
            (self.first, self.at_min, self.at_max) = (row.first, row.at_min, row.at_max);
            (self.oldest, self.newest) = (row.accepted_at, row.accepted_at);
        }
        self.rows.push(row.id);
        self.last = row.last;
        self.at_min = self.at_min.min(row.at_min);
        self.at_max = self.at_max.max(row.at_max);
        self.oldest = self.oldest.min(row.accepted_at);
        self.newest = self.newest.max(row.accepted_at);
        self.leaves.extend_from_slice(&row.leaves);
    }

    fn is_due(&self, limits: &ChunkLimits, now: At) -> bool {
        // A clock that was set back must not keep chunks open for ever.
        self.count() >= limits.records_max || now.saturating_sub(self.oldest) >= limits.age_max || now < self.oldest
    }
}

fn group(desk: &mut Desk, tx: &Transaction<'_>, limits: &ChunkLimits, now: At) -> Result<usize, Fault> {
    // From series to series by the index: a backlog of millions of rows must not be walked each time.
    let mut next = tx.prepare_cached("SELECT series FROM outbox WHERE chunk IS NULL AND series > ?1 ORDER BY series LIMIT 1")?;
    let (mut made, mut series) = (0, 0);
    while made < CHUNKS_PER_PASS_MAX
        && let Some(found) = next.query_row([series], |row| row.get(0)).optional()?
    {
        series = found;
        made += group_series(desk, tx, series, limits, now, CHUNKS_PER_PASS_MAX - made)?;
    }
    Ok(made)
}

fn group_series(
    desk: &mut Desk,
    tx: &Transaction<'_>,
    series: i64,
    limits: &ChunkLimits,
    now: At,
    chunks_max: usize,
) -> Result<usize, Fault> {
    let mut select = tx.prepare_cached(
        "SELECT id, seq_first, seq_last, at_min, at_max, state, accepted_at, leaves
           FROM outbox WHERE series = ?1 AND chunk IS NULL ORDER BY seq_first",
    )?;
    let mut found = select.query([series])?;
    let mut done = Vec::new();
    let mut open = Stretch::default();
    while done.len() < chunks_max {
        let Some(row) = found.next()? else { break };
        if stored_state(row.get(5)?)? != State::ServerAccepted {
            break;
        }
        let row = Accepted {
            id: row.get(0)?,
            first: row.get::<_, i64>(1)?.cast_unsigned(),
            last: row.get::<_, i64>(2)?.cast_unsigned(),
            at_min: row.get(3)?,
            at_max: row.get(4)?,
            accepted_at: row.get::<_, Option<i64>>(6)?.unwrap_or(now),
            leaves: row.get(7)?,
        };
        let hole = open.count() > 0 && row.first != open.last + 1;
        if hole || open.count() >= limits.records_max {
            done.push(std::mem::take(&mut open));
        }
        open.push(row);
    }
    if open.count() > 0 && done.len() < chunks_max && open.is_due(limits, now) {
        done.push(open);
    }
    drop(found);
    for stretch in &done {
        write_chunk(desk, tx, series, stretch)?;
    }
    Ok(done.len())
}

/// The chunk takes the leaves over; one row stays in the outbox for all its records until the chunk is on chain.
fn write_chunk(desk: &mut Desk, tx: &Transaction<'_>, series: i64, stretch: &Stretch) -> Result<(), Fault> {
    let (leaves, []) = stretch.leaves.as_chunks::<32>() else {
        return Err(Fault::Corrupt("leaves are not whole".into()));
    };
    if leaves.len() as u64 != stretch.count() {
        return Err(Fault::Corrupt("a row does not have one leaf a record".into()));
    }
    let root: Digest = merkle::root(leaves);
    let (first, last) = (stretch.first.cast_signed(), stretch.last.cast_signed());
    tx.prepare_cached(
        "INSERT INTO chunks (series, seq_first, seq_last, at_min, at_max, root, state, since, leaves) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        series,
        first,
        last,
        stretch.at_min,
        stretch.at_max,
        root,
        State::ServerAccepted.code(),
        // All of them are accepted since then.
        stretch.newest,
        stretch.leaves
    ])?;
    let chunk = tx.last_insert_rowid();
    let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
    for id in &stretch.rows[1..] {
        delete.execute([id])?;
    }
    tx.prepare_cached("UPDATE outbox SET chunk = ?2, seq_last = ?3, at_min = ?4, at_max = ?5, leaves = NULL WHERE id = ?1")?
        .execute(params![stretch.rows[0], chunk, last, stretch.at_min, stretch.at_max])?;
    desk.progress().grouped += stretch.count();
    *desk.leaf_bytes() += stretch.leaves.len() as u64;
    Ok(())
}

/// Keeps the leaves within their budget. What is dropped can be made again from the records at the cloud and the epoch secret.
fn drop_leaves(desk: &mut Desk, tx: &Transaction<'_>, limits: &ChunkLimits) -> Result<(), Fault> {
    let mut oldest = tx.prepare_cached(
        "SELECT id, length(leaves) FROM chunks WHERE leaves IS NOT NULL AND (state = 5 OR NOT ?1) ORDER BY id LIMIT 1",
    )?;
    let mut forget = tx.prepare_cached("UPDATE chunks SET leaves = NULL WHERE id = ?1")?;
    while *desk.leaf_bytes() > limits.leaf_bytes_max {
        let found =
            oldest.query_row([limits.anchored_only], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        let Some((chunk, bytes)) = found else { break };
        forget.execute([chunk])?;
        *desk.leaf_bytes() -= bytes.cast_unsigned();
    }
    Ok(())
}
