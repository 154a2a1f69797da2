//! The chain's blocks, the contract's state and receipts, computed from a block's hash: a node brings them, and need not be believed.
//!
//! The hash of a block is over its header, which names the roots of its state and of its receipts. So whoever has the right hash finds out
//! every lie about the block; which hash is the right one no node can prove.

use alloy::consensus::proofs::calculate_receipt_root;
use alloy::primitives::Bytes;
use wire::Digest;

use crate::chain::{Block, Chain, ChainError, Head, Written};
use crate::ledger::Target;
use crate::registry;
use crate::trie::{self, Untrue};

/// Why a node's word about a block is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Doubt {
    /// The node gave no answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The node does not have the block.
    #[error("the node does not have block 0x{}", wire::digest::to_hex(.0))]
    NoBlock(Digest),
    /// The node does not have the block's receipts any more.
    #[error("the node does not have the receipts of block 0x{}", wire::digest::to_hex(.0))]
    NoReceipts(Digest),
    /// The block is another one than its hash says.
    #[error("the node's header of block 0x{} does not have that hash", wire::digest::to_hex(.0))]
    Header(Digest),
    /// The contract's account is not what the state root commits to.
    #[error("the node's proof of the contract's account does not lead to the block's state root: {0}")]
    Account(Untrue),
    /// The head is not what the account commits to.
    #[error("the node's proof of the stream's head does not lead to the account's storage root: {0}")]
    Slot(Untrue),
    /// The receipts are not those that the block commits to.
    #[error("the node's receipts are not those that the block's receipts root commits to")]
    Receipts,
}

/// What a node brings about an account and one slot of its storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    /// From the state root to the account.
    pub account: Vec<Bytes>,
    /// From the account's storage root to the slot.
    pub slot: Vec<Bytes>,
}

/// The contract as a block's state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proven {
    /// The hash of its code.
    pub(crate) code_hash: Digest,
    /// The stream's head.
    pub(crate) head: Digest,
}

/// What `nodes` show under a state root.
pub(crate) fn read(state_root: &Digest, target: &Target, nodes: &Nodes) -> Result<Proven, Doubt> {
    let account = trie::value(state_root, target.contract.as_slice(), &nodes.account).map_err(Doubt::Account)?;
    let (storage_root, code_hash) = trie::account(&account).map_err(Doubt::Account)?;
    let slot = registry::head_slot(target.submitter, &target.stream);
    let head = match trie::value(&storage_root, &slot, &nodes.slot) {
        Ok(value) => trie::word(&value).map_err(Doubt::Slot)?,
        Err(untrue) => return Err(Doubt::Slot(untrue)),
    };
    Ok(Proven { code_hash, head })
}

/// The header of a block, whose hash was computed.
pub(crate) async fn header(chain: &Chain, hash: &Digest) -> Result<Head, Doubt> {
    let head = chain.head_of_block(hash).await?.ok_or(Doubt::NoBlock(*hash))?;
    match head.computed == *hash {
        true => Ok(head),
        false => Err(Doubt::Header(*hash)),
    }
}

/// The contract in the state of a block.
pub(crate) async fn contract(chain: &Chain, target: &Target, hash: &Digest) -> Result<(Block, Proven), Doubt> {
    let head = header(chain, hash).await?;
    let slot = registry::head_slot(target.submitter, &target.stream);
    let nodes = chain.storage_proof(target.contract, &slot, hash).await?;
    Ok((head.block, read(&head.state_root, target, &nodes)?))
}

/// Whether the contract wrote a batch in a block, as its log `log_index`. Which transaction did, receipts don't say.
pub(crate) async fn wrote(chain: &Chain, hash: &Digest, written: &Written, log_index: u64) -> Result<(Block, bool), Doubt> {
    let head = header(chain, hash).await?;
    let receipts = chain.receipts_of(hash).await?.ok_or(Doubt::NoReceipts(*hash))?;
    let bare: Vec<_> = receipts.into_iter().map(|receipt| receipt.inner.into_primitives_receipt()).collect();
    if *calculate_receipt_root(&bare) != head.receipts_root {
        return Err(Doubt::Receipts);
    }
    // A transaction that failed leaves no logs.
    let mut logs = bare.iter().flat_map(|receipt| receipt.logs());
    let log = usize::try_from(log_index).ok().and_then(|index| logs.nth(index));
    Ok((head.block, log.is_some_and(|log| written.is(log))))
}
