//! Beside the business path: purges, makes chunks of what the relay accepted, and writes down how far the ledger has come (B2, B5, B7).

use std::sync::Arc;

use anchor::Ledger;
use chassis::{Clock, Stop};
use store::Fault;

use crate::anchoring::{self, FollowError};
use crate::config::ChunkConfig;
use crate::limits::CHANGES_PER_COMMIT_MAX;
use crate::metrics::Metrics;
use crate::outbox::{ChunkLimits, Outbox};

/// What the chunker needs.
#[derive(Clone)]
pub(crate) struct Chunker {
    pub(crate) outbox: Outbox,
    pub(crate) settings: ChunkConfig,
    /// The ledger, if there is anchoring.
    pub(crate) ledger: Option<Arc<Ledger>>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What ends the chunker, or only one of its passes.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("the outbox: {0}")]
    Outbox(#[from] Fault),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("a look at the ledger did not end: {0}")]
    Look(#[from] tokio::task::JoinError),
}

impl Chunker {
    /// Works until stopped. A pass that fails is tried again: nobody waits for it.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), Fault> {
        loop {
            match self.pass().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(PassError::Outbox(fault @ (Fault::Stopped | Fault::Panicked(_)))) => return Err(fault),
                Err(error) => {
                    self.metrics.chunk_pass_failed();
                    tracing::warn!(%error, "a chunk pass failed, it is tried again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.settings.poll.duration()) => {}
                () = stop.stopped() => return Ok(()),
            }
        }
    }

    /// Says whether another pass should follow at once.
    async fn pass(&self) -> Result<bool, PassError> {
        let more = self.follow().await?;
        Ok(self.outbox.group(self.limits(), self.clock.now()).await? || more)
    }

    /// Takes over what the ledger has to tell; says whether it may have more.
    async fn follow(&self) -> Result<bool, PassError> {
        let Some(ledger) = self.ledger.clone() else { return Ok(false) };
        let outbox = self.outbox.clone();
        let news = tokio::task::spawn_blocking(move || anchoring::look(&ledger, &outbox)).await??;
        let more = news.changes.len() >= CHANGES_PER_COMMIT_MAX;
        if !news.changes.is_empty() {
            self.outbox.follow(news.ledger, news.changes).await?;
        }
        Ok(more)
    }

    fn limits(&self) -> ChunkLimits {
        ChunkLimits {
            records_max: self.settings.records_max,
            age_max: i64::try_from(self.settings.age_max.duration().as_nanos()).unwrap_or(i64::MAX),
            leaf_bytes_max: self.settings.leaves_bytes_max.bytes(),
            anchored_only: self.ledger.is_some(),
        }
    }
}
