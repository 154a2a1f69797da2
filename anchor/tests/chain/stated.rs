//! What relays state of chunks that only they hold: anchored with the cloud's own, and proven without the record's leaving.

use std::sync::{Arc, Mutex};

use anchor::machine::State;
use anchor::verify::{Options, Reason};
use anchor::{Content, Party, Proof, ProveError, SourceError, StatementSource, VerifyError, Worker, prove_stated};
use chassis::{ManualClock, Registry};
use serde_json::{Value, json};
use testkit::wait_until;
use wire::{Epoch, Shown, Statement, merkle};

use crate::town::{Chunks, DEADLINE, Running, Town, header, leaves, records, secret};

pub const INDEX: Epoch = Epoch(0x1d3);

/// An index that forgets what it is told to.
#[derive(Default)]
pub struct Stated(Mutex<Vec<(i64, Statement)>>);

impl Stated {
    /// `relay-1` states its chunk `id`.
    pub fn add(&self, id: i64) {
        self.0.lock().unwrap().push((id, statement(id)));
    }

    fn kept(&self) -> Vec<i64> {
        self.0.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }
}

impl StatementSource for Stated {
    fn statements_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, Statement)>, SourceError> {
        Ok(self.0.lock().unwrap().iter().filter(|(own, _)| *own > id).take(limit).cloned().collect())
    }

    fn epoch(&self) -> Epoch {
        INDEX
    }

    fn batched(&self, through: i64) {
        self.0.lock().unwrap().retain(|(id, _)| *id > through);
    }
}

fn statement(id: i64) -> Statement {
    Statement {
        relay: "relay-1".parse().unwrap(),
        relay_epoch: Epoch(0x9a),
        chunk: id as u64 + 40,
        at: 1_700_000_000_000_000_000,
        header: header(id),
    }
}

pub fn shown(id: i64, index: usize) -> Shown {
    let record = records(id)[index].clone();
    let salt = secret().salt(&record.view());
    Shown { record, salt, chunk: id as u64 + 40, index: index as u64, path: merkle::path(&leaves(id), index) }
}

fn start(town: &Town, chunks: Arc<Chunks>, stated: Arc<Stated>) -> Running {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000_000));
    let config = town.config(Party::server("cloud-1"), 1);
    let anchoring = Worker::start_with_statements(config, chunks, Some(stated), clock.clone(), &Registry::new()).unwrap();
    Running::of(anchoring, clock)
}

#[tokio::test]
async fn c5_a_record_that_only_a_relay_holds_is_proven() {
    let town = Town::start().await;
    let (chunks, stated) = (Chunks::of(2), Arc::new(Stated::default()));
    stated.add(5);
    stated.add(7);
    let worker = start(&town, chunks.clone(), stated.clone());
    worker.reaches(1, State::Mined).await;
    town.mine(2).await;
    worker.reaches(1, State::Final).await;
    let ledger = worker.anchoring.ledger();
    let contents: Vec<Content> = ledger.leaves(1).unwrap().iter().map(|leaf| leaf.content().unwrap()).collect();
    assert_eq!(
        contents,
        [
            Content::Chunk(header(1)),
            Content::Chunk(header(2)),
            Content::Statement(statement(5)),
            Content::Statement(statement(7))
        ]
    );
    wait_until(
        DEADLINE,
        "what is batched is forgotten",
        async || if stated.kept().is_empty() { Ok(()) } else { Err(stated.kept()) },
    )
    .await;
    assert_eq!(ledger.standing().unwrap().records_final, 2 * crate::town::RECORDS, "stated records are not the cloud's own");
    let proof = prove_stated(ledger, INDEX, 7, shown(7, 3)).unwrap();
    let text = proof.to_json();
    assert_eq!(Proof::parse(text.as_bytes()).unwrap(), proof);
    let verified = proof.verify(&town.anvil.rpc(), &Options::default()).await.unwrap();
    assert_eq!((verified.record, verified.stated), (records(7)[3].clone(), Some(statement(7))));
    // Every field of what was stated counts, and so does that it was stated at all.
    let original: Value = serde_json::from_str(&text).unwrap();
    for (place, value) in [
        ("/chunk/stated/relay", json!("relay-2")),
        ("/chunk/stated/relay_epoch", json!("9b")),
        ("/chunk/stated/chunk", json!(48)),
        ("/chunk/stated/at", json!("1700000000000000001")),
        ("/record/payload", json!("0x31")),
        ("/chunk/index", json!(2)),
    ] {
        let mut changed = original.clone();
        *changed.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        let changed = Proof::parse(changed.to_string().as_bytes()).unwrap();
        assert!(matches!(changed.check(), Err(Reason::Chunk | Reason::Record | Reason::Header(_))), "{place}");
    }
    let mut own = original.clone();
    own["chunk"].as_object_mut().unwrap().remove("stated");
    assert_eq!(Proof::parse(own.to_string().as_bytes()).unwrap().check(), Err(Reason::Chunk));
    let mut terminal = original;
    terminal["chain"]["party"]["kind"] = json!("terminal");
    let refusal = anchor::verify_file(terminal.to_string().as_bytes(), &town.anvil.rpc(), &Options::default()).await;
    assert!(matches!(refusal, Err(VerifyError::NotVerified(Reason::Header(_)))), "{refusal:?}");
}

#[tokio::test]
async fn c5_a_relay_that_changed_what_it_stated_gets_no_proof() {
    let town = Town::start().await;
    let stated = Arc::new(Stated::default());
    stated.add(5);
    let worker = start(&town, Chunks::of(0), stated.clone());
    worker.reaches(1, State::Mined).await;
    let ledger = worker.anchoring.ledger();
    let early = prove_stated(ledger, INDEX, 5, shown(5, 0)).unwrap_err();
    assert!(matches!(early, ProveError::NotFinal { state: State::Mined, .. }), "{early}");
    town.mine(2).await;
    worker.reaches(1, State::Final).await;
    assert!(prove_stated(ledger, INDEX, 5, shown(5, 0)).is_ok());
    let good = shown(5, 0);
    let mut payload = good.clone();
    payload.record.payload[0] ^= 1;
    let mut time = good.clone();
    time.record.at += 1;
    let mut sibling = good.clone();
    sibling.path[0][0] ^= 1;
    let other = shown(7, 0);
    for changed in [payload, time, sibling, other, Shown { index: 1, ..good.clone() }, Shown { salt: [0; 16], ..good }] {
        let refusal = prove_stated(ledger, INDEX, 5, changed).unwrap_err();
        let text = refusal.to_string();
        assert!(matches!(refusal, ProveError::OtherStated { .. }) && text.contains("relay-1") && text.contains("45"), "{text}");
    }
    let none = prove_stated(ledger, INDEX, 6, shown(5, 0)).unwrap_err();
    assert!(matches!(none, ProveError::NotBatched(6)), "{none}");
}

#[tokio::test]
async fn c5_statements_are_batched_once_over_a_restart() {
    let town = Town::start().await;
    let (chunks, stated) = (Chunks::of(1), Arc::new(Stated::default()));
    stated.add(3);
    let worker = start(&town, chunks.clone(), stated.clone());
    worker.reaches(1, State::Mined).await;
    worker.stop().await;
    // The index was not told, or lost that it was: it says the same again, and more.
    stated.0.lock().unwrap().clear();
    for id in [3, 4, 6] {
        stated.add(id);
    }
    chunks.add(1);
    let worker = start(&town, chunks, stated.clone());
    worker.reaches(2, State::Mined).await;
    let batched = |number| worker.anchoring.ledger().leaves(number).unwrap().iter().map(|leaf| leaf.chunk).collect::<Vec<_>>();
    assert_eq!((batched(1), batched(2)), (vec![1, 3], vec![2, 4, 6]));
    wait_until(DEADLINE, "the index may forget", async || if stated.kept().is_empty() { Ok(()) } else { Err(stated.kept()) })
        .await;
}
