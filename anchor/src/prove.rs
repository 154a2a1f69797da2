//! Makes proofs: of records that the party holds, and of records that only a relay holds.

use wire::digest::Salt;
use wire::{Digest, Epoch, Record, RelayId, Shown, merkle};

use crate::chain::Mined;
use crate::content::Content;
use crate::ledger::{LedgerError, Target};
use crate::machine::State;
use crate::proof::Proof;
use crate::registry::Entry;
use crate::rows::{Batch, Leaf, Place};
use crate::verify::Reason;
use crate::view::LedgerView;

/// What a proof is made from, beside the ledger: one record of a chunk, and the leaves of all of them. The terminal keeps
/// those, the cloud computes them again.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The chunk's id in the ledger's source.
    pub chunk: i64,
    /// The leaves of its records, in the order of their seqs.
    pub leaves: &'a [Digest],
    /// The record's place among them, from 0.
    pub index: usize,
    /// The record.
    pub record: &'a Record,
    /// Its salt.
    pub salt: Salt,
}

/// Why there is no proof, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The chunk, or what was stated of it, is in no batch yet.
    #[error("chunk {0} is not in a batch yet")]
    NotBatched(i64),
    /// The chunk's batch is not on chain for good yet.
    #[error("batch {batch} is {}, not yet FINAL", state.as_str())]
    NotFinal {
        /// The batch.
        batch: u64,
        /// Where it is.
        state: State,
    },
    /// The record is not the leaf at that place: it was changed after anchoring, or the place or salt is wrong.
    #[error("the record is not leaf {index} of chunk {chunk}")]
    OtherRecord {
        /// The chunk.
        chunk: i64,
        /// The place.
        index: usize,
    },
    /// The leaves are not those that were anchored.
    #[error("the leaves of chunk {0} don't make the root that was anchored")]
    OtherLeaves(i64),
    /// What the relay shows does not lead to the root that it stated.
    #[error("{relay} shows of its chunk {chunk} what does not lead to the root that it stated: {why}")]
    OtherStated {
        /// The relay.
        relay: RelayId,
        /// Its chunk.
        chunk: u64,
        /// What is wrong.
        why: Reason,
    },
    /// The ledger's own rows don't make the root that was anchored.
    #[error("the rows of batch {0} don't make the root that was anchored")]
    OtherBatch(u64),
    /// The proof is not of this ledger.
    #[error("the ledger has no such batch")]
    NotOurs,
    /// More batches follow than a proof can carry.
    #[error("{0} batches follow, which is more than a proof can carry")]
    TooManyLater(u64),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Makes the proof of one record whose batch is on chain for good.
///
/// # Errors
/// [`ProveError`]; what is made is checked first, so a proof that comes out holds as far as this side can see.
pub fn prove(ledger: &LedgerView, evidence: &Evidence<'_>) -> Result<Proof, ProveError> {
    let Evidence { chunk, leaves, index, record, salt } = *evidence;
    let written = Written::find(ledger, ledger.batch_of_chunk(chunk)?.ok_or(ProveError::NotBatched(chunk))?)?;
    if leaves.get(index) != Some(&wire::digest::leaf(&record.view(), &salt)) {
        return Err(ProveError::OtherRecord { chunk, index });
    }
    if merkle::root(leaves) != written.content.header().root {
        return Err(ProveError::OtherLeaves(chunk));
    }
    let shown = Shown { record: record.clone(), salt, chunk: 0, index: index as u64, path: merkle::path(leaves, index) };
    written.proof(ledger, shown)
}

/// Makes the proof of a record that only a relay holds, from what the relay shows of it. `statement` is the id in the database `source` of
/// what the relay stated, whose batch must be on chain for good.
///
/// # Errors
/// [`ProveError`]; [`ProveError::OtherStated`] when the relay does not hold any more what it stated.
pub fn prove_stated(ledger: &LedgerView, source: Epoch, statement: i64, shown: Shown) -> Result<Proof, ProveError> {
    let written = Written::find(ledger, ledger.batch_of(source, statement)?.ok_or(ProveError::NotBatched(statement))?)?;
    let stated = match &written.content {
        Content::Statement(stated) => (stated.relay.clone(), stated.chunk),
        Content::Chunk(_) => return Err(ProveError::NotBatched(statement)),
    };
    let proof = written.proof(ledger, shown)?;
    match proof.check() {
        Ok(_) => Ok(proof),
        Err(why) => Err(ProveError::OtherStated { relay: stated.0, chunk: stated.1, why }),
    }
}

/// A leaf whose batch is on chain for good.
pub(crate) struct Written {
    pub(crate) content: Content,
    pub(crate) position: u64,
    /// The siblings of the leaf, up to the batch's root.
    pub(crate) path: Vec<Digest>,
    pub(crate) batch: u64,
    pub(crate) entry: Entry,
    pub(crate) mined: Mined,
    pub(crate) target: Target,
}

impl Written {
    fn find(ledger: &LedgerView, Place { batch, leaf }: Place) -> Result<Self, ProveError> {
        let not_final = ProveError::NotFinal { batch: batch.number, state: batch.progress.state };
        let (State::Final, Some(mined), Some(entry), Some(target)) =
            (batch.progress.state, batch.progress.mined, batch.entry(), ledger.target()?)
        else {
            return Err(not_final);
        };
        let (content, position, path) = (leaf.content()?, leaf.position, path(ledger, &batch, &leaf)?);
        Ok(Self { content, position, path, batch: batch.number, entry, mined, target })
    }

    fn proof(self, ledger: &LedgerView, shown: Shown) -> Result<Proof, ProveError> {
        let pledge = ledger.signed_pledge(self.batch)?;
        Ok(Proof::assemble(self, shown, ledger.party().clone(), pledge))
    }
}

fn path(ledger: &LedgerView, batch: &Batch, leaf: &Leaf) -> Result<Vec<Digest>, ProveError> {
    let siblings: Vec<Digest> = ledger.leaves(batch.number)?.iter().map(|leaf| leaf.digest).collect();
    match merkle::root(&siblings) == batch.root {
        true => Ok(merkle::path(&siblings, leaf.position as usize)),
        false => Err(ProveError::OtherBatch(batch.number)),
    }
}
