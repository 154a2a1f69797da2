//! Digests on a chain: batches, ledger, chain client, proofs and audit.
//!
//! A [`Worker`] reads closed chunks from the business's database through a [`ChunkSource`], puts their headers into batches,
//! and writes each batch's Merkle root to the contract `AnchorRegistry` with one transaction. It stands beside the business path: it
//! polls, it never blocks anybody, and a chain that is away only makes a queue.
//!
//! What happened is in the [`Ledger`], one SQLite file of its own. What is on chain for good can be proven to anybody:
//! [`prove`] makes one file, [`verify_file`] checks it with nothing but an RPC address.
//!
//! The way of a batch is a pure function, [`machine::step`]; [`Worker`] does what it says and stores what it decides before
//! the next step, so that kill -9 between any two of them is harmless.

pub mod audit;
pub mod cargo;
pub mod chain;
pub mod changes;
mod collect;
pub mod config;
mod confirm;
pub mod content;
mod courier;
pub mod deploy;
mod hex;
pub mod keys;
pub mod ledger;
mod limits;
pub mod machine;
mod metrics;
pub mod node;
pub mod party;
pub mod pledge;
pub mod proof;
pub mod prove;
pub mod refusal;
pub mod registry;
pub mod rows;
mod sight;
mod signing;
pub mod source;
pub mod sponsor;
mod storage;
pub mod trie;
pub mod verify;
pub mod view;
pub mod way;
pub mod worker;

pub use alloy::primitives::Address;
pub use config::{Batching, Config, Confirmation};
pub use content::Content;
pub use deploy::deploy;
pub use ledger::{Ledger, LedgerError};
pub use limits::PROOF_BYTES_MAX;
pub use node::Node;
pub use party::{Kind, Party};
pub use proof::Proof;
pub use prove::{Evidence, ProveError, prove, prove_stated};
pub use source::{ChunkSource, SourceError, StatementSource};
pub use verify::{Verified, VerifyError, verify_file};
pub use view::LedgerView;
pub use way::{Post, PostError};
pub use worker::{Anchoring, Health, StartError, Worker, WorkerError};
