//! Verifies a proof: first what it says by itself, then that the chain says the same.

mod reason;

use std::collections::HashMap;
use std::time::Duration;

use alloy::primitives::Address;
use wire::digest::to_hex;
use wire::{ChunkHeader, Digest, Record, Statement, merkle};

use crate::chain::{Block, Chain, ChainError, Identity, Outcome, Written};
use crate::confirm::is_below;
use crate::content::Content;
use crate::ledger::Target;
use crate::limits;
use crate::node::Node;
use crate::party::{Kind, Party};
use crate::proof::Proof;
use crate::registry;
use crate::storage::{self, Doubt};

pub use reason::{Reason, VerifyError};

/// How strictly to verify.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The account that must have written the batch. Without it, anybody may have: the account is always told.
    pub submitter: Option<Address>,
    /// The account whose key must have made the root. That is the submitter, but where an anchor service wrote the batch.
    pub signer: Option<Address>,
    /// Blocks that must follow where the chain has no finalized block at or above the proof's.
    pub depth: Option<u64>,
    /// The hash of a block that is known from elsewhere to be of the chain. With it the node need not be believed: the batch must be in
    /// that block, or in the contract's state at it.
    pub block: Option<Digest>,
    /// How long one answer of the chain may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { submitter: None, signer: None, depth: None, block: None, timeout: Duration::from_secs(10) }
    }
}

/// Why the batch's block can't vanish any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The chain says that it is final.
    Finalized,
    /// So many blocks follow, as was asked for.
    Blocks(u64),
    /// It is the one that was given as known, or the batch was in the contract's state there.
    Known,
}

/// What the node had to be believed about the batch. The chain's id and first block are its word in any case: they only keep from
/// verifying on another chain by mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Believed {
    /// Nothing: everything was computed from the block hash that was given.
    Nothing,
    /// That the block with this hash is of the chain, and final. What it holds was computed from its hash.
    Block,
    /// What it says of the block and what is in it.
    Node {
        /// Why it could not be computed.
        why: String,
    },
}

/// What showed that the batch is on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The transaction's receipt with the contract's log.
    Log,
    /// The head in the contract's state, which commits to the batch: the node has thrown the receipt away. The block is then the one
    /// whose state was read, so the time is later than it was, and the transaction is the proof's word.
    State,
}

/// What a verified proof shows: this party held this record at that time, at the latest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The record.
    pub record: Record,
    /// The chunk that holds it.
    pub chunk: ChunkHeader,
    /// The record's place in the chunk.
    pub index: u64,
    /// The relay that holds the chunk, if the party does not: what the relay stated, by the party's word.
    pub stated: Option<Statement>,
    /// Who anchored it, by its own word: anybody may use any name, so look at the submitter.
    pub party: Party,
    /// The account that wrote it.
    pub submitter: Address,
    /// The account whose key made the root: the submitter, or who signed it for the anchor service.
    pub signer: Address,
    /// Whether either account was demanded.
    pub submitter_demanded: bool,
    /// The chain and the contract's code.
    pub identity: Identity,
    /// The contract.
    pub contract: Address,
    /// The batch's root.
    pub root: Digest,
    /// The transaction.
    pub tx: Digest,
    /// The height of its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: Digest,
    /// The time of the block, in seconds since 1970.
    pub block_time: u64,
    /// Why it can't vanish.
    pub depth: Depth,
    /// What showed it.
    pub shown: Shown,
    /// What the node had to be believed.
    pub believed: Believed,
}

/// Verifies a proof file against the chain at `rpc`.
///
/// # Errors
/// [`VerifyError`] tells a negative answer from none. A file that is no proof is a negative answer.
pub async fn verify_file(file: &[u8], rpc: impl Into<Node>, options: &Options) -> Result<Verified, VerifyError> {
    let proof = Proof::parse(file).map_err(Reason::from)?;
    proof.verify(rpc, options).await
}

impl Proof {
    /// What the proof shows without a chain: that the record leads to the batch's root.
    ///
    /// # Errors
    /// The first [`Reason`] against it.
    pub fn check(&self) -> Result<Record, Reason> {
        let (record, header) = (self.record(), self.header());
        let key = &record.key;
        if header.series != key.series {
            return Err(Reason::Header("another series"));
        }
        if header.epoch != key.epoch {
            return Err(Reason::Header("another epoch"));
        }
        if !(header.at_min..=header.at_max).contains(&record.at) {
            return Err(Reason::Header("the record's time is outside of the chunk's"));
        }
        if place_of(header, key.seq) != Some(self.chunk.index) {
            return Err(Reason::Header("the record's seq is not at that place of the chunk's"));
        }
        let leaf = wire::digest::leaf(&record.view(), &self.salt());
        if !merkle::verify(&leaf, self.chunk.index, header.count, &self.chunk.path(), &header.root) {
            return Err(Reason::Record);
        }
        let entry = self.batch.entry();
        let content = self.content();
        if matches!(content, Content::Statement(_)) && self.chain.party.kind != Kind::Server {
            return Err(Reason::Header("what a relay holds is stated by a server"));
        }
        if !merkle::verify(&content.leaf(), self.batch.index, entry.count, &self.batch.path(), &entry.root) {
            return Err(Reason::Chunk);
        }
        let target = self.chain.target();
        if target.stream != self.chain.party.stream() {
            return Err(Reason::Stream);
        }
        if target.identity.code_hash != registry::code_hash() {
            return Err(Reason::Code);
        }
        self.signer().ok_or(Reason::Signature)?;
        Ok(record)
    }

    /// Verifies the proof against the chain at `rpc`.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify(&self, rpc: impl Into<Node>, options: &Options) -> Result<Verified, VerifyError> {
        let record = self.check()?;
        let (entry, target) = (self.batch.entry(), self.chain.target());
        if let Some(demanded) = options.submitter.filter(|demanded| *demanded != target.submitter) {
            return Err(Reason::Submitter { demanded, found: target.submitter }.into());
        }
        let signer = self.signer().ok_or(Reason::Signature)?;
        if let Some(demanded) = options.signer.filter(|demanded| *demanded != signer) {
            return Err(Reason::Signer { demanded, found: signer }.into());
        }
        let chain = Chain::new(rpc, options.timeout)?;
        let identity = chain.identity(target.contract).await?;
        if identity.chain_id != target.identity.chain_id {
            return Err(Reason::Chain("its id differs").into());
        }
        if identity.genesis != target.identity.genesis {
            return Err(Reason::Chain("its first block differs").into());
        }
        if identity.code_hash != target.identity.code_hash {
            return Err(Reason::Code.into());
        }
        let written = Written::new(target.contract, target.submitter, &target.stream, &entry);
        let place = &self.transaction;
        let (block, depth, shown) = match options.block {
            Some(known) => {
                let (block, shown) = self.at(&chain, &target, &written, &known).await?;
                (block, Depth::Known, shown)
            }
            None => match self.find(&chain, &written).await? {
                Found::There => {
                    let block = chain.block_by_number(place.block_number()).await?;
                    let block = block.filter(|block| block.hash == place.block_hash()).ok_or(Reason::Block)?;
                    (block, self.depth(&chain, options).await?, Shown::Log)
                }
                Found::Forgotten(what) => {
                    let (block, depth) = self.in_state(&chain, &target, options, what).await?;
                    (block, depth, Shown::State)
                }
            },
        };
        let believed = match depth {
            Depth::Known => Believed::Nothing,
            _ => self.compute(&chain, &target, &written, &block, shown).await,
        };
        Ok(Verified {
            index: self.chunk.index,
            stated: match self.content() {
                Content::Chunk(_) => None,
                Content::Statement(stated) => Some(stated),
            },
            party: self.chain.party.clone(),
            submitter: target.submitter,
            signer,
            submitter_demanded: options.submitter.is_some() || options.signer.is_some(),
            identity,
            contract: target.contract,
            root: entry.root,
            tx: place.hash(),
            block_number: block.number,
            block_hash: block.hash,
            block_time: block.time,
            depth,
            shown,
            believed,
            record,
            chunk: self.header().clone(),
        })
    }

    /// Looks for the batch in a block whose hash is known to be right, or in the contract's state there, and believes the node nothing.
    async fn at(&self, chain: &Chain, target: &Target, written: &Written, known: &Digest) -> Result<(Block, Shown), VerifyError> {
        let place = &self.transaction;
        if place.block_hash() == *known {
            match storage::wrote(chain, known, written, place.log_index()).await {
                Ok((block, true)) if block.number == place.block_number() => return Ok((block, Shown::Log)),
                Ok((_, true)) => return Err(Reason::Place.into()),
                Ok((_, false)) => return Err(Reason::NoLog.into()),
                // It may still have the state.
                Err(Doubt::Chain(_) | Doubt::NoReceipts(_)) => {}
                Err(doubt) => return Err(doubted(&doubt)),
            }
        }
        let (block, proven) = storage::contract(chain, target, known).await.map_err(|doubt| doubted(&doubt))?;
        if proven.code_hash != target.identity.code_hash {
            return Err(Reason::Code.into());
        }
        if self.heads().any(|head| head == proven.head) {
            return Ok((block, Shown::State));
        }
        Err(VerifyError::CouldNot(format!(
            "in block {} the stream's head is 0x{}, to which the proof does not lead: the block is older than the batch, or there are later \
             batches in it (make the proof anew with --up-to-head), or the batch was never written",
            block.number,
            to_hex(&proven.head)
        )))
    }

    /// Computes from the block's hash what the node said of the block, as far as the node brings what it takes.
    async fn compute(&self, chain: &Chain, target: &Target, written: &Written, block: &Block, shown: Shown) -> Believed {
        let agrees = match shown {
            Shown::Log => storage::wrote(chain, &block.hash, written, self.transaction.log_index()).await.map(|(_, wrote)| wrote),
            Shown::State => {
                let proven = storage::contract(chain, target, &block.hash).await;
                proven.map(|(_, proven)| proven.code_hash == target.identity.code_hash && proven.head == self.last_head())
            }
        };
        match agrees {
            Ok(true) => Believed::Block,
            Ok(false) => Believed::Node { why: "what it brings to compute it from says something else".to_owned() },
            Err(doubt) => Believed::Node { why: doubt.to_string() },
        }
    }

    /// Makes sure that the transaction wrote the batch, at the place that the proof names; or finds that the node has thrown away what
    /// would show it.
    async fn find(&self, chain: &Chain, written: &Written) -> Result<Found, VerifyError> {
        let place = &self.transaction;
        let receipt = match chain.receipt(&place.hash()).await {
            Ok(Some(receipt)) => receipt,
            Ok(None) => return self.forgotten(chain).await,
            Err(ChainError::Refused(_)) => return Ok(Found::Forgotten("the receipt")),
            Err(away) => return Err(away.into()),
        };
        if !receipt.status() {
            return Err(Reason::Failed.into());
        }
        match written.outcome(&receipt) {
            Outcome::Wrote(mined) if place.is(&mined) => Ok(Found::There),
            Outcome::Wrote(_) => Err(Reason::Place.into()),
            Outcome::Failed => Err(Reason::NoLog.into()),
        }
    }

    /// There is no receipt. Was there ever one? A node that keeps no old receipts may still keep the block, or its header.
    async fn forgotten(&self, chain: &Chain) -> Result<Found, VerifyError> {
        let place = &self.transaction;
        match chain.transactions_of(&place.block_hash()).await {
            Ok(Some(transactions)) if transactions.contains(&place.hash()) => return Ok(Found::Forgotten("the receipt")),
            Ok(Some(_)) => return Err(Reason::NoTransaction.into()),
            Ok(None) => {}
            Err(ChainError::Refused(_)) => return Ok(Found::Forgotten("the block")),
            Err(away) => return Err(away.into()),
        }
        match chain.block_by_number(place.block_number()).await {
            Ok(Some(block)) if block.hash != place.block_hash() => Err(Reason::NoTransaction.into()),
            Ok(None) if chain.latest().await?.number < place.block_number() => Err(Reason::NoTransaction.into()),
            Ok(_) | Err(ChainError::Refused(_)) => Ok(Found::Forgotten("the block")),
            Err(away) => Err(away.into()),
        }
    }

    /// Looks for the head that the batch and its later ones make in the contract's state, deep enough below the newest block.
    async fn in_state(
        &self,
        chain: &Chain,
        target: &Target,
        options: &Options,
        what: &str,
    ) -> Result<(Block, Depth), VerifyError> {
        let wanted = self.last_head();
        let head = async |block: &Block| {
            Ok::<_, ChainError>(chain.head_at(target.contract, target.submitter, &target.stream, &block.hash).await? == wanted)
        };
        let latest = chain.latest().await?;
        if !head(&latest).await? {
            let fix = "make it anew with --up-to-head";
            return Err(VerifyError::CouldNot(format!(
                "the node has thrown {what} away, and the proof does not reach up to the head that the contract has now: {fix}"
            )));
        }
        let finalized = match chain.finalized().await {
            Ok(block) => block,
            Err(ChainError::Refused(_)) => None,
            Err(away) => return Err(away.into()),
        };
        if let Some(block) = finalized
            && head(&block).await?
        {
            return Ok((block, Depth::Finalized));
        }
        let deep = options.depth.filter(|depth| *depth <= limits::DEPTH_MAX);
        if let Some(depth) = deep
            && let Some(number) = latest.number.checked_sub(depth)
            && let Some(block) = chain.block_by_number(number).await?
            && head(&block).await?
            && is_below(chain, block.number, &block.hash, depth, &mut HashMap::new()).await?
        {
            return Ok((block, Depth::Blocks(depth)));
        }
        let finalized = finalized.map(|block| block.number);
        Err(Reason::NotFinal { block: self.transaction.block_number(), finalized }.into())
    }

    async fn depth(&self, chain: &Chain, options: &Options) -> Result<Depth, VerifyError> {
        let (number, hash) = (self.transaction.block_number(), self.transaction.block_hash());
        // A chain without the notion of finality refuses the question.
        let finalized = match chain.finalized().await {
            Ok(block) => block.map(|block| block.number),
            Err(ChainError::Refused(_)) => None,
            Err(away) => return Err(away.into()),
        };
        if finalized.is_some_and(|finalized| number <= finalized) {
            return Ok(Depth::Finalized);
        }
        match options.depth {
            Some(depth) if depth > limits::DEPTH_MAX => {
                Err(VerifyError::CouldNot(format!("depth must be at most {}", limits::DEPTH_MAX)))
            }
            Some(depth) if is_below(chain, number, &hash, depth, &mut HashMap::new()).await? => Ok(Depth::Blocks(depth)),
            _ => Err(Reason::NotFinal { block: number, finalized }.into()),
        }
    }
}

/// A node that is not to be believed is no answer, and certainly not a negative one.
fn doubted(doubt: &Doubt) -> VerifyError {
    VerifyError::CouldNot(match doubt {
        answer @ (Doubt::Chain(_) | Doubt::NoBlock(_) | Doubt::NoReceipts(_)) => answer.to_string(),
        lie => format!("this node is not to be believed: {lie}; ask another one"),
    })
}

/// What became of the look for the transaction.
enum Found {
    /// It wrote the batch, where the proof says.
    There,
    /// The node has thrown this away.
    Forgotten(&'static str),
}

/// The place of a seq among those that the chunk holds, in their order.
fn place_of(header: &ChunkHeader, seq: u64) -> Option<u64> {
    let mut before = 0;
    for &(low, high) in header.intervals.as_slice() {
        if (low..=high).contains(&seq) {
            return Some(before + (seq - low));
        }
        before += high - low + 1;
    }
    None
}
