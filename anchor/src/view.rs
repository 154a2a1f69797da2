//! Reading a ledger: by its worker's side, or from outside while the worker runs.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use store::{Readers, Snapshot};
use wire::{Digest, Epoch};

use crate::ledger::{LedgerError, Standing, Target, options};
use crate::party::{Kind, Party};
use crate::rows::{self, Batch, Leaf, Place, Transaction};

/// A ledger, for reading only. Any number of processes may have one open beside the worker.
#[derive(Debug)]
pub struct LedgerView {
    rows: Rows,
    party: Party,
    source: Epoch,
}

/// What a view reads from.
#[derive(Debug)]
enum Rows {
    /// The ledger as it is with each question.
    Live(Readers),
    /// The ledger as it was when the view was opened.
    Held(Snapshot),
}

impl LedgerView {
    pub(crate) fn new(path: &Path, party: Party, source: Epoch) -> Self {
        Self { rows: Rows::Live(Readers::new(path.to_owned(), options(), 2)), party, source }
    }

    /// [`LedgerView::open`] that shows the ledger as it is now, for as long as it is held.
    ///
    /// # Errors
    /// [`LedgerError`], also if there is no ledger.
    pub fn hold(path: &Path, source: Epoch) -> Result<Self, LedgerError> {
        let snapshot = Snapshot::open(path, &options())?;
        let party = snapshot.read(party)?;
        Ok(Self { rows: Rows::Held(snapshot), party, source })
    }

    /// Opens the ledger at `path` to read what is known of the chunks of `source`.
    ///
    /// # Errors
    /// [`LedgerError`], also if there is no ledger.
    pub fn open(path: &Path, source: Epoch) -> Result<Self, LedgerError> {
        let party = party(&store::open_reader(path, &options())?)?;
        Ok(Self::new(path, party, source))
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        match &self.rows {
            Rows::Live(readers) => readers.read(|tx| read(tx)),
            Rows::Held(snapshot) => snapshot.read(read),
        }
    }

    /// Whose ledger this is.
    #[must_use]
    pub fn party(&self) -> &Party {
        &self.party
    }

    /// Where this ledger writes to, once it has met its chain.
    ///
    /// # Errors
    /// [`LedgerError`], as all queries.
    pub fn target(&self) -> Result<Option<Target>, LedgerError> {
        self.read(rows::target)
    }

    /// A batch by its number, from 1.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn batch(&self, number: u64) -> Result<Option<Batch>, LedgerError> {
        self.read(|tx| rows::one(tx, "WHERE number = ?1", params![number as i64]))
    }

    /// The batch that holds a chunk of the source, and where in it.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn batch_of_chunk(&self, chunk: i64) -> Result<Option<Place>, LedgerError> {
        self.batch_of(self.source, chunk)
    }

    /// The batch that holds what has this id in the database `source`, and where in it.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn batch_of(&self, source: Epoch, chunk: i64) -> Result<Option<Place>, LedgerError> {
        let source = source.0 as i64;
        self.read(|tx| {
            let sql = "SELECT batch, position, chunk, leaf, header, source FROM leaves WHERE source = ?1 AND chunk = ?2";
            let Some(leaf) = tx.query_row(sql, params![source, chunk], Leaf::read).optional()? else {
                return Ok(None);
            };
            Ok(Some(Place { batch: rows::need(tx, leaf.batch)?, leaf }))
        })
    }

    /// The batch that put this root on chain from this leaf of the stream on.
    pub(crate) fn batch_of_root(&self, root: &Digest, first_seq: u64) -> Result<Option<Batch>, LedgerError> {
        self.read(|tx| rows::one(tx, "WHERE root = ?1 AND first_seq = ?2", params![root, first_seq as i64]))
    }

    /// The batches from `number` on, in their order.
    pub(crate) fn batches_from(&self, number: u64) -> Result<Vec<Batch>, LedgerError> {
        self.read(|tx| rows::many(tx, "WHERE number >= ?1 ORDER BY number", params![number as i64]))
    }

    pub(crate) fn source(&self) -> Epoch {
        self.source
    }

    /// The number of the first batch behind `number`, which may be any that stands in the file.
    pub(crate) fn number_after(&self, number: i64) -> Result<Option<i64>, LedgerError> {
        let sql = "SELECT number FROM batches WHERE number > ?1 ORDER BY number LIMIT 1";
        self.read(|tx| Ok(tx.prepare_cached(sql)?.query_row([number], |row| row.get(0)).optional()?))
    }

    /// What stands beside a batch for speed, and can be computed: the head that it makes, and its count of records.
    pub(crate) fn beside(&self, batch: u64) -> Result<(Option<Digest>, i64), LedgerError> {
        let sql = "SELECT head, records FROM batches WHERE number = ?1";
        self.read(|tx| Ok(tx.prepare_cached(sql)?.query_row([batch as i64], |row| Ok((row.get(0)?, row.get(1)?)))?))
    }

    /// Whether anything was ever signed for a batch, by the party for itself or for the anchor service.
    pub(crate) fn was_signed(&self, batch: u64) -> Result<bool, LedgerError> {
        let sql =
            "SELECT EXISTS (SELECT 1 FROM transactions WHERE batch = ?1) OR EXISTS (SELECT 1 FROM pledges WHERE batch = ?1)";
        self.read(|tx| Ok(tx.prepare_cached(sql)?.query_row([batch as i64], |row| row.get(0))?))
    }

    /// The leaf of a chunk of the source.
    pub(crate) fn leaf(&self, chunk: i64) -> Result<Option<Leaf>, LedgerError> {
        let sql = "SELECT batch, position, chunk, leaf, header, source FROM leaves WHERE source = ?1 AND chunk = ?2";
        let source = self.source.0 as i64;
        self.read(|tx| Ok(tx.prepare_cached(sql)?.query_row([source, chunk], Leaf::read).optional()?))
    }

    /// When the batch of that number was closed.
    pub(crate) fn closed_at(&self, batch: u64) -> Result<Option<i64>, LedgerError> {
        let sql = "SELECT closed_at FROM batches WHERE number = ?1";
        self.read(|tx| Ok(tx.prepare_cached(sql)?.query_row([batch as i64], |row| row.get(0)).optional()?))
    }

    /// The lowest block that a batch is thought to be in.
    pub(crate) fn first_block(&self) -> Result<u64, LedgerError> {
        self.number("SELECT ifnull(min(block_number), 0) FROM batches WHERE state IN ('MINED', 'FINAL')")
    }

    /// Looks for the chunks of `source` from now on.
    pub fn look_for(&mut self, source: Epoch) {
        self.source = source;
    }

    /// Whether chunks of the database `source` are what this view looks for.
    #[must_use]
    pub fn is_source(&self, source: Epoch) -> bool {
        self.source == source
    }

    /// The number of the last batch; 0 if there is none.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn last_batch(&self) -> Result<u64, LedgerError> {
        self.number("SELECT ifnull(max(number), 0) FROM batches")
    }

    /// The number of the last batch that is thought to be on chain; 0 if none is.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn last_on_chain(&self) -> Result<u64, LedgerError> {
        self.number("SELECT ifnull(max(number), 0) FROM batches WHERE state IN ('MINED', 'FINAL')")
    }

    fn number(&self, sql: &str) -> Result<u64, LedgerError> {
        self.read(|tx| Ok(tx.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))? as u64))
    }

    /// The leaves of a batch, in their order.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn leaves(&self, batch: u64) -> Result<Vec<Leaf>, LedgerError> {
        self.read(|tx| {
            let sql = "SELECT batch, position, chunk, leaf, header, source FROM leaves WHERE batch = ?1 ORDER BY position";
            let mut statement = tx.prepare_cached(sql)?;
            let leaves = statement.query_map(params![batch as i64], Leaf::read)?.collect::<Result<_, _>>()?;
            Ok(leaves)
        })
    }

    /// Every transaction signed for a batch, newest first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn transactions(&self, batch: u64) -> Result<Vec<Transaction>, LedgerError> {
        self.read(|tx| {
            let sql = "SELECT hash, batch, nonce, raw, fee_cap, tip, gas, signed_at FROM transactions
                       WHERE batch = ?1 ORDER BY id DESC";
            let mut statement = tx.prepare_cached(sql)?;
            let found = statement.query_map(params![batch as i64], Transaction::read)?.collect::<Result<_, _>>()?;
            Ok(found)
        })
    }

    /// Batches by state, what waits and what it cost.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn standing(&self) -> Result<Standing, LedgerError> {
        self.read(rows::standing)
    }
}

fn party(connection: &Connection) -> Result<Party, LedgerError> {
    let sql = "SELECT kind, name FROM party";
    let (kind, name): (String, String) = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let kind = if kind == Kind::Server.as_str() { Kind::Server } else { Kind::Terminal };
    Ok(Party { kind, name })
}
