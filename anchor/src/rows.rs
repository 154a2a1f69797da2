//! The rows of the ledger, and their way in and out of SQLite.

use alloy::primitives::Address;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use wire::state::{Anchored, ServerState};
use wire::{At, ChunkHeader, Digest, Epoch};

use crate::chain::{Fees, Identity, Mined};
use crate::content::Content;
use crate::ledger::{LedgerError, Standing, Target};
use crate::machine::{Failure, Progress, State, record_event};
use crate::registry::Entry;

/// One batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number, from 1.
    pub number: u64,
    /// The Merkle root over its leaves.
    pub root: Digest,
    /// The number of its first leaf in the stream, from 1.
    pub first_seq: u64,
    /// How many leaves it has.
    pub count: u64,
    /// When it was closed.
    pub closed_at: At,
    /// The head that it builds upon; known from its signing on.
    pub prev: Option<Digest>,
    /// Where it is.
    pub progress: Progress,
    /// How far its records have come.
    pub record: Anchored,
    /// Since when.
    pub record_since: At,
}

impl Batch {
    /// What it puts on chain, once it is signed.
    #[must_use]
    pub fn entry(&self) -> Option<Entry> {
        self.prev.map(|prev| self.entry_on(prev))
    }

    /// What it puts on chain on top of `prev`.
    pub(crate) fn entry_on(&self, prev: Digest) -> Entry {
        Entry { prev, root: self.root, first_seq: self.first_seq, count: self.count }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Result<Self, LedgerError>> {
        let number = unsigned(row, 0)?;
        let damaged = |what| Err(LedgerError::Damaged { batch: number, what });
        let Some(state) = State::parse(&row.get::<_, String>(6)?) else { return Ok(damaged("state")) };
        let Some(record) = record_of(&row.get::<_, String>(17)?) else { return Ok(damaged("record_state")) };
        let failure = row.get::<_, Option<String>>(11)?;
        let mined = match row.get::<_, Option<Digest>>(12)? {
            None => None,
            Some(tx) => Some(Mined {
                tx,
                block_number: unsigned(row, 13)?,
                block_hash: row.get(14)?,
                log_index: unsigned(row, 15)?,
                gas_used: unsigned(row, 16)?,
            }),
        };
        let progress = Progress {
            state,
            since: row.get(7)?,
            offered_at: row.get(8)?,
            unseen: row.get(9)?,
            reverts: row.get(10)?,
            failure: failure.as_deref().and_then(Failure::parse),
            mined,
        };
        if failure.is_some() != progress.failure.is_some() {
            return Ok(damaged("failure"));
        }
        Ok(Ok(Self {
            number,
            root: row.get(1)?,
            first_seq: unsigned(row, 2)?,
            count: unsigned(row, 3)?,
            closed_at: row.get(4)?,
            prev: row.get(5)?,
            progress,
            record,
            record_since: row.get(18)?,
        }))
    }
}

const BATCH: &str = "SELECT number, root, first_seq, count, closed_at, prev, state, since, offered_at, unseen, reverts, failure,
                            tx, block_number, block_hash, log_index, gas_used, record_state, record_since FROM batches ";

/// One leaf of a batch: a chunk's header, or a relay's statement of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The batch.
    pub batch: u64,
    /// Its place in the batch, from 0.
    pub position: u64,
    /// The database that the chunk is from.
    pub source: Epoch,
    /// The chunk's or the statement's id in its source.
    pub chunk: i64,
    /// Its hash.
    pub digest: Digest,
    content: Vec<u8>,
}

impl Leaf {
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            batch: unsigned(row, 0)?,
            position: unsigned(row, 1)?,
            chunk: row.get(2)?,
            digest: row.get(3)?,
            content: row.get(4)?,
            source: Epoch(unsigned(row, 5)?),
        })
    }

    /// What it commits to.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] if it is not canonical, or not what the leaf was made from.
    pub fn content(&self) -> Result<Content, LedgerError> {
        let damaged = LedgerError::Damaged { batch: self.batch, what: "header" };
        match Content::parse(&self.content) {
            Ok(content) if content.leaf() == self.digest => Ok(content),
            _ => Err(damaged),
        }
    }

    /// The chunk's header, be it the party's own or one that a relay stated.
    ///
    /// # Errors
    /// As [`Leaf::content`].
    pub fn header(&self) -> Result<ChunkHeader, LedgerError> {
        Ok(self.content()?.header().clone())
    }
}

/// A chunk's place in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The batch.
    pub batch: Batch,
    /// The leaf.
    pub leaf: Leaf,
}

/// A signed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its hash, by which the chain knows it.
    pub hash: Digest,
    /// The batch that it writes.
    pub batch: u64,
    /// Its nonce.
    pub nonce: u64,
    /// The bytes that are sent.
    pub raw: Vec<u8>,
    /// What it pays.
    pub fees: Fees,
    /// The gas that it may use.
    pub gas: u64,
    /// When it was signed.
    pub signed_at: At,
}

impl Transaction {
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            hash: row.get(0)?,
            batch: unsigned(row, 1)?,
            nonce: unsigned(row, 2)?,
            raw: row.get(3)?,
            fees: Fees { cap: unsigned(row, 4)?.into(), tip: unsigned(row, 5)?.into() },
            gas: unsigned(row, 6)?,
            signed_at: row.get(7)?,
        })
    }
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)? as u64)
}

pub(crate) fn one(tx: &Connection, wanted: &str, values: impl Params) -> Result<Option<Batch>, LedgerError> {
    let mut statement = tx.prepare_cached(&[BATCH, wanted].concat())?;
    statement.query_row(values, Batch::read).optional()?.transpose()
}

pub(crate) fn many(tx: &Connection, wanted: &str, values: impl Params) -> Result<Vec<Batch>, LedgerError> {
    let mut statement = tx.prepare_cached(&[BATCH, wanted].concat())?;
    let mut batches = Vec::new();
    for batch in statement.query_map(values, Batch::read)? {
        batches.push(batch??);
    }
    Ok(batches)
}

pub(crate) fn need(tx: &Connection, number: u64) -> Result<Batch, LedgerError> {
    let damaged = LedgerError::Damaged { batch: number, what: "row" };
    one(tx, "WHERE number = ?1", params![number as i64])?.ok_or(damaged)
}

/// Adds a batch behind the last one, and gives its number.
pub(crate) fn insert(tx: &Connection, root: &Digest, count: u64, records: u64, now: At) -> Result<u64, LedgerError> {
    let sql = "SELECT ifnull(max(number), 0), ifnull(max(first_seq + count), 1) FROM batches";
    let (last, first_seq): (i64, i64) = tx.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    tx.execute(
        "INSERT INTO batches (number, root, first_seq, count, records, closed_at, state, since, offered_at, record_state, record_since, change)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'BATCHED', ?6, ?6,
                 (SELECT CASE kind WHEN 'terminal' THEN 'ServerAccepted' ELSE 'RequestCompleted' END FROM party), ?6,
                 (SELECT ifnull(max(change), 0) + 1 FROM batches))",
        params![last + 1, root, first_seq, count as i64, records as i64, now],
    )?;
    Ok((last + 1) as u64)
}

/// How far records have come by the name in the ledger.
pub(crate) fn record_of(name: &str) -> Option<Anchored> {
    match name {
        "ServerAccepted" | "RequestCompleted" => Some(Anchored::Waiting),
        "SentToChain" => Some(Anchored::SentToChain),
        "OnChain" => Some(Anchored::OnChain),
        _ => None,
    }
}

/// Keeps the progress of a batch, and with it how far its records have come.
pub(crate) fn save(tx: &Connection, batch: u64, progress: &Progress) -> Result<(), LedgerError> {
    let mined = progress.mined;
    let before = need(tx, batch)?;
    let moved = match record_event(before.progress.state, progress.state) {
        None => before.record,
        Some(event) => before.record.after(event).map_err(|_| LedgerError::Damaged { batch, what: "record_state" })?,
    };
    // The names of what comes before are the party's own, and never come back.
    let record = (moved != before.record).then(|| ServerState::of(moved).as_str());
    tx.prepare_cached(
        "UPDATE batches SET state = ?2, since = ?3, offered_at = ?4, unseen = ?5, reverts = ?6, failure = ?7,
                            tx = ?8, block_number = ?9, block_hash = ?10, log_index = ?11, gas_used = ?12,
                            record_state = ifnull(?13, record_state), record_since = CASE WHEN ?13 IS NULL THEN record_since ELSE ?14 END,
                            change = (SELECT max(change) + 1 FROM batches)
         WHERE number = ?1",
    )?
    .execute(params![
        batch as i64,
        progress.state.as_str(),
        progress.since,
        progress.offered_at,
        progress.unseen,
        progress.reverts,
        progress.failure.map(Failure::as_str),
        mined.map(|mined| mined.tx),
        mined.map(|mined| mined.block_number as i64),
        mined.map(|mined| mined.block_hash),
        mined.map(|mined| mined.log_index as i64),
        mined.map(|mined| mined.gas_used as i64),
        record,
        // Of the two the one that was set by this step: a batch whose block vanished has no time of its own.
        progress.since.max(progress.offered_at),
    ])?;
    Ok(())
}

pub(crate) fn target(tx: &Connection) -> Result<Option<Target>, LedgerError> {
    let sql = "SELECT chain_id, genesis, code_hash, contract, submitter, stream, base_head FROM target";
    let read = |row: &Row<'_>| {
        Ok(Target {
            identity: Identity { chain_id: unsigned(row, 0)?, genesis: row.get(1)?, code_hash: row.get(2)? },
            contract: Address::from(row.get::<_, [u8; 20]>(3)?),
            submitter: Address::from(row.get::<_, [u8; 20]>(4)?),
            stream: row.get(5)?,
            base_head: row.get(6)?,
        })
    };
    Ok(tx.query_row(sql, [], read).optional()?)
}

pub(crate) fn insert_target(tx: &Connection, target: &Target) -> Result<(), LedgerError> {
    tx.execute(
        "INSERT INTO target (one, chain_id, genesis, code_hash, contract, submitter, stream, base_head)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        params![
            target.identity.chain_id as i64,
            target.identity.genesis,
            target.identity.code_hash,
            target.contract.into_array(),
            target.submitter.into_array(),
            target.stream,
            target.base_head
        ],
    )?;
    Ok(())
}

pub(crate) fn standing(tx: &Connection) -> Result<Standing, LedgerError> {
    let mut standing = Standing::default();
    let mut statement = tx.prepare_cached(
        "SELECT state, count(*), sum(count), min(closed_at), ifnull(sum(gas_used), 0), sum(records) FROM batches GROUP BY state",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(state) = State::parse(&row.get::<_, String>(0)?) else { continue };
        let (batches, chunks, oldest) = (unsigned(row, 1)?, unsigned(row, 2)?, row.get::<_, At>(3)?);
        let counts = &mut standing.counts;
        *match state {
            State::Batched => &mut counts.batched,
            State::Signed => &mut counts.signed,
            State::Sent => &mut counts.sent,
            State::Mined => &mut counts.mined,
            State::Final => &mut counts.fin,
            State::Failed => &mut counts.failed,
        } = batches;
        standing.gas_used += unsigned(row, 4)?;
        if state == State::Final {
            standing.chunks_final += chunks;
            standing.records_final += unsigned(row, 5)?;
        } else {
            standing.chunks_open += chunks;
            standing.oldest_open = Some(standing.oldest_open.map_or(oldest, |other| other.min(oldest)));
        }
    }
    Ok(standing)
}
