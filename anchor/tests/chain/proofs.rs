//! One file, checked with nothing but an RPC address.

use anchor::machine::State;
use anchor::verify::{Depth, Options, Reason};
use anchor::{Address, Evidence, Proof, ProveError, VerifyError, prove, verify_file};
use serde_json::{Value, json};
use testkit::Anvil;
use testkit::anvil::Options as AnvilOptions;

use crate::town::{Chunks, Running, Town, leaves, records, secret};

/// A town whose five chunks are one batch on chain for good, and the proof of the fourth record of chunk 3.
async fn proven() -> (Town, Running, Proof) {
    let town = Town::start().await;
    let worker = Running::start(town.terminal(), Chunks::of(5));
    worker.reaches(1, State::Mined).await;
    town.mine(2).await;
    worker.reaches(1, State::Final).await;
    let proof = proof(&worker, 3, 3).unwrap();
    (town, worker, proof)
}

fn proof(worker: &Running, chunk: i64, index: usize) -> Result<Proof, ProveError> {
    let record = &records(chunk)[index];
    let salt = secret().salt(&record.view());
    prove(worker.anchoring.ledger(), &Evidence { chunk, leaves: &leaves(chunk), index, record, salt })
}

async fn verify(town: &Town, text: &str) -> Result<anchor::Verified, VerifyError> {
    verify_file(text.as_bytes(), &town.anvil.rpc(), &Options::default()).await
}

#[tokio::test]
async fn c4_a_proof_verifies_with_an_rpc_address_alone() {
    let (town, worker, proof) = proven().await;
    let text = proof.to_json();
    assert_eq!(Proof::parse(text.as_bytes()).unwrap(), proof);
    let verified = verify(&town, &text).await.unwrap();
    assert_eq!(verified.record, records(3)[3]);
    assert_eq!(verified.submitter, worker.anchoring.address());
    assert_eq!(verified.party, anchor::Party::terminal("cityA/meter-0017"));
    assert_eq!(verified.depth, Depth::Finalized);
    assert!(!verified.submitter_demanded && verified.block_time > 0);
    // Every record of every chunk.
    for chunk in 1..=5 {
        for index in 0..records(chunk).len() {
            let proof = self::proof(&worker, chunk, index).unwrap();
            assert_eq!(proof.check().unwrap(), records(chunk)[index]);
        }
    }
}

#[tokio::test]
async fn c4_the_submitter_can_be_demanded() {
    let (town, worker, proof) = proven().await;
    let ours = Options { submitter: Some(worker.anchoring.address()), ..Options::default() };
    assert!(proof.verify(&town.anvil.rpc(), &ours).await.unwrap().submitter_demanded);
    let other = Options { submitter: Some(Address::ZERO), ..Options::default() };
    let refusal = proof.verify(&town.anvil.rpc(), &other).await.unwrap_err();
    assert!(matches!(refusal, VerifyError::NotVerified(Reason::Submitter { .. })), "{refusal}");
}

/// Changes every field of the file, one at a time, to another value that is well formed.
#[tokio::test]
async fn c4_a_change_of_any_field_is_refused() {
    let (town, _worker, proof) = proven().await;
    let text = proof.to_json();
    let original: Value = serde_json::from_str(&text).unwrap();
    let mut places = Vec::new();
    leaves_of(&original, String::new(), &mut places);
    assert!(places.len() >= 25, "{places:?}");
    for place in places {
        let mut changed = original.clone();
        let value = changed.pointer_mut(&place).unwrap();
        *value = another(value);
        let outcome = verify(&town, &changed.to_string()).await;
        assert!(
            matches!(outcome, Err(VerifyError::NotVerified(_))),
            "{place} changed to {value:?}: {outcome:?}",
            value = changed.pointer(&place)
        );
    }
    assert!(verify(&town, &text).await.is_ok(), "and the original holds still");
}

fn leaves_of(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves_of(value, format!("{place}/{name}"), places)),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, value)| leaves_of(value, format!("{place}/{n}"), places)),
        _ => places.push(place),
    }
}

fn another(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_u64().unwrap() + 1),
        Value::String(text) => match text.as_str() {
            "store" => json!("forward"),
            "terminal" => json!("server"),
            text => {
                let (rest, last) = text.split_at(text.len() - 1);
                json!(format!("{rest}{}", if last == "0" { "1" } else { "0" }))
            }
        },
        other => panic!("no other value for {other}"),
    }
}

#[tokio::test]
async fn c4_a_path_that_is_cut_or_lengthened_is_refused() {
    let (_town, _worker, proof) = proven().await;
    let original: Value = serde_json::from_str(&proof.to_json()).unwrap();
    for place in ["/chunk/path", "/batch/path"] {
        let mut cut = original.clone();
        cut.pointer_mut(place).unwrap().as_array_mut().unwrap().pop();
        let mut long = original.clone();
        let path = long.pointer_mut(place).unwrap().as_array_mut().unwrap();
        path.push(path[0].clone());
        for changed in [cut, long] {
            assert!(Proof::parse(changed.to_string().as_bytes()).unwrap().check().is_err());
        }
    }
}

#[tokio::test]
async fn c4_a_proof_holds_on_its_own_chain_only() {
    let (_town, _worker, proof) = proven().await;
    let other = Anvil::start_with(AnvilOptions { chain_id: Some(1_337), ..AnvilOptions::default() }).await;
    let refusal = proof.verify(&other.rpc(), &Options::default()).await.unwrap_err();
    assert!(matches!(refusal, VerifyError::NotVerified(Reason::Chain(_))), "{refusal}");
    let gone = proof.verify("http://127.0.0.1:9", &Options::default()).await.unwrap_err();
    assert!(matches!(gone, VerifyError::CouldNot(_)), "{gone}");
    let nonsense = proof.verify("nowhere", &Options::default()).await.unwrap_err();
    assert!(matches!(nonsense, VerifyError::CouldNot(_)), "{nonsense}");
}

#[tokio::test]
async fn c4_what_could_still_vanish_is_not_verified() {
    let town = Town::start().await;
    let worker = Running::start(crate::town::depth(town.terminal(), 1), Chunks::of(1));
    worker.reaches(1, State::Mined).await;
    let early = proof(&worker, 1, 0).unwrap_err();
    assert!(matches!(early, ProveError::NotFinal { state: State::Mined, .. }), "{early}");
    town.mine(1).await;
    worker.reaches(1, State::Final).await;
    let proof = proof(&worker, 1, 0).unwrap();
    let strict = proof.verify(&town.anvil.rpc(), &Options::default()).await.unwrap_err();
    assert!(matches!(strict, VerifyError::NotVerified(Reason::NotFinal { .. })), "{strict}");
    let depth = |depth| Options { depth: Some(depth), ..Options::default() };
    assert_eq!(proof.verify(&town.anvil.rpc(), &depth(1)).await.unwrap().depth, Depth::Blocks(1));
    assert!(proof.verify(&town.anvil.rpc(), &depth(2)).await.is_err());
    // And after the block has vanished nothing helps.
    worker.stop().await;
    town.ask("anvil_reorg", json!([2, []])).await;
    let vanished = proof.verify(&town.anvil.rpc(), &depth(1)).await.unwrap_err();
    assert!(matches!(vanished, VerifyError::NotVerified(Reason::NoTransaction)), "{vanished}");
}

#[tokio::test]
async fn c4_no_proof_is_made_of_what_was_changed_after_anchoring() {
    let (_town, worker, _proof) = proven().await;
    let mut record = records(3)[3].clone();
    let salt = secret().salt(&record.view());
    record.payload = b"0.1".to_vec();
    let evidence = Evidence { chunk: 3, leaves: &leaves(3), index: 3, record: &record, salt };
    let refusal = prove(worker.anchoring.ledger(), &evidence).unwrap_err();
    assert!(matches!(refusal, ProveError::OtherRecord { chunk: 3, index: 3 }), "{refusal}");
    let mut changed = leaves(3);
    changed[3] = secret().leaf(&record.view());
    let evidence = Evidence { leaves: &changed, ..evidence };
    let refusal = prove(worker.anchoring.ledger(), &evidence).unwrap_err();
    assert!(matches!(refusal, ProveError::OtherLeaves(3)), "{refusal}");
    let missing = proof(&worker, 99, 0).unwrap_err();
    assert!(matches!(missing, ProveError::NotBatched(99)), "{missing}");
}

/// Cut, flipped and spliced files: a refusal each, and never a panic.
#[tokio::test]
async fn c4_a_malformed_file_is_refused_in_words() {
    use rand::RngExt;
    let (_town, _worker, proof) = proven().await;
    let text = proof.to_json().into_bytes();
    let seed = testkit::Seed::new();
    let mut rng = seed.rng();
    let mut unread = 0;
    for _ in 0..5_000 {
        let mut file = text.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..file.len());
            match rng.random_range(0..4) {
                0 => file.truncate(at.max(1)),
                1 => file[at] = rng.random(),
                2 => file.insert(at, rng.random_range(b' '..b'~')),
                _ => drop(file.remove(at)),
            }
            if file.is_empty() {
                file.push(b'{');
            }
        }
        match Proof::parse(&file) {
            Ok(changed) => assert!(
                changed == proof || changed.check().is_err() || only_names_the_chain(&changed, &proof),
                "{}",
                changed.to_json()
            ),
            Err(refusal) => {
                unread += 1;
                assert!(!refusal.to_string().is_empty());
            }
        }
    }
    assert!(unread > 1_000, "{unread}");
    for file in [&b""[..], b"null", b"{}", b"[]", &[b'['; 100_000], &vec![b' '; anchor::PROOF_BYTES_MAX + 1]] {
        assert!(Proof::parse(file).is_err());
    }
    let twice = String::from_utf8(text).unwrap().replacen('{', r#"{"format":"forebay-proof/1","#, 1);
    assert!(Proof::parse(twice.as_bytes()).is_err(), "a field that is there twice");
}

/// Whether two proofs differ only in what nobody but the chain can judge.
fn only_names_the_chain(a: &Proof, b: &Proof) -> bool {
    let part = |proof: &Proof, name: &str| serde_json::from_str::<Value>(&proof.to_json()).unwrap()[name].clone();
    let same = |name| part(a, name) == part(b, name);
    let batch = |proof| {
        let mut batch = part(proof, "batch");
        // Trees of several sizes have the same path to a leaf; which size it is the event says.
        for name in ["prev", "first_seq", "count"] {
            batch[name] = Value::Null;
        }
        batch
    };
    same("record") && same("chunk") && batch(a) == batch(b)
}
