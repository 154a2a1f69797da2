//! Between the outbox and the anchor worker: chunks out, states back. Both by polling, so neither can hold up the other (B5).

use std::sync::Arc;

use anchor::machine;
use anchor::{ChunkSource, Ledger, LedgerError, SourceError};
use wire::{ChunkHeader, Epoch};

use crate::outbox::Outbox;
use crate::outbox::reading_back::ReadFault;
use crate::state::Event;

/// Final batches that are looked at again, because their block may still vanish.
const FINAL_BATCHES_WATCHED: usize = 64;
/// Batches that one look takes up at most.
const BATCHES_PER_LOOK: usize = 256;

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

/// A stretch of chunks whose state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) event: Event,
}

/// Remembers what of the ledger has been written to the outbox.
pub(crate) struct Follower {
    ledger: Arc<Ledger>,
    outbox: Outbox,
    batches: Vec<Known>,
    /// The first chunk that is in none of `batches`; `None` until it was looked for.
    next_chunk: Option<i64>,
}

/// A batch, and how much of it the outbox has been told.
struct Known {
    number: u64,
    first: i64,
    last: i64,
    told: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Submitted,
    Final,
}

fn stage(state: machine::State) -> Stage {
    match state {
        machine::State::Batched => Stage::Closed,
        // Failed is tried again, so it is on its way like the others.
        machine::State::Signed | machine::State::Sent | machine::State::Mined | machine::State::Failed => Stage::Submitted,
        machine::State::Final => Stage::Final,
    }
}

/// What happened between two looks.
fn event(before: Stage, now: Stage) -> Option<Event> {
    match (before, now) {
        (_, Stage::Final) if before != Stage::Final => Some(Event::Finalised),
        (Stage::Closed, Stage::Submitted) => Some(Event::Submitted),
        (Stage::Final, Stage::Closed | Stage::Submitted) => Some(Event::Reverted),
        // A batch that is to be signed anew was submitted all the same.
        _ => None,
    }
}

impl Follower {
    pub(crate) fn new(ledger: Arc<Ledger>, outbox: Outbox) -> Self {
        Self { ledger, outbox, batches: Vec::new(), next_chunk: None }
    }

    /// Looks for batches that moved on. Reads two databases: to be called where it may block. Call [`Follower::told`] once the
    /// changes are committed; until then they are reported again.
    pub(crate) fn look(&mut self) -> Result<Vec<Change>, FollowError> {
        self.find_batches()?;
        let mut changes = Vec::new();
        for known in &self.batches {
            let Some(batch) = self.ledger.batch(known.number)? else { continue };
            if let Some(event) = event(known.told, stage(batch.progress.state)) {
                changes.push(Change { first: known.first, last: known.last, event });
            }
        }
        Ok(changes)
    }

    fn find_batches(&mut self) -> Result<(), FollowError> {
        let mut chunk = match self.next_chunk {
            Some(chunk) => chunk,
            None => match self.outbox.first_unfinished()? {
                Some(chunk) => chunk,
                None => return Ok(()),
            },
        };
        for _ in 0..BATCHES_PER_LOOK {
            self.next_chunk = Some(chunk);
            let Some(place) = self.ledger.batch_of_chunk(chunk)? else { return Ok(()) };
            // Chunks go into batches in the order of their ids, so a batch is a stretch of them.
            let leaves = self.ledger.leaves(place.batch.number)?;
            let last = leaves.iter().map(|leaf| leaf.chunk).max().unwrap_or(chunk);
            self.batches.push(Known { number: place.batch.number, first: chunk, last, told: Stage::Closed });
            chunk = last + 1;
        }
        Ok(())
    }

    /// A change was committed to the outbox.
    pub(crate) fn told(&mut self, change: &Change) {
        for known in self.batches.iter_mut().filter(|known| known.first == change.first) {
            known.told = match change.event {
                Event::Finalised => Stage::Final,
                _ => Stage::Submitted,
            };
        }
        let finished = self.batches.iter().filter(|known| known.told == Stage::Final).count();
        let mut surplus = finished.saturating_sub(FINAL_BATCHES_WATCHED);
        self.batches.retain(|known| {
            let goes = surplus > 0 && known.told == Stage::Final;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_what_the_ledger_says_becomes_an_event_once() {
        use Stage::{Closed, Final, Submitted};
        for (before, now, wanted) in [
            (Closed, Closed, None),
            (Closed, Submitted, Some(Event::Submitted)),
            (Closed, Final, Some(Event::Finalised)),
            (Submitted, Closed, None),
            (Submitted, Submitted, None),
            (Submitted, Final, Some(Event::Finalised)),
            (Final, Closed, Some(Event::Reverted)),
            (Final, Submitted, Some(Event::Reverted)),
            (Final, Final, None),
        ] {
            assert_eq!(event(before, now), wanted, "{before:?} {now:?}");
        }
        for state in machine::State::ALL {
            assert_eq!(stage(state) == Final, state == machine::State::Final);
        }
    }
}
