//! Merkle-Patricia proofs (EIP-1186) against a root, for what a node says and nobody need believe.
//!
//! The nodes come from anybody: what is not exactly the way to the key is refused in words, and nothing here can panic. (The walk of
//! `alloy-trie` does, on paths that are longer than a key.)

use alloy::primitives::{Bytes, keccak256};
use alloy::rlp::Header;
use wire::Digest;

/// Nodes of one proof at most: a key has 64 nibbles.
const NODES_MAX: usize = 65;
/// Bytes of one node at most: a branch of sixteen hashes, and a value.
const NODE_BYTES_MAX: usize = 4_096;

/// What is wrong with a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    /// Too much of it.
    #[error("it has too many nodes, or too large ones")]
    Size,
    /// It ends before the key does.
    #[error("it ends before it comes to the key")]
    Short,
    /// It goes on behind the value.
    #[error("it has nodes behind the value")]
    Long,
    /// A node's hash is not the one that the node above, or the root, names.
    #[error("a node is not the one that the node above names")]
    Node,
    /// A node is not the RLP of one.
    #[error("a node is malformed")]
    Malformed,
    /// The way to the key ends without a value.
    #[error("it leads to another key: there is no such value")]
    Absent,
}

/// One item of a list: its payload, whether it is a list, and the whole of it.
#[derive(Clone, Copy)]
struct Item<'a> {
    payload: &'a [u8],
    is_list: bool,
    whole: &'a [u8],
}

/// The first item of `bytes`, which it is moved behind.
fn item<'a>(bytes: &mut &'a [u8]) -> Result<Item<'a>, Untrue> {
    let whole = *bytes;
    let Header { list, payload_length } = Header::decode(bytes).map_err(|_| Untrue::Malformed)?;
    let (payload, rest) = bytes.split_at_checked(payload_length).ok_or(Untrue::Malformed)?;
    *bytes = rest;
    Ok(Item { payload, is_list: list, whole: &whole[..whole.len() - rest.len()] })
}

/// The items of the list that is all of `bytes`, at most seventeen.
fn items(mut bytes: &[u8]) -> Result<Vec<Item<'_>>, Untrue> {
    let list = item(&mut bytes)?;
    if !list.is_list || !bytes.is_empty() {
        return Err(Untrue::Malformed);
    }
    let (mut rest, mut items) = (list.payload, Vec::with_capacity(17));
    while !rest.is_empty() {
        if items.len() == 17 {
            return Err(Untrue::Malformed);
        }
        items.push(item(&mut rest)?);
    }
    Ok(items)
}

/// The nibbles of a short node's path, and whether it is a leaf's.
fn path_of(encoded: &[u8]) -> Result<(bool, Vec<u8>), Untrue> {
    let (first, rest) = encoded.split_first().ok_or(Untrue::Malformed)?;
    let (flag, mut nibbles) = (first >> 4, Vec::with_capacity(64));
    match flag {
        0 | 2 if first & 0xf == 0 => {}
        1 | 3 => nibbles.push(first & 0xf),
        _ => return Err(Untrue::Malformed),
    }
    if rest.len() > 32 {
        return Err(Untrue::Malformed);
    }
    nibbles.extend(rest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]));
    Ok((flag >= 2, nibbles))
}

/// The value under `key`, which is hashed for its place, in the trie with this root.
pub fn value(root: &Digest, key: &[u8], nodes: &[Bytes]) -> Result<Vec<u8>, Untrue> {
    if nodes.len() > NODES_MAX || nodes.iter().any(|node| node.len() > NODE_BYTES_MAX) {
        return Err(Untrue::Size);
    }
    let nibbles: Vec<u8> = keccak256(key).iter().flat_map(|byte| [byte >> 4, byte & 0xf]).collect();
    let (mut rest, mut wanted) = (nibbles.as_slice(), *root);
    let mut nodes = nodes.iter();
    loop {
        let node = nodes.next().ok_or(Untrue::Short)?;
        if keccak256(node) != wanted {
            return Err(Untrue::Node);
        }
        let mut inner: &[u8] = node;
        // A node below 32 bytes stands in the one above, instead of its hash.
        loop {
            let items = items(inner)?;
            let child = match items.as_slice() {
                [path, below] => {
                    let (is_leaf, path) = path_of(path.payload)?;
                    rest = rest.strip_prefix(path.as_slice()).ok_or(Untrue::Absent)?;
                    if is_leaf {
                        return match (rest.is_empty(), nodes.next()) {
                            (true, None) => Ok(below.payload.to_vec()),
                            (true, Some(_)) => Err(Untrue::Long),
                            (false, _) => Err(Untrue::Absent),
                        };
                    }
                    if path.is_empty() {
                        return Err(Untrue::Malformed);
                    }
                    *below
                }
                branch if branch.len() == 17 => {
                    let (nibble, behind) = rest.split_first().ok_or(Untrue::Absent)?;
                    rest = behind;
                    branch[usize::from(*nibble)]
                }
                _ => return Err(Untrue::Malformed),
            };
            if child.is_list {
                inner = child.whole;
                continue;
            }
            if child.payload.is_empty() {
                return Err(Untrue::Absent);
            }
            wanted = child.payload.try_into().map_err(|_| Untrue::Malformed)?;
            break;
        }
    }
}

/// Root of an account's storage and hash of its code, from the account's value in the state.
pub fn account(value: &[u8]) -> Result<(Digest, Digest), Untrue> {
    let items = items(value)?;
    let word = |item: &Item<'_>| Digest::try_from(item.payload).map_err(|_| Untrue::Malformed);
    match items.as_slice() {
        [_nonce, _balance, storage, code] if items.iter().all(|item| !item.is_list) => Ok((word(storage)?, word(code)?)),
        _ => Err(Untrue::Malformed),
    }
}

/// The word of a storage slot, from its value in the storage.
pub fn word(value: &[u8]) -> Result<Digest, Untrue> {
    let mut rest = value;
    let number = item(&mut rest)?;
    let mut word = Digest::default();
    if number.is_list || !rest.is_empty() || number.payload.len() > word.len() {
        return Err(Untrue::Malformed);
    }
    let from = word.len() - number.payload.len();
    word[from..].copy_from_slice(number.payload);
    Ok(word)
}
