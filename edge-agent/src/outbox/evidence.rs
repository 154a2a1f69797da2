//! What the agent's database holds, row by row, for an audit.

use store::rusqlite::{Transaction, params};
use wire::{Digest, Intervals, Series};

use super::reading_back::ReadFault;

/// A row of the outbox that is in no chunk.
pub(crate) struct LooseRow {
    pub(crate) id: i64,
    pub(crate) series: Series,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) at_min: i64,
    pub(crate) at_max: i64,
}

fn series(name: &str) -> Result<Series, ReadFault> {
    name.parse().map_err(|_| ReadFault::Invalid("series"))
}

/// What a row keeps.
pub(crate) struct Kept {
    pub(crate) leaves: Vec<Digest>,
    /// The payloads, while no relay has answered for them.
    pub(crate) run: Option<Vec<u8>>,
}

/// The numbers that were given out.
pub(crate) fn numbered(tx: &Transaction<'_>) -> Result<Vec<(Series, Intervals)>, ReadFault> {
    let mut select = tx.prepare_cached("SELECT name, next_seq FROM series WHERE next_seq > 1 ORDER BY name")?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let next = row.get::<_, i64>(1)?.cast_unsigned();
        found.push((series(&row.get::<_, String>(0)?)?, Intervals::of(1, next - 1)));
    }
    Ok(found)
}

/// Numbers that were given up: tombstones, and rejected rows that will become some.
pub(crate) fn given_up(tx: &Transaction<'_>) -> Result<Vec<(Series, Intervals)>, ReadFault> {
    let mut select = tx.prepare_cached(
        "SELECT s.name, t.seq_first, t.seq_last FROM tombstones t JOIN series s ON s.id = t.series
         UNION ALL SELECT s.name, o.seq_first, o.seq_last FROM outbox o JOIN series s ON s.id = o.series WHERE o.state = 3
         ORDER BY 1, 2",
    )?;
    let mut rows = select.query([])?;
    let mut found: Vec<(Series, Intervals)> = Vec::new();
    while let Some(row) = rows.next()? {
        let name = series(&row.get::<_, String>(0)?)?;
        let (first, last) = (row.get::<_, i64>(1)?.cast_unsigned(), row.get::<_, i64>(2)?.cast_unsigned());
        match found.last_mut() {
            Some((known, numbers)) if *known == name => numbers.insert(first, last),
            _ => found.push((name, Intervals::of(first, last))),
        }
    }
    Ok(found)
}

pub(crate) fn chunk_ids_after(tx: &Transaction<'_>, id: i64, limit: usize) -> Result<Vec<i64>, ReadFault> {
    let mut select = tx.prepare_cached("SELECT id FROM chunks WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let ids = select.query_map(params![id, i64::try_from(limit).unwrap_or(i64::MAX)], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Rows that are in no chunk and were not rejected.
pub(crate) fn loose(tx: &Transaction<'_>) -> Result<Vec<LooseRow>, ReadFault> {
    let mut select = tx.prepare_cached(
        "SELECT o.id, s.name, o.seq_first, o.seq_last, o.at_min, o.at_max FROM outbox o JOIN series s ON s.id = o.series
         WHERE o.chunk IS NULL AND o.state <> 3 ORDER BY o.id",
    )?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(LooseRow {
            id: row.get(0)?,
            series: series(&row.get::<_, String>(1)?)?,
            first: row.get::<_, i64>(2)?.cast_unsigned(),
            last: row.get::<_, i64>(3)?.cast_unsigned(),
            at_min: row.get(4)?,
            at_max: row.get(5)?,
        });
    }
    Ok(found)
}

/// What a row keeps; `None` when it is gone meanwhile.
pub(crate) fn kept(tx: &Transaction<'_>, id: i64) -> Result<Option<Kept>, ReadFault> {
    let mut select =
        tx.prepare_cached("SELECT o.leaves, b.run FROM outbox o LEFT JOIN bodies b ON b.id = o.id WHERE o.id = ?1")?;
    let mut rows = select.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let leaves: Option<Vec<u8>> = row.get(0)?;
    let leaves = leaves.unwrap_or_default();
    let (leaves, []) = leaves.as_chunks::<32>() else { return Err(ReadFault::Invalid("leaf")) };
    Ok(Some(Kept { leaves: leaves.to_vec(), run: row.get(1)? }))
}
