//! What relays keep: stated, compared with what comes, and named while it can't be had.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::time::{Duration, Instant};

use serde_json::json;
use town::keeper::{Relay, SERIES, ask, entry, missing, payloads, quick};
use town::{Frame, Town, dev, eventually, folder};
use wire::index::Stretch;
use wire::{Command, Epoch};

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_relay_that_does_not_answer_is_named_after_the_deadline_and_holds_up_nobody_else() {
    let (_dir, path) = folder();
    let mut config = quick(&path);
    // Long enough that the second question comes within it on a busy machine.
    config.history.pull_wait = chassis::Span::seconds(2);
    let town = Town::start(config).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1", "2"])).await;
    relay.states(0, 9, vec![entry(4, SERIES, 3, &["3", "4"])]).await;
    let query = format!("series={SERIES}");
    let began = Instant::now();
    let page = ask(&town, &query).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let unreachable = json!({"complete": false, "missing": [missing(3, 4, "relay-unreachable", "relay-1")]});
    assert_eq!((payloads(&page), &page["completeness"]), (vec!["1", "2"], &unreachable));
    assert_eq!(town.counter("cloud_pulls_unanswered_total"), 1);
    // It is left alone for a while, and another time range is complete without it.
    let page = ask(&town, &query).await;
    assert_eq!(page["completeness"], unreachable);
    assert_eq!(town.counter("cloud_pulls_sent_total"), 1);
    let page = ask(&town, &format!("{query}&to=3000000000")).await;
    assert_eq!(page["completeness"], json!({"complete": true}));
    // And so is one that is not connected, without waiting.
    relay.states(0, 9, vec![]).await;
    let gone = Relay::start(&town, "relay-2").await;
    gone.states(0, 9, vec![entry(1, "cityA/meter-2/power", 1, &["1"])]).await;
    drop(gone);
    eventually("nobody listens for relay-2", async || {
        let page = ask(&town, "series=cityA/meter-2/power").await;
        page["completeness"]["missing"] == json!([missing(1, 1, "relay-unreachable", "relay-2")])
            && town.counter("cloud_pulls_sent_total") <= 2
    })
    .await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_relay_that_changed_one_byte_is_found_out_in_the_answer_that_pulled_it() {
    let (_dir, path) = folder();
    let config = dev(&path);
    let town = Town::start(config.clone()).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["230.1", "230.2"]), entry(5, SERIES, 3, &["230.3"])]).await;
    let query = format!("series={SERIES}");
    let lying = async {
        let (id, ..) = relay.pull().await;
        relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["230.1", "130.2", "230.3"])).await;
        relay.done(id, &[(1, 1)]).await;
    };
    let (page, ()) = tokio::join!(ask(&town, &query), lying);
    let altered = json!({"complete": false, "missing": [missing(1, 2, "mismatch", "relay-1")]});
    assert_eq!((payloads(&page), &page["completeness"]), (vec!["230.1", "130.2", "230.3"], &altered));
    assert_eq!(town.counter("cloud_chunks_mismatched_total"), 1);
    assert_eq!(town.counter("cloud_chunks_compared_total"), 2);
    relay.states(0, 9, vec![]).await;
    town.stop().await;
    // It is remembered, and an answer that does not touch it is none the worse.
    let town = Town::start(config).await;
    let _relay = Relay::start(&town, "relay-1").await;
    assert_eq!(ask(&town, &query).await["completeness"], altered);
    assert_eq!(ask(&town, &format!("{query}&from=3000000000")).await["completeness"], json!({"complete": true}));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_what_comes_by_a_spill_is_compared_before_the_index_forgets_it() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    let (honest, altered) = (entry(1, SERIES, 1, &["1", "2"]), entry(2, SERIES, 3, &["3"]));
    relay.states(0, 9, vec![honest, altered]).await;
    relay.states(0, 9, vec![]).await;
    let on_the_way = missing(1, 3, "on-the-way", "relay-1");
    assert_eq!(ask(&town, &format!("series={SERIES}")).await["completeness"]["missing"], json!([on_the_way]));
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1", "2", "4"])).await;
    eventually("both chunks are compared", async || town.counter("cloud_chunks_compared_total") == 2).await;
    assert_eq!(town.counter("cloud_chunks_mismatched_total"), 1);
    let page = ask(&town, &format!("series={SERIES}")).await;
    assert_eq!(page["completeness"]["missing"], json!([missing(3, 3, "mismatch", "relay-1")]));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_sums_that_differ_are_asked_for_and_a_restart_of_the_cloud_forgets_nothing() {
    let (_dir, path) = folder();
    let config = quick(&path);
    let town = Town::start(config.clone()).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    let entries: Vec<_> = (1..=6).map(|chunk| entry(chunk, SERIES, chunk, &["x"])).collect();
    relay.states(0, 3, entries[..3].to_vec()).await;
    relay.states(3, 6, entries[3..].to_vec()).await;
    town.stop().await;
    let town = Town::start(config).await;
    relay.client = town.client("relay-1").await;
    relay.client.subscribe("down/relay-1/commands").await;
    // Number 5 has gone meanwhile, and numbers from 7 on are stated by nobody.
    let kept = [entries[3].clone(), entries[5].clone()];
    relay.sums(&[(0, 3, &entries[..3]), (3, 6, &kept)]).await;
    let asked = relay.command().await;
    assert!(matches!(&asked, Command::Index { stretches, .. } if *stretches == [Stretch { after: 3, through: 6 }]), "{asked:?}");
    relay.states(3, 6, kept.to_vec()).await;
    relay.sums(&[(0, 3, &entries[..3]), (3, 6, &kept)]).await;
    relay.sums(&[(0, 3, &entries[..2])]).await;
    let asked = relay.command().await;
    let behind = Stretch { after: 3, through: wire::uplink::NUMBER_MAX };
    let both = [Stretch { after: 0, through: 3 }, behind];
    assert!(matches!(&asked, Command::Index { stretches, .. } if *stretches == both), "{asked:?}");
    let page = ask(&town, &format!("series={SERIES}")).await;
    let reasons: Vec<_> = page["completeness"]["missing"].as_array().unwrap().iter().map(|m| m["reason"].as_str()).collect();
    assert!(reasons.contains(&Some("on-the-way")) && reasons.contains(&Some("relay-unreachable")), "{page}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_what_a_rebuilt_relay_had_is_called_lost_until_it_comes_or_the_operator_gives_it_up() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(1, SERIES, 1, &["1", "2"]), entry(2, SERIES, 3, &["3"])]).await;
    relay.epoch = Epoch(2);
    relay.states(0, 9, vec![]).await;
    let query = format!("series={SERIES}");
    // What else the old database held, nobody can say.
    let unheard = json!([{"relay": "relay-1", "reason": "relay-rebuilt", "since": null}]);
    let lost = |from, to| {
        let missing = missing(from, to, "relay-rebuilt", "relay-1");
        json!({"complete": false, "missing": [missing], "unheard": unheard})
    };
    assert_eq!(ask(&town, &query).await["completeness"], lost(1, 3));
    // The agent that still has number 3 sends it another way.
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 3, &["3"])).await;
    assert_eq!(ask(&town, &query).await["completeness"], lost(1, 2));
    let (status, given) = town.request(reqwest::Method::POST, "", "/api/v1/relays/relay-1/give-up").await;
    assert_eq!(status, 200, "{given}");
    let page = ask(&town, &query).await;
    let gap = json!([{"epoch": "e", "from_seq": 1, "to_seq": 2, "reason": "gap"}]);
    assert_eq!(page["completeness"], json!({"complete": false, "missing": gap}));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_walk_that_has_passed_records_elsewhere_does_not_call_itself_complete() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 3, &["3", "4", "5"])).await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2"])]).await;
    let first = ask(&town, &format!("series={SERIES}&limit=2")).await;
    assert_eq!(payloads(&first), ["3", "4"]);
    relay.client.send(&Frame::new(2).run(SERIES, 1, &["1", "2"])).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = ask(&town, &format!("series={SERIES}&limit=2&cursor={cursor}")).await;
    assert_eq!(payloads(&second), ["5"]);
    assert_eq!(second["completeness"], json!({"complete": false, "changed_meanwhile": true}));
    assert_eq!(ask(&town, &format!("series={SERIES}")).await["completeness"], json!({"complete": true}));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_record_that_a_relay_keeps_is_relay_durable() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    let place = async |seq: u64| {
        let (status, found) = town.get("", &format!("/api/v1/where/{SERIES}@e.{seq}")).await;
        assert_eq!(status, 200, "{found}");
        (found["rung"].as_str().unwrap().to_owned(), found["absent"]["custody"].as_str().map(str::to_owned))
    };
    let said = |rung: &str, custody: Option<&str>| (rung.to_owned(), custody.map(str::to_owned));
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 9, &["9"])).await;
    assert_eq!(place(3).await, said("not-held", None));
    relay.states(0, 9, vec![entry(4, SERIES, 3, &["3", "4"])]).await;
    assert_eq!(place(3).await, said("relay-durable", Some("keeps")));
    assert_eq!(place(5).await, said("not-held", None));
    relay.states(0, 9, vec![]).await;
    assert_eq!(place(4).await, said("relay-durable", Some("on-the-way")));
    relay.epoch = Epoch(2);
    relay.states(0, 9, vec![]).await;
    assert_eq!(place(4).await, said("not-held", Some("lost")));
    relay.client.send(&Frame::new(2).run(SERIES, 3, &["3", "4"])).await;
    assert_eq!(place(4).await, said("cloud-durable", None));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_a_number_that_is_used_again_forgets_nothing_and_a_full_index_says_so() {
    let (_dir, path) = folder();
    let mut config = quick(&path);
    config.history.index_entries_max = 3;
    let town = Town::start(config).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2"])]).await;
    // The same number, another chunk; then the first one again.
    relay.states(0, 9, vec![entry(4, SERIES, 3, &["3"])]).await;
    let query = format!("series={SERIES}");
    let both = json!([missing(3, 3, "relay-unreachable", "relay-1"), missing(1, 2, "on-the-way", "relay-1")]);
    assert_eq!(ask(&town, &query).await["completeness"]["missing"], both);
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2"])]).await;
    let page = ask(&town, &query).await;
    let reasons: Vec<_> = page["completeness"]["missing"].as_array().unwrap().iter().map(|one| &one["reason"]).collect();
    assert_eq!(reasons.len(), 2, "{page}");
    // Two are known; three more would be too many, and none of them is taken.
    let more = (10..13).map(|chunk| entry(chunk, "cityA/meter-2/power", chunk, &["x"])).collect();
    let page = wire::index::Index::Page { relay_epoch: Epoch(1), stretch: Stretch { after: 9, through: 20 }, entries: more };
    assert_eq!(relay.client.refused("up/relay-1/index", page.encode()).await, 0x97);
    assert_eq!(ask(&town, "series=cityA/meter-2/power").await["completeness"], json!({"complete": true}));
    relay.states(9, 20, vec![entry(10, "cityA/meter-2/power", 1, &["x"])]).await;
    assert_eq!(ask(&town, "series=cityA/meter-2/power").await["completeness"]["complete"], false);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_a_damaged_index_is_put_aside_and_stated_anew() {
    let (_dir, path) = folder();
    let config = quick(&path);
    let town = Town::start(config.clone()).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2"])]).await;
    drop(relay);
    town.stop().await;
    let file = config.data.join("index.sqlite");
    for beside in ["index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(config.data.join(beside));
    }
    std::fs::write(&file, [0x5a; 8_192]).unwrap();
    let town = Town::start(config).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    let kept = [entry(4, SERIES, 1, &["1", "2"])];
    relay.sums(&[(0, 9, &kept)]).await;
    let asked = relay.command().await;
    assert!(matches!(&asked, Command::Index { stretches, .. } if *stretches == [Stretch { after: 0, through: 9 }]), "{asked:?}");
    relay.states(0, 9, kept.to_vec()).await;
    let page = ask(&town, &format!("series={SERIES}")).await;
    assert_eq!(page["completeness"]["missing"], json!([missing(1, 2, "relay-unreachable", "relay-1")]));
    town.stop().await;
}
