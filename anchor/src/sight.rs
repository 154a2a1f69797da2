//! Looks where a batch is: by receipts, by the stream's head, by its log.

use std::sync::Arc;

use wire::Digest;

use crate::chain::{Outcome, Written};
use crate::courier::{Courier, Report, Trouble};
use crate::ledger::{LedgerError, Target};
use crate::machine::{Event, Head, Nonce, Sight, State};
use crate::registry::Entry;
use crate::rows::Batch;
use crate::worker::on_ledger;

impl Courier {
    /// What the chain shows of a batch: receipts first, then the head, then the log.
    pub(crate) async fn look(&mut self, target: &Target, batch: &Batch) -> Result<Sight, Trouble> {
        let entry = self.entry(target, batch).await?;
        let written = Written::new(target.contract, target.submitter, &target.stream, &entry);
        let transactions = self.transactions(batch.number).await?;
        if let Some(mined) = self.hinted(batch, &written).await? {
            return Ok(Sight::Wrote(mined));
        }
        let mut newest_failed = false;
        for (age, transaction) in transactions.iter().enumerate() {
            match self.chain.outcome(&transaction.hash, &written).await? {
                Some(Outcome::Wrote(mined)) => return Ok(Sight::Wrote(mined)),
                Some(Outcome::Failed) => newest_failed |= age == 0,
                None => {}
            }
        }
        let onchain = self.chain.head_of(target.contract, target.submitter, &target.stream).await?;
        let head = self.place(target, batch, &entry, &onchain).await?;
        match head {
            Head::Reached => {
                if let Some(mined) = self.chain.find(&written).await? {
                    return Ok(Sight::Wrote(mined));
                }
            }
            Head::Older => self.reopen(target, &onchain).await?,
            Head::Before | Head::Foreign => {}
        }
        if newest_failed {
            return Ok(Sight::Failed(head));
        }
        let next = self.chain.nonce(target.submitter).await?;
        let nonce = transactions.first().map_or(Nonce::Next, |newest| Nonce::of(newest.nonce, next));
        Ok(Sight::Nothing { head, nonce })
    }

    /// Where `head` is, seen from a batch.
    pub(crate) async fn place(&self, target: &Target, batch: &Batch, entry: &Entry, head: &Digest) -> Result<Head, Trouble> {
        if *head == entry.prev {
            return Ok(Head::Before);
        }
        if *head == entry.head() {
            // Written, though this ledger never signed it: it is an older copy of another one.
            return Ok(if batch.prev.is_some() { Head::Reached } else { Head::Foreign });
        }
        let (ledger, wanted) = (Arc::clone(&self.ledger), *head);
        Ok(match on_ledger(move || ledger.batch_of_head(&wanted)).await? {
            Some(other) if other > batch.number => Head::Reached,
            Some(_) => Head::Older,
            None if *head == target.base_head => Head::Older,
            None => Head::Foreign,
        })
    }

    /// The chain's head is at an older batch of ours: whatever later ones were thought to be on chain is looked at again.
    pub(crate) async fn reopen(&mut self, target: &Target, head: &Digest) -> Result<(), Trouble> {
        let (ledger, head) = (Arc::clone(&self.ledger), *head);
        let doubtful = on_ledger(move || {
            let last = ledger.batch_of_head(&head)?.unwrap_or(0);
            ledger.on_chain_from(last + 1)
        })
        .await?;
        for batch in doubtful {
            self.recheck(target, batch).await?;
        }
        Ok(())
    }

    /// Looks where a batch is that was thought to be on chain. Whether it is still there, in the same block or another, or
    /// not at all, is stored; one that vanished is not sent from here, its turn comes.
    pub(crate) async fn recheck(&mut self, target: &Target, mut batch: Batch) -> Result<State, Trouble> {
        let Some(entry) = batch.entry() else { return Ok(batch.progress.state) };
        let written = Written::new(target.contract, target.submitter, &target.stream, &entry);
        let mut hashes: Vec<Digest> = self.transactions(batch.number).await?.iter().map(|transaction| transaction.hash).collect();
        // A transaction of the anchor service is none of this ledger's.
        hashes.extend(batch.progress.mined.map(|mined| mined.tx).filter(|tx| !hashes.contains(tx)));
        for hash in hashes {
            if let Some(Outcome::Wrote(mined)) = self.chain.outcome(&hash, &written).await? {
                self.apply(&mut batch, Report::Event(Event::Seen(Sight::Wrote(mined)))).await?;
                return Ok(batch.progress.state);
            }
        }
        // Nothing of it here may mean that this is another chain since a moment ago, which must be sent nothing.
        self.doubt();
        if self.meet().await?.is_none() {
            return Ok(batch.progress.state);
        }
        self.apply(&mut batch, Report::Event(Event::Vanished)).await?;
        Ok(batch.progress.state)
    }

    /// What a batch puts on chain, on top of the batch before it.
    pub(crate) async fn entry(&self, target: &Target, batch: &Batch) -> Result<Entry, Trouble> {
        if let Some(entry) = batch.entry() {
            return Ok(entry);
        }
        if batch.number == 1 {
            return Ok(batch.entry_on(target.base_head));
        }
        let (ledger, number) = (Arc::clone(&self.ledger), batch.number - 1);
        let before = on_ledger(move || ledger.batch(number)).await?;
        let damaged = LedgerError::Damaged { batch: number, what: "head" };
        Ok(batch.entry_on(before.and_then(|before| before.entry()).ok_or(damaged)?.head()))
    }
}
