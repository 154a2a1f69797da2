//! The contract `AnchorRegistry`: its committed artifact, its calls and its event.

use alloy::primitives::{Address, B256, Bytes, hex, keccak256};
use alloy::sol_types::{SolCall, SolError, SolEvent, SolValue};
use serde::Deserialize;
use wire::Digest;

mod abi {
    alloy::sol! {
        error HeadMismatch(bytes32 have);
        event Anchored(
            address indexed submitter,
            bytes32 indexed stream,
            bytes32 indexed root,
            bytes32 prev,
            uint64 firstSeq,
            uint64 count
        );
        struct Batch {
            bytes32 stream;
            bytes32 prev;
            bytes32 root;
            uint64 firstSeq;
            uint64 count;
        }
        function anchorMany(Batch[] calldata batches) external;
        function anchor(bytes32 stream, bytes32 prev, bytes32 root, uint64 firstSeq, uint64 count) external;
        function headOf(address submitter, bytes32 stream) external view returns (bytes32);
    }
}

const ARTIFACT: &str = include_str!("../contracts/AnchorRegistry.json");

/// The artifact is part of the program, so a broken one is a broken build and no runtime error.
const ARTIFACT_HOLDS: &str = "the committed artifact of AnchorRegistry holds";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    bytecode: String,
    deployed_bytecode: String,
}

impl Artifact {
    fn read() -> Self {
        serde_json::from_str(ARTIFACT).expect(ARTIFACT_HOLDS)
    }
}

/// What creates the contract.
pub(crate) fn creation_code() -> Bytes {
    hex::decode(Artifact::read().bytecode).expect(ARTIFACT_HOLDS).into()
}

/// The hash of the code that a contract at a chain has when it is ours.
#[must_use]
pub fn code_hash() -> Digest {
    *keccak256(hex::decode(Artifact::read().deployed_bytecode).expect(ARTIFACT_HOLDS))
}

/// What one batch puts on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The head that the batch builds upon; zero for a stream's first.
    pub prev: Digest,
    /// The Merkle root over the batch's leaves.
    pub root: Digest,
    /// The number of the batch's first leaf in its stream, from 1.
    pub first_seq: u64,
    /// How many leaves the batch has.
    pub count: u64,
}

impl Entry {
    /// The stream's head once this batch is written: `keccak256(abi.encode(prev, root, firstSeq, count))`.
    #[must_use]
    pub fn head(&self) -> Digest {
        *keccak256((B256::from(self.prev), B256::from(self.root), self.first_seq, self.count).abi_encode())
    }

    /// The call that writes this batch to `stream`.
    pub(crate) fn call(&self, stream: &Digest) -> Bytes {
        abi::anchorCall {
            stream: B256::from(*stream),
            prev: B256::from(self.prev),
            root: B256::from(self.root),
            firstSeq: self.first_seq,
            count: self.count,
        }
        .abi_encode()
        .into()
    }

    /// The topics and the data of the log that the contract writes for this batch, and for no other.
    pub(crate) fn log(&self, submitter: Address, stream: &Digest) -> (Vec<B256>, Bytes) {
        let event = abi::Anchored {
            submitter,
            stream: B256::from(*stream),
            root: B256::from(self.root),
            prev: B256::from(self.prev),
            firstSeq: self.first_seq,
            count: self.count,
        };
        let data = event.encode_log_data();
        (data.topics().to_vec(), data.data)
    }
}

/// The call that writes several batches, all or none.
pub(crate) fn call_many(batches: &[(Digest, Entry)]) -> Bytes {
    let batches = batches.iter().map(|(stream, entry)| abi::Batch {
        stream: B256::from(*stream),
        prev: B256::from(entry.prev),
        root: B256::from(entry.root),
        firstSeq: entry.first_seq,
        count: entry.count,
    });
    abi::anchorManyCall { batches: batches.collect() }.abi_encode().into()
}

/// The topics that every batch of a stream has in its log, and nothing else.
pub(crate) fn stream_topics(submitter: Address, stream: &Digest) -> [B256; 3] {
    [abi::Anchored::SIGNATURE_HASH, submitter.into_word(), B256::from(*stream)]
}

/// The batch that a log of the contract is about.
pub(crate) fn logged(log: &alloy::primitives::Log) -> Option<Entry> {
    let event = abi::Anchored::decode_log(log).ok()?;
    Some(Entry { prev: *event.prev, root: *event.root, first_seq: event.firstSeq, count: event.count })
}

/// The slot of the contract's storage that holds a stream's head: of the mapping `heads`, its first variable.
pub(crate) fn head_slot(submitter: Address, stream: &Digest) -> Digest {
    let key = keccak256((submitter, B256::from(*stream)).abi_encode());
    *keccak256((key, B256::ZERO).abi_encode())
}

/// The call that reads a stream's head.
pub(crate) fn head_call(submitter: Address, stream: &Digest) -> Bytes {
    abi::headOfCall { submitter, stream: B256::from(*stream) }.abi_encode().into()
}

/// The answer to [`head_call`], which is one word.
pub(crate) fn head_answer(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok()
}

/// The head that the contract had instead, if `data` is its refusal.
pub(crate) fn head_mismatch(data: &[u8]) -> Option<Digest> {
    abi::HeadMismatch::abi_decode(data).ok().map(|refusal| *refusal.have)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bindings_are_those_of_the_artifact() {
        let artifact: serde_json::Value = serde_json::from_str(ARTIFACT).unwrap();
        let signatures: Vec<String> = artifact["abi"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let inputs = item["inputs"].as_array().unwrap();
                let types: Vec<_> = inputs.iter().map(|input| input["type"].as_str().unwrap()).collect();
                format!("{}({})", item["name"].as_str().unwrap(), types.join(","))
            })
            .collect();
        for ours in
            [abi::anchorCall::SIGNATURE, abi::headOfCall::SIGNATURE, abi::Anchored::SIGNATURE, abi::HeadMismatch::SIGNATURE]
        {
            assert!(signatures.iter().any(|theirs| theirs == ours), "{ours} is not among {signatures:?}");
        }
    }

    #[test]
    fn the_code_runs_what_the_creation_code_leaves_behind() {
        let artifact = Artifact::read();
        assert!(artifact.bytecode.ends_with(artifact.deployed_bytecode.trim_start_matches("0x")));
        assert_ne!(code_hash(), *keccak256([]));
    }

    #[test]
    fn a_head_commits_to_every_field() {
        let entry = Entry { prev: [1; 32], root: [2; 32], first_seq: 3, count: 4 };
        let others = [
            Entry { prev: [9; 32], ..entry },
            Entry { root: [9; 32], ..entry },
            Entry { first_seq: 9, ..entry },
            Entry { count: 9, ..entry },
        ];
        assert!(others.iter().all(|other| other.head() != entry.head()));
    }

    #[test]
    fn a_refusal_is_read_and_nothing_else_is() {
        let refusal = abi::HeadMismatch { have: B256::repeat_byte(7) }.abi_encode();
        assert_eq!(head_mismatch(&refusal), Some([7; 32]));
        assert_eq!(head_mismatch(&refusal[..35]), None);
        assert_eq!(head_mismatch(b""), None);
        assert_eq!(head_answer(&[0; 31]), None);
    }
}
