//! Collects chunks from the source and closes batches, whether the chain is there or not.

use std::sync::Arc;

use chassis::Span;
use wire::{At, ChunkHeader};

use crate::config::Batching;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::Metrics;
use crate::source::ChunkSource;
use crate::worker::on_ledger;

/// Chunks on their way into a batch. What it holds in memory is read again from the source after a crash.
pub(crate) struct Collector {
    source: Arc<dyn ChunkSource>,
    ledger: Arc<Ledger>,
    batching: Batching,
    metrics: Metrics,
    waiting: Vec<(i64, ChunkHeader)>,
    /// When the first of the waiting chunks was seen. Those found at the start may have waited long: they wait no more.
    first_seen: Option<At>,
    started: bool,
}

/// What one look at the source gave.
enum Look {
    Chunks(Vec<(i64, ChunkHeader)>),
    Failed(String),
}

impl Collector {
    pub fn new(source: Arc<dyn ChunkSource>, ledger: Arc<Ledger>, batching: Batching, metrics: Metrics) -> Self {
        Self { source, ledger, batching, metrics, waiting: Vec::new(), first_seen: None, started: false }
    }

    /// Takes what is new and closes what is due. A source that fails is asked again next time.
    pub async fn collect(&mut self, now: At) -> Result<(), LedgerError> {
        loop {
            let full = self.fill().await?;
            if self.waiting.is_empty() {
                self.first_seen = None;
            } else if self.first_seen.is_none() {
                self.first_seen = Some(if self.started { now } else { At::MIN });
            }
            self.metrics.chunks_waiting.set(self.waiting.len() as i64);
            let due = full || (self.is_old(now) && !self.queue_is_busy().await?);
            if !due {
                self.started = true;
                return Ok(());
            }
            self.close(now).await?;
        }
    }

    /// Reads up to the size of one batch; says whether there is that much.
    async fn fill(&mut self) -> Result<bool, LedgerError> {
        let room = self.batching.chunks_max.saturating_sub(self.waiting.len());
        if room == 0 {
            return Ok(true);
        }
        let (source, ledger) = (Arc::clone(&self.source), Arc::clone(&self.ledger));
        let last = self.waiting.last().map(|(id, _)| *id);
        let look = on_ledger(move || {
            let after = match last {
                Some(id) => id,
                None => ledger.watermark()?,
            };
            Ok(match source.chunks_after(after, room) {
                Ok(chunks) => Look::Chunks(chunks),
                Err(error) => Look::Failed(error.to_string()),
            })
        });
        match look.await? {
            Look::Chunks(chunks) => self.waiting.extend(chunks),
            Look::Failed(error) => tracing::warn!(error, "chunks can't be read now"),
        }
        Ok(self.waiting.len() >= self.batching.chunks_max)
    }

    fn is_old(&self, now: At) -> bool {
        let Span(age) = self.batching.age;
        let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        // A clock that jumped back makes it due rather than late.
        self.first_seen.is_some_and(|first| now < first || now.saturating_sub(first) >= age)
    }

    /// Whether a closed batch waits already, so that the next one may as well grow.
    async fn queue_is_busy(&self) -> Result<bool, LedgerError> {
        let ledger = Arc::clone(&self.ledger);
        on_ledger(move || ledger.has_batched()).await
    }

    async fn close(&mut self, now: At) -> Result<(), LedgerError> {
        let chunks = std::mem::take(&mut self.waiting);
        self.first_seen = None;
        let ledger = Arc::clone(&self.ledger);
        let batch = on_ledger(move || ledger.close(&chunks, now)).await?;
        tracing::info!(batch = batch.number, chunks = batch.count, "batch closed");
        Ok(())
    }
}
