//! Anchoring beside ingest: a chain that is away costs nothing but time, and a proof is verified by anybody.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::path::Path;
use std::time::Duration;

use chassis::Span;
use cloud::config::Anchoring;
use serde_json::Value;
use town::{Frame, Town, dev, eventually, folder};

const SERIES: &str = "cityA/meter-1/power";

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
