//! Between the outbox and the anchor worker: chunks out, states back. Both by polling, so neither can hold up the other (B5).

use anchor::changes::{Change, LedgerId};
use anchor::{ChunkSource, Ledger, LedgerError, SourceError};
use wire::{ChunkHeader, Epoch};

use crate::limits::CHANGES_PER_COMMIT_MAX;
use crate::outbox::Outbox;
use crate::outbox::reading_back::ReadFault;

/// The outbox's chunks, as the anchor worker sees them.
pub(crate) struct Chunks(pub(crate) Outbox);

impl ChunkSource for Chunks {
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, SourceError> {
        let chunks = self.0.chunks_after(id, limit).map_err(SourceError::new)?;
        Ok(chunks.into_iter().map(|chunk| (chunk.id, chunk.header)).collect())
    }

    fn epoch(&self) -> Epoch {
        self.0.origin().epoch
    }
}

/// Why the ledger could not be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("the ledger: {0}")]
    Ledger(#[from] LedgerError),
    #[error("the outbox: {0}")]
    Outbox(#[from] ReadFault),
}

/// News of the ledger that the outbox does not have.
pub(crate) struct News {
    pub(crate) ledger: LedgerId,
    pub(crate) changes: Vec<Change>,
}

/// What changed in the ledger since the outbox last took something over, as much as one commit takes. Reads two databases: to be called
/// where it may block. How far it was read stands in the outbox, so nothing is missed or taken for new over a restart.
pub(crate) fn look(ledger: &Ledger, outbox: &Outbox) -> Result<News, FollowError> {
    let id = ledger.id()?;
    let after = match outbox.followed()? {
        Some((known, change)) if known == id => change,
        _ => 0,
    };
    Ok(News { ledger: id, changes: ledger.changes_after(after, CHANGES_PER_COMMIT_MAX)? })
}
