use sha2::{Digest as _, Sha256};
use wire::Digest;
use wire::digest::{from_hex, to_hex};
use wire::merkle::{path, root, verify};

fn sha256(parts: &[&[u8]]) -> Digest {
    parts.iter().fold(Sha256::new(), |hasher, part| hasher.chain_update(part)).finalize().into()
}

/// Where RFC 9162 splits `n` leaves: the largest power of two smaller than `n`.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// RFC 9162, 2.1.1, as it is written there.
fn naive_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            sha256(&[&[1], &naive_root(left), &naive_root(right)])
        }
    }
}

/// RFC 9162, 2.1.3.1, as it is written there.
fn naive_path(leaves: &[Digest], index: usize) -> Vec<Digest> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, other) =
        if index < left.len() { (naive_path(left, index), right) } else { (naive_path(right, index - left.len()), left) };
    path.push(naive_root(other));
    path
}

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|number| sha256(&[&[0], &number.to_be_bytes()])).collect()
}

#[test]
fn c4_the_tree_is_that_of_a_naive_model_for_1_to_300_leaves() {
    let all = leaves(300);
    for size in 1..=300 {
        let leaves = &all[..size];
        let top = root(leaves);
        assert_eq!(top, naive_root(leaves), "{size} leaves");
        for (index, leaf) in leaves.iter().enumerate() {
            let path = path(leaves, index);
            // The naive paths take their time: each of the small trees, and a few of the large.
            if size <= 33 || (index * 7 + size) % 307 == 0 {
                assert_eq!(path, naive_path(leaves, index), "leaf {index} of {size}");
            }
            assert!(verify(leaf, index as u64, size as u64, &path, &top), "leaf {index} of {size}");
        }
    }
}

#[test]
fn c4_a_path_with_any_bit_changed_is_refused() {
    for (size, index) in [(1, 0), (2, 1), (7, 6), (8, 3), (33, 32), (300, 299), (300, 17)] {
        let leaves = leaves(size);
        let (top, leaf, good) = (root(&leaves), leaves[index], path(&leaves, index));
        let (index, size) = (index as u64, size as u64);
        for bit in 0..256 {
            let flip = |digest: &Digest| {
                let mut other = *digest;
                other[bit / 8] ^= 1 << (bit % 8);
                other
            };
            assert!(!verify(&flip(&leaf), index, size, &good, &top));
            assert!(!verify(&leaf, index, size, &good, &flip(&top)));
            for level in 0..good.len() {
                let mut bad = good.clone();
                bad[level] = flip(&bad[level]);
                assert!(!verify(&leaf, index, size, &bad, &top));
            }
        }
        for wrong in (0..size).filter(|wrong| *wrong != index) {
            assert!(!verify(&leaf, wrong, size, &good, &top), "number {wrong} instead of {index}");
        }
        let longer = [&good[..], &[top]].concat();
        assert!(!verify(&leaf, index, size, &longer, &top));
        if let Some((_, shorter)) = good.split_last() {
            assert!(!verify(&leaf, index, size, shorter, &top));
        }
    }
}

#[test]
fn a_leaf_that_the_tree_does_not_have_has_no_path() {
    let leaves = leaves(5);
    assert!(path(&leaves, 5).is_empty() && path(&[], 0).is_empty() && path(&leaves[..1], 1).is_empty());
    assert!(!verify(&leaves[0], 5, 5, &[], &root(&leaves)) && !verify(&leaves[0], 0, 0, &[], &root(&[])));
    // Sizes that no tree of ours has, as a forged proof may name them.
    let many = vec![leaves[0]; 70];
    for index in [0, 1, u64::MAX - 1, u64::MAX / 2, 1 << 63] {
        assert!(!verify(&leaves[0], index, u64::MAX, &many, &leaves[1]));
    }
}

/// The leaves and roots that Certificate Transparency's implementations publish for RFC 6962 (the tree of RFC 9162 is the same).
#[test]
fn c4_published_roots_and_paths() {
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let leaves: Vec<Digest> = inputs.iter().map(|input| sha256(&[&[0], input])).collect();
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    for (size, expected) in roots.into_iter().enumerate() {
        assert_eq!(to_hex(&root(&leaves[..size])), expected, "{size} leaves");
    }
    let paths: [(usize, usize, &[&str]); 4] = [
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    for (index, size, expected) in paths {
        let expected: Vec<Digest> = expected.iter().map(|text| from_hex(text).unwrap()).collect();
        assert_eq!(path(&leaves[..size], index), expected, "leaf {index} of {size}");
        let top = from_hex(roots[size]).unwrap();
        assert!(verify(&leaves[index], index as u64, size as u64, &expected, &top));
    }
}
