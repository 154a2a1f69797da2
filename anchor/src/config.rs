//! What a party says about its anchoring.

use std::path::PathBuf;

use alloy::primitives::Address;
use chassis::Span;
use serde::Deserialize;

use crate::keys::Unlock;
use crate::limits;
use crate::node::{AddressFault, Node};
use crate::party::Party;

/// Everything that a worker needs. `rpc` may be unreachable, for as long as it likes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the chain is asked.
    pub rpc: Node,
    /// Where the registry contract is.
    pub contract: Address,
    /// The party's private key, made by `forebay keys new`.
    pub key_file: PathBuf,
    /// What opens it.
    #[serde(skip)]
    pub unlock: Unlock,
    /// The ledger's database file, `anchor.sqlite` by custom.
    pub ledger: PathBuf,
    /// Who anchors.
    pub party: Party,
    /// When a batch is closed.
    #[serde(default)]
    pub batch: Batching,
    /// When a batch counts as on chain for good.
    #[serde(default)]
    pub confirmation: Confirmation,
    /// How often the source and the chain are looked at.
    #[serde(default = "poll")]
    pub poll: Span,
    /// How long one answer of the chain may take.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// What one unit of gas may cost at most; above that, batches wait.
    #[serde(default = "fee_cap_gwei")]
    pub fee_cap_gwei: u64,
    /// The account of the anchor service, for a party that only signs; see [`crate::Worker::start_sponsored`].
    #[serde(default)]
    pub sponsor: Option<Address>,
}

fn poll() -> Span {
    Span::seconds(1)
}

fn timeout() -> Span {
    Span::seconds(10)
}

fn fee_cap_gwei() -> u64 {
    500
}

impl Config {
    /// A configuration with every default.
    #[must_use]
    pub fn new(rpc: impl Into<Node>, contract: Address, key_file: PathBuf, ledger: PathBuf, party: Party) -> Self {
        Self {
            rpc: rpc.into(),
            contract,
            key_file,
            unlock: Unlock::default(),
            ledger,
            party,
            batch: Batching::default(),
            confirmation: Confirmation::default(),
            poll: poll(),
            timeout: timeout(),
            fee_cap_gwei: fee_cap_gwei(),
            sponsor: None,
        }
    }

    /// Every fault of the configuration, each with its field and the fix; touches neither network nor disk.
    ///
    /// # Errors
    /// The first fault found.
    pub fn check(&self) -> Result<(), ConfigFault> {
        let fault = |field, fix| Err(ConfigFault { field, fix });
        match self.rpc.url() {
            Err(AddressFault::UselessCa) => return fault("rpc_ca", "is for an https:// address, and rpc is none"),
            Err(_) => return fault("rpc", "must be an http:// or https:// address"),
            Ok(_) => {}
        }
        if self.party.name.is_empty() {
            return fault("party.name", "must not be empty");
        }
        if !(1..=limits::BATCH_CHUNKS_MAX).contains(&self.batch.chunks_max) {
            return fault("batch.chunks_max", "must be 1 to 65536");
        }
        if self.poll.duration().is_zero() {
            return fault("poll", "must be at least 1ms");
        }
        if self.timeout.duration().is_zero() {
            return fault("timeout", "must be at least 1ms");
        }
        if self.fee_cap_gwei == 0 {
            return fault("fee_cap_gwei", "must be at least 1");
        }
        match self.confirmation {
            Confirmation::Depth(depth) if !(1..=limits::DEPTH_MAX).contains(&depth) => {
                fault("confirmation.depth", "must be 1 to 256")
            }
            _ => Ok(()),
        }
    }
}

/// When a batch is closed: at so many chunks, or so long after the first of them was seen.
///
/// Only one batch at a time is closed for its age and waits to be signed; while the chain is away or slow, the next one
/// grows instead, so that an outage costs few transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batching {
    /// Chunks a batch holds at most.
    pub chunks_max: usize,
    /// How long the first chunk of a batch waits for others.
    pub age: Span,
}

impl Default for Batching {
    fn default() -> Self {
        Self { chunks_max: 4_096, age: Span::seconds(60) }
    }
}

/// When a batch counts as on chain for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confirmation {
    /// Its block is at or below the chain's `finalized` block.
    #[default]
    Finalized,
    /// So many blocks follow its block, counted along parent hashes.
    Depth(u64),
}

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {fix}")]
pub struct ConfigFault {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub fix: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let files = (PathBuf::from("key"), PathBuf::from("anchor.sqlite"));
        Config::new("http://127.0.0.1:8545", Address::ZERO, files.0, files.1, Party::server("cloud"))
    }

    #[test]
    fn the_defaults_hold_and_each_fault_names_its_field() {
        assert_eq!(config().check(), Ok(()));
        let mut faulty = config();
        faulty.batch.chunks_max = 0;
        assert_eq!(faulty.check().unwrap_err().field, "batch.chunks_max");
        let faulty = Config { rpc: "127.0.0.1:8545".into(), ..config() };
        assert_eq!(faulty.check().unwrap_err().field, "rpc");
        let faulty = Config { confirmation: Confirmation::Depth(0), ..config() };
        assert_eq!(faulty.check().unwrap_err().to_string(), "confirmation.depth must be 1 to 256");
    }

    #[test]
    fn both_confirmations_have_a_spelling() {
        let read = |text| serde_json::from_str::<Confirmation>(text).unwrap();
        assert_eq!(read(r#""finalized""#), Confirmation::Finalized);
        assert_eq!(read(r#"{"depth":12}"#), Confirmation::Depth(12));
    }
}
