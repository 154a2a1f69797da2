//! Every limit of this crate, with its reason.

use std::time::Duration;

/// Chunks of one batch: its leaves are hashed and stored in one go.
pub(crate) const BATCH_CHUNKS_MAX: usize = 65_536;

/// Batches that one round writes at most: behind a long queue, too, chunks are collected and the metrics say where it stands.
pub(crate) const BATCHES_A_ROUND: usize = 64;

/// Confirmations that are counted block by block along parent hashes.
pub(crate) const DEPTH_MAX: u64 = 256;

/// A transaction that the node does not know is handed to it again after this time.
pub(crate) const RESEND_AFTER: Duration = Duration::from_secs(15);

/// A transaction that is not mined after this time is replaced by one that pays more.
pub(crate) const REPLACE_AFTER: Duration = Duration::from_secs(90);

/// How much more a replacement pays, in percent. Nodes ask for ten.
pub(crate) const REPLACE_PERCENT: u128 = 15;

/// How often a nonce that is used without a receipt, or out of reach, is looked at before the batch gets another one.
pub(crate) const UNSEEN_MAX: u32 = 3;

/// How often a batch is tried again after its transaction was mined and failed.
pub(crate) const REVERTS_MAX: u32 = 5;

/// The first and the longest pause after a chain that did not answer, or would not take a transaction.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// See [`BACKOFF_MIN`].
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Gas on top of the estimate, in percent: the first batch of a stream costs more than an estimate made after it.
pub(crate) const GAS_SPARE_PERCENT: u64 = 25;

/// A proof file: a record's payload fits an MQTT packet, and everything else is small.
pub const PROOF_BYTES_MAX: usize = 4 << 20;

/// Later batches that a proof carries at most, at about 200 bytes each.
pub(crate) const LATER_MAX: usize = 16_384;

/// Roots that the anchor service carries with one transaction: at some 27,000 gas for a stream's first, below what nodes let one use.
pub const CARGO_MAX: usize = 400;

/// Offers that wait to be looked at, and notices that wait to be sent.
pub(crate) const OFFERS_MAX: usize = 1_024;

/// Nodes of one path: a tree of 2^48 leaves is more than anybody has.
pub(crate) const PATH_NODES_MAX: usize = 48;

/// One answer of a node: the logs of a stream with tens of thousands of batches.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connecting to the chain.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Blocks whose logs are asked for at once; many nodes answer for no more. At one batch a block it is also what an audit keeps in memory.
pub(crate) const LOG_BLOCKS_MAX: u64 = 2_048;
