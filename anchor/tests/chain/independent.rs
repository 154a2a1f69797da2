//! A verifier in another language, which shares nothing with ours but the page that describes the format: both say the same.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anchor::machine::State;
use anchor::verify::Options;
use anchor::{Evidence, Party, VerifyError, Worker, prove, prove_stated, verify_file};
use chassis::{ManualClock, Registry};
use serde_json::{Value, json};

use crate::stated::{INDEX, Stated, shown};
use crate::town::{Chunks, Running, Town, leaves, records, secret};

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/verify-proof")
}

/// A town whose cloud has chunks of its own and statements of a relay's in one batch, and later ones behind it.
async fn town() -> (Town, Running) {
    let town = Town::start().await;
    let (chunks, stated) = (Chunks::of(3), Arc::new(Stated::default()));
    stated.add(5);
    stated.add(7);
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000_000));
    let config = town.config(Party::server("cloud-1"), 1);
    let anchoring = Worker::start_with_statements(config, chunks.clone(), Some(stated), clock.clone(), &Registry::new()).unwrap();
    let worker = Running::of(anchoring, clock);
    worker.reaches(1, State::Mined).await;
    chunks.add(1);
    worker.reaches(2, State::Mined).await;
    town.mine(3).await;
    worker.reaches(2, State::Final).await;
    (town, worker)
}

/// What both say of these files, which must be the same: 0 yes, 1 no, 2 no answer. Each comes with a word for it.
async fn verdicts(town: &Town, files: &[(String, String)]) -> Vec<i32> {
    let place = |n: usize| town.place.path().join(format!("{n}.json"));
    let mut ours = Vec::new();
    for (n, (_, text)) in files.iter().enumerate() {
        std::fs::write(place(n), text).unwrap();
        ours.push(verify_file(text.as_bytes(), &town.anvil.rpc(), &Options::default()).await);
    }
    let mut command = Command::new("python3");
    command.arg(script()).args((0..files.len()).map(place)).arg(town.anvil.rpc());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // What follows a verdict is indented.
    let theirs: Vec<&str> = said.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(theirs.len(), files.len(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let mut verdicts = Vec::new();
    for (((what, _), ours), theirs) in files.iter().zip(ours).zip(theirs) {
        let (code, word) = match &ours {
            Ok(_) => (0, "verified: "),
            Err(VerifyError::NotVerified(_)) => (1, "not verified: "),
            Err(VerifyError::CouldNot(_)) => (2, "could not verify: "),
        };
        assert!(theirs.starts_with(word), "{what}: {ours:?}, and the other one: {theirs}");
        verdicts.push(code);
    }
    assert_eq!(output.status.code(), verdicts.iter().max().copied());
    verdicts
}

fn places(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| places(value, format!("{place}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, value)| places(value, format!("{place}/{n}"), found)),
        _ => found.push(place),
    }
}

/// Another value that is well formed.
fn another(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_u64().unwrap() + 1),
        Value::String(text) => match text.as_str() {
            "store" => json!("forward"),
            "server" => json!("terminal"),
            text => {
                let (rest, last) = text.split_at(text.len() - 1);
                json!(format!("{rest}{}", if last == "0" { "1" } else { "0" }))
            }
        },
        other => panic!("no other value for {other}"),
    }
}

#[tokio::test]
async fn c4_a_verifier_in_another_language_says_the_same_of_good_and_tampered_proofs() {
    let (town, worker) = town().await;
    let ledger = worker.anchoring.ledger();
    let record = &records(2)[3];
    let salt = secret().salt(&record.view());
    let own = prove(ledger, &Evidence { chunk: 2, leaves: &leaves(2), index: 3, record, salt }).unwrap();
    let of_relay = prove_stated(ledger, INDEX, 7, shown(7, 2)).unwrap();
    let long = own.clone().up_to_head(ledger).unwrap();
    let good = [("own", &own), ("of a relay", &of_relay), ("up to the head", &long)];
    let files = good.map(|(name, proof)| (name.to_owned(), proof.to_json()));
    assert_eq!(verdicts(&town, &files).await, [0, 0, 0]);
    let mut files = Vec::new();
    for proof in [&own, &of_relay] {
        let original: Value = serde_json::from_str(&proof.to_json()).unwrap();
        let mut found = Vec::new();
        places(&original, String::new(), &mut found);
        for place in found {
            let mut changed = original.clone();
            let value = changed.pointer_mut(&place).unwrap();
            *value = another(value);
            files.push((place, changed.to_string()));
        }
    }
    assert!(files.len() > 60, "{}", files.len());
    for (verdict, (place, _)) in verdicts(&town, &files).await.into_iter().zip(&files) {
        assert_ne!(verdict, 0, "{place}");
    }
}

#[tokio::test]
async fn c4_a_verifier_in_another_language_refuses_the_same_files() {
    let (town, worker) = town().await;
    let of_relay = prove_stated(worker.anchoring.ledger(), INDEX, 7, shown(7, 2)).unwrap();
    let text = of_relay.to_json();
    let original: Value = serde_json::from_str(&text).unwrap();
    let with = |place: &str, value: Value| {
        let mut changed = original.clone();
        *changed.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        changed.to_string()
    };
    let without = |object: &str, name: &str| {
        let mut changed = original.clone();
        changed.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        changed.to_string()
    };
    let header = original["chunk"]["header"].as_str().unwrap();
    let node = json!(format!("0x{}", "01".repeat(32)));
    let files = [
        ("nothing", String::new()),
        ("no object", "[]".into()),
        ("null", "null".into()),
        ("cut", text[..text.len() / 2].into()),
        ("deep", "[".repeat(100_000)),
        ("large", " ".repeat(anchor::PROOF_BYTES_MAX + 1)),
        ("a member twice", text.replacen('{', r#"{"format":"forebay-proof/1","#, 1)),
        ("another member", text.replacen('{', r#"{"more":1,"#, 1)),
        ("another version", with("/format", json!("forebay-proof/2"))),
        ("no salt", without("/record", "salt")),
        ("no statement", without("/chunk", "stated")),
        ("no relay", without("/chunk/stated", "relay")),
        ("an array for an object", with("/batch", json!(["0x", "0x", 1, 2, 3, []]))),
        (
            "upper case",
            with("/record/salt", json!(original["record"]["salt"].as_str().unwrap().to_uppercase().replace('X', "x"))),
        ),
        ("half a byte", with("/record/payload", json!("0x1"))),
        ("a time with a zero", with("/record/at", json!("01"))),
        ("a number as text", with("/batch/count", json!("5"))),
        ("a fraction", with("/batch/count", json!(5.0))),
        ("a negative number", with("/chunk/index", json!(-1))),
        ("a large number", with("/chunk/index", json!(u64::MAX))),
        ("a long path", with("/chunk/path", Value::Array(vec![node; 10_000]))),
        ("an epoch with a zero", with("/chunk/stated/relay_epoch", json!("09"))),
        ("a relay of two", with("/chunk/stated/relay", json!("a/b"))),
        ("a key that is none", with("/record/key", json!("cityA/meter@1.1"))),
        ("a longer header", with("/chunk/header", json!(format!("{header}00")))),
        ("a shorter header", with("/chunk/header", json!(&header[..header.len() - 2]))),
        ("a header that is none", with("/chunk/header", json!("0x9b7fffffffffffffff"))),
        ("no header", with("/chunk/header", json!("0x"))),
    ];
    let mut files = files.map(|(what, file)| (what.to_owned(), file)).to_vec();
    // Null stands for what may be missing, but for a list.
    for (member, value) in [("later", Value::Null), ("later", json!([])), ("pledge", Value::Null)] {
        let mut null = original.clone();
        null[member] = value;
        files.push((format!("null for {member}"), null.to_string()));
    }
    let verdicts_of_all = verdicts(&town, &files).await;
    let (malformed, sound) = verdicts_of_all.split_at(files.len() - 2);
    assert!(malformed.iter().all(|verdict| *verdict == 1) && sound == [0, 0], "{verdicts_of_all:?}");
    worker.stop().await;
    let elsewhere = Town { anvil: testkit::Anvil::start().await, ..town };
    assert_eq!(verdicts(&elsewhere, &[("another chain".to_owned(), text)]).await, [1]);
}
