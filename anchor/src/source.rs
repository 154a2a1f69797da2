//! Where chunks come from.

use wire::{ChunkHeader, Epoch, Statement};

/// Why a source gave no chunks. To be tried again.
#[derive(Debug, thiserror::Error)]
#[error("the source of chunks: {0}")]
pub struct SourceError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// Of any error.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// The business's database, as far as anchoring sees it: closed chunks in the order of their ids. It is only ever read,
/// by polling, on a thread that may block; the business path knows nothing of it.
pub trait ChunkSource: Send + Sync + 'static {
    /// At most `limit` chunks with ids above `id`, in ascending order. A chunk must be durable before it is shown, and must
    /// not appear below an id that was shown.
    ///
    /// # Errors
    /// [`SourceError`] if the database can't be read now.
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, SourceError>;

    /// The database that the ids belong to. One that was put aside and begun anew numbers its chunks from the start, and
    /// must have another epoch, or its first chunks would pass for anchored ones.
    fn epoch(&self) -> Epoch {
        Epoch(0)
    }
}

/// What relays have stated of chunks that this party does not have (C5), in the order in which it was taken in.
pub trait StatementSource: Send + Sync + 'static {
    /// At most `limit` statements with ids above `id`, in ascending order. A statement must be durable before it is shown, must not appear
    /// below an id that was shown, and stays until [`StatementSource::batched`] says that it need not.
    ///
    /// # Errors
    /// [`SourceError`] if the database can't be read now.
    fn statements_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, Statement)>, SourceError>;

    /// The database that the ids belong to; no other source may have it.
    fn epoch(&self) -> Epoch;

    /// Everything up to `id` is in a batch, for good. May be said more than once.
    fn batched(&self, id: i64);
}
