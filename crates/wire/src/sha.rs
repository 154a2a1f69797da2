//! SHA-256 over many short messages that begin alike.
//!
//! Readings are short: with one hasher a message, its bookkeeping costs as much as the compressions. Here messages are laid out with their
//! padding, one behind the other, and only compressed.

use sha2::block_api::compress256;

use crate::digest::Digest;

pub(crate) const BLOCK_BYTES: usize = 64;
/// Of the message's bits, behind `0x80`.
const LENGTH_BYTES: usize = 8;

/// What SHA-256 is after some whole blocks.
#[derive(Clone, Copy)]
pub(crate) struct Absorbed {
    words: [u32; 8],
    bytes: u64,
}

impl Absorbed {
    /// Nothing yet (FIPS 180-4, 5.3.3).
    pub(crate) const NOTHING: Self = Self {
        words: [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19],
        bytes: 0,
    };

    /// One more block.
    pub(crate) fn and(mut self, block: &[u8; BLOCK_BYTES]) -> Self {
        compress256(&mut self.words, std::slice::from_ref(block));
        self.bytes += BLOCK_BYTES as u64;
        self
    }

    /// The digest, when `last` blocks with their padding follow.
    #[inline]
    pub(crate) fn finish(mut self, last: &[[u8; BLOCK_BYTES]]) -> Digest {
        compress256(&mut self.words, last);
        let mut digest = Digest::default();
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.words) {
            *bytes = word.to_be_bytes();
        }
        digest
    }
}

/// Messages that all follow the same whole blocks.
pub(crate) struct Messages {
    behind: Absorbed,
    bytes: Vec<u8>,
    /// In `bytes`, where each one's padding ends.
    ends: Vec<usize>,
}

impl Messages {
    pub(crate) fn behind(behind: Absorbed) -> Self {
        Self { behind, bytes: Vec::new(), ends: Vec::new() }
    }

    /// Adds what `write` appends.
    #[inline]
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - start;
        self.bytes.push(0x80);
        let padded = (length + 1 + LENGTH_BYTES).next_multiple_of(BLOCK_BYTES);
        self.bytes.resize(start + padded - LENGTH_BYTES, 0);
        let bits = (self.behind.bytes + length as u64) * 8;
        self.bytes.extend_from_slice(&bits.to_be_bytes());
        self.ends.push(self.bytes.len());
    }

    /// Hands out the digest of each message in their order, and forgets them.
    #[inline]
    pub(crate) fn drain(&mut self, mut take: impl FnMut(Digest)) {
        let (blocks, _) = self.bytes.as_chunks::<BLOCK_BYTES>();
        let mut start = 0;
        for end in self.ends.drain(..) {
            let end = end / BLOCK_BYTES;
            take(self.behind.finish(&blocks[start..end]));
            start = end;
        }
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn a_message_of_any_length_has_the_digest_that_everybody_gives_it() {
        let block = [0x36; BLOCK_BYTES];
        let mut messages = [Messages::behind(Absorbed::NOTHING), Messages::behind(Absorbed::NOTHING.and(&block))];
        let content: Vec<u8> = (0..300u32).map(|n| (n * 7) as u8).collect();
        for length in 0..content.len() {
            messages.iter_mut().for_each(|messages| messages.push(|out| out.extend_from_slice(&content[..length])));
        }
        for (messages, before) in messages.iter_mut().zip([&[][..], &block[..]]) {
            let mut digests = Vec::new();
            messages.drain(|digest| digests.push(digest));
            let wanted: Vec<Digest> = (0..content.len())
                .map(|length| Sha256::new().chain_update(before).chain_update(&content[..length]).finalize().into())
                .collect();
            assert!(digests == wanted);
            messages.drain(|_| panic!("they were forgotten"));
        }
    }

    #[test]
    fn salts_are_what_a_foreign_hmac_gives() {
        let key = [7; 32];
        let secret = crate::EpochSecret::new(key);
        for seq in [1, 9, 10, 1_000_000, u64::MAX >> 1] {
            let payload = vec![1; (seq % 500) as usize];
            let record = crate::RecordView {
                series: "cityA/meter-0017/power/active",
                epoch: crate::Epoch(0x9f3c),
                seq,
                at: 5,
                operation: crate::Operation::Store,
                payload: &payload,
            };
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(format!("cityA/meter-0017/power/active@9f3c.{seq}").as_bytes());
            assert_eq!(secret.salt(&record), mac.finalize().into_bytes()[..16]);
        }
    }
}
