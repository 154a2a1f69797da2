//! What an audit notes on its way: in a database of its own, on disk and nameless, because there may be more of it than memory.

use rusqlite::{Connection, OptionalExtension, params};
use wire::{Digest, Epoch, Intervals, Series};

use crate::chain::Logged;
use crate::ledger::LedgerError;
use crate::registry::Entry;

/// Pages of it that are kept in memory, in KiB.
const CACHE_KIB: i64 = 2_048;

/// Notes about one side.
#[derive(Debug)]
pub(crate) struct Notes {
    db: Connection,
}

impl Notes {
    pub(crate) fn new() -> Result<Self, LedgerError> {
        // A database without a name is a file that nobody else sees, and that is gone with its connection.
        let db = Connection::open("")?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        db.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
             CREATE TABLE logs (number INTEGER PRIMARY KEY, prev BLOB, root BLOB, first_seq INTEGER, count INTEGER,
                                tx BLOB, block_number INTEGER, block_hash BLOB, log_index INTEGER);
             CREATE TABLE verdicts (batch INTEGER PRIMARY KEY, sound INTEGER);
             CREATE TABLE lost (series TEXT, epoch INTEGER, first INTEGER, last INTEGER,
                                PRIMARY KEY (series, epoch, first)) WITHOUT ROWID;
             CREATE TABLE done (series TEXT, epoch INTEGER, PRIMARY KEY (series, epoch)) WITHOUT ROWID;",
        )?;
        Ok(Self { db })
    }

    /// Forgets the logs: to read them once more.
    pub(crate) fn forget_logs(&self) -> Result<(), LedgerError> {
        Ok(self.db.execute("DELETE FROM logs", []).map(drop)?)
    }

    /// The batch that the chain has as number `number` of the ledger.
    pub(crate) fn add_log(&self, number: u64, log: &Logged) -> Result<(), LedgerError> {
        let Entry { prev, root, first_seq, count } = log.entry;
        self.db
            .prepare_cached("INSERT INTO logs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
                number.cast_signed(),
                prev,
                root,
                first_seq.cast_signed(),
                count.cast_signed(),
                log.tx,
                log.block_number.cast_signed(),
                log.block_hash,
                log.log_index.cast_signed()
            ])
            .map(drop)?;
        Ok(())
    }

    pub(crate) fn log(&self, number: u64) -> Result<Option<Logged>, LedgerError> {
        let sql = "SELECT prev, root, first_seq, count, tx, block_number, block_hash, log_index FROM logs WHERE number = ?1";
        let read = |row: &rusqlite::Row<'_>| {
            let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
            Ok(Logged {
                entry: Entry { prev: row.get(0)?, root: row.get(1)?, first_seq: unsigned(2)?, count: unsigned(3)? },
                tx: row.get(4)?,
                block_number: unsigned(5)?,
                block_hash: row.get(6)?,
                log_index: unsigned(7)?,
            })
        };
        Ok(self.db.prepare_cached(sql)?.query_row([number.cast_signed()], read).optional()?)
    }

    /// The number of the last batch that the chain has.
    pub(crate) fn logged(&self) -> Result<u64, LedgerError> {
        let sql = "SELECT ifnull(max(number), 0) FROM logs";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }

    pub(super) fn judge(&self, batch: u64, sound: Option<bool>) -> Result<(), LedgerError> {
        let sql = "INSERT OR REPLACE INTO verdicts VALUES (?1, ?2)";
        Ok(self.db.prepare_cached(sql)?.execute(params![batch.cast_signed(), sound]).map(drop)?)
    }

    /// Whether the chain has a batch as the ledger's rows make it; `None`: it is not on chain yet.
    pub(super) fn sound(&self, batch: u64) -> Result<Option<bool>, LedgerError> {
        let sql = "SELECT sound FROM verdicts WHERE batch = ?1";
        let found: Option<Option<bool>> =
            self.db.prepare_cached(sql)?.query_row([batch.cast_signed()], |row| row.get(0)).optional()?;
        Ok(found.flatten())
    }

    /// A chunk that the ledger has and the store has not: its numbers are told already.
    pub(super) fn lose(&self, series: &Series, epoch: Epoch, seqs: &Intervals) -> Result<(), LedgerError> {
        let mut insert = self.db.prepare_cached("INSERT OR REPLACE INTO lost VALUES (?1, ?2, ?3, ?4)")?;
        for (first, last) in seqs.as_slice() {
            insert.execute(params![series.as_str(), epoch.0.cast_signed(), first.cast_signed(), last.cast_signed()])?;
        }
        Ok(())
    }

    pub(super) fn lost(&self, series: &Series, epoch: Epoch) -> Result<Intervals, LedgerError> {
        let mut statement = self.db.prepare_cached("SELECT first, last FROM lost WHERE series = ?1 AND epoch = ?2")?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()));
        let lost = statement.query_map(params![series.as_str(), epoch.0.cast_signed()], read)?;
        Ok(lost.collect::<Result<_, _>>()?)
    }

    /// A group that was compared.
    pub(super) fn finish(&self, series: &Series, epoch: Epoch) -> Result<(), LedgerError> {
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO done VALUES (?1, ?2)")?;
        Ok(insert.execute(params![series.as_str(), epoch.0.cast_signed()]).map(drop)?)
    }

    pub(super) fn is_done(&self, series: &Series, epoch: Epoch) -> Result<bool, LedgerError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM done WHERE series = ?1 AND epoch = ?2)";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row(params![series.as_str(), epoch.0.cast_signed()], |row| row.get(0))?)
    }
}

/// Where a root is anchored, in words.
pub(super) fn place(batch: u64, tx: Option<Digest>) -> String {
    match tx {
        Some(tx) => format!("batch {batch} (transaction 0x{})", wire::digest::to_hex(&tx)),
        None => format!("batch {batch}"),
    }
}
