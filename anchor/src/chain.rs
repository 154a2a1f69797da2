//! The chain, asked over JSON-RPC. Every request has a deadline, and every refusal a type.
//!
//! The provider below does nothing by itself: no nonce is cached, nothing is filled in, nothing is watched. What is signed
//! and what is waited for is decided by the worker, from what it has stored.

use std::time::Duration;

use alloy::consensus::BlockHeader;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::network::{BlockResponse, Ethereum};
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::client::ClientBuilder;
use alloy::rpc::types::{Filter, TransactionReceipt, TransactionRequest};
use alloy::transports::TransportError;
use wire::Digest;

pub use crate::node::AddressFault;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{self, Entry};
use crate::storage::Nodes;

/// What a chain and the contract on it are recognised by. A development chain that starts anew has the same id, but
/// another genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The chain's id.
    pub chain_id: u64,
    /// The hash of block 0.
    pub genesis: Digest,
    /// The hash of the contract's code.
    pub code_hash: Digest,
}

/// A block as far as finality needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
    /// The hash of the block below.
    pub parent: Digest,
    /// Its time, in seconds since 1970, as its maker says.
    pub time: u64,
}

/// A block's header: what it commits to, and its hash as it is computed from its fields, whatever the node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) block: Block,
    pub(crate) computed: Digest,
    pub(crate) state_root: Digest,
    pub(crate) receipts_root: Digest,
}

/// Where a transaction was mined, and what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mined {
    /// The transaction.
    pub tx: Digest,
    /// The height of its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: Digest,
    /// The place of the contract's log within the block.
    pub log_index: u64,
    /// The gas that the transaction used.
    pub gas_used: u64,
}

/// A batch as the contract's log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// The batch.
    pub entry: Entry,
    /// The transaction that wrote it.
    pub tx: Digest,
    /// The height of its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: Digest,
    /// The place of its log within the block.
    pub log_index: u64,
}

/// What a chain has to say about a transaction that was mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It wrote the batch.
    Wrote(Mined),
    /// It failed, or wrote something else.
    Failed,
}

/// Fees of one transaction, in wei for a unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// Most that may be paid in all.
    pub cap: u128,
    /// Of that, for who builds the block.
    pub tip: u128,
}

/// Why the chain gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It can't be reached, did not answer in time, or answered with nonsense. To be tried again.
    #[error("the chain is away: {0}")]
    Away(String),
    /// It answered and said no.
    #[error("the chain refused: {0}")]
    Refused(Refusal),
}

impl From<TransportError> for ChainError {
    fn from(error: TransportError) -> Self {
        match error.as_error_resp() {
            Some(payload) => {
                match Refusal::classify(payload.code, &payload.message, payload.as_revert_data().as_ref().map(AsRef::as_ref)) {
                    Refusal::Busy => Self::Away("it limits our rate".into()),
                    refusal => Self::Refused(refusal),
                }
            }
            None => Self::Away(error.to_string()),
        }
    }
}

/// One chain, at one address. Cheap to clone; holds no state of its own.
#[derive(Debug, Clone)]
pub struct Chain {
    provider: RootProvider<Ethereum>,
}

impl Chain {
    /// Prepares for asking; does not connect.
    ///
    /// # Errors
    /// [`AddressFault`] if it can't be asked.
    pub fn new(node: impl Into<Node>, timeout: Duration) -> Result<Self, AddressFault> {
        let wire = node.into().wire(timeout)?;
        let local = wire.is_local();
        Ok(Self { provider: RootProvider::new(ClientBuilder::default().transport(wire, local)) })
    }

    /// What this chain and the contract at `contract` are recognised by.
    ///
    /// # Errors
    /// [`ChainError`], as all requests.
    pub async fn identity(&self, contract: Address) -> Result<Identity, ChainError> {
        let chain_id = self.chain_id().await?;
        let genesis = self.block_by_number(0).await?.ok_or_else(|| ChainError::Away("it has no block 0".into()))?;
        let code = self.provider.get_code_at(contract).await?;
        Ok(Identity { chain_id, genesis: genesis.hash, code_hash: *keccak256(code) })
    }

    /// The chain's id.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn chain_id(&self) -> Result<u64, ChainError> {
        Ok(self.provider.get_chain_id().await?)
    }

    /// The newest block.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn latest(&self) -> Result<Block, ChainError> {
        let block = self.block(BlockNumberOrTag::Latest.into()).await?;
        block.ok_or_else(|| ChainError::Away("it has no newest block".into()))
    }

    /// The newest block that can't be reorganised away, if the chain knows one.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn finalized(&self) -> Result<Option<Block>, ChainError> {
        self.block(BlockNumberOrTag::Finalized.into()).await
    }

    /// The block at a height of the chain as it is now.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn block_by_number(&self, number: u64) -> Result<Option<Block>, ChainError> {
        self.block(BlockNumberOrTag::Number(number).into()).await
    }

    /// A block by its hash, whether it is part of the chain as it is now or not.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn block_by_hash(&self, hash: &Digest) -> Result<Option<Block>, ChainError> {
        self.block(BlockId::hash(B256::from(*hash))).await
    }

    async fn block(&self, id: BlockId) -> Result<Option<Block>, ChainError> {
        let block = self.provider.get_block(id).await?;
        Ok(block.map(|block| {
            let header = block.header();
            Block { number: header.number(), hash: *header.hash, parent: *header.parent_hash(), time: header.timestamp() }
        }))
    }

    /// The header of a block.
    pub(crate) async fn head_of_block(&self, hash: &Digest) -> Result<Option<Head>, ChainError> {
        let block = self.provider.get_block(BlockId::hash(B256::from(*hash))).await?;
        Ok(block.map(|block| {
            let header = &block.header.inner;
            Head {
                block: Block { number: header.number, hash: *hash, parent: *header.parent_hash, time: header.timestamp },
                computed: *header.hash_slow(),
                state_root: *header.state_root,
                receipts_root: *header.receipts_root,
            }
        }))
    }

    /// The receipts of a block, in their order.
    pub(crate) async fn receipts_of(&self, hash: &Digest) -> Result<Option<Vec<TransactionReceipt>>, ChainError> {
        Ok(self.provider.get_block_receipts(BlockId::hash(B256::from(*hash))).await?)
    }

    /// What leads from a block's state root to a slot of an account's storage (EIP-1186).
    pub(crate) async fn storage_proof(&self, account: Address, slot: &Digest, block: &Digest) -> Result<Nodes, ChainError> {
        let asked = self.provider.get_proof(account, vec![B256::from(*slot)]);
        let answer = asked.block_id(BlockId::hash(B256::from(*block))).await?;
        let slot = answer.storage_proof.into_iter().next().map(|slot| slot.proof).unwrap_or_default();
        Ok(Nodes { account: answer.account_proof, slot })
    }

    /// The head of a stream in the contract's state.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn head_of(&self, contract: Address, submitter: Address, stream: &Digest) -> Result<Digest, ChainError> {
        // Said outright: where it is left out, some nodes answer from the pending block.
        self.head(contract, submitter, stream, BlockId::latest()).await
    }

    /// The head of a stream in the state of a block that is not the newest.
    ///
    /// # Errors
    /// [`ChainError`]; nodes that keep recent states only refuse.
    pub async fn head_at(
        &self,
        contract: Address,
        submitter: Address,
        stream: &Digest,
        block: &Digest,
    ) -> Result<Digest, ChainError> {
        self.head(contract, submitter, stream, BlockId::hash(B256::from(*block))).await
    }

    async fn head(&self, contract: Address, submitter: Address, stream: &Digest, block: BlockId) -> Result<Digest, ChainError> {
        let call = TransactionRequest::default().to(contract).input(registry::head_call(submitter, stream).into());
        let answer = self.provider.call(call).block(block).await?;
        registry::head_answer(&answer).ok_or_else(|| ChainError::Away("the contract's answer is not a head".into()))
    }

    /// How many transactions of `account` are mined: the lowest nonce that is free.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn nonce(&self, account: Address) -> Result<u64, ChainError> {
        Ok(self.provider.get_transaction_count(account).latest().await?)
    }

    /// What `account` can pay, in wei.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn balance(&self, account: Address) -> Result<U256, ChainError> {
        Ok(self.provider.get_balance(account).await?)
    }

    /// The gas that a call would use now.
    ///
    /// # Errors
    /// [`ChainError`]; a call that would fail is refused with the contract's reason.
    pub async fn estimate(&self, from: Address, to: Option<Address>, input: Bytes) -> Result<u64, ChainError> {
        let mut call = TransactionRequest::default().from(from).input(input.into());
        call.to = Some(to.map_or(alloy::primitives::TxKind::Create, alloy::primitives::TxKind::Call));
        Ok(self.provider.estimate_gas(call).block(BlockId::latest()).await?)
    }

    /// Fees that get a transaction into one of the next blocks, even if the base fee doubles.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn fees(&self) -> Result<Fees, ChainError> {
        let latest = self.provider.get_block(BlockNumberOrTag::Latest.into()).await?;
        let base = latest.and_then(|block| block.header().base_fee_per_gas()).unwrap_or_default();
        let tip = self.provider.get_max_priority_fee_per_gas().await?;
        Ok(Fees { cap: tip.saturating_add(u128::from(base) * 2), tip })
    }

    /// Hands a signed transaction over.
    ///
    /// # Errors
    /// [`ChainError`]; a transaction that the node has already is [`Refusal::AlreadyKnown`].
    pub async fn send(&self, raw: &[u8]) -> Result<(), ChainError> {
        let _pending = self.provider.send_raw_transaction(raw).await?;
        Ok(())
    }

    /// A mined transaction's receipt.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn receipt(&self, tx: &Digest) -> Result<Option<TransactionReceipt>, ChainError> {
        Ok(self.provider.get_transaction_receipt(B256::from(*tx)).await?)
    }

    /// The hashes of a block's transactions.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn transactions_of(&self, block: &Digest) -> Result<Option<Vec<Digest>>, ChainError> {
        let block = self.provider.get_block(BlockId::hash(B256::from(*block))).await?;
        Ok(block.map(|block| block.transactions().hashes().map(|hash| *hash).collect()))
    }

    /// What the transaction `tx` did for the batch that `written` stands for.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn outcome(&self, tx: &Digest, written: &Written) -> Result<Option<Outcome>, ChainError> {
        Ok(self.receipt(tx).await?.map(|receipt| written.outcome(&receipt)))
    }

    /// The transaction that wrote the batch, found by its log.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn find(&self, written: &Written) -> Result<Option<Mined>, ChainError> {
        let mut filter = Filter::new().address(written.contract).from_block(BlockNumberOrTag::Earliest);
        for (place, topic) in written.topics.iter().enumerate().take(filter.topics.len()) {
            filter.topics[place] = (*topic).into();
        }
        let logs = self.provider.get_logs(&filter).await?;
        let ours = logs.iter().find(|log| written.is(&log.inner));
        match ours.and_then(|log| log.transaction_hash) {
            None => Ok(None),
            Some(tx) => Ok(self.outcome(&tx, written).await?.and_then(|outcome| match outcome {
                Outcome::Wrote(mined) => Some(mined),
                Outcome::Failed => None,
            })),
        }
    }

    /// The batches of a stream that were written in some blocks, in the order in which they were written, as far as the node has kept
    /// the logs.
    ///
    /// # Errors
    /// [`ChainError`]; nodes refuse when it is more than they want to look through.
    pub async fn logged(
        &self,
        contract: Address,
        submitter: Address,
        stream: &Digest,
        blocks: std::ops::RangeInclusive<u64>,
    ) -> Result<Vec<Logged>, ChainError> {
        let mut filter = Filter::new().address(contract).from_block(*blocks.start()).to_block(*blocks.end());
        for (place, topic) in registry::stream_topics(submitter, stream).into_iter().enumerate() {
            filter.topics[place] = topic.into();
        }
        let nonsense = || ChainError::Away("its logs are not those of the contract".into());
        let mut batches = Vec::new();
        for log in self.provider.get_logs(&filter).await? {
            let entry = registry::logged(&log.inner).ok_or_else(nonsense)?;
            let place = (log.transaction_hash, log.block_number, log.block_hash, log.log_index);
            let (Some(tx), Some(block_number), Some(block_hash), Some(log_index)) = place else { return Err(nonsense()) };
            batches.push(Logged { entry, tx: *tx, block_number, block_hash: *block_hash, log_index });
        }
        Ok(batches)
    }

    /// Waits until `tx` is mined or the deadline has passed; for setting a chain up, and not for batches.
    pub(crate) async fn mined(&self, tx: &Digest, within: Duration) -> Result<TransactionReceipt, ChainError> {
        let waiting = async {
            loop {
                if let Some(receipt) = self.receipt(tx).await? {
                    return Ok(receipt);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let late = |_| Err(ChainError::Away("it has not mined the transaction in time".into()));
        tokio::time::timeout(within, waiting).await.unwrap_or_else(late)
    }
}

/// The log that one batch leaves on chain, to be compared with what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    contract: Address,
    topics: Vec<B256>,
    data: Bytes,
}

impl Written {
    /// The log of `entry` in a stream.
    #[must_use]
    pub fn new(contract: Address, submitter: Address, stream: &Digest, entry: &Entry) -> Self {
        let (topics, data) = entry.log(submitter, stream);
        Self { contract, topics, data }
    }

    /// Whether `log` is this one.
    #[must_use]
    pub fn is(&self, log: &alloy::primitives::Log) -> bool {
        log.address == self.contract && log.topics() == self.topics && log.data.data == self.data
    }

    /// What a receipt says about this batch.
    #[must_use]
    pub fn outcome(&self, receipt: &TransactionReceipt) -> Outcome {
        let log = receipt.logs().iter().find(|log| self.is(&log.inner)).and_then(|log| log.log_index);
        match (receipt.status(), receipt.block_number, receipt.block_hash, log) {
            (true, Some(block_number), Some(block_hash), Some(log_index)) => Outcome::Wrote(Mined {
                tx: *receipt.transaction_hash,
                block_number,
                block_hash: *block_hash,
                log_index,
                gas_used: receipt.gas_used,
            }),
            _ => Outcome::Failed,
        }
    }
}
