//! Digests on a chain: batches, ledger, chain client, proofs and audit.
pub mod chain;
mod collect;
pub mod config;
mod confirm;
mod courier;
pub mod keys;
pub mod ledger;
mod limits;
pub mod machine;
mod metrics;
pub mod party;
pub mod refusal;
pub mod registry;
pub mod rows;
mod signing;
pub mod source;
pub mod worker;

pub use alloy::primitives::Address;
pub use config::{Batching, Config, Confirmation};
pub use ledger::{Ledger, LedgerError};
pub use party::{Kind, Party};
pub use source::{ChunkSource, SourceError};
pub use worker::{Anchoring, Health, StartError, Worker, WorkerError};
