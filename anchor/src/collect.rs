//! Collects chunks and statements from their sources and closes batches, whether the chain is there or not.

use std::sync::Arc;

use chassis::Span;
use wire::{At, Epoch};

use crate::config::Batching;
use crate::content::Content;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::Metrics;
use crate::source::{ChunkSource, SourceError, StatementSource};
use crate::worker::on_ledger;

/// Where leaves come from.
#[derive(Clone)]
enum Source {
    Chunks(Arc<dyn ChunkSource>),
    Statements(Arc<dyn StatementSource>),
}

impl Source {
    fn epoch(&self) -> Epoch {
        match self {
            Self::Chunks(chunks) => chunks.epoch(),
            Self::Statements(statements) => statements.epoch(),
        }
    }

    fn after(&self, id: i64, limit: usize) -> Result<Vec<(i64, Content)>, SourceError> {
        Ok(match self {
            Self::Chunks(chunks) => {
                chunks.chunks_after(id, limit)?.into_iter().map(|(id, header)| (id, Content::Chunk(header))).collect()
            }
            Self::Statements(statements) => {
                statements.statements_after(id, limit)?.into_iter().map(|(id, said)| (id, Content::Statement(said))).collect()
            }
        })
    }

    /// Everything up to `id` is in a batch.
    fn batched(&self, id: i64) {
        if let Self::Statements(statements) = self {
            statements.batched(id);
        }
    }
}

/// A source, and up to where it was told that its leaves are in batches.
struct Feed {
    source: Source,
    told: i64,
}

/// One leaf on its way into a batch.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) source: Epoch,
    pub(crate) id: i64,
    pub(crate) content: Content,
}

/// Leaves on their way into a batch. What it holds in memory is read again from the sources after a crash.
pub(crate) struct Collector {
    feeds: Vec<Feed>,
    ledger: Arc<Ledger>,
    batching: Batching,
    metrics: Metrics,
    waiting: Vec<Waiting>,
    /// When the first of the waiting chunks was seen. Those found at the start may have waited long: they wait no more.
    first_seen: Option<At>,
    started: bool,
}

/// What one look at a source gave, and behind which id it looked.
enum Look {
    Leaves(i64, Vec<(i64, Content)>),
    Failed(String),
}

impl Collector {
    pub fn new(source: Arc<dyn ChunkSource>, ledger: Arc<Ledger>, batching: Batching, metrics: Metrics) -> Self {
        let feeds = vec![Feed { source: Source::Chunks(source), told: 0 }];
        Self { feeds, ledger, batching, metrics, waiting: Vec::new(), first_seen: None, started: false }
    }

    /// Collects statements, too.
    pub fn with_statements(mut self, statements: Option<Arc<dyn StatementSource>>) -> Self {
        self.feeds.extend(statements.map(|statements| Feed { source: Source::Statements(statements), told: 0 }));
        self
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
        for feed in &mut self.feeds {
            let room = self.batching.chunks_max.saturating_sub(self.waiting.len());
            if room == 0 {
                return Ok(true);
            }
            let (source, ledger, epoch) = (feed.source.clone(), Arc::clone(&self.ledger), feed.source.epoch());
            let last = self.waiting.iter().rev().find(|waiting| waiting.source == epoch).map(|waiting| waiting.id);
            let told = feed.told;
            let look = on_ledger(move || {
                let after = match last {
                    Some(id) => id,
                    None => {
                        let batched = ledger.watermark_of(epoch)?;
                        if batched > told {
                            source.batched(batched);
                        }
                        batched
                    }
                };
                Ok(match source.after(after, room) {
                    Ok(leaves) => Look::Leaves(after, leaves),
                    Err(error) => Look::Failed(error.to_string()),
                })
            });
            match look.await? {
                Look::Leaves(after, leaves) => {
                    if last.is_none() {
                        feed.told = feed.told.max(after);
                    }
                    self.waiting.extend(leaves.into_iter().map(|(id, content)| Waiting { source: epoch, id, content }));
                }
                Look::Failed(error) => tracing::warn!(error, "chunks can't be read now"),
            }
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
        let leaves = std::mem::take(&mut self.waiting);
        self.first_seen = None;
        let ledger = Arc::clone(&self.ledger);
        let batch = on_ledger(move || ledger.close(&leaves, now)).await?;
        tracing::info!(batch = batch.number, chunks = batch.count, "batch closed");
        Ok(())
    }
}
