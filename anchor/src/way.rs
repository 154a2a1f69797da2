//! How a batch comes to the chain: by a transaction of the party's own, or as a signed root through the anchor service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use wire::Digest;

use crate::chain::{Mined, Outcome, Written};
use crate::courier::{Courier, Report, Trouble};
use crate::ledger::{LedgerError, Target};
use crate::machine::Event;
use crate::pledge::{Pledge, Said, Venue};
use crate::refusal::Refusal;
use crate::registry::{self, Entry};
use crate::rows::Batch;
use crate::worker::{Health, on_ledger};

/// Why the anchor service did not get a pledge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// It can't be reached, or did not answer in time. To be tried again.
    #[error("the anchor service is away: {0}")]
    Away(String),
    /// Its broker does not take it.
    #[error("the anchor service refused: {0}")]
    Refused(String),
}

/// The way of a pledge to the anchor service, and what it said of it.
pub trait Post: Send + Sync + 'static {
    /// Hands an encoded [`Pledge`] over. Only that it arrived is told here.
    fn send<'a>(&'a self, pledge: Vec<u8>) -> Pin<Box<dyn Future<Output = Result<(), PostError>> + Send + 'a>>;

    /// What the service has said last of a root.
    fn said(&self, root: &Digest) -> Option<Said>;
}

/// How batches come to the chain.
pub(crate) enum Way {
    /// By own transactions.
    Direct,
    /// Signed, and written by the anchor service.
    Sponsored(Arc<dyn Post>),
}

impl Courier {
    /// Signs a root for the anchor service.
    pub(crate) fn pledge(&mut self, target: &Target, entry: Entry) -> Report {
        let chain_id = target.identity.chain_id;
        let venue = Venue { chain_id, contract: target.contract, submitter: target.submitter };
        match Pledge::sign(venue, self.ledger.party(), entry, &self.key) {
            Some(pledge) => Report::Pledged(Box::new(pledge)),
            None => Report::Event(self.hold(&Refusal::Other("the key does not sign".into()))),
        }
    }

    /// Hands the stored pledge of a batch over.
    pub(crate) async fn offer(&mut self, batch: &Batch, post: &dyn Post) -> Result<Event, Trouble> {
        let (number, ledger) = (batch.number, Arc::clone(&self.ledger));
        let pledge = on_ledger(move || ledger.pledge_of(number)).await?;
        let Some(pledge) = pledge else {
            return Err(LedgerError::Damaged { batch: number, what: "pledge" }.into());
        };
        self.metrics.sent.inc();
        match post.send(pledge.encode()).await {
            Ok(()) => Ok(Event::Taken),
            Err(PostError::Refused(reason)) => {
                let refusal = Refusal::Other(reason);
                let _held = self.hold(&refusal);
                Ok(Event::Refused(refusal))
            }
            Err(away) => {
                self.health = Health::Away(away.to_string());
                Ok(Event::Refused(Refusal::Busy))
            }
        }
    }

    /// Where the anchor service says that it has written the batch, if the chain agrees. What it refuses is shown.
    pub(crate) async fn hinted(&mut self, batch: &Batch, written: &Written) -> Result<Option<Mined>, Trouble> {
        let said = match &self.way {
            Way::Sponsored(post) => post.said(&batch.root),
            Way::Direct => None,
        };
        match said {
            Some(Said::Written(tx)) => Ok(match self.chain.outcome(&tx, written).await? {
                Some(Outcome::Wrote(mined)) => Some(mined),
                _ => None,
            }),
            Some(Said::Refused(reason)) => {
                let _held = self.hold(&Refusal::Other(format!("the anchor service refuses: {reason}")));
                Ok(None)
            }
            Some(Said::Taken) | None => Ok(None),
        }
    }

    /// What a transaction of a batch says: the batch alone, or with all that it carries along for others.
    pub(crate) async fn input(
        &self,
        target: &Target,
        batch: &Batch,
        entry: &Entry,
    ) -> Result<alloy::primitives::Bytes, LedgerError> {
        let (number, ledger) = (batch.number, Arc::clone(&self.ledger));
        let cargo = on_ledger(move || ledger.cargo(number)).await?;
        if cargo.is_empty() {
            return Ok(entry.call(&target.stream));
        }
        let all: Vec<(Digest, Entry)> = std::iter::once((target.stream, *entry))
            .chain(cargo.iter().map(|freight| (freight.party().stream(), freight.entry)))
            .collect();
        Ok(registry::call_many(&all))
    }
}
