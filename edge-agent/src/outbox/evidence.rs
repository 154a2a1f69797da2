//! What the agent's database holds, row by row, for an audit. A row that can't be read is told as such.

use anchor::audit::{After, Grave, Piece, Place, Row};
use store::rusqlite::{self, Connection, OptionalExtension, params};
use wire::{Digest, Epoch, Intervals, Series};

use super::reading_back::ReadFault;
use crate::state::State;

/// Stray chunks that are named one by one.
const STRAY_MAX: usize = 64;

/// What a chunk or row keeps.
pub(crate) struct Kept {
    pub(crate) leaves: Vec<Digest>,
    /// The payloads, while no relay has answered for them.
    pub(crate) run: Option<Vec<u8>>,
}

/// The name behind `after` that a series can have.
pub(crate) fn series_after(db: &Connection, after: &str) -> Result<Option<Series>, ReadFault> {
    let mut select = db.prepare_cached("SELECT name FROM series WHERE name > ?1 ORDER BY name LIMIT 1")?;
    let mut after = after.to_owned();
    loop {
        let found: Option<String> = select.query_row([&after], |row| row.get(0)).optional()?;
        let Some(name) = found else { return Ok(None) };
        if let Ok(series) = name.parse() {
            return Ok(Some(series));
        }
        after = name;
    }
}

/// The numbers that were given out.
pub(crate) fn numbered(db: &Connection, series: &Series) -> Result<Intervals, ReadFault> {
    let mut select = db.prepare_cached("SELECT next_seq FROM series WHERE name = ?1")?;
    let next: Option<i64> = select.query_row([series.as_str()], |row| row.get(0)).optional()?;
    let last = u64::try_from(next.unwrap_or_default().saturating_sub(1)).unwrap_or_default();
    Ok(Intervals::of(1, last))
}

/// Numbers that were given up: tombstones, and rejected rows that will become some.
pub(crate) fn given_up(db: &Connection, series: &Series) -> Result<Vec<Grave>, ReadFault> {
    let mut select = db.prepare_cached(
        "SELECT t.seq_first, t.seq_last, t.reason, t.taken, t.at FROM tombstones t JOIN series s ON s.id = t.series WHERE s.name = ?1
         UNION ALL SELECT o.seq_first, o.seq_last, ifnull(o.reason, 'rejected'), 1, ifnull(o.accepted_at, 0)
         FROM outbox o JOIN series s ON s.id = o.series WHERE s.name = ?1 AND o.state = 3 AND o.chunk IS NULL ORDER BY 1",
    )?;
    let mut rows = select.query([series.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Some((first, last)) = range(row.get(0)?, row.get(1)?) else { return Err(ReadFault::Invalid("tombstone")) };
        found.push(Grave { first, last, reason: row.get(2)?, taken: row.get(3)?, at: row.get(4)? });
    }
    Ok(found)
}

fn range(first: i64, last: i64) -> Option<(u64, u64)> {
    (1 <= first && first <= last).then(|| (first.cast_unsigned(), last.cast_unsigned()))
}

/// Chunks of a series by their last numbers; they never overlap.
pub(crate) fn chunks(
    db: &Connection,
    (series, epoch): (&Series, Epoch),
    after: After,
    limit: usize,
) -> Result<Vec<Row>, ReadFault> {
    let mut select = db.prepare_cached(
        "SELECT c.seq_last, c.id, c.seq_first, c.at_min, c.at_max, c.root, c.state FROM series s JOIN chunks c ON c.series = s.id
         WHERE s.name = ?1 AND (c.seq_last, c.id) > (?2, ?3) ORDER BY c.seq_last, c.id LIMIT ?4",
    )?;
    read(&mut select, series, after, limit, |row| {
        let place = Place::Chunk(row.get(1)?);
        let Some((first, last)) = range(row.get(2)?, row.get(0)?) else {
            return Ok(Err((place, "its numbers are not a range".to_owned())));
        };
        let state: i64 = row.get(6)?;
        let piece = Piece {
            place,
            series: series.clone(),
            epoch,
            seqs: Intervals::of(first, last),
            times: Some((row.get(3)?, row.get(4)?)),
            root: Some(row.get(5)?),
            on_chain: Some(State::from_code(state) == Some(State::OnChain)),
            fault: State::from_code(state).is_none().then(|| format!("its state is {state}")),
        };
        Ok(Ok(piece))
    })
}

/// Rows that are in no chunk and were not rejected, by their first numbers.
pub(crate) fn loose(
    db: &Connection,
    (series, epoch): (&Series, Epoch),
    after: After,
    limit: usize,
) -> Result<Vec<Row>, ReadFault> {
    let mut select = db.prepare_cached(
        "SELECT o.seq_first, o.id, o.seq_last, o.at_min, o.at_max FROM series s JOIN outbox o ON o.series = s.id
         WHERE s.name = ?1 AND o.chunk IS NULL AND (o.seq_first, o.id) > (?2, ?3) AND o.state <> 3
         ORDER BY o.seq_first, o.id LIMIT ?4",
    )?;
    read(&mut select, series, after, limit, |row| {
        let place = Place::Row(row.get(1)?);
        let Some((first, last)) = range(row.get(0)?, row.get(2)?) else {
            return Ok(Err((place, "its numbers are not a range".to_owned())));
        };
        let (seqs, times) = (Intervals::of(first, last), Some((row.get(3)?, row.get(4)?)));
        Ok(Ok(Piece { place, series: series.clone(), epoch, seqs, times, root: None, on_chain: None, fault: None }))
    })
}

fn read(
    select: &mut rusqlite::Statement<'_>,
    series: &Series,
    after: After,
    limit: usize,
    piece: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Result<Piece, (Place, String)>>,
) -> Result<Vec<Row>, ReadFault> {
    let mut rows = select.query(params![series.as_str(), after.number, after.id, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (number, id): (i64, i64) = (row.get(0)?, row.get(1)?);
        // What stands in a column of this row is no reason to read no other.
        let place = Place::Chunk(id);
        let piece = piece(row).unwrap_or_else(|error| Err((place, error.to_string())));
        found.push((After { number, id }, piece));
    }
    Ok(found)
}

pub(crate) fn holds(db: &Connection, chunk: i64) -> Result<bool, ReadFault> {
    let mut select = db.prepare_cached("SELECT EXISTS (SELECT 1 FROM chunks WHERE id = ?1)")?;
    Ok(select.query_row([chunk], |row| row.get(0))?)
}

/// Chunks, counted by the table itself and by no index.
pub(crate) fn count(db: &Connection) -> Result<u64, ReadFault> {
    Ok(db.query_row("SELECT count(*) FROM chunks NOT INDEXED", [], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// Chunks whose series has no name, or none that a series can have.
pub(crate) fn stray(db: &Connection) -> Result<Vec<i64>, ReadFault> {
    let mut select = db.prepare(
        "SELECT c.id, s.name FROM (SELECT DISTINCT series FROM chunks) d LEFT JOIN series s ON s.id = d.series
         JOIN chunks c ON c.series = d.series",
    )?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?
        && found.len() < STRAY_MAX
    {
        let name = row.get_ref(1)?.as_str().ok().and_then(|name| name.parse::<Series>().ok());
        if name.is_none() {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
}

/// The leaves of a chunk, if they are still kept; `None` also when it is gone.
pub(crate) fn of_chunk(db: &Connection, id: i64) -> Result<Option<Kept>, ReadFault> {
    let mut select = db.prepare_cached("SELECT leaves FROM chunks WHERE id = ?1")?;
    let found: Option<Option<Vec<u8>>> = select.query_row([id], |row| row.get(0)).optional()?;
    found.flatten().map(|leaves| Ok(Kept { leaves: split(&leaves)?, run: None })).transpose()
}

/// What a row keeps; `None` when it is gone.
pub(crate) fn of_row(db: &Connection, id: i64) -> Result<Option<Kept>, ReadFault> {
    let mut select =
        db.prepare_cached("SELECT o.leaves, b.run FROM outbox o LEFT JOIN bodies b ON b.id = o.id WHERE o.id = ?1")?;
    let found = select.query_row([id], |row| Ok((row.get::<_, Option<Vec<u8>>>(0)?, row.get(1)?))).optional()?;
    found.map(|(leaves, run)| Ok(Kept { leaves: split(&leaves.unwrap_or_default())?, run })).transpose()
}

fn split(leaves: &[u8]) -> Result<Vec<Digest>, ReadFault> {
    match leaves.as_chunks::<32>() {
        (leaves, []) => Ok(leaves.to_vec()),
        _ => Err(ReadFault::Invalid("leaf")),
    }
}
