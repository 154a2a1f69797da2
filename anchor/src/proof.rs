//! The proof of one record: one JSON file that anybody checks with an RPC address alone.
//!
//! All byte strings are lower-case hex behind `0x`, and numbers that don't fit a JavaScript number are decimal strings. One
//! value has one spelling; unknown, missing and repeated fields are refused.

mod fields;

use alloy::primitives::Address;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire::digest::Salt;
use wire::{At, ChunkHeader, Digest, Epoch, Operation, Record, RecordKey, RelayId, Shown, Statement};

use crate::chain::Mined;
use crate::content::Content;
use crate::hex::{HexBytes, HexWord};
use crate::ledger::Target;
use crate::limits::{LATER_MAX, PATH_NODES_MAX, PROOF_BYTES_MAX};
use crate::party::Party;
use crate::pledge::{Pledge, Venue};
use crate::prove::{ProveError, Written};
use crate::registry::Entry;
use crate::view::LedgerView;

use fields::first_wrong;

/// The first version of the format; a later one is another word.
pub const FORMAT: &str = "forebay-proof/1";

/// Why a file is not a proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too large.
    #[error("it has more than {PROOF_BYTES_MAX} bytes")]
    Large,
    /// Not the JSON of a proof.
    #[error("it is not the JSON of a proof: {0}")]
    Json(String),
    /// Another format, or another version of it.
    #[error("its format is not {FORMAT:?}")]
    Format,
    /// A field holds what it can't hold.
    #[error("{field} {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

/// A proof as it is written down. Nothing of it is believed before it is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    format: String,
    pub(crate) record: RecordPart,
    pub(crate) chunk: ChunkPart,
    pub(crate) batch: BatchPart,
    pub(crate) chain: ChainPart,
    pub(crate) transaction: TransactionPart,
    /// The party's signature of the root, where the anchor service wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pledge: Option<PledgePart>,
    /// The batches of the stream behind this one: with them the head in the contract's state proves the batch where logs are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    later: Vec<LaterPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PledgePart {
    account: HexWord<20>,
    signature: HexWord<65>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaterPart {
    root: HexWord<32>,
    first_seq: u64,
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordPart {
    key: RecordKey,
    at: Decimal,
    operation: Operation,
    payload: HexBytes,
    salt: HexWord<16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChunkPart {
    header: Header,
    pub(crate) index: u64,
    path: Vec<HexWord<32>>,
    /// Where a relay holds the chunk, and not the party: then the batch's leaf is what the relay stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stated: Option<StatedPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedPart {
    relay: Name,
    relay_epoch: HexNumber,
    chunk: u64,
    at: Decimal,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchPart {
    prev: HexWord<32>,
    root: HexWord<32>,
    first_seq: u64,
    count: u64,
    pub(crate) index: u64,
    path: Vec<HexWord<32>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainPart {
    pub(crate) id: u64,
    genesis: HexWord<32>,
    contract: HexWord<20>,
    code_hash: HexWord<32>,
    submitter: HexWord<20>,
    pub(crate) party: Party,
    stream: HexWord<32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransactionPart {
    hash: HexWord<32>,
    block_number: u64,
    block_hash: HexWord<32>,
    log_index: u64,
}

impl ChunkPart {
    pub(crate) fn path(&self) -> Vec<Digest> {
        self.path.iter().map(|node| node.0).collect()
    }
}

impl BatchPart {
    pub(crate) fn path(&self) -> Vec<Digest> {
        self.path.iter().map(|node| node.0).collect()
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry { prev: self.prev.0, root: self.root.0, first_seq: self.first_seq, count: self.count }
    }
}

impl ChainPart {
    pub(crate) fn target(&self) -> Target {
        Target {
            identity: crate::chain::Identity { chain_id: self.id, genesis: self.genesis.0, code_hash: self.code_hash.0 },
            contract: Address::from(self.contract.0),
            submitter: Address::from(self.submitter.0),
            stream: self.stream.0,
            base_head: Digest::default(),
        }
    }
}

impl TransactionPart {
    /// Whether `mined` is what the proof says.
    pub(crate) fn is(&self, mined: &Mined) -> bool {
        (self.hash.0, self.block_number, self.block_hash.0, self.log_index)
            == (mined.tx, mined.block_number, mined.block_hash, mined.log_index)
    }

    pub(crate) fn hash(&self) -> Digest {
        self.hash.0
    }

    pub(crate) fn log_index(&self) -> u64 {
        self.log_index
    }

    pub(crate) fn block_number(&self) -> u64 {
        self.block_number
    }

    pub(crate) fn block_hash(&self) -> Digest {
        self.block_hash.0
    }
}

impl Proof {
    /// Reads a proof, strictly.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with it.
    pub fn parse(file: &[u8]) -> Result<Self, Malformed> {
        if file.len() > PROOF_BYTES_MAX {
            return Err(Malformed::Large);
        }
        let proof: Self = serde_json::from_slice(file)
            .map_err(|fault| Malformed::Json(first_wrong(file).unwrap_or_else(|| fault.to_string())))?;
        if proof.format != FORMAT {
            return Err(Malformed::Format);
        }
        only_objects(file)?;
        for (field, path) in [("chunk.path", &proof.chunk.path), ("batch.path", &proof.batch.path)] {
            if path.len() > PATH_NODES_MAX {
                return Err(Malformed::Field { field, rule: "must have at most 48 nodes" });
            }
        }
        if proof.later.len() > LATER_MAX {
            return Err(Malformed::Field { field: "later", rule: "must have at most 16384 batches" });
        }
        Ok(proof)
    }

    /// The same proof with the stream's later batches that are on chain, as `ledger` has them. Where nodes have thrown the logs away it
    /// holds as long as no other batch follows; then it can be made anew.
    ///
    /// # Errors
    /// [`ProveError`]; [`ProveError::TooManyLater`] when there are more than a proof can carry.
    pub fn up_to_head(mut self, ledger: &LedgerView) -> Result<Self, ProveError> {
        let this = ledger.batch_of_root(&self.batch.root.0, self.batch.first_seq)?;
        let number = this.map(|batch| batch.number).ok_or(ProveError::NotOurs)?;
        let last = ledger.last_on_chain()?;
        if last.saturating_sub(number) > LATER_MAX as u64 {
            return Err(ProveError::TooManyLater(last - number));
        }
        self.later = ledger
            .batches_from(number + 1)?
            .into_iter()
            .filter(|batch| batch.number <= last)
            .map(|batch| LaterPart { root: HexWord(batch.root), first_seq: batch.first_seq, count: batch.count })
            .collect();
        Ok(self)
    }

    /// The proof that a leaf which is on chain and a record of its chunk are.
    pub(crate) fn assemble(written: Written, shown: Shown, party: Party, pledge: Option<(Pledge, Address)>) -> Self {
        let words = |path: Vec<Digest>| path.into_iter().map(HexWord).collect();
        let Written { content, position, path, entry, mined, target, .. } = written;
        let stated = match &content {
            Content::Chunk(_) => None,
            Content::Statement(Statement { relay, relay_epoch, chunk, at, .. }) => Some(StatedPart {
                relay: Name(relay.clone()),
                relay_epoch: HexNumber(*relay_epoch),
                chunk: *chunk,
                at: Decimal(*at),
            }),
        };
        let Shown { record, salt, index, path: within, .. } = shown;
        Self {
            format: FORMAT.to_owned(),
            record: RecordPart {
                key: record.key,
                at: Decimal(record.at),
                operation: record.operation,
                payload: HexBytes(record.payload),
                salt: HexWord(salt),
            },
            chunk: ChunkPart { header: Header(content.header().clone()), index, path: words(within), stated },
            batch: BatchPart {
                prev: HexWord(entry.prev),
                root: HexWord(entry.root),
                first_seq: entry.first_seq,
                count: entry.count,
                index: position,
                path: words(path),
            },
            chain: ChainPart {
                id: target.identity.chain_id,
                genesis: HexWord(target.identity.genesis),
                contract: HexWord(target.contract.into_array()),
                code_hash: HexWord(target.identity.code_hash),
                submitter: HexWord(target.submitter.into_array()),
                party,
                stream: HexWord(target.stream),
            },
            transaction: TransactionPart {
                hash: HexWord(mined.tx),
                block_number: mined.block_number,
                block_hash: HexWord(mined.block_hash),
                log_index: mined.log_index,
            },
            pledge: pledge.map(|(pledge, account)| PledgePart {
                account: HexWord(account.into_array()),
                signature: HexWord(pledge.signature),
            }),
            later: Vec::new(),
        }
    }

    /// What the batch's leaf commits to: the header of a chunk that the party holds, or what a relay stated.
    pub(crate) fn content(&self) -> Content {
        let header = self.header().clone();
        match &self.chunk.stated {
            None => Content::Chunk(header),
            Some(StatedPart { relay, relay_epoch, chunk, at }) => Content::Statement(Statement {
                relay: relay.0.clone(),
                relay_epoch: relay_epoch.0,
                chunk: *chunk,
                at: at.0,
                header,
            }),
        }
    }

    /// The account whose key made the root: the one that signed it for the anchor service, or else the one that wrote it. `None` if
    /// the signature is not that account's.
    pub(crate) fn signer(&self) -> Option<Address> {
        let target = self.chain.target();
        let Some(PledgePart { account, signature }) = &self.pledge else { return Some(target.submitter) };
        let venue = Venue { chain_id: target.identity.chain_id, contract: target.contract, submitter: target.submitter };
        let pledge = Pledge { venue, entry: self.batch.entry(), signature: signature.0 };
        pledge.signer(&self.chain.party).filter(|signer| *signer == Address::from(account.0))
    }

    /// The stream's heads when the batch is written, and behind it each later one that the proof carries: any of them commits to it.
    pub(crate) fn heads(&self) -> impl Iterator<Item = Digest> {
        let first = self.batch.entry().head();
        let later = self.later.iter().scan(first, |prev, later| {
            *prev = Entry { prev: *prev, root: later.root.0, first_seq: later.first_seq, count: later.count }.head();
            Some(*prev)
        });
        std::iter::once(first).chain(later)
    }

    /// The stream's head when the batch and all later ones that the proof carries are written, and nothing else.
    pub(crate) fn last_head(&self) -> Digest {
        self.heads().last().unwrap_or_default()
    }

    /// The file.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and numbers in named fields: there is nothing in it that JSON can't hold.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The record that the proof is about.
    #[must_use]
    pub fn record(&self) -> Record {
        let RecordPart { key, at, operation, payload, .. } = &self.record;
        Record { key: key.clone(), at: at.0, operation: *operation, payload: payload.0.clone() }
    }

    pub(crate) fn salt(&self) -> Salt {
        self.record.salt.0
    }

    /// The header of the chunk that holds the record.
    #[must_use]
    pub fn header(&self) -> &ChunkHeader {
        &self.chunk.header.0
    }
}

/// Refuses arrays in place of objects, which would be read, too: one value has one spelling.
fn only_objects(file: &[u8]) -> Result<(), Malformed> {
    let value: serde_json::Value = serde_json::from_slice(file).map_err(|fault| Malformed::Json(fault.to_string()))?;
    let places = [
        ("record", "/record"),
        ("chunk", "/chunk"),
        ("chunk.stated", "/chunk/stated"),
        ("batch", "/batch"),
        ("chain", "/chain"),
        ("chain.party", "/chain/party"),
        ("transaction", "/transaction"),
        ("pledge", "/pledge"),
    ];
    for (field, place) in places {
        if value.pointer(place).is_some_and(serde_json::Value::is_array) {
            return Err(Malformed::Field { field, rule: "must be an object" });
        }
    }
    let later = value["later"].as_array();
    if later.is_some_and(|later| later.iter().any(serde_json::Value::is_array)) {
        return Err(Malformed::Field { field: "later", rule: "must be an array of objects" });
    }
    match value.is_object() {
        true => Ok(()),
        false => Err(Malformed::Field { field: "the whole", rule: "must be an object" }),
    }
}

/// A chunk's header, as the hex of its canonical CBOR: these are the bytes that its leaf is over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header(ChunkHeader);

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        self.0.encode(&mut bytes);
        HexBytes(bytes).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let HexBytes(bytes) = HexBytes::deserialize(deserializer)?;
        ChunkHeader::parse(&bytes).map(Self).map_err(|fault| D::Error::custom(format_args!("a chunk's header: {fault}")))
    }
}

/// A time as a decimal string: nanoseconds since 1970 don't fit a JavaScript number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal(At);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = text.parse::<At>().ok().filter(|at| *at >= 0 && at.to_string() == text);
        at.map(Self).ok_or_else(|| D::Error::custom("expected nanoseconds since 1970 as a decimal string"))
    }
}

/// A relay's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(RelayId);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|fault| D::Error::custom(format_args!("a relay's name: {fault}")))
    }
}

/// An epoch as keys have it: lower-case hex without leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HexNumber(Epoch);

impl Serialize for HexNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HexNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let epoch = u64::from_str_radix(&text, 16).map(Epoch).ok().filter(|epoch| epoch.to_string() == text);
        epoch.map(Self).ok_or_else(|| D::Error::custom("expected an epoch as lower-case hex without leading zeros"))
    }
}
