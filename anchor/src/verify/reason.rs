//! Why a proof does not hold, and why there is no answer.

use alloy::primitives::Address;

use crate::chain::{AddressFault, ChainError};
use crate::proof::Malformed;

/// What a proof does not hold against.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is no proof.
    #[error("the file is no proof: {0}")]
    Malformed(#[from] Malformed),
    /// The chunk's header is about another record.
    #[error("the chunk's header does not fit the record: {0}")]
    Header(&'static str),
    /// The record is not what the chunk's root commits to.
    #[error("the record is not in the chunk: record, salt or path was changed")]
    Record,
    /// The chunk is not what the batch's root commits to.
    #[error("the chunk is not in the batch: header or path was changed")]
    Chunk,
    /// The stream is not the party's.
    #[error("the stream is not that of the party")]
    Stream,
    /// Somebody else wrote it.
    #[error("it was submitted by {found}, not by {demanded}")]
    Submitter {
        /// Who should have.
        demanded: Address,
        /// Who did.
        found: Address,
    },
    /// Somebody else made the root.
    #[error("its root was made by {found}, not by {demanded}")]
    Signer {
        /// Who should have.
        demanded: Address,
        /// Who did.
        found: Address,
    },
    /// The signature is not that of the account.
    #[error("the root's signature is not that of the account")]
    Signature,
    /// The contract is none that this program knows.
    #[error("the contract's code is not that of AnchorRegistry")]
    Code,
    /// The chain is another one.
    #[error("the chain is another one: {0}")]
    Chain(&'static str),
    /// The chain does not have the transaction.
    #[error("the chain does not have the transaction")]
    NoTransaction,
    /// The transaction failed.
    #[error("the transaction failed on chain")]
    Failed,
    /// The transaction wrote something else.
    #[error("the transaction did not write this batch")]
    NoLog,
    /// The batch is on chain at another place.
    #[error("the batch is on chain, but not in the block and at the place that the proof names")]
    Place,
    /// The block is not part of the chain.
    #[error("the block is not part of the chain")]
    Block,
    /// The block could still vanish.
    #[error("block {block} is not final yet (the final one is {})", finalized.map_or("unknown".to_owned(), |n| n.to_string()))]
    NotFinal {
        /// The block.
        block: u64,
        /// The newest final one.
        finalized: Option<u64>,
    },
}

/// Why a proof is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It does not hold: a negative answer.
    #[error("not verified: {0}")]
    NotVerified(#[from] Reason),
    /// There is no answer.
    #[error("could not verify: {0}")]
    CouldNot(String),
}

impl From<ChainError> for VerifyError {
    fn from(error: ChainError) -> Self {
        Self::CouldNot(error.to_string())
    }
}

impl From<AddressFault> for VerifyError {
    fn from(error: AddressFault) -> Self {
        Self::CouldNot(error.to_string())
    }
}
