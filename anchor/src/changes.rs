//! What has moved in a ledger, for those who keep a copy of where its batches stand.

use rusqlite::{Row, params};
use wire::state::Anchored;
use wire::{At, Digest};

use crate::ledger::LedgerError;
use crate::machine::{Failure, State};
use crate::rows;
use crate::view::LedgerView;

/// Which ledger it is: another file in its place has another one.
pub type LedgerId = [u8; 16];

/// Where a batch stands after its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Grows with every write of any batch: ask for what comes after it.
    pub number: u64,
    /// The batch.
    pub batch: u64,
    /// First and last of its chunks, by their ids in the source. Chunks go into batches in the order of their ids.
    pub chunks: (i64, i64),
    /// How far its records have come.
    pub record: Anchored,
    /// Since when, in nanoseconds since 1970.
    pub since: At,
    /// The batch's own state.
    pub detail: State,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The transaction that wrote it, or else the newest one that was signed for it.
    pub tx: Option<Digest>,
}

impl LedgerView {
    /// Which ledger this is.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn id(&self) -> Result<LedgerId, LedgerError> {
        self.read(|tx| Ok(tx.query_row("SELECT id FROM identity", [], |row| row.get(0))?))
    }

    /// Batches of this view's source (not those of an older database, nor the anchor service's) that changed after change `number`, oldest change first; each with its last state only.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn changes_after(&self, number: u64, limit: usize) -> Result<Vec<Change>, LedgerError> {
        let source = self.source().0 as i64;
        self.read(|tx| {
            let mut select = tx.prepare_cached(
                "SELECT b.change, b.number, b.record_state, b.record_since, b.state, b.failure,
                        coalesce(b.tx, (SELECT hash FROM transactions WHERE batch = b.number ORDER BY id DESC LIMIT 1))
                   FROM batches b WHERE b.change > ?1 AND EXISTS (SELECT 1 FROM leaves WHERE batch = b.number AND source = ?3)
                  ORDER BY b.change LIMIT ?2",
            )?;
            let mut ends = tx.prepare_cached("SELECT min(chunk), max(chunk) FROM leaves WHERE batch = ?1 AND source = ?2")?;
            let mut found = select.query(params![number as i64, i64::try_from(limit).unwrap_or(i64::MAX), source])?;
            let mut changes = Vec::new();
            while let Some(row) = found.next()? {
                let batch: i64 = row.get(1)?;
                let ends = ends.query_row(params![batch, source], |row| Ok((row.get(0)?, row.get(1)?)))?;
                changes.push(read(row, ends)??);
            }
            Ok(changes)
        })
    }
}

fn read(row: &Row<'_>, chunks: (i64, i64)) -> rusqlite::Result<Result<Change, LedgerError>> {
    let batch = row.get::<_, i64>(1)? as u64;
    let (record, detail) = (row.get::<_, String>(2)?, row.get::<_, String>(4)?);
    let (Some(record), Some(detail)) = (rows::record_of(&record), State::parse(&detail)) else {
        return Ok(Err(LedgerError::Damaged { batch, what: "state" }));
    };
    let failure: Option<String> = row.get(5)?;
    Ok(Ok(Change {
        number: row.get::<_, i64>(0)? as u64,
        batch,
        chunks,
        record,
        since: row.get(3)?,
        detail,
        failure: failure.as_deref().and_then(Failure::parse),
        tx: row.get(6)?,
    }))
}
