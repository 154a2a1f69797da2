//! Anchoring beside ingest: a chain that is away costs nothing but time, and a proof is verified by anybody.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::path::Path;
use std::time::Duration;

use chassis::Span;
use cloud::config::Anchoring;
use serde_json::Value;
use serde_json::json;
use town::keeper::{Relay, SECOND, SERIES, entry};
use town::{Frame, Town, dev, eventually, folder};
use wire::index::Outcome;
use wire::{Command, Digest, Epoch, EpochSecret, Operation, Record, Shown, merkle};

fn anchored(dir: &Path, rpc: &str, contract: String) -> cloud::Config {
    let mut config = dev(dir);
    config.storage.segment_age = Span::millis(50);
    config.anchor = Some(Anchoring {
        batch: anchor::Batching { age: Span::millis(50), ..anchor::Batching::default() },
        confirmation: anchor::Confirmation::Depth(1),
        poll: Span::millis(50),
        timeout: Span::seconds(2),
        ..Anchoring::new(rpc.to_owned(), contract, dir.join("key"))
    });
    config
}

async fn state(town: &Town, key: &str) -> Value {
    let (status, place) = town.get("", &format!("/api/v1/where/{key}")).await;
    assert_eq!(status, 200, "{place}");
    assert_eq!(place["key"], key);
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_a_chain_that_is_away_delays_anchoring_and_nothing_else() {
    let (_dir, path) = folder();
    anchor::keys::create(&path.join("key")).unwrap();
    // A port that was free a moment ago: nobody answers there.
    let rpc = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let town = Town::start(anchored(&path, &rpc, format!("0x{}", "11".repeat(20)))).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).announcing(Some("cityA/meter-1")).run(SERIES, 1, &["1", "2"])).await;
    let key = format!("{SERIES}@e.1");
    eventually("a batch", async || state(&town, &key).await["batch"]["number"] == 1).await;
    let place = state(&town, &key).await;
    assert_eq!(
        (&place["archived"], &place["state"], &place["batch"]["detail"]),
        (&true.into(), &"RequestCompleted".into(), &"BATCHED".into())
    );
    assert_eq!(town.get("", &format!("/api/v1/proofs/{key}")).await.0, 409);
    let (_, status) = town.get("", "/api/v1/status").await;
    assert_eq!(status["batches"]["batched"], 1);
    relay.send(&Frame::new(2).run(SERIES, 3, &["3"])).await;
    assert_eq!(town.walk("", SERIES, 10).await.len(), 3);
    let absent = state(&town, &format!("{SERIES}@e.9")).await;
    assert_eq!((&absent["archived"], &absent["state"]), (&false.into(), &Value::Null));
    town.stop().await;
}

/// A chain whose blocks are final at once, with the contract on it.
async fn chain(path: &Path) -> (testkit::Anvil, String) {
    let options = testkit::anvil::Options { slots_in_an_epoch: Some(1), ..testkit::anvil::Options::default() };
    let anvil = testkit::Anvil::start_with(options).await;
    let bytes = wire::digest::from_hex(anvil.keys()[0].trim_start_matches("0x")).unwrap();
    let key = anchor::keys::import(&path.join("key"), &bytes).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &key, Duration::from_secs(10)).await.unwrap().contract;
    (anvil, contract.to_string())
}

/// What an honest relay shows of the records of [`entry`].
fn shown(chunk: u64, first_seq: u64, payloads: &[&str], seq: u64) -> Shown {
    let secret = EpochSecret::new([7; 32]);
    let record = |(seq, payload): (u64, &&str)| Record {
        key: wire::RecordKey { series: SERIES.parse().unwrap(), epoch: Epoch(0xe), seq },
        at: seq as i64 * SECOND,
        operation: Operation::Forward,
        payload: payload.as_bytes().to_vec(),
    };
    let records: Vec<Record> = (first_seq..).zip(payloads).map(record).collect();
    let leaves: Vec<Digest> = records.iter().map(|record| secret.leaf(&record.view())).collect();
    let index = (seq - first_seq) as usize;
    let record = records[index].clone();
    Shown { salt: secret.salt(&record.view()), record, chunk, index: index as u64, path: merkle::path(&leaves, index) }
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_record_that_a_relay_keeps_is_proven_where_it_is() {
    let (_dir, path) = folder();
    let (anvil, contract) = chain(&path).await;
    let mut config = anchored(&path, &anvil.rpc(), contract);
    config.history.pull_wait = Span::millis(700);
    let town = Town::start(config.clone()).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2", "3"]), entry(5, SERIES, 9, &["9"])]).await;
    let proof = async |town: &Town, seq: u64| town.get("", &format!("/api/v1/proofs/{SERIES}@e.{seq}")).await;
    assert_eq!(proof(&town, 5).await.0, 404, "no relay has stated it");
    let early = proof(&town, 2).await;
    assert!(early.0 == 409 && early.1["detail"].as_str().unwrap().contains("relay-1"), "{early:?}");
    // The chain goes on, so that what is mined gets final.
    let rpc = anvil.rpc();
    let mine = async || {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "anvil_mine", "params": ["0x1"]}).to_string();
        reqwest::Client::new().post(&rpc).header("content-type", "application/json").body(body).send().await.unwrap();
    };
    eventually("the statement is on chain", async || {
        mine().await;
        town.get("", "/api/v1/status").await.1["batches"]["final"] == 1
    })
    .await;
    let show = async |relay: &mut Relay, shown: Shown| {
        let Command::Prove { id, chunk: 4, key } = relay.command().await else { panic!("another order") };
        assert_eq!(key.to_string(), format!("{SERIES}@e.2"));
        relay.reply(id, Outcome::Shown(Box::new(shown))).await;
    };
    let good = shown(4, 1, &["1", "2", "3"], 2);
    let ((status, text), ()) = tokio::join!(proof(&town, 2), show(&mut relay, good.clone()));
    assert_eq!(status, 200, "{text}");
    let options = anchor::verify::Options::default();
    let verified = anchor::verify_file(text.to_string().as_bytes(), &anvil.rpc(), &options).await.unwrap();
    let stated = verified.stated.unwrap();
    assert_eq!((verified.record, stated.relay.as_str(), stated.chunk), (good.record.clone(), "relay-1", 4));
    assert_eq!(verified.party, anchor::Party::server("cloud"));
    assert_eq!(town.counter("cloud_records_ingested_total"), 0, "nothing was taken away from the relay");
    // A relay that shows something else is named.
    let mut changed = good.clone();
    changed.record.payload = b"7".to_vec();
    let ((status, text), ()) = tokio::join!(proof(&town, 2), show(&mut relay, changed));
    let detail = text["detail"].as_str().unwrap();
    assert!(status == 409 && detail.contains("relay-1") && detail.contains("chunk 4"), "{text}");
    assert_eq!(town.counter("cloud_relay_proofs_total{outcome=\"Changed\"}"), 1);
    let refuses = async {
        let Command::Prove { id, .. } = relay.command().await else { panic!("another order") };
        relay.reply(id, Outcome::Failed { reason: "chunk 4 can't be read".to_owned() }).await;
    };
    let ((status, text), ()) = tokio::join!(proof(&town, 2), refuses);
    assert!(status == 409 && text["detail"].as_str().unwrap().contains("relay-1 keeps this record, and can't show it"), "{text}");
    let (status, text) = proof(&town, 2).await;
    assert!(status == 409 && text["detail"].as_str().unwrap().contains("does not answer"), "{text}");
    // Over a restart of the cloud nothing is anchored twice, and what was stated is known.
    town.stop().await;
    let town = Town::start(config).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2", "3"]), entry(5, SERIES, 9, &["9"])]).await;
    relay.states(9, 12, vec![entry(10, SERIES, 12, &["12"])]).await;
    eventually("the second batch", async || {
        mine().await;
        town.get("", "/api/v1/status").await.1["batches"]["final"] == 2
    })
    .await;
    let ((status, _), ()) = tokio::join!(proof(&town, 2), async {
        // The order of the answer that nobody waited for any more may come first: the session may have kept it.
        show(&mut relay, good).await;
    });
    assert_eq!(status, 200);
    town.stop().await;
    let ledger = anchor::LedgerView::open(&path.join("data/anchor.sqlite"), Epoch(0)).unwrap();
    let count = |number| ledger.leaves(number).unwrap().len();
    assert_eq!((count(1), count(2)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_what_was_stated_before_anything_was_anchored_is_made_up_for() {
    let (_dir, path) = folder();
    let (anvil, contract) = chain(&path).await;
    let town = Town::start(dev(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2", "3"])]).await;
    town.stop().await;
    let town = Town::start(anchored(&path, &anvil.rpc(), contract)).await;
    eventually("the batch", async || town.get("", "/api/v1/status").await.1["batches"]["batched"] != Value::Null).await;
    eventually("its leaf", async || {
        let ledger = anchor::LedgerView::open(&path.join("data/anchor.sqlite"), Epoch(0)).unwrap();
        let leaves = ledger.leaves(1).unwrap();
        leaves.iter().any(|leaf| matches!(leaf.content(), Ok(anchor::Content::Statement(stated)) if stated.chunk == 4))
    })
    .await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_a_record_comes_on_chain_and_its_proof_is_verified() {
    let (_dir, path) = folder();
    let anvil = testkit::Anvil::start().await;
    let bytes = wire::digest::from_hex(anvil.keys()[0].trim_start_matches("0x")).unwrap();
    let key = anchor::keys::import(&path.join("key"), &bytes).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &key, Duration::from_secs(10)).await.unwrap().contract;
    let town = Town::start(anchored(&path, &anvil.rpc(), contract.to_string())).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1", "2", "3"])).await;
    let key = format!("{SERIES}@e.2");
    // Without more blocks a depth of one is never reached, so a second batch is made on the way.
    let mut number = 1;
    eventually("the chain", async || {
        number += 1;
        relay.send(&Frame::new(number).run(SERIES, number + 10, &["x"])).await;
        state(&town, &key).await["state"] == "OnChain"
    })
    .await;
    let proof = reqwest::get(format!("http://{}/api/v1/proofs/{key}", town.http)).await.unwrap();
    assert_eq!(proof.status(), 200);
    let proof = proof.text().await.unwrap();
    let options = anchor::verify::Options { depth: Some(1), ..anchor::verify::Options::default() };
    let verified = anchor::verify_file(proof.as_bytes(), &anvil.rpc(), &options).await;
    assert!(verified.is_ok(), "{verified:?}");
    let forged = proof.replace(&wire::digest::to_hex(b"2"), &wire::digest::to_hex(b"9"));
    let refused = anchor::verify_file(forged.as_bytes(), &anvil.rpc(), &options).await;
    assert!(forged != proof && matches!(refused, Err(anchor::VerifyError::NotVerified(_))), "{refused:?}");
    town.stop().await;
}
