//! What a cloud anchors of chunks that it does not have (C5): that a relay stated them, with which root, and when.
//!
//! ```text
//! statement   [relay tstr, relay epoch uint, chunk uint, at int ns, header]
//! leaf        SHA-256(0x00 || "forebay/statement/v1" || CBOR statement)
//! shown       [chunk uint, series tstr, epoch uint, seq uint, at int ns, operation uint, payload bstr, salt bstr .size 16, index uint,
//!              [node bstr .size 32, …]]
//! ```
//!
//! A statement is a leaf of a batch beside the headers of the cloud's own chunks. Its domain is another one, so neither can pass for the
//! other. From then on the relay can't change a record of the chunk unnoticed, though nobody else has it.

use sha2::{Digest as _, Sha256};

use crate::cbor::{Fault, Strict, put_array, put_bytes, put_int, put_text, put_uint};
use crate::digest::{ChunkHeader, Digest, Salt};
use crate::frame::{PAYLOAD_BYTES_MAX, SEQ_MAX};
use crate::ids::{Epoch, RecordKey, RelayId, Series};
use crate::index::IndexEntry;
use crate::record::{At, Operation, Record};

/// Nodes of a path at most: a chunk of 2^48 records is more than anybody has.
pub const PATH_NODES_MAX: usize = 48;

const DOMAIN: &[u8] = b"\0forebay/statement/v1";

/// A relay's word about one of its chunks, as the cloud heard it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The relay.
    pub relay: RelayId,
    /// Its database, whose number the chunk's is.
    pub relay_epoch: Epoch,
    /// The chunk's number there.
    pub chunk: u64,
    /// When the cloud took it in, by the cloud's clock.
    pub at: At,
    /// What was stated.
    pub header: ChunkHeader,
}

/// What a relay shows of a record that it keeps: all that a proof needs beside the statement. The relay keeps the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The record.
    pub record: Record,
    /// Its salt.
    pub salt: Salt,
    /// The chunk that holds it, by the relay's number.
    pub chunk: u64,
    /// The record's place in the chunk, from 0.
    pub index: u64,
    /// The siblings of its leaf, up to the chunk's root.
    pub path: Vec<Digest>,
}

impl Shown {
    /// Writes it behind what `out` holds.
    pub fn write(&self, out: &mut Vec<u8>) {
        put_array(out, 10);
        put_uint(out, self.chunk);
        write_key(&self.record.key, out);
        put_int(out, self.record.at);
        put_uint(out, self.record.operation.code());
        put_bytes(out, &self.record.payload);
        put_bytes(out, &self.salt);
        put_uint(out, self.index);
        put_array(out, self.path.len() as u64);
        self.path.iter().for_each(|node| put_bytes(out, node));
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical one with at most [`PATH_NODES_MAX`] nodes.
    pub fn read(r: &mut Strict<'_>) -> Result<Self, Fault> {
        r.array_of(10, "shown")?;
        let (chunk, key, at) = (r.uint()?, read_key(r)?, r.int()?);
        let operation = Operation::from_code(r.uint()?)?;
        let payload = r.bytes()?;
        if at < 0 || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Fault::Rule { field: "record", rule: "is from before 1970, or larger than 256 KiB" });
        }
        let record = Record { key, at, operation, payload: payload.to_vec() };
        let (salt, index, nodes) = (r.array_of_bytes("salt")?, r.uint()?, r.array()?);
        if nodes > PATH_NODES_MAX as u64 {
            return Err(Fault::Rule { field: "path", rule: "has more than 48 nodes" });
        }
        let path = (0..nodes).map(|_| r.array_of_bytes("path")).collect::<Result<_, _>>()?;
        Ok(Self { record, salt, chunk, index, path })
    }
}

/// Writes series, epoch and sequence number.
pub(crate) fn write_key(key: &RecordKey, out: &mut Vec<u8>) {
    put_text(out, key.series.as_str());
    put_uint(out, key.epoch.0);
    put_uint(out, key.seq);
}

/// Reads what [`write_key`] wrote.
pub(crate) fn read_key(r: &mut Strict<'_>) -> Result<RecordKey, Fault> {
    let series: Series =
        r.text()?.parse().map_err(|_| Fault::Rule { field: "series", rule: "is not a valid area/sensor/stream name" })?;
    let key = RecordKey { series, epoch: Epoch(r.uint()?), seq: r.uint()? };
    match (1..=SEQ_MAX).contains(&key.seq) {
        true => Ok(key),
        false => Err(Fault::Rule { field: "seq", rule: "is not from 1 to 2^63 - 1" }),
    }
}

impl Statement {
    /// The statement that an entry of the index is.
    #[must_use]
    pub fn of(relay: RelayId, relay_epoch: Epoch, at: At, entry: &IndexEntry) -> Self {
        let IndexEntry { chunk, series, epoch, at_min, at_max, records, seqs, root } = entry;
        let header = ChunkHeader {
            series: series.clone(),
            epoch: *epoch,
            intervals: seqs.clone(),
            at_min: *at_min,
            at_max: *at_max,
            count: *records,
            root: *root,
        };
        Self { relay, relay_epoch, chunk: *chunk, at, header }
    }

    /// Writes the statement behind what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, 5);
        put_text(out, self.relay.as_str());
        put_uint(out, self.relay_epoch.0);
        put_uint(out, self.chunk);
        put_int(out, self.at);
        self.header.encode(out);
    }

    /// Reads a statement that is all of `bytes`.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical statement of a header that keeps its own rules.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(5, "statement")?;
        let relay = r.text()?.parse().map_err(|_| Fault::Rule { field: "relay", rule: "is not a valid name" })?;
        let (relay_epoch, chunk, at) = (Epoch(r.uint()?), r.uint()?, r.int()?);
        if at < 0 {
            return Err(Fault::Rule { field: "at", rule: "is before 1970" });
        }
        let header = ChunkHeader::decode(&mut r)?;
        r.end()?;
        Ok(Self { relay, relay_epoch, chunk, at, header })
    }

    /// The statement's leaf in a batch.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        let mut encoded = DOMAIN.to_vec();
        self.encode(&mut encoded);
        Sha256::digest(&encoded).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intervals::Intervals;

    fn statement() -> Statement {
        let entry = IndexEntry {
            chunk: 7,
            series: "cityA/meter-1/power".parse().unwrap(),
            epoch: Epoch(5),
            at_min: 4,
            at_max: 9,
            records: 12,
            seqs: [(1, 10), (15, 16)].into_iter().collect(),
            root: [3; 32],
        };
        Statement::of("relay-1".parse().unwrap(), Epoch(0x9f3c), 1_451_606_400_000_000_000, &entry)
    }

    fn bytes(statement: &Statement) -> Vec<u8> {
        let mut out = Vec::new();
        statement.encode(&mut out);
        out
    }

    #[test]
    fn c5_a_statement_is_read_back_as_it_was_written_and_commits_to_every_part() {
        let one = statement();
        assert_eq!(Statement::parse(&bytes(&one)), Ok(one.clone()));
        let others = [
            Statement { relay: "relay-2".parse().unwrap(), ..one.clone() },
            Statement { relay_epoch: Epoch(1), ..one.clone() },
            Statement { chunk: 8, ..one.clone() },
            Statement { at: one.at + 1, ..one.clone() },
            Statement { header: ChunkHeader { root: [4; 32], ..one.header.clone() }, ..one.clone() },
        ];
        assert!(others.iter().all(|other| other.leaf() != one.leaf()));
        assert_ne!(one.leaf(), one.header.leaf());
    }

    #[test]
    fn c5_what_is_no_statement_is_refused() {
        let one = statement();
        let empty = ChunkHeader { intervals: Intervals::new(), count: 0, ..one.header.clone() };
        for broken in [Statement { at: -1, ..one.clone() }, Statement { header: empty, ..one.clone() }] {
            assert!(matches!(Statement::parse(&bytes(&broken)), Err(Fault::Rule { .. })), "{broken:?}");
        }
        let mut long = bytes(&one);
        long.push(0);
        assert!(Statement::parse(&long).is_err());
        let mut header = Vec::new();
        one.header.encode(&mut header);
        assert!(Statement::parse(&header).is_err());
    }
}
