//! Statements: what relays have said of their chunks, on its way into the cloud's batches (C5).
//!
//! Each is written in the transaction that takes the entry in, before the relay is acknowledged, and stays until the anchor ledger has it. So
//! whatever a relay was acknowledged for is anchored, however soon its records come or its entry goes.

use anchor::{SourceError, StatementSource};
use store::Fault;
use store::rusqlite::{Connection, Transaction};
use wire::{At, Epoch, Statement};

use super::Index;
use super::read::{self, Known, ReadError};
use super::work::{Done, Job, from_sql};

/// Entries that are made up for in one transaction.
const PIECE: usize = 10_000;

/// The index, as the anchor worker sees it.
pub(crate) struct Statements(pub(crate) Index);

impl StatementSource for Statements {
    fn statements_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, Statement)>, SourceError> {
        self.0.0.readers.read(|tx| after(tx, id, limit)).map_err(SourceError::new)
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    fn batched(&self, id: i64) {
        let forgotten = self.0.0.writer.submit_ahead(Job::Batched { through: id }).and_then(store::Ticket::wait);
        match forgotten {
            Ok(Done::Forgotten) => {}
            // They stay, and are forgotten with the next ones.
            Ok(other) => tracing::warn!(?other, "statements that are in batches can't be forgotten"),
            Err(fault) => tracing::warn!(%fault, "statements that are in batches can't be forgotten"),
        }
    }
}

fn after(tx: &Transaction<'_>, id: i64, limit: usize) -> Result<Vec<(i64, Statement)>, ReadError> {
    let mut statement = tx.prepare_cached("SELECT id, body FROM statements WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = statement.query((id, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let body = row.get_ref(1)?.as_blob().map_err(store::rusqlite::Error::from)?;
        found.push((row.get(0)?, Statement::parse(body).map_err(|_| ReadError::Damaged("a statement can't be read"))?));
    }
    Ok(found)
}

/// Writes down what a relay states; gives its number.
pub(super) fn keep(tx: &Transaction<'_>, statement: &Statement) -> Result<i64, Fault> {
    let mut body = Vec::new();
    statement.encode(&mut body);
    tx.prepare_cached("INSERT INTO statements (body) VALUES (?1)")?.execute([&body])?;
    Ok(tx.last_insert_rowid())
}

/// The name of the database as a source, and how many statements wait.
pub(super) fn standing(connection: &Connection) -> Result<(Epoch, i64), store::rusqlite::Error> {
    let epoch: i64 = connection.query_row("SELECT epoch FROM identity", [], |row| row.get(0))?;
    let waiting = connection.query_row("SELECT count(*) FROM statements", [], |row| row.get(0))?;
    Ok((Epoch(from_sql(epoch)), waiting))
}

/// Makes up for what was stated while nothing was anchored: as of now, because it is not known since when. Gives how much that was.
pub(super) fn catch_up(connection: &mut Connection, now: At) -> Result<u64, ReadError> {
    let mut made_up = 0;
    loop {
        match piece(connection, now)? {
            0 => return Ok(made_up),
            some => made_up += some,
        }
    }
}

fn piece(connection: &mut Connection, now: At) -> Result<u64, ReadError> {
    let tx = connection.transaction()?;
    let unstated = read::unstated(&tx, PIECE)?;
    let count = unstated.len() as u64;
    for (known, relay_epoch) in unstated {
        let Known { row, relay, chunk, series, epoch, at_min, at_max, seqs, root, .. } = known;
        let records = seqs.count();
        let entry = wire::index::IndexEntry { chunk, series, epoch, at_min, at_max, records, seqs, root };
        let mut body = Vec::new();
        Statement::of(relay, relay_epoch, now, &entry).encode(&mut body);
        tx.execute("INSERT INTO statements (body) VALUES (?1)", [&body])?;
        tx.execute("UPDATE entries SET statement = ?2 WHERE id = ?1", [row, tx.last_insert_rowid()])?;
    }
    tx.commit()?;
    Ok(count)
}
