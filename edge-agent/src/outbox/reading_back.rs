//! Reading the agent's database, beside its writer or without one.

use store::ReadError;
use store::rusqlite::{OptionalExtension, Row, Transaction, params};
use wire::{ChunkHeader, Digest, Epoch, Intervals, RecordKey, Series};

use crate::state::State;

/// Why the database could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ReadError),
    /// What was found is not what is ever written.
    #[error("the database holds an invalid {0}")]
    Invalid(&'static str),
}

impl From<store::rusqlite::Error> for ReadFault {
    fn from(error: store::rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A chunk: consecutive records of one series under one Merkle root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its id here; the ledger knows it by that.
    pub id: i64,
    /// What is anchored of it.
    pub header: ChunkHeader,
    /// `ServerAccepted`, `SentToChain` or `OnChain`.
    pub state: State,
}

const CHUNK: &str = "SELECT c.id, s.name, c.seq_first, c.seq_last, c.at_min, c.at_max, c.root, c.state
                       FROM chunks c JOIN series s ON s.id = c.series ";

fn chunk(row: &Row<'_>, epoch: Epoch) -> Result<Chunk, ReadFault> {
    let series = row.get::<_, String>(1)?.parse().map_err(|_| ReadFault::Invalid("series"))?;
    let (first, last) = (row.get::<_, i64>(2)?.cast_unsigned(), row.get::<_, i64>(3)?.cast_unsigned());
    let header = ChunkHeader {
        series,
        epoch,
        intervals: Intervals::of(first, last),
        at_min: row.get(4)?,
        at_max: row.get(5)?,
        count: last - first + 1,
        root: row.get(6)?,
    };
    Ok(Chunk { id: row.get(0)?, header, state: State::from_code(row.get(7)?).ok_or(ReadFault::Invalid("state"))? })
}

pub(crate) fn chunks_after(tx: &Transaction<'_>, epoch: Epoch, id: i64, limit: usize) -> Result<Vec<Chunk>, ReadFault> {
    let mut select = tx.prepare_cached(&format!("{CHUNK} WHERE c.id > ?1 ORDER BY c.id LIMIT ?2"))?;
    let mut rows = select.query(params![id, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut chunks = Vec::new();
    while let Some(row) = rows.next()? {
        chunks.push(chunk(row, epoch)?);
    }
    Ok(chunks)
}

/// The chunk that holds a record.
pub(crate) fn chunk_of(tx: &Transaction<'_>, key: &RecordKey) -> Result<Option<Chunk>, ReadFault> {
    let sql = format!("{CHUNK} WHERE s.name = ?1 AND c.seq_last >= ?2 ORDER BY c.seq_last LIMIT 1");
    let mut select = tx.prepare_cached(&sql)?;
    let mut rows = select.query(params![key.series.as_str(), key.seq.cast_signed()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let found = chunk(row, key.epoch)?;
    Ok(found.header.intervals.contains(key.seq).then_some(found))
}

/// The leaves of a chunk, if they are still kept.
pub(crate) fn leaves(tx: &Transaction<'_>, chunk: i64) -> Result<Option<Vec<Digest>>, ReadFault> {
    let mut select = tx.prepare_cached("SELECT leaves FROM chunks WHERE id = ?1")?;
    let Some(Some(bytes)) = select.query_row([chunk], |row| row.get::<_, Option<Vec<u8>>>(0)).optional()? else {
        return Ok(None);
    };
    match bytes.as_chunks::<32>() {
        (leaves, []) => Ok(Some(leaves.to_vec())),
        _ => Err(ReadFault::Invalid("leaf")),
    }
}

/// The outbox row that holds a record and is in no chunk yet: its state, the record's leaf, and the run while it is kept.
pub(crate) struct Open {
    pub(crate) state: State,
    pub(crate) leaf: Digest,
    pub(crate) run: Option<Vec<u8>>,
    pub(crate) reason: Option<String>,
}

pub(crate) fn open_row(tx: &Transaction<'_>, key: &RecordKey) -> Result<Option<Open>, ReadFault> {
    let mut select = tx.prepare_cached(
        "SELECT o.seq_first, o.seq_last, o.state, o.leaves, b.run, o.reason
           FROM outbox o JOIN series s ON s.id = o.series LEFT JOIN bodies b ON b.id = o.id
          WHERE s.name = ?1 AND o.seq_first <= ?2 AND o.chunk IS NULL ORDER BY o.seq_first DESC LIMIT 1",
    )?;
    let mut rows = select.query(params![key.series.as_str(), key.seq.cast_signed()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (first, last) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned());
    if key.seq > last {
        return Ok(None);
    }
    let leaves: Vec<u8> = row.get(3)?;
    let (leaves, _) = leaves.as_chunks::<32>();
    let leaf = leaves.get((key.seq - first) as usize).ok_or(ReadFault::Invalid("leaf"))?;
    Ok(Some(Open {
        state: State::from_code(row.get(2)?).ok_or(ReadFault::Invalid("state"))?,
        leaf: *leaf,
        run: row.get(4)?,
        reason: row.get(5)?,
    }))
}

/// How far a record has come, in the words of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its state.
    pub state: State,
    /// Since when, as RFC 3339 text; `None`: since before this was kept.
    pub since: Option<String>,
    /// The batch that it is anchored with.
    pub batch: Option<u64>,
    /// The transaction that wrote the batch, or the newest one signed.
    pub tx: Option<String>,
    /// The batch's own state, in the ledger's words.
    pub detail: Option<String>,
    /// Why it was rejected, or why its batch failed.
    pub reason: Option<String>,
}

pub(crate) fn whereabouts(tx: &Transaction<'_>, key: &RecordKey) -> Result<Option<Whereabouts>, ReadFault> {
    let mut select =
        tx.prepare_cached("SELECT state, since, batch, tx, detail, reason FROM record_states WHERE series = ?1 AND seq = ?2")?;
    let mut rows = select.query(params![key.series.as_str(), key.seq.cast_signed()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let name: String = row.get(0)?;
    Ok(Some(Whereabouts {
        state: State::ALL.into_iter().find(|state| state.as_str() == name).ok_or(ReadFault::Invalid("state"))?,
        since: row.get(1)?,
        batch: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
        tx: row.get(3)?,
        detail: row.get(4)?,
        reason: row.get(5)?,
    }))
}

/// Records that were given up on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Their series.
    pub series: Series,
    /// First sequence number.
    pub first: u64,
    /// Last sequence number.
    pub last: u64,
    /// Why.
    pub reason: String,
    /// Whether they had been taken before; otherwise the outbox had no room for them.
    pub taken: bool,
    /// When.
    pub at: i64,
}

fn tombstone(row: &Row<'_>) -> Result<Tombstone, ReadFault> {
    Ok(Tombstone {
        series: row.get::<_, String>(0)?.parse().map_err(|_| ReadFault::Invalid("series"))?,
        first: row.get::<_, i64>(1)?.cast_unsigned(),
        last: row.get::<_, i64>(2)?.cast_unsigned(),
        reason: row.get(3)?,
        taken: row.get(4)?,
        at: row.get(5)?,
    })
}

const TOMBSTONE: &str = "SELECT s.name, t.seq_first, t.seq_last, t.reason, t.taken, t.at
                           FROM tombstones t JOIN series s ON s.id = t.series ";

pub(crate) fn tombstones(tx: &Transaction<'_>) -> Result<Vec<Tombstone>, ReadFault> {
    let mut select = tx.prepare_cached(&format!("{TOMBSTONE} ORDER BY s.name, t.seq_first"))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(tombstone(row)?);
    }
    Ok(found)
}

pub(crate) fn tombstone_of(tx: &Transaction<'_>, key: &RecordKey) -> Result<Option<Tombstone>, ReadFault> {
    let sql = format!("{TOMBSTONE} WHERE s.name = ?1 AND t.seq_last >= ?2 ORDER BY t.seq_last LIMIT 1");
    let mut select = tx.prepare_cached(&sql)?;
    let mut rows = select.query(params![key.series.as_str(), key.seq.cast_signed()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let found = tombstone(row)?;
    Ok((found.first <= key.seq).then_some(found))
}
