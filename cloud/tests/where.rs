//! Where a record is: each rung of the ladder, and what is known of a record that is not here.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use chassis::Span;
use serde_json::{Value, json};
use town::{Frame, Town, dev, eventually, folder};

const SERIES: &str = "cityA/meter-1/power";

async fn place(town: &Town, series: &str, place: &str) -> Value {
    let (status, found) = town.get("", &format!("/api/v1/where/{series}@{place}")).await;
    assert_eq!(status, 200, "{found}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_record_climbs_from_page_to_chunk_to_root() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(SERIES, 1, &["1", "2"])).await;
    let mut expected = json!({
        "key": "cityA/meter-1/power@e.2", "rung": "cloud-durable", "archived": true, "absent": null, "state": "RequestCompleted", "since": null,
        "at": "1970-01-01T00:00:02.000000000Z", "relay": "relay-1", "kept": "page", "chunk": null, "root": null, "batch": null,
    });
    let found = place(&town, SERIES, "e.2").await;
    assert!(found["since"].as_str().unwrap() > "2020", "{found}");
    expected["since"] = found["since"].clone();
    assert_eq!(found, expected);
    town.archive.close_now().unwrap();
    (expected["kept"], expected["chunk"]) = ("chunk".into(), 1.into());
    assert_eq!(place(&town, SERIES, "e.2").await, expected);
    // The root is known as soon as the secret is.
    relay.send(&Frame::new(2).announcing(None).run(SERIES, 3, &["3"])).await;
    eventually("a root", async || place(&town, SERIES, "e.2").await["rung"] == "root-known").await;
    // It gets another number then, so that whoever walks along the numbers sees it.
    let (chunk, header) = town.archive.chunks_after(0, 1).unwrap().remove(0);
    expected["chunk"] = chunk.into();
    (expected["rung"], expected["root"]) = ("root-known".into(), wire::digest::to_hex(&header.root).into());
    assert_eq!(place(&town, SERIES, "e.2").await, expected);
    assert_eq!(place(&town, SERIES, "e.3").await["rung"], "cloud-durable");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_record_that_is_not_here_is_in_a_gap_or_beyond_the_last_one() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(SERIES, 3, &["3", "4"]).run(SERIES, 7, &["7"])).await;
    for (series, number, absent) in [
        (SERIES, "e.1", json!({"reason": "gap", "from_seq": 1, "to_seq": 2, "last_seq": 7})),
        (SERIES, "e.6", json!({"reason": "gap", "from_seq": 5, "to_seq": 6, "last_seq": 7})),
        (SERIES, "e.8", json!({"reason": "beyond", "last_seq": 7})),
        (SERIES, "f.3", json!({"reason": "beyond", "last_seq": null})),
        ("cityA/meter-9/power", "e.3", json!({"reason": "beyond", "last_seq": null})),
    ] {
        let found = place(&town, series, number).await;
        assert_eq!((&found["rung"], &found["absent"]), (&json!("not-held"), &absent), "{number}");
        assert_eq!((&found["archived"], &found["state"], &found["at"]), (&json!(false), &Value::Null, &Value::Null));
    }
    relay.send(&Frame::new(2).run(SERIES, 5, &["5", "6"])).await;
    let found = place(&town, SERIES, "e.6").await;
    assert_eq!((&found["rung"], &found["absent"]), (&json!("cloud-durable"), &Value::Null));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_record_climbs_from_batch_to_chain() {
    let (_dir, path) = folder();
    let anvil = testkit::Anvil::start().await;
    let bytes = wire::digest::from_hex(anvil.keys()[0].trim_start_matches("0x")).unwrap();
    let key = anchor::keys::import(&path.join("key"), &bytes).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &key, std::time::Duration::from_secs(10)).await.unwrap().contract;
    let mut config = dev(&path);
    config.storage.segment_age = Span::millis(50);
    config.anchor = Some(cloud::config::Anchoring {
        batch: anchor::Batching { age: Span::millis(50), ..anchor::Batching::default() },
        confirmation: anchor::Confirmation::Depth(1),
        poll: Span::millis(50),
        timeout: Span::seconds(2),
        ..cloud::config::Anchoring::new(anvil.rpc(), contract.to_string(), path.join("key"))
    });
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1"])).await;
    let rungs = ["cloud-durable", "root-known", "batched", "sent-to-chain", "on-chain"];
    let mut reached = 0;
    let mut number = 1;
    eventually("the chain", async || {
        // Without more blocks a depth of one is never reached, so more batches are made on the way.
        number += 1;
        relay.send(&Frame::new(number).run(SERIES, number + 10, &["x"])).await;
        let found = place(&town, SERIES, "e.1").await;
        let rung = rungs.iter().position(|rung| found["rung"] == *rung).unwrap();
        assert!(rung >= reached, "{found} after {}", rungs[reached]);
        assert_eq!(rung >= 2, found["batch"].is_object(), "{found}");
        reached = rung;
        rung == 4
    })
    .await;
    let found = place(&town, SERIES, "e.1").await;
    assert_eq!((&found["state"], &found["batch"]["number"]), (&json!("OnChain"), &json!(1)));
    assert!(found["batch"]["block"].as_u64().unwrap() > 0, "{found}");
    let hash = found["batch"]["transaction"].as_str().unwrap();
    assert!(hash.len() == 66 && hash.starts_with("0x"), "{found}");
    assert_eq!(found["root"].as_str().unwrap().len(), 64, "{found}");
    town.stop().await;
}

/// What `sqlite3` shows of a record: state, since, batch, transaction, the batch's own state and why it failed.
fn shown(path: &std::path::Path, key: &str) -> Option<Value> {
    let (series, place) = key.split_once('@').unwrap();
    let (epoch, seq) = place.split_once('.').unwrap();
    let connection = store::rusqlite::Connection::open(path.join("data/archive.sqlite")).unwrap();
    let sql = "SELECT json_array(state, since, batch, tx, detail, reason) FROM record_states WHERE series = ?1 AND epoch = ?2 AND seq = ?3";
    let mut select = connection.prepare(sql).unwrap();
    let seq: i64 = seq.parse().unwrap();
    let mut rows = select.query(store::rusqlite::params![series, epoch, seq]).unwrap();
    let text: String = rows.next().unwrap()?.get(0).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

async fn chain(anvil: &testkit::Anvil, method: &str, params: Value) {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = reqwest::Client::new().post(anvil.rpc()).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_sql_and_http_say_the_same_of_a_record_in_every_state() {
    let (_dir, path) = folder();
    let anvil = testkit::Anvil::start().await;
    let bytes = wire::digest::from_hex(anvil.keys()[0].trim_start_matches("0x")).unwrap();
    let key = anchor::keys::import(&path.join("key"), &bytes).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &key, std::time::Duration::from_secs(10)).await.unwrap().contract;
    chain(&anvil, "evm_setAutomine", json!([false])).await;
    let mut config = dev(&path);
    config.storage.segment_age = Span::millis(50);
    config.anchor = Some(cloud::config::Anchoring {
        batch: anchor::Batching { age: Span::millis(50), ..anchor::Batching::default() },
        confirmation: anchor::Confirmation::Depth(2),
        poll: Span::millis(50),
        timeout: Span::seconds(2),
        ..cloud::config::Anchoring::new(anvil.rpc(), contract.to_string(), path.join("key"))
    });
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    // Nobody knows its secret, so it can't be anchored.
    relay.send(&Frame::new(1).run(SERIES, 1, &["1", "2"])).await;
    let key = format!("{SERIES}@e.2");
    for (state, detail) in
        [("RequestCompleted", None), ("SentToChain", Some("SENT")), ("SentToChain", Some("MINED")), ("OnChain", Some("FINAL"))]
    {
        match detail {
            Some("SENT") => relay.send(&Frame::new(2).announcing(None).run(SERIES, 3, &["3"])).await,
            Some("MINED") => chain(&anvil, "anvil_mine", json!(["0x1"])).await,
            Some(_) => chain(&anvil, "anvil_mine", json!(["0x4"])).await,
            None => {}
        }
        eventually(&format!("{state} {detail:?}, by both"), async || {
            let found = place(&town, SERIES, "e.2").await;
            let batch = &found["batch"];
            let http =
                json!([found["state"], found["since"], batch["number"], batch["transaction"], batch["detail"], batch["failure"]]);
            assert!(found["since"].is_string(), "{found}");
            found["kept"] == "chunk"
                && found["state"] == state
                && batch["detail"].as_str() == detail
                && shown(&path, &key) == Some(http)
        })
        .await;
    }
    town.stop().await;
}
