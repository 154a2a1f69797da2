//! Digests: of a record (salted, so that a reading can't be guessed from a sibling in a proof) and of a chunk's header.
//!
//! Both are leaf hashes in the sense of RFC 9162: SHA-256 over `0x00`, a domain, and canonical CBOR. The bytes are fixed by
//! the vectors in `tests/vectors`: terminal and cloud each compute them from what they hold, and must agree.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::cbor::{Fault, Strict, put_array, put_bytes, put_int, put_text, put_uint};
use crate::frame::SEQ_MAX;
use crate::ids::{Epoch, Series};
use crate::intervals::Intervals;
use crate::record::{At, RecordView};
use crate::sha::{Absorbed, BLOCK_BYTES, Messages};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// The salt of one record.
pub type Salt = [u8; 16];

const RECORD_DOMAIN: &[u8] = b"\0forebay/record/v1";
const CHUNK_DOMAIN: &[u8] = b"\0forebay/chunk/v1";

/// Why a text is not the hex form of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {bytes} bytes in lower-case hex")]
pub struct HexFault {
    bytes: usize,
}

/// Bytes as lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Exactly `N` bytes from lower-case hex. One value has one spelling, so capitals and prefixes are refused.
///
/// # Errors
/// [`HexFault`] on any other length or character.
pub fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], HexFault> {
    let fault = HexFault { bytes: N };
    let nibble = |character: u8| match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(fault),
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(fault) };
    if pairs.len() != N {
        return Err(fault);
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Ok(bytes)
}

/// The secret of an epoch, from which the salts of its records come. Sent once by the origin, kept beside the epoch,
/// never part of a proof, and never printed.
#[derive(Clone)]
pub struct EpochSecret {
    bytes: [u8; 32],
    /// HMAC after the key was absorbed, its inner and its outer hash, so that a salt costs two compressions less (RFC 2104, 4).
    inner: Absorbed,
    outer: Absorbed,
}

/// Records whose leaves are computed side by side: few enough for their bytes to stay in the first cache.
const SIDE_BY_SIDE: usize = 64;

impl EpochSecret {
    /// Prepares a secret.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        let keyed = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(bytes).for_each(|(padded, byte)| *padded ^= byte);
            Absorbed::NOTHING.and(&block)
        };
        Self { bytes, inner: keyed(0x36), outer: keyed(0x5c) }
    }

    /// The secret itself, to be stored or announced, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The record's salt: the first 16 bytes of HMAC-SHA-256 of its key's text.
    #[must_use]
    pub fn salt(&self, record: &RecordView<'_>) -> Salt {
        let mut salt = Salt::default();
        self.salts(&[*record], &mut Messages::behind(self.inner), &mut Messages::behind(self.outer), |found| salt = found);
        salt
    }

    fn salts(&self, records: &[RecordView<'_>], inner: &mut Messages, outer: &mut Messages, mut take: impl FnMut(Salt)) {
        for record in records {
            inner.push(|out| put_key(out, record));
        }
        inner.drain(|digest| outer.push(|out| out.extend_from_slice(&digest)));
        outer.drain(|tag| {
            let mut salt = Salt::default();
            salt.copy_from_slice(&tag[..16]);
            take(salt);
        });
    }

    /// The record's leaf under its own salt.
    #[must_use]
    pub fn leaf(&self, record: &RecordView<'_>) -> Digest {
        leaf(record, &self.salt(record))
    }

    /// The leaves of many records, each under its own salt: the same as [`EpochSecret::leaf`] of each, and much quicker.
    #[must_use]
    pub fn leaves<'r>(&self, records: impl IntoIterator<Item = RecordView<'r>>) -> Vec<Digest> {
        let mut records = records.into_iter();
        let mut leaves = Vec::with_capacity(records.size_hint().0);
        let (mut inner, mut outer) = (Messages::behind(self.inner), Messages::behind(self.outer));
        let mut whole = Messages::behind(Absorbed::NOTHING);
        let mut piece = Vec::with_capacity(SIDE_BY_SIDE);
        loop {
            piece.clear();
            piece.extend(records.by_ref().take(SIDE_BY_SIDE));
            if piece.is_empty() {
                return leaves;
            }
            let mut salted = piece.iter();
            self.salts(&piece, &mut inner, &mut outer, |salt| {
                if let Some(record) = salted.next() {
                    whole.push(|out| put_leaf(out, record, &salt));
                }
            });
            whole.drain(|leaf| leaves.push(leaf));
        }
    }
}

impl PartialEq for EpochSecret {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for EpochSecret {}

impl fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochSecret(redacted)")
    }
}

/// Writes a record key's text, `{series}@{epoch}.{seq}`, as its `Display` does, without its machinery.
fn put_key(out: &mut Vec<u8>, record: &RecordView<'_>) {
    out.extend_from_slice(record.series.as_bytes());
    out.push(b'@');
    let epoch = record.epoch.0;
    let digits = (64 - epoch.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[(epoch >> (4 * digit) & 15) as usize]));
    out.push(b'.');
    let start = out.len();
    out.resize(start + record.seq.checked_ilog10().unwrap_or(0) as usize + 1, 0);
    let mut left = record.seq;
    for byte in out[start..].iter_mut().rev() {
        *byte = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

/// The leaf of a record: SHA-256 of `0x00`, the domain, the salt and the canonical CBOR of
/// `[series, epoch, seq, at, operation, payload]`.
#[must_use]
pub fn leaf(record: &RecordView<'_>, salt: &Salt) -> Digest {
    let mut whole = Messages::behind(Absorbed::NOTHING);
    whole.push(|out| put_leaf(out, record, salt));
    let mut digest = Digest::default();
    whole.drain(|leaf| digest = leaf);
    digest
}

fn put_leaf(out: &mut Vec<u8>, record: &RecordView<'_>, salt: &Salt) {
    out.extend_from_slice(RECORD_DOMAIN);
    out.extend_from_slice(salt);
    put_array(out, 6);
    put_text(out, record.series);
    put_uint(out, record.epoch.0);
    put_uint(out, record.seq);
    put_int(out, record.at);
    put_uint(out, record.operation.code());
    put_bytes(out, record.payload);
}

/// What is known of a chunk without opening it: the leaf of a batch, and an entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The series that its records belong to.
    pub series: Series,
    /// Their epoch.
    pub epoch: Epoch,
    /// Their sequence numbers. A deletion shows as a hole between the anchored intervals.
    pub intervals: Intervals,
    /// Earliest generation time.
    pub at_min: At,
    /// Latest generation time.
    pub at_max: At,
    /// How many records: what the intervals add up to.
    pub count: u64,
    /// Merkle root over the records' leaves, in the order of their sequence numbers.
    pub root: Digest,
}

impl ChunkHeader {
    /// Writes the header behind what `out` holds: `[series, epoch, intervals, at_min, at_max, count, root]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, 7);
        put_text(out, self.series.as_str());
        put_uint(out, self.epoch.0);
        self.intervals.encode(out);
        put_int(out, self.at_min);
        put_int(out, self.at_max);
        put_uint(out, self.count);
        put_bytes(out, &self.root);
    }

    /// Reads one header, which may stand inside something larger.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical header that keeps its own rules.
    pub fn decode(r: &mut Strict<'_>) -> Result<Self, Fault> {
        r.array_of(7, "chunk")?;
        let series =
            r.text()?.parse().map_err(|_| Fault::Rule { field: "series", rule: "is not a valid area/sensor/stream name" })?;
        let header = Self {
            series,
            epoch: Epoch(r.uint()?),
            intervals: Intervals::decode(r)?,
            at_min: r.int()?,
            at_max: r.int()?,
            count: r.uint()?,
            root: r.array_of_bytes("root")?,
        };
        header.check()?;
        Ok(header)
    }

    /// Reads a header that is all of `bytes`.
    ///
    /// # Errors
    /// As [`ChunkHeader::decode`], and [`Fault::Trailing`] for whatever follows.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        let header = Self::decode(&mut r)?;
        r.end()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Fault> {
        if self.intervals.first().is_none_or(|first| first == 0) || self.intervals.last().is_some_and(|last| last > SEQ_MAX) {
            return Err(Fault::Rule { field: "intervals", rule: "hold nothing, or something that is not from 1 to 2^63 - 1" });
        }
        if self.count != self.intervals.count() {
            return Err(Fault::Rule { field: "count", rule: "is not what the intervals add up to" });
        }
        if self.at_min < 0 || self.at_min > self.at_max {
            return Err(Fault::Rule { field: "at_min", rule: "is before 1970 or after at_max" });
        }
        Ok(())
    }

    /// The chunk's leaf in a batch: SHA-256 of `0x00`, the domain and the canonical CBOR of the header.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        let mut encoded = CHUNK_DOMAIN.to_vec();
        self.encode(&mut encoded);
        Sha256::digest(&encoded).into()
    }
}
