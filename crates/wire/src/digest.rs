//! Digests: of a record (salted, so that a reading can't be guessed from a sibling in a proof) and of a chunk's header.
//!
//! Both are leaf hashes in the sense of RFC 9162: SHA-256 over `0x00`, a domain, and canonical CBOR. The bytes are fixed by
//! the vectors in `tests/vectors`: terminal and cloud each compute them from what they hold, and must agree.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use crate::cbor::{Fault, Strict, head_bytes, put_array, put_bytes, put_int, put_text, put_uint};
use crate::frame::SEQ_MAX;
use crate::ids::{Epoch, Series};
use crate::intervals::Intervals;
use crate::record::{At, RecordView};

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
    /// HMAC after the key was absorbed, so that a salt costs two compressions less.
    keyed: Hmac<Sha256>,
}

impl EpochSecret {
    /// Prepares a secret.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        let keyed = Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length");
        Self { bytes, keyed }
    }

    /// The secret itself, to be stored or announced, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The record's salt: the first 16 bytes of HMAC-SHA-256 of its key's text.
    #[must_use]
    pub fn salt(&self, record: &RecordView<'_>) -> Salt {
        let mut place = Place::new();
        place.push_hex(record.epoch.0);
        place.push_decimal(record.seq);
        let mut mac = self.keyed.clone();
        mac.update(record.series.as_bytes());
        mac.update(place.as_bytes());
        let tag = mac.finalize().into_bytes();
        let mut salt = Salt::default();
        salt.copy_from_slice(&tag[..16]);
        salt
    }

    /// The record's leaf under its own salt.
    #[must_use]
    pub fn leaf(&self, record: &RecordView<'_>) -> Digest {
        leaf(record, &self.salt(record))
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

/// The `@{epoch}.{seq}` at the end of a record key's text, without a heap allocation.
struct Place {
    text: [u8; Self::BYTES_MAX],
    used: usize,
}

impl Place {
    /// `@`, 16 hex digits, `.`, 20 decimal digits.
    const BYTES_MAX: usize = 38;

    fn new() -> Self {
        Self { text: [0; Self::BYTES_MAX], used: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.text[self.used] = byte;
        self.used += 1;
    }

    fn push_hex(&mut self, value: u64) {
        self.push(b'@');
        let digits = (64 - value.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            self.push(b"0123456789abcdef"[(value >> (4 * digit) & 15) as usize]);
        }
    }

    fn push_decimal(&mut self, value: u64) {
        self.push(b'.');
        let (start, digits) = (self.used, value.checked_ilog10().unwrap_or(0) as usize + 1);
        self.used += digits;
        let mut left = value;
        for byte in self.text[start..self.used].iter_mut().rev() {
            *byte = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.used]
    }
}

/// The leaf of a record: SHA-256 of `0x00`, the domain, the salt and the canonical CBOR of
/// `[series, epoch, seq, at, operation, payload]`.
#[must_use]
pub fn leaf(record: &RecordView<'_>, salt: &Salt) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(RECORD_DOMAIN);
    hasher.update(salt);
    absorb_head(&mut hasher, 4, 6);
    absorb_head(&mut hasher, 3, record.series.len() as u64);
    hasher.update(record.series.as_bytes());
    absorb_head(&mut hasher, 0, record.epoch.0);
    absorb_head(&mut hasher, 0, record.seq);
    match u64::try_from(record.at) {
        Ok(at) => absorb_head(&mut hasher, 0, at),
        Err(_) => absorb_head(&mut hasher, 1, !record.at as u64),
    }
    absorb_head(&mut hasher, 0, record.operation.code());
    absorb_head(&mut hasher, 2, record.payload.len() as u64);
    hasher.update(record.payload);
    hasher.finalize().into()
}

/// Hashes the shortest head of a CBOR item.
fn absorb_head(hasher: &mut Sha256, major: u8, argument: u64) {
    let mut head = [0u8; 9];
    let bytes = head_bytes(argument);
    let additional = match bytes {
        1 => argument as u8,
        2 => 24,
        3 => 25,
        5 => 26,
        _ => 27,
    };
    let wide = argument.to_be_bytes();
    head[0] = major << 5 | additional;
    head[1..bytes].copy_from_slice(&wide[9 - bytes..]);
    hasher.update(&head[..bytes]);
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
