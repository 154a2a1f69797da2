//! Confirms mined batches: still in the chain, and deep enough in it.

use std::collections::HashMap;
use std::sync::Arc;

use wire::Digest;

use crate::chain::{Block, Chain, ChainError};
use crate::config::Confirmation;
use crate::courier::{Courier, Trouble};
use crate::ledger::Target;
use crate::machine::{Event, State};
use crate::rows::Batch;
use crate::worker::on_ledger;

/// Whether the block `hash` at height `number` is `depth` links below a block of the chain as it is now, counted along
/// parent hashes: numbers alone prove nothing while a chain reorganises.
pub(crate) async fn is_below(
    chain: &Chain,
    number: u64,
    hash: &Digest,
    depth: u64,
    seen: &mut HashMap<Digest, Block>,
) -> Result<bool, ChainError> {
    let Some(mut block) = chain.block_by_number(number.saturating_add(depth)).await? else { return Ok(false) };
    while block.number > number {
        let parent = match seen.get(&block.parent) {
            Some(parent) => *parent,
            None => match chain.block_by_hash(&block.parent).await? {
                Some(parent) if parent.number + 1 == block.number => parent,
                _ => return Ok(false),
            },
        };
        seen.insert(parent.hash, parent);
        block = parent;
    }
    Ok(block.number == number && block.hash == *hash)
}

impl Courier {
    /// Looks whether what was mined is still there, and what of it is final.
    pub(crate) async fn confirm(&mut self, latest: Block, target: &Target) -> Result<(), Trouble> {
        let ledger = Arc::clone(&self.ledger);
        let mined = on_ledger(move || ledger.mined()).await?;
        let Some(newest) = mined.last() else { return Ok(()) };
        // The newest one's block stands on all the others'.
        if !self.is_canonical(newest).await? {
            for batch in mined {
                self.recheck(target, batch).await?;
                if self.is_in_doubt() {
                    break;
                }
            }
            return Ok(());
        }
        let limit = match self.confirmation {
            Confirmation::Finalized => self.chain.finalized().await?.map(|block| block.number),
            Confirmation::Depth(depth) => latest.number.checked_sub(depth),
        };
        let Some(limit) = limit else { return Ok(()) };
        let mut seen = HashMap::new();
        for batch in mined {
            let Some(place) = batch.progress.mined else { continue };
            if place.block_number > limit {
                break;
            }
            let stands = match self.confirmation {
                Confirmation::Finalized => self.is_canonical(&batch).await?,
                Confirmation::Depth(depth) => {
                    is_below(&self.chain, place.block_number, &place.block_hash, depth, &mut seen).await?
                }
            };
            if stands {
                self.carry(target, batch, Event::Confirmed).await?;
            } else if self.recheck(target, batch).await? == State::Sent || self.is_in_doubt() {
                break;
            }
        }
        Ok(())
    }

    async fn is_canonical(&self, batch: &Batch) -> Result<bool, Trouble> {
        let Some(place) = batch.progress.mined else { return Ok(false) };
        let block = self.chain.block_by_number(place.block_number).await?;
        Ok(block.is_some_and(|block| block.hash == place.block_hash))
    }
}
