//! The audit trail: who asked, approved, rejected, withdrew and revoked what, when and why.
//!
//! Each entry carries a hash over itself and the hash before it. Whoever changes, adds or takes out an entry has to write all behind it
//! anew; whoever notes the last hash somewhere else sees it. A hash is
//! `SHA-256("forebay/access-log/v1" || hash before (32 bytes, zeros at first) || seq || at || who || what || request || reason || detail)`,
//! numbers as 8 bytes big-endian, texts with their length in bytes in front, `at` in nanoseconds since 1970, `detail` as compact JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wire::At;

use crate::moment;

/// Where the chain begins.
pub const FIRST: [u8; 32] = [0; 32];
const DOMAIN: &str = "forebay/access-log/v1";

/// One entry, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1, without gaps.
    pub seq: u64,
    /// RFC 3339 with nanoseconds.
    pub at: String,
    /// The user; `rule {name}` for what was approved by rule.
    pub who: String,
    /// `asked`, `approved`, `rejected`, `withdrawn`, `revoked`.
    pub what: String,
    /// Number of the request.
    pub request: u64,
    /// In the words of whoever did it.
    pub reason: String,
    /// What was asked for, or is granted from now on.
    pub detail: Value,
    /// Hex of the hash.
    pub chain: String,
}

impl Entry {
    /// The hash that it must have behind `before`; `None` if its time can't be read.
    #[must_use]
    pub fn link(&self, before: [u8; 32]) -> Option<[u8; 32]> {
        let at: At = moment::parse(&self.at).ok()?;
        let mut hash = Sha256::new().chain_update(DOMAIN).chain_update(before);
        hash.update(self.seq.to_be_bytes());
        hash.update(at.to_be_bytes());
        let texts = |hash: &mut Sha256, text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        texts(&mut hash, &self.who);
        texts(&mut hash, &self.what);
        hash.update(self.request.to_be_bytes());
        texts(&mut hash, &self.reason);
        texts(&mut hash, &self.detail.to_string());
        Some(hash.finalize().into())
    }

    /// The hash behind this entry, if the entry is the one that follows `before` as number `seq`.
    #[must_use]
    pub fn follows(&self, seq: u64, before: [u8; 32]) -> Option<[u8; 32]> {
        let link = self.link(before)?;
        (self.seq == seq && hex(&link) == self.chain).then_some(link)
    }
}

/// Bytes in hex.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
