//! What a verifier and an anchor service read from anybody: a refusal in words, or something that says the same again, and never a panic.

use anchor::Proof;
use anchor::pledge::{Pledge, Receipt, Said, Venue};
use anchor::registry::Entry;
use anchor::{Address, Party, keys};
use testkit::fuzz;

/// Proofs of every kind: direct, sponsored with later batches, and of what a relay stated.
fn proofs() -> Vec<Vec<u8>> {
    let word = |byte: &str, bytes: usize| format!("0x{}", byte.repeat(bytes));
    let header = {
        let mut bytes = Vec::new();
        crate::town::header(2).encode(&mut bytes);
        format!("0x{}", wire::digest::to_hex(&bytes))
    };
    let mut proof = serde_json::json!({
        "format": "forebay-proof/1",
        "record": {
            "key": crate::town::records(2)[3].key.to_string(), "at": "1451606400000000000", "operation": "store",
            "payload": "0x312e35", "salt": word("07", 16),
        },
        "chunk": { "header": header, "index": 3, "path": [word("01", 32), word("02", 32)] },
        "batch": { "prev": word("00", 32), "root": word("03", 32), "first_seq": 1, "count": 5, "index": 1, "path": [word("04", 32)] },
        "chain": {
            "id": 31337, "genesis": word("05", 32), "contract": word("06", 20), "code_hash": word("07", 32),
            "submitter": word("08", 20), "party": { "kind": "terminal", "name": "cityA/meter-0017" }, "stream": word("09", 32),
        },
        "transaction": { "hash": word("0a", 32), "block_number": 7, "block_hash": word("0b", 32), "log_index": 0 },
    });
    let direct = proof.to_string().into_bytes();
    proof["pledge"] = serde_json::json!({ "account": word("0c", 20), "signature": word("1b", 65) });
    proof["later"] = serde_json::json!([{ "root": word("0d", 32), "first_seq": 6, "count": 2 }]);
    let pledged = proof.to_string().into_bytes();
    proof["chunk"]["stated"] = serde_json::json!({
        "relay": "relay-1", "relay_epoch": "9f3c", "chunk": 7, "at": "1451606460000000000",
    });
    proof["chain"]["party"] = serde_json::json!({ "kind": "server", "name": "cloud-1" });
    vec![direct, pledged, proof.to_string().into_bytes()]
}

#[test]
fn c4_a_fuzzed_proof_is_refused_in_words() {
    let seeds = proofs();
    assert!(seeds.iter().all(|seed| Proof::parse(seed).is_ok()), "{:?}", Proof::parse(&seeds[1]));
    fuzz(&seeds, |bytes| match Proof::parse(bytes) {
        Ok(proof) => {
            assert_eq!(Proof::parse(proof.to_json().as_bytes()), Ok(proof.clone()));
            // None of the seeds holds, so no mutation of them does.
            assert!(!proof.check().unwrap_err().to_string().is_empty());
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    });
}

#[test]
fn c4_fuzzed_pledges_and_receipts_have_one_spelling_and_no_signer() {
    let key = keys::Key::of_bytes(&[7; 32]).unwrap();
    let party = Party::terminal("cityA/meter-0017");
    let venue = Venue { chain_id: 31_337, contract: Address::repeat_byte(1), submitter: Address::repeat_byte(2) };
    let entry = Entry { prev: [3; 32], root: [4; 32], first_seq: 5, count: 6 };
    let pledge = Pledge::sign(venue, &party, entry, &key).unwrap();
    let receipt = |said| Receipt { root: [1; 32], said }.encode();
    let seeds = [
        pledge.encode(),
        receipt(Said::Taken),
        receipt(Said::Refused("the stream's head is another".into())),
        receipt(Said::Written([9; 32])),
    ];
    let mut signed = 0;
    fuzz(&seeds, |bytes| {
        if let Ok(read) = Pledge::parse(bytes) {
            assert_eq!(read.encode(), bytes);
            // Recovering a signer takes a while: only now and then.
            signed += 1;
            if signed % 16 == 1 && read != pledge {
                assert_ne!(read.signer(&party), Some(key.address()));
            }
        }
        if let Ok(read) = Receipt::parse(bytes) {
            assert_eq!(read.encode(), bytes);
        }
    });
}

/// A file that is nothing but large, long or deep is refused at once, and the refusal says which field it is.
#[test]
fn c4_a_malformed_proof_is_refused_with_the_field_that_is_wrong() {
    let seed: serde_json::Value = serde_json::from_slice(&proofs()[2]).unwrap();
    let word = |byte: &str, bytes: usize| serde_json::json!(format!("0x{}", byte.repeat(bytes)));
    let changed = |place: &str, value: serde_json::Value| {
        let mut changed = seed.clone();
        *changed.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        changed.to_string()
    };
    let deep = "[".repeat(100_000);
    // What reads as well, and is another spelling: the members of an object in their order.
    let as_array = |object: &serde_json::Value| {
        let names: &[&str] = if object["prev"].is_string() {
            &["prev", "root", "first_seq", "count", "index", "path"]
        } else {
            &["root", "first_seq", "count"]
        };
        serde_json::Value::Array(names.iter().map(|name| object[name].clone()).collect())
    };
    let cases = [
        (changed("/chunk/path", serde_json::Value::Array(vec![word("01", 32); 10_000])), "chunk.path must have at most 48"),
        (changed("/batch/path", serde_json::Value::Array(vec![word("01", 32); 49])), "batch.path must have at most 48"),
        (changed("/later", serde_json::Value::Array(vec![seed["later"][0].clone(); 16_385])), "later must have at most 16384"),
        (changed("/chunk/path/1", word("01", 31)), "chunk.path[1]: "),
        (changed("/record/salt", word("0A", 16)), "record.salt: "),
        (changed("/record/key", serde_json::json!("nothing")), "record.key: "),
        (changed("/record/at", serde_json::json!("007")), "record.at: "),
        (changed("/record/payload", serde_json::json!("0x1")), "record.payload: "),
        (changed("/chunk/header", word("87", 9)), "chunk.header: "),
        (changed("/chunk/stated/relay", serde_json::json!("a/b")), "chunk.stated.relay: "),
        (changed("/chunk/stated/relay_epoch", serde_json::json!("0F")), "chunk.stated.relay_epoch: "),
        (changed("/chunk/stated/chunk", serde_json::json!(-1)), "chunk.stated.chunk: "),
        (changed("/batch/count", serde_json::json!(1.5)), "batch.count: "),
        (changed("/chain/party/kind", serde_json::json!("relay")), "chain.party.kind: "),
        (changed("/later/0/root", serde_json::json!(null)), "later[0]: "),
        (changed("/pledge/signature", word("1b", 64)), "pledge.signature: "),
        (changed("/format", serde_json::json!("forebay-proof/2")), "its format is not"),
        (changed("/transaction", serde_json::json!({})), "missing field"),
        (changed("/batch", as_array(&seed["batch"])), "batch must be an object"),
        (changed("/later/0", as_array(&seed["later"][0])), "later must be an array of objects"),
        (format!("{{\"format\": \"forebay-proof/1\", \"record\": {deep}"), "invalid type: sequence"),
        (deep, "invalid type: sequence"),
        (serde_json::json!(["forebay-proof/1", {}, {}, {}, {}, {}]).to_string(), "missing field"),
        (String::new(), "EOF"),
        (" ".repeat(anchor::PROOF_BYTES_MAX + 1), "more than 4194304 bytes"),
    ];
    for (file, words) in cases {
        let refusal = Proof::parse(file.as_bytes()).unwrap_err().to_string();
        assert!(refusal.contains(words), "{words:?} is not in {refusal}");
        assert!(refusal.len() < 500, "{refusal}");
    }
}

/// Nodes of a state's trie that nobody's hash vouches for: whoever chooses the root can say anything, but end nobody.
#[test]
fn c4_fuzzed_nodes_of_a_state_are_refused_in_words() {
    use alloy::primitives::{Bytes, keccak256};
    use anchor::trie;
    let key = [7; 20];
    let path = keccak256(key);
    // A leaf with the whole path, the same below an extension, a branch with short leaves, and an account.
    let string = |bytes: &[u8]| match bytes {
        [byte @ 0..0x80] => vec![*byte],
        _ => [&[0x80 + bytes.len() as u8], bytes].concat(),
    };
    let list = |items: &[Vec<u8>]| {
        let payload = items.concat();
        match payload.len() {
            short @ 0..=55 => [&[0xc0 + short as u8], payload.as_slice()].concat(),
            long @ 56..=255 => [&[0xf8, long as u8], payload.as_slice()].concat(),
            long => [&[0xf9, (long >> 8) as u8, long as u8], payload.as_slice()].concat(),
        }
    };
    let leaf = list(&[string(&[&[0x20], path.as_slice()].concat()), string(b"\x2a")]);
    let below = list(&[string(&[&[0x20], &path[1..]].concat()), string(b"value")]);
    let extension = list(&[string(&[0x00, path[0]]), string(keccak256(&below).as_slice())]);
    let mut children = vec![string(b""); 17];
    children[usize::from(path[0] >> 4)] = list(&[string(&[0x31]), string(b"x")]);
    children[3] = string(&[9; 32]);
    let branch = list(&children);
    let account = list(&[string(b"\x02"), string(b"\x09"), string(&[1; 32]), string(&[2; 32])]);
    assert_eq!(trie::value(&keccak256(&leaf), &key, &[leaf.clone().into()]), Ok(vec![0x2a]));
    assert_eq!(
        trie::value(&keccak256(&extension), &key, &[extension.clone().into(), below.clone().into()]),
        Ok(b"value".to_vec())
    );
    assert_eq!(trie::account(&account), Ok(([1; 32], [2; 32])));
    assert_eq!(trie::word(&string(b"\x2a\x07")).map(|word| word[30..].to_vec()), Ok(vec![0x2a, 7]));
    fuzz(&[leaf, extension, branch, account, string(b"\x2a\x07")], |bytes| {
        let node = Bytes::copy_from_slice(bytes);
        let root = keccak256(&node);
        for nodes in [vec![node.clone()], vec![node.clone(), below.clone().into()], vec![node.clone(); 3], vec![]] {
            if let Err(untrue) = trie::value(&root, &key, &nodes) {
                assert!(!untrue.to_string().is_empty());
            }
        }
        assert_eq!(trie::value(&[0; 32], &key, std::slice::from_ref(&node)), Err(trie::Untrue::Node));
        let _ = (trie::account(bytes), trie::word(bytes));
    });
    let many = vec![Bytes::from_static(b"\xc0"); 66];
    assert_eq!(trie::value(&[0; 32], &key, &many), Err(trie::Untrue::Size));
    assert_eq!(trie::value(&[0; 32], &key, &[vec![0; 4_097].into()]), Err(trie::Untrue::Size));
}
