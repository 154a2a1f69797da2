//! How far records have come over the chain, as a copy of what the anchor ledger says: for whoever asks this database with SQL.
//!
//! One row a batch, because chunks go into batches in the order of their ids. The ledger is the truth and this follows it.

use rusqlite::{OptionalExtension, Transaction, params};
use store::Fault;
use wire::state::{Anchored, ServerState};
use wire::{At, Digest, RecordKey};

use crate::archive::Archive;
use crate::engine::Job;
use crate::error::ReadError;
use crate::ledger;
use crate::schema::execute;

/// Where a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchStanding {
    /// Number of the ledger's change that this is.
    pub change: u64,
    /// The batch.
    pub batch: u64,
    /// First and last of its chunks.
    pub chunks: (i64, i64),
    /// How far its records have come.
    pub record: Anchored,
    /// Since when.
    pub since: At,
    /// The batch's own state, in the ledger's words.
    pub detail: &'static str,
    /// Why it failed.
    pub failure: Option<&'static str>,
    /// The transaction that wrote it, or the newest one signed.
    pub tx: Option<Digest>,
}

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Following {
    ledger: [u8; 16],
    batches: Vec<BatchStanding>,
}

impl Archive {
    /// Which ledger is followed, and up to which of its changes; `None` before the first.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn followed(&self) -> Result<Option<([u8; 16], u64)>, ReadError> {
        self.read(|tx| {
            let mut select = tx.prepare_cached("SELECT ledger, change FROM followed")?;
            Ok(select.query_row([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))).optional()?)
        })
    }

    /// Takes over what changed in the ledger, in its order. Resolves when that is durable.
    ///
    /// # Errors
    /// The writer is stopped or has failed.
    pub fn follow_ledger(
        &self,
        ledger: [u8; 16],
        batches: Vec<BatchStanding>,
    ) -> Result<impl Future<Output = Result<(), Fault>> + Send + use<>, Fault> {
        let ticket = self.inner.writer.submit_ahead(Job::Anchored(Following { ledger, batches }))?;
        Ok(async move { ticket.await.map(|_| ()) })
    }

    /// Since when a record is durable here, at the latest: records of a closed segment share the time of its last page. `None` if it is not
    /// here, or was before this was kept.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn taken_at(&self, key: &RecordKey) -> Result<Option<At>, ReadError> {
        let shared = &*self.inner.shared;
        let Some(series) = shared.series.get(key.series.as_str()) else { return Ok(None) };
        // The open pages before the snapshot: see `buffer`.
        let holds = |seq, first, last| first <= seq && seq <= last;
        let run = shared.buffer.runs(series, |at, _| at.epoch == key.epoch.0 && holds(key.seq, at.first_seq, at.last_seq()));
        self.read(|tx| {
            let at = |sql: &str, id: i64| -> Result<Option<At>, ReadError> {
                Ok(tx.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?.flatten())
            };
            if let Some((chunk, _)) = ledger::chunk_of(tx, shared, key)? {
                return at("SELECT taken_at FROM chunks WHERE id = ?1", chunk);
            }
            match run.first() {
                Some(run) => at("SELECT taken_at FROM buffer WHERE id = ?1", run.at.page.cast_signed()),
                None => Ok(None),
            }
        })
    }
}

/// Writes what the ledger says. A step that the machine does not know changes nothing.
pub(crate) fn write(tx: &Transaction<'_>, following: &Following) -> Result<(), Fault> {
    let Following { ledger, batches } = following;
    let Some(last) = batches.last() else { return Ok(()) };
    let known = tx.prepare_cached("SELECT ledger FROM followed")?.query_row([], |row| row.get::<_, [u8; 16]>(0)).optional()?;
    if known.as_ref() != Some(ledger) {
        // Another ledger in its place numbers batches anew, and puts every chunk into one again.
        execute(tx, "DELETE FROM batches", [])?;
    }
    let mut select = tx.prepare_cached("SELECT state, since FROM batches WHERE number = ?1")?;
    for standing in batches {
        let number = standing.batch.cast_signed();
        let before = select.query_row([number], |row| Ok((row.get::<_, String>(0)?, row.get::<_, At>(1)?))).optional()?;
        let (state, since) = match before {
            None => (ServerState::of(standing.record), standing.since),
            Some((name, since)) => {
                let state = ServerState::parse(&name).ok_or(Fault::Corrupt("a batch has an unknown state".into()))?;
                match next(state, standing.record) {
                    Some(next) => (next, standing.since),
                    None => (state, since),
                }
            }
        };
        execute(
            tx,
            "INSERT INTO batches (number, chunk_first, chunk_last, state, since, detail, failure, tx) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET state = excluded.state, since = excluded.since, detail = excluded.detail,
                                       failure = excluded.failure, tx = excluded.tx",
            params![
                number,
                standing.chunks.0,
                standing.chunks.1,
                state.as_str(),
                since,
                standing.detail,
                standing.failure,
                standing.tx
            ],
        )?;
    }
    execute(
        tx,
        "INSERT INTO followed (one, ledger, change) VALUES (1, ?1, ?2)
         ON CONFLICT DO UPDATE SET ledger = excluded.ledger, change = excluded.change",
        params![ledger, last.change.cast_signed()],
    )?;
    Ok(())
}

/// The state that follows, if the ledger's word is a step.
fn next(state: ServerState, record: Anchored) -> Option<ServerState> {
    let event = state.anchored().event_to(record)?;
    match state.after(event) {
        Ok(next) => Some(next),
        Err(impossible) => {
            tracing::error!(%impossible, "what the ledger says does not fit, and is not written");
            None
        }
    }
}
