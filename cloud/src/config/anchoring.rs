//! What can be set about anchoring.

use std::path::{Path, PathBuf};

use anchor::Node;
use anchor::keys::{Passphrase, Unlock};
use chassis::Span;
use serde::Deserialize;

use super::ConfigError;

/// The anchor ledger's file within the data folder.
pub(crate) const LEDGER_FILE: &str = "anchor.sqlite";

/// Anchoring on a chain.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchoring {
    /// The chain's JSON-RPC address, `http://host:port` or `https://…`.
    pub rpc: Node,
    /// File with the authorities (PEM) that alone vouch for the node; without it those of the machine do.
    #[serde(default)]
    pub rpc_ca: Option<PathBuf>,
    /// Where the registry contract is, `0x…`.
    pub contract: String,
    /// The cloud's own private key.
    pub key_file: PathBuf,
    /// File whose first line is the key's passphrase; it goes before `passphrase`.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// The passphrase of encrypted keys, which the environment tells and no file.
    #[serde(skip)]
    pub passphrase: Option<Passphrase>,
    /// When a batch is closed.
    #[serde(default)]
    pub batch: anchor::config::Batching,
    /// When a batch counts as on chain for good.
    #[serde(default)]
    pub confirmation: anchor::config::Confirmation,
    /// How often archive and chain are looked at.
    #[serde(default = "poll")]
    pub poll: Span,
    /// How long one answer of the chain may take.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// What one unit of gas may cost at most; above that, batches wait.
    #[serde(default = "fee_cap_gwei")]
    pub fee_cap_gwei: u64,
    /// The anchor service for agents without funds; without it there is none.
    #[serde(default)]
    pub sponsor: Option<crate::sponsor::Sponsoring>,
}

impl Anchoring {
    /// With every default. `contract` is `0x…`.
    #[must_use]
    pub fn new(rpc: impl Into<Node>, contract: impl Into<String>, key_file: PathBuf) -> Self {
        Self {
            rpc: rpc.into(),
            rpc_ca: None,
            contract: contract.into(),
            key_file,
            passphrase_file: None,
            passphrase: None,
            batch: anchor::config::Batching::default(),
            confirmation: anchor::config::Confirmation::default(),
            poll: poll(),
            timeout: timeout(),
            fee_cap_gwei: fee_cap_gwei(),
            sponsor: None,
        }
    }

    fn node(&self) -> Node {
        self.rpc.clone().trusting(self.rpc_ca.clone())
    }

    /// What opens a key file of the section, whose own passphrase file is `passphrase_file`.
    pub(crate) fn unlock(&self, passphrase_file: &Option<PathBuf>) -> Unlock {
        Unlock { passphrase_file: passphrase_file.clone(), passphrase: self.passphrase.clone() }
    }

    /// What the anchor worker of the cloud `name` is told; its ledger is kept under `data`.
    ///
    /// # Errors
    /// The contract's address can't be read.
    pub fn config(&self, name: &str, data: &Path) -> Result<anchor::config::Config, ConfigError> {
        let contract = self.contract.parse().map_err(|_| {
            ConfigError::Anchor(format!("contract: {:?} is not an address of 0x and 40 hex digits", self.contract))
        })?;
        let party = anchor::party::Party::server(name);
        let ledger = data.join(LEDGER_FILE);
        Ok(anchor::config::Config {
            batch: self.batch,
            confirmation: self.confirmation,
            poll: self.poll,
            timeout: self.timeout,
            fee_cap_gwei: self.fee_cap_gwei,
            sponsor: None,
            unlock: self.unlock(&self.passphrase_file),
            ..anchor::config::Config::new(self.node(), contract, self.key_file.clone(), ledger, party)
        })
    }
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
