//! Beside the business path: purges, makes chunks of what the relay accepted, and writes down how far the ledger has come (B2, B5, B7).

use std::sync::Arc;

use anchor::Ledger;
use chassis::{Clock, Stop};
use store::Fault;

use crate::anchoring::{FollowError, Follower};
use crate::config::ChunkConfig;
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
        let mut follower = self.ledger.clone().map(|ledger| Follower::new(ledger, self.outbox.clone()));
        loop {
            match self.pass(&mut follower).await {
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
    async fn pass(&self, follower: &mut Option<Follower>) -> Result<bool, PassError> {
        if let Some(mut following) = follower.take() {
            let (back, changes) = tokio::task::spawn_blocking(move || {
                let changes = following.look();
                (following, changes)
            })
            .await?;
            let following = follower.insert(back);
            for change in changes? {
                self.outbox.mark(change.first, change.last, change.event).await?;
                following.told(&change);
            }
        }
        Ok(self.outbox.group(self.limits(), self.clock.now()).await?)
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
