//! The Merkle tree of RFC 9162 (section 2.1) over leaf hashes that are given.
//!
//! An inner node is `SHA-256(0x01 || left || right)`; the leaf hashes carry their own `0x00` (see [`crate::digest`]), so
//! that an inner node can never pass for a leaf. The tree is built level by level and an odd node moves up as it is,
//! which is the tree that the RFC defines by splitting at the largest power of two.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::sha::Absorbed;

/// The root of no leaves at all: the SHA-256 of nothing.
fn root_of_nothing() -> Digest {
    Sha256::digest(b"").into()
}

/// The node above `left` and `right`.
///
/// The input always has 65 bytes, so its padding is written here once for all: a general hasher's bookkeeping costs as much again.
#[must_use]
pub fn node(left: &Digest, right: &Digest) -> Digest {
    const INPUT_BITS: u16 = 65 * 8;
    let mut blocks = [[0u8; 64]; 2];
    let [first, second] = &mut blocks;
    first[0] = 1;
    first[1..33].copy_from_slice(left);
    first[33..].copy_from_slice(&right[..31]);
    second[0] = right[31];
    second[1] = 0x80;
    second[62..].copy_from_slice(&INPUT_BITS.to_be_bytes());
    Absorbed::NOTHING.finish(&blocks)
}

/// Replaces the first `width` nodes by the level above them and says how many those are.
fn climb(level: &mut [Digest], width: usize) -> usize {
    let pairs = width / 2;
    for pair in 0..pairs {
        level[pair] = node(&level[2 * pair], &level[2 * pair + 1]);
    }
    if width % 2 == 1 {
        level[pairs] = level[width - 1];
    }
    width.div_ceil(2)
}

/// The level above `leaves`, in a vector of its own.
fn above(leaves: &[Digest]) -> Vec<Digest> {
    let (pairs, odd) = leaves.as_chunks::<2>();
    pairs.iter().map(|[left, right]| node(left, right)).chain(odd.iter().copied()).collect()
}

/// The root of the tree over `leaves`, in their order.
#[must_use]
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => return root_of_nothing(),
        [only] => return *only,
        _ => {}
    }
    let mut level = above(leaves);
    let mut width = level.len();
    while width > 1 {
        width = climb(&mut level, width);
    }
    level[0]
}

/// The siblings from leaf `index` up to the root, lowest first.
///
/// A leaf that the tree does not have gets an empty path, which [`verify`] refuses.
#[must_use]
pub fn path(leaves: &[Digest], index: usize) -> Vec<Digest> {
    if index >= leaves.len() || leaves.len() == 1 {
        return Vec::new();
    }
    let mut siblings = Vec::with_capacity(leaves.len().ilog2() as usize + 1);
    siblings.extend(leaves.get(index ^ 1));
    let mut position = index / 2;
    let mut level = above(leaves);
    let mut width = level.len();
    while width > 1 {
        siblings.extend(level[..width].get(position ^ 1));
        position /= 2;
        width = climb(&mut level, width);
    }
    siblings
}

/// Whether `path` shows that `leaf` is number `index` (from 0) of the `size` leaves under `root` (RFC 9162, 2.1.3.2).
#[must_use]
pub fn verify(leaf: &Digest, index: u64, size: u64, path: &[Digest], root: &Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node(sibling, &hash);
            // A node that was moved up as it is has no sibling at those levels.
            let skipped = if position & 1 == 0 { position.trailing_zeros() } else { 0 };
            position >>= skipped;
            last >>= skipped;
        } else {
            hash = node(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}
