//! The ledger: what was batched, signed, sent and found on chain. One SQLite file of its own, beside the business's.
//!
//! Whatever the worker must not forget is in here before it acts on it, so that a process that was killed between any two
//! steps goes on from what it reads. Queries go over connections of their own and wait for no writer.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy::primitives::Address;
use rusqlite::{Connection, Transaction as Tx, params};
use store::{Faults, Lock, LockError, OpenError, Options, ReadError, Step};
use wire::{At, Digest, Epoch, merkle};

use crate::chain::Identity;
use crate::collect::Waiting;
use crate::machine::{Progress, State};
use crate::party::Party;
use crate::registry::Entry;
use crate::rows::{self, Batch, Transaction};
use crate::view::LedgerView;

const STEPS: &[Step] = &[
    Step { name: "ledger", sql: include_str!("sql/001_ledger.sql") },
    Step { name: "alarms", sql: include_str!("sql/002_alarms.sql") },
    Step { name: "sponsoring", sql: include_str!("sql/003_sponsoring.sql") },
    Step { name: "record states", sql: include_str!("sql/004_record_states.sql") },
];

/// A ledger is small and rarely written: many fit into one process.
pub(crate) fn options() -> Options {
    Options { cache_bytes: 1 << 20, wal_bytes: 4 << 20, ..Options::default() }
}

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file can't be opened.
    #[error("ledger: {0}")]
    Open(#[from] OpenError),
    /// Another process works on it.
    #[error("ledger: {0}")]
    Lock(#[from] LockError),
    /// It can't be read.
    #[error("ledger: {0}")]
    Read(#[from] ReadError),
    /// SQLite refused.
    #[error("ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It belongs to somebody else.
    #[error("ledger belongs to {kind} {name}; give party that name, or another ledger file")]
    Party {
        /// The owner's kind.
        kind: String,
        /// The owner's name.
        name: String,
    },
    /// It holds something that this program never wrote.
    #[error("ledger: {what} of batch {batch} is not what this program writes")]
    Damaged {
        /// The batch.
        batch: u64,
        /// The column.
        what: &'static str,
    },
}

/// Where a ledger writes to. Another chain, contract or key is another ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The chain and the contract's code.
    pub identity: Identity,
    /// The contract.
    pub contract: Address,
    /// The account that signs.
    pub submitter: Address,
    /// The party's stream.
    pub stream: Digest,
    /// The stream's head when the ledger began: not zero if an earlier ledger was lost.
    pub base_head: Digest,
}

/// How many batches are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Closed, not signed.
    pub batched: u64,
    /// Signed, not taken by a node.
    pub signed: u64,
    /// Taken by a node.
    pub sent: u64,
    /// In a block that could vanish.
    pub mined: u64,
    /// On chain for good.
    pub fin: u64,
    /// Can't be written for now.
    pub failed: u64,
}

impl Counts {
    /// The count of one state.
    #[must_use]
    pub fn of(&self, state: State) -> u64 {
        match state {
            State::Batched => self.batched,
            State::Signed => self.signed,
            State::Sent => self.sent,
            State::Mined => self.mined,
            State::Final => self.fin,
            State::Failed => self.failed,
        }
    }

    /// Batches that are not final.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.batched + self.signed + self.sent + self.mined + self.failed
    }
}

/// What lies behind and before: for metrics and tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Batches by state.
    pub counts: Counts,
    /// Chunks in batches that are final.
    pub chunks_final: u64,
    /// Chunks in batches that are not.
    pub chunks_open: u64,
    /// Records in batches that are final.
    pub records_final: u64,
    /// When the oldest batch that is not final was closed.
    pub oldest_open: Option<At>,
    /// Gas of all mined batches.
    pub gas_used: u64,
}

/// One party's ledger, open. Only one process may have it open.
#[derive(Debug)]
pub struct Ledger {
    writer: Mutex<Connection>,
    view: LedgerView,
    faults: Faults,
    _lock: Lock,
}

impl Deref for Ledger {
    type Target = LedgerView;

    fn deref(&self) -> &LedgerView {
        &self.view
    }
}

impl Ledger {
    /// Opens the ledger at `path`, making it if it is not there. `source` names the database that the chunks come from.
    ///
    /// # Errors
    /// [`LedgerError`], also if the ledger is another party's.
    pub fn open(path: &Path, party: &Party, source: Epoch) -> Result<Self, LedgerError> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = Lock::take(Path::new(&lock_path))?;
        let mut writer = store::open(path, STEPS, &options())?;
        let tx = writer.transaction()?;
        tx.execute(
            "INSERT INTO party (one, kind, name) VALUES (1, ?1, ?2) ON CONFLICT DO NOTHING",
            params![party.kind.as_str(), party.name],
        )?;
        let (kind, name): (String, String) =
            tx.query_row("SELECT kind, name FROM party", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if kind != party.kind.as_str() || name != party.name {
            return Err(LedgerError::Party { kind, name });
        }
        tx.execute("INSERT INTO sources (epoch, watermark) VALUES (?1, 0) ON CONFLICT DO NOTHING", params![source.0 as i64])?;
        tx.commit()?;
        let view = LedgerView::new(path, party.clone(), source);
        Ok(Self { writer: Mutex::new(writer), view, faults: Faults::default(), _lock: lock })
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        // A panic within a transaction rolled it back; the connection is as good as before.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let mut writer = self.writer();
        let tx = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let done = work(&tx)?;
        self.faults.gate();
        tx.commit()?;
        Ok(done)
    }

    /// Levers for tests and drills.
    #[doc(hidden)]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Keeps the chain that was met first; one that is kept already stays.
    pub(crate) fn meet(&self, target: &Target) -> Result<Target, LedgerError> {
        self.write(|tx| {
            rows::insert_target(tx, target)?;
            Ok(rows::target(tx)?.unwrap_or(*target))
        })
    }

    /// The last chunk of the source that is in a batch.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn watermark(&self) -> Result<i64, LedgerError> {
        self.watermark_of(self.source())
    }

    /// The last id of a source that is in a batch.
    pub(crate) fn watermark_of(&self, source: Epoch) -> Result<i64, LedgerError> {
        self.read(|tx| {
            let sql = "SELECT ifnull(max(watermark), 0) FROM sources WHERE epoch = ?1";
            Ok(tx.query_row(sql, params![source.0 as i64], |row| row.get(0))?)
        })
    }

    /// Closes a batch over `leaves`, in their order. The watermarks of their sources move in the same commit, so none is in two batches.
    pub(crate) fn close(&self, leaves: &[Waiting], now: At) -> Result<Batch, LedgerError> {
        let digests: Vec<Digest> = leaves.iter().map(|leaf| leaf.content.leaf()).collect();
        let root = merkle::root(&digests);
        let records: u64 = leaves.iter().map(|leaf| leaf.content.records()).sum();
        self.write(|tx| {
            let number = rows::insert(tx, &root, leaves.len() as u64, records, now)?;
            let mut insert = tx.prepare_cached(
                "INSERT INTO leaves (batch, position, source, chunk, leaf, header) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            let mut marks = tx.prepare_cached(
                "INSERT INTO sources (epoch, watermark) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET watermark = max(watermark, excluded.watermark)",
            )?;
            let mut bytes = Vec::new();
            for (position, (Waiting { source, id, content }, leaf)) in leaves.iter().zip(&digests).enumerate() {
                bytes.clear();
                content.encode(&mut bytes);
                insert.execute(params![number as i64, position as i64, source.0 as i64, id, leaf, bytes])?;
                let is_last = leaves.get(position + 1).is_none_or(|next| next.source != *source);
                if is_last {
                    marks.execute(params![source.0 as i64, id])?;
                }
            }
            rows::need(tx, number)
        })
    }

    /// The oldest batch that is not mined: the one whose turn it is.
    pub(crate) fn front(&self) -> Result<Option<Batch>, LedgerError> {
        self.read(|tx| rows::one(tx, "WHERE state NOT IN ('MINED', 'FINAL') ORDER BY number LIMIT 1", []))
    }

    /// Whether a closed batch waits for its signature.
    pub(crate) fn has_batched(&self) -> Result<bool, LedgerError> {
        self.read(|tx| Ok(tx.query_row("SELECT EXISTS (SELECT 1 FROM batches WHERE state = 'BATCHED')", [], |row| row.get(0))?))
    }

    /// The batches that are mined and not final, oldest first.
    pub(crate) fn mined(&self) -> Result<Vec<Batch>, LedgerError> {
        self.read(|tx| rows::many(tx, "WHERE state = 'MINED' ORDER BY number", []))
    }

    /// The batches from `number` on that are thought to be on chain, oldest first.
    pub(crate) fn on_chain_from(&self, number: u64) -> Result<Vec<Batch>, LedgerError> {
        let wanted = "WHERE number >= ?1 AND state IN ('MINED', 'FINAL') ORDER BY number";
        self.read(|tx| rows::many(tx, wanted, params![number as i64]))
    }

    /// The batch with that head.
    pub(crate) fn batch_of_head(&self, head: &Digest) -> Result<Option<u64>, LedgerError> {
        self.read(|tx| Ok(rows::one(tx, "WHERE head = ?1", params![head])?.map(|batch| batch.number)))
    }

    /// The nonce behind those that wrote the batches before `batch`, which a node that lags may not know of. What was signed and
    /// not mined does not count: a nonce that nothing uses would be a gap.
    pub(crate) fn nonce_floor(&self, batch: u64) -> Result<u64, LedgerError> {
        self.read(|tx| {
            let sql =
                "SELECT ifnull(max(t.nonce) + 1, 0) FROM batches b JOIN transactions t ON t.hash = b.tx WHERE b.number < ?1";
            let floor: i64 = tx.query_row(sql, params![batch as i64], |row| row.get(0))?;
            Ok(floor as u64)
        })
    }

    /// The transactions with the nonce of the batch's newest one, of whatever batch.
    pub(crate) fn rivals(&self, batch: u64) -> Result<Vec<Transaction>, LedgerError> {
        self.read(|tx| {
            let sql = "SELECT hash, batch, nonce, raw, fee_cap, tip, gas, signed_at FROM transactions
                       WHERE nonce = (SELECT nonce FROM transactions WHERE batch = ?1 ORDER BY id DESC LIMIT 1)";
            let mut statement = tx.prepare_cached(sql)?;
            let found = statement.query_map(params![batch as i64], Transaction::read)?.collect::<Result<_, _>>()?;
            Ok(found)
        })
    }

    /// Writes down something that a person must look at.
    pub(crate) fn alarm(&self, batch: u64, what: &str, now: At) -> Result<(), LedgerError> {
        self.write(|tx| {
            tx.execute("INSERT INTO alarms (at, batch, what) VALUES (?1, ?2, ?3)", params![now, batch as i64, what])?;
            Ok(())
        })
    }

    /// Keeps a signed transaction, the heads that it builds on and makes, and the progress, in one commit. Only then may
    /// it be sent.
    pub(crate) fn sign(&self, signed: &Transaction, entry: &Entry, progress: &Progress) -> Result<(), LedgerError> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO transactions (hash, batch, nonce, raw, fee_cap, tip, gas, signed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    signed.hash,
                    signed.batch as i64,
                    signed.nonce as i64,
                    signed.raw,
                    i64::try_from(signed.fees.cap).unwrap_or(i64::MAX),
                    i64::try_from(signed.fees.tip).unwrap_or(i64::MAX),
                    signed.gas as i64,
                    signed.signed_at
                ],
            )?;
            let sql = "UPDATE batches SET prev = ?2, head = ?3 WHERE number = ?1";
            tx.execute(sql, params![signed.batch as i64, entry.prev, entry.head()])?;
            rows::save(tx, signed.batch, progress)
        })
    }

    /// Keeps the progress of a batch.
    pub(crate) fn save(&self, batch: u64, progress: &Progress) -> Result<(), LedgerError> {
        self.write(|tx| rows::save(tx, batch, progress))
    }
}
