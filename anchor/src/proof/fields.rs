//! Which field of a file that is no proof is wrong, for a refusal that helps.

use serde::de::DeserializeOwned;
use serde_json::Value;
use wire::{Operation, RecordKey};

use super::{Decimal, Header, HexNumber, Name};
use crate::hex::{HexBytes, HexWord};
use crate::party::Kind;

/// Says what is wrong with a value.
type Judge = fn(&Value) -> Option<String>;

fn is<T: DeserializeOwned>(value: &Value) -> Option<String> {
    serde_json::from_value::<T>(value.clone()).err().map(|fault| fault.to_string())
}

/// Every member that is no object, by its place, and what it must be.
const FIELDS: [(&str, Judge); 29] = [
    ("format", is::<String>),
    ("record.key", is::<RecordKey>),
    ("record.at", is::<Decimal>),
    ("record.operation", is::<Operation>),
    ("record.payload", is::<HexBytes>),
    ("record.salt", is::<HexWord<16>>),
    ("chunk.header", is::<Header>),
    ("chunk.index", is::<u64>),
    ("chunk.stated.relay", is::<Name>),
    ("chunk.stated.relay_epoch", is::<HexNumber>),
    ("chunk.stated.chunk", is::<u64>),
    ("chunk.stated.at", is::<Decimal>),
    ("batch.prev", is::<HexWord<32>>),
    ("batch.root", is::<HexWord<32>>),
    ("batch.first_seq", is::<u64>),
    ("batch.count", is::<u64>),
    ("batch.index", is::<u64>),
    ("chain.id", is::<u64>),
    ("chain.genesis", is::<HexWord<32>>),
    ("chain.contract", is::<HexWord<20>>),
    ("chain.code_hash", is::<HexWord<32>>),
    ("chain.submitter", is::<HexWord<20>>),
    ("chain.party.kind", is::<Kind>),
    ("chain.stream", is::<HexWord<32>>),
    ("transaction.hash", is::<HexWord<32>>),
    ("transaction.block_number", is::<u64>),
    ("transaction.block_hash", is::<HexWord<32>>),
    ("pledge.account", is::<HexWord<20>>),
    ("pledge.signature", is::<HexWord<65>>),
];

/// The first field that is there and not what it must be, and why. `None`: what is wrong is which members there are, or it is no JSON.
pub(super) fn first_wrong(file: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(file).ok()?;
    let at = |place: &str| value.pointer(&format!("/{}", place.replace('.', "/")));
    for (place, judge) in FIELDS {
        if let Some(why) = at(place).and_then(judge) {
            return Some(format!("{place}: {why}"));
        }
    }
    let items = |place: &str| at(place).and_then(Value::as_array).into_iter().flatten().enumerate();
    for place in ["chunk.path", "batch.path"] {
        for (index, node) in items(place) {
            if let Some(why) = is::<HexWord<32>>(node) {
                return Some(format!("{place}[{index}]: {why}"));
            }
        }
    }
    for (index, batch) in items("later") {
        if let Some(why) = is::<super::LaterPart>(batch) {
            return Some(format!("later[{index}]: {why}"));
        }
    }
    None
}
