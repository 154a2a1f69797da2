//! Looking things up in the index.

use std::collections::BTreeSet;

use store::rusqlite::{self, Row, Transaction};
use wire::cbor::Strict;
use wire::index::{IndexEntry, Stretch, sum};
use wire::{At, Digest, Epoch, Intervals, RelayId, Series};

use super::work::{from_sql, to_sql};

/// Why the index can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The database refused.
    #[error(transparent)]
    Store(#[from] store::ReadError),
    /// A row is not what was written.
    #[error("the index is damaged: {0}")]
    Damaged(&'static str),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// How a relay stands to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It states it: the records are there.
    Stated,
    /// It states it no more, so the records are on their way.
    Left,
    /// It was stated from a database that the relay does not have any more.
    Lost,
}

/// A chunk that the index knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its row in the index.
    pub(crate) row: i64,
    /// The relay.
    pub(crate) relay: RelayId,
    /// How it stands to it.
    pub(crate) standing: Standing,
    /// Its number there.
    pub(crate) chunk: u64,
    /// The series.
    pub(crate) series: Series,
    /// The epoch of its records.
    pub(crate) epoch: Epoch,
    /// Their earliest generation time.
    pub(crate) at_min: At,
    /// Their latest.
    pub(crate) at_max: At,
    /// Their sequence numbers.
    pub(crate) seqs: Intervals,
    /// The Merkle root over them.
    pub(crate) root: Digest,
    /// Whether they were compared with that root.
    pub(crate) is_checked: bool,
    /// Its number as a source of the cloud's batches; `None` if nothing was anchored when it was stated.
    pub(crate) statement: Option<i64>,
}

/// Records that came with another content than was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Whose chunk it was.
    pub(crate) relay: RelayId,
    /// The epoch of its records.
    pub(crate) epoch: Epoch,
    /// Their sequence numbers.
    pub(crate) seqs: Intervals,
}

/// A database of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// The relay.
    pub(crate) relay: RelayId,
    /// The database.
    pub(crate) epoch: Epoch,
    /// Whether the relay still has it.
    pub(crate) is_current: bool,
    /// Until then the relay held nothing that the index does not name; some seconds old.
    pub(crate) heard_at: Option<At>,
}

/// All databases of relays.
pub(super) fn databases(tx: &Transaction<'_>) -> Result<Vec<Database>, ReadError> {
    let mut statement = tx.prepare_cached("SELECT name, epoch, is_current, heard_at FROM relays")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let epoch = Epoch(from_sql(row.get(1)?));
        found.push(Database { relay: name(row, 0)?, epoch, is_current: row.get(2)?, heard_at: row.get(3)? });
    }
    Ok(found)
}

const COLUMNS: &str =
    "e.id, r.name, r.is_current, e.left_at IS NOT NULL, e.chunk, s.name, e.epoch, e.at_min, e.at_max, e.seqs, e.root, e.checked, e.statement
     FROM entries e JOIN relays r ON r.id = e.relay JOIN series s ON s.id = e.series";

fn known(row: &Row<'_>) -> Result<Known, ReadError> {
    let standing = match (row.get(2)?, row.get(3)?) {
        (false, _) => Standing::Lost,
        (true, true) => Standing::Left,
        (true, false) => Standing::Stated,
    };
    Ok(Known {
        row: row.get(0)?,
        relay: name(row, 1)?,
        standing,
        chunk: from_sql(row.get(4)?),
        series: name(row, 5)?,
        epoch: Epoch(from_sql(row.get(6)?)),
        at_min: row.get(7)?,
        at_max: row.get(8)?,
        seqs: seqs(row, 9)?,
        root: row.get::<_, Vec<u8>>(10)?.try_into().map_err(|_| ReadError::Damaged("a root has another length"))?,
        is_checked: row.get::<_, i64>(11)? != 0,
        statement: row.get(12)?,
    })
}

fn name<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> Result<T, ReadError> {
    row.get_ref(column)?.as_str().ok().and_then(|text| text.parse().ok()).ok_or(ReadError::Damaged("a name is not valid"))
}

fn seqs(row: &Row<'_>, column: usize) -> Result<Intervals, ReadError> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    Intervals::decode(&mut Strict::new(bytes)).map_err(|_| ReadError::Damaged("sequence numbers can't be read"))
}

/// Chunks of a series that may hold records of `from..to`, those at hand first.
pub(super) fn of_series(tx: &Transaction<'_>, series: &Series, (from, to): (At, At)) -> Result<Vec<Known>, ReadError> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} WHERE s.name = ?1 AND e.at_max >= ?2 AND e.at_min < ?3"))?;
    let mut rows = statement.query((series.as_str(), from, to))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(known(row)?);
    }
    found.sort_by_key(|known| (known.standing, known.row));
    Ok(found)
}

/// Chunks that relays state and that have no statement, at most `limit`, each with its relay's database.
pub(super) fn unstated(tx: &Transaction<'_>, limit: usize) -> Result<Vec<(Known, Epoch)>, ReadError> {
    let mut statement = tx.prepare(&format!(
        "SELECT {COLUMNS} WHERE e.statement IS NULL AND e.left_at IS NULL AND r.is_current <> 0 ORDER BY e.id LIMIT {limit}"
    ))?;
    let mut epoch = tx.prepare("SELECT r.epoch FROM entries e JOIN relays r ON r.id = e.relay WHERE e.id = ?1")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let known = known(row)?;
        let relay_epoch = epoch.query_row([known.row], |row| row.get(0))?;
        found.push((known, Epoch(from_sql(relay_epoch))));
    }
    Ok(found)
}

/// Chunks behind row `after` that their relays do not state any more.
pub(super) fn left(tx: &Transaction<'_>, after: i64, limit: usize) -> Result<Vec<Known>, ReadError> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} WHERE e.id IN
         (SELECT id FROM entries INDEXED BY entries_left WHERE left_at IS NOT NULL AND id > ?1 ORDER BY id LIMIT ?2) ORDER BY e.id"
    ))?;
    let mut rows = statement.query((after, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(known(row)?);
    }
    Ok(found)
}

/// Mismatches of a series that touch `from..to`.
pub(super) fn mismatches(tx: &Transaction<'_>, series: &Series, (from, to): (At, At)) -> Result<Vec<Mismatch>, ReadError> {
    let mut statement = tx.prepare_cached(
        "SELECT m.relay, m.epoch, m.seqs FROM mismatches m JOIN series s ON s.id = m.series
         WHERE s.name = ?1 AND m.at_max >= ?2 AND m.at_min < ?3",
    )?;
    let mut rows = statement.query((series.as_str(), from, to))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Mismatch { relay: name(row, 0)?, epoch: Epoch(from_sql(row.get(1)?)), seqs: seqs(row, 2)? });
    }
    Ok(found)
}

/// Names of the series that have entries or had some, as far as they pass.
pub(super) fn series(tx: &Transaction<'_>, pass: impl Fn(&str) -> bool) -> Result<BTreeSet<Series>, ReadError> {
    let mut statement = tx.prepare_cached("SELECT name FROM series")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        if row.get_ref(0)?.as_str().is_ok_and(&pass) {
            found.insert(name(row, 0)?);
        }
    }
    Ok(found)
}

/// Those stretches of a relay's sums that the index has otherwise, and whatever lies behind them.
pub(super) fn differing(
    tx: &Transaction<'_>,
    relay: &RelayId,
    epoch: Epoch,
    sums: &[(Stretch, u64, Digest)],
) -> Result<Vec<Stretch>, ReadError> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} WHERE r.name = ?1 AND r.epoch = ?2 AND e.left_at IS NULL AND e.chunk BETWEEN ?3 AND ?4 ORDER BY e.chunk"
    ))?;
    let mut entries = |stretch: Stretch| {
        let mut rows = statement.query((
            relay.as_str(),
            to_sql(epoch.0),
            to_sql(stretch.after.saturating_add(1)),
            to_sql(stretch.through),
        ))?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let Known { chunk, series, epoch, at_min, at_max, seqs, root, .. } = known(row)?;
            entries.push(IndexEntry { chunk, series, epoch, at_min, at_max, records: seqs.count(), seqs, root });
        }
        Ok::<_, ReadError>(entries)
    };
    let mut differing = Vec::new();
    for (stretch, count, theirs) in sums {
        let ours = entries(*stretch)?;
        if ours.len() as u64 != *count || sum(&ours) != *theirs {
            differing.push(*stretch);
        }
    }
    let last = sums.last().map_or(0, |(stretch, ..)| stretch.through);
    let behind = Stretch { after: last, through: wire::uplink::NUMBER_MAX };
    if behind.after < behind.through && !entries(behind)?.is_empty() {
        differing.push(behind);
    }
    Ok(differing)
}
