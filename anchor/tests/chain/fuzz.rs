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
