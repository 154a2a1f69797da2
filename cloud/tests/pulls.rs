//! History through the relays: what the index knows is pulled, compared, and named where it can't be had.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::time::{Duration, Instant};

use chassis::Span;
use cloud::Config;
use serde_json::{Value, json};
use town::{Frame, Town, dev, eventually, folder, guarded};
use wire::index::{Index, IndexEntry, Outcome, Reply, Stretch, sum};
use wire::{Command, Digest, Epoch, EpochSecret, Intervals, Operation, RecordView, merkle};

const SERIES: &str = "cityA/meter-1/power";
const SECOND: i64 = 1_000_000_000;

/// The root that an honest relay announces for records of [`Frame::run`].
fn root(series: &str, first_seq: u64, payloads: &[&str]) -> Digest {
    let secret = EpochSecret::new([7; 32]);
    let leaves: Vec<Digest> = (first_seq..)
        .zip(payloads)
        .map(|(seq, payload)| {
            secret.leaf(&RecordView {
                series,
                epoch: Epoch(0xe),
                seq,
                at: seq as i64 * SECOND,
                operation: Operation::Forward,
                payload: payload.as_bytes(),
            })
        })
        .collect();
    merkle::root(&leaves)
}

fn entry(chunk: u64, series: &str, first_seq: u64, payloads: &[&str]) -> IndexEntry {
    let last = first_seq + payloads.len() as u64 - 1;
    IndexEntry {
        chunk,
        series: series.parse().unwrap(),
        epoch: Epoch(0xe),
        at_min: first_seq as i64 * SECOND,
        at_max: last as i64 * SECOND,
        records: payloads.len() as u64,
        seqs: Intervals::of(first_seq, last),
        root: root(series, first_seq, payloads),
    }
}

/// A scripted relay.
struct Relay {
    client: town::Client,
    epoch: Epoch,
}

impl Relay {
    async fn start(town: &Town, name: &str) -> Self {
        let client = town.client(name).await;
        client.subscribe(&format!("down/{name}/commands")).await;
        Self { client, epoch: Epoch(1) }
    }

    async fn states(&self, after: u64, through: u64, entries: Vec<IndexEntry>) {
        let page = Index::Page { relay_epoch: self.epoch, stretch: Stretch { after, through }, entries };
        self.client.publish(&format!("up/{}/index", self.client.name), page.encode()).await.unwrap();
    }

    async fn sums(&self, sums: &[(u64, u64, &[IndexEntry])]) {
        let stretch = |(after, through, entries): &(u64, u64, &[IndexEntry])| {
            (Stretch { after: *after, through: *through }, entries.len() as u64, sum(*entries))
        };
        let sums = Index::Sums { relay_epoch: self.epoch, stretches: sums.iter().map(stretch).collect() };
        self.client.publish(&format!("up/{}/index", self.client.name), sums.encode()).await.unwrap();
    }

    async fn command(&mut self) -> Command {
        let received = self.client.next().await;
        assert_eq!(received.topic, format!("down/{}/commands", self.client.name));
        Command::parse(&received.payload).unwrap()
    }

    /// The next pull: number, series, from, to.
    async fn pull(&mut self) -> (u64, String, i64, i64) {
        match self.command().await {
            Command::Pull { id, series, from, to } => (id, series.to_string(), from, to),
            other => panic!("{other:?}"),
        }
    }

    async fn reply(&self, command: u64, outcome: Outcome) {
        let reply = Reply { relay_epoch: self.epoch, command, outcome };
        self.client.publish(&format!("up/{}/reply", self.client.name), reply.encode()).await.unwrap();
    }

    async fn done(&self, command: u64, frames: &[(u64, u64)]) {
        let frames = frames.iter().copied().collect();
        self.reply(command, Outcome::Done { frames, records: 1 }).await;
    }
}

fn quick(path: &std::path::Path) -> Config {
    let mut config = dev(path);
    config.history.pull_wait = Span::millis(700);
    config
}

async fn ask(town: &Town, query: &str) -> Value {
    let (status, page) = town.get("", &format!("/api/v1/records?{query}")).await;
    assert_eq!(status, 200, "{page}");
    page
}

fn payloads(page: &Value) -> Vec<&str> {
    page["records"].as_array().unwrap().iter().map(|record| record["payload"].as_str().unwrap()).collect()
}

fn missing(from: u64, to: u64, reason: &str, relay: &str) -> Value {
    json!({"epoch": "e", "from_seq": from, "to_seq": to, "reason": reason, "relay": relay})
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_what_a_relay_keeps_is_pulled_for_the_answer_and_then_forgotten_by_the_index() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1", "2"])).await;
    relay.states(0, 9, vec![entry(4, SERIES, 3, &["3", "4"]), entry(7, SERIES, 5, &["5"])]).await;
    let asking = async { ask(&town, &format!("series={SERIES}&from=2000000000&to=5000000000")).await };
    let bringing = async {
        let (id, series, from, to) = relay.pull().await;
        assert_eq!((series.as_str(), from, to), (SERIES, 3 * SECOND, 4 * SECOND + 1));
        // The reply comes before one of the frames that it names, and after the other.
        relay.client.send(&Frame::new(2).run(SERIES, 3, &["3"])).await;
        relay.done(id, &[(2, 3)]).await;
        relay.client.send(&Frame::new(3).run(SERIES, 4, &["4"])).await;
    };
    let (page, ()) = tokio::join!(asking, bringing);
    assert_eq!(payloads(&page), ["2", "3", "4"]);
    assert_eq!(page["completeness"], json!({"complete": true}));
    // The relay deletes after the receipt, and states it no more; what it still keeps stays.
    relay.states(0, 9, vec![entry(7, SERIES, 5, &["5"])]).await;
    let asking = async { ask(&town, &format!("series={SERIES}")).await };
    let bringing = async {
        let (id, _, from, _) = relay.pull().await;
        assert_eq!(from, 5 * SECOND);
        relay.client.send(&Frame::new(4).run(SERIES, 5, &["5"])).await;
        relay.done(id, &[(4, 4)]).await;
    };
    let (page, ()) = tokio::join!(asking, bringing);
    assert_eq!(payloads(&page), ["1", "2", "3", "4", "5"]);
    relay.states(0, 9, vec![]).await;
    // Nothing is asked for any more: were it, the answer would wait for a relay that does not reply.
    let page = ask(&town, &format!("series={SERIES}")).await;
    assert_eq!(page["completeness"], json!({"complete": true}));
    assert_eq!(town.counter("cloud_pulls_sent_total"), 2);
    assert_eq!(town.counter("cloud_chunks_compared_total"), 2);
    assert_eq!(town.counter("cloud_chunks_mismatched_total"), 0);
    assert_eq!(town.counter("cloud_records_ingested_total"), 5);
    assert_eq!(town.counter("cloud_records_duplicate_total"), 0);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_record_is_pulled_by_its_key() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 3, &["3", "4"])]).await;
    let path = format!("/api/v1/records/{SERIES}@e.4");
    let bringing = async {
        let (id, ..) = relay.pull().await;
        relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 3, &["3", "4"])).await;
        relay.done(id, &[(1, 1)]).await;
    };
    let ((status, record), ()) = tokio::join!(town.get("", &path), bringing);
    assert_eq!((status, record["payload"].as_str()), (200, Some("4")));
    assert_eq!(town.get("", &format!("/api/v1/records/{SERIES}@e.5")).await.0, 404);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_ten_equal_questions_make_one_pull() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2"])]).await;
    let query = format!("series={SERIES}");
    let asking = async { futures_join((0..10).map(|_| ask(&town, &query)).collect()).await };
    let bringing = async {
        let (id, ..) = relay.pull().await;
        // All of them have asked by now, or will find the records.
        tokio::time::sleep(Duration::from_millis(300)).await;
        relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1", "2"])).await;
        relay.done(id, &[(1, 1)]).await;
    };
    let (pages, ()) = tokio::join!(asking, bringing);
    for page in pages {
        assert_eq!(payloads(&page), ["1", "2"]);
        assert_eq!(page["completeness"], json!({"complete": true}));
    }
    assert_eq!(town.counter("cloud_pulls_sent_total"), 1);
    town.stop().await;
}

/// Waits for all, which run at the same time.
async fn futures_join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_relay_that_does_not_answer_is_named_after_the_deadline_and_holds_up_nobody_else() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1", "2"])).await;
    relay.states(0, 9, vec![entry(4, SERIES, 3, &["3", "4"])]).await;
    let query = format!("series={SERIES}");
    let began = Instant::now();
    let page = ask(&town, &query).await;
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
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
async fn a13_a_relay_that_dies_during_a_pull_loses_and_doubles_nothing() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![entry(4, SERIES, 1, &["1", "2", "3"])]).await;
    let query = format!("series={SERIES}");
    let dying = async {
        let (id, ..) = relay.pull().await;
        // It has named two frames, sent one of them, and states the chunk until it has the receipt.
        relay.done(id, &[(1, 2)]).await;
        relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1"])).await;
        drop(relay);
    };
    let (page, ()) = tokio::join!(ask(&town, &query), dying);
    assert_eq!(payloads(&page), ["1"]);
    assert_eq!(page["completeness"]["missing"][0]["from_seq"], 2);
    assert_eq!(page["completeness"]["missing"][0]["to_seq"], 3);
    // It comes back and sends both again, as its window does.
    let relay = Relay::start(&town, "relay-1").await;
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1"])).await;
    relay.client.send(&Frame::new(2).run(SERIES, 2, &["2", "3"])).await;
    relay.states(0, 9, vec![]).await;
    let page = ask(&town, &query).await;
    assert_eq!((payloads(&page), &page["completeness"]), (vec!["1", "2", "3"], &json!({"complete": true})));
    assert_eq!(town.counter("cloud_records_ingested_total"), 3);
    eventually("the chunk is compared", async || town.counter("cloud_chunks_compared_total") == 1).await;
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
    let lost = |from, to| json!({"complete": false, "missing": [missing(from, to, "relay-rebuilt", "relay-1")]});
    assert_eq!(ask(&town, &query).await["completeness"], lost(1, 3));
    // The agent that still has number 3 sends it another way.
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 3, &["3"])).await;
    assert_eq!(ask(&town, &query).await["completeness"], lost(1, 2));
    let (status, given) = town.request(reqwest::Method::POST, "", "/api/v1/relays/relay-1/give-up").await;
    assert_eq!(status, 200, "{given}");
    let page = ask(&town, &query).await;
    assert_eq!(page["completeness"]["missing"], json!([{"epoch": "e", "from_seq": 1, "to_seq": 2, "reason": "gap"}]));
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

const GRANTS: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
[[grant]]
users = ["relay-1"]
actions = ["subscribe"]
topics = ["down/%u/#"]
[[grant]]
users = ["ana"]
actions = ["query"]
areas = ["cityA"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_filter_is_answered_as_far_as_the_grants_go_and_pulls_nothing_beyond() {
    let (_dir, path) = folder();
    let mut config = guarded(&path, &["relay-1", "ana"], GRANTS);
    config.history.pull_wait = Span::millis(700);
    let town = Town::start(config).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    let frame = Frame::new(1).announcing(None);
    let frame = frame.run("cityA/meter-1/power", 1, &["a1"]).run("cityA/meter-2/power", 1, &["a2"]);
    relay.client.send(&frame.run("cityA/meter-2/volt", 1, &["no"]).run("cityB/meter-1/power", 1, &["b1"])).await;
    // One series that only the index knows, on each side of the border.
    let only = [entry(1, "cityA/meter-3/power", 1, &["a3"]), entry(2, "cityB/meter-3/power", 1, &["b3"])];
    relay.states(0, 9, only.to_vec()).await;
    let asking = async {
        let (status, page) = town.get("ana", "/api/v1/records?filter=%2B/%2B/power").await;
        assert_eq!(status, 200, "{page}");
        page
    };
    let bringing = async {
        let (id, series, ..) = relay.pull().await;
        assert_eq!(series, "cityA/meter-3/power");
        relay.client.send(&Frame::new(2).run("cityA/meter-3/power", 1, &["a3"])).await;
        relay.done(id, &[(2, 2)]).await;
    };
    let (page, ()) = tokio::join!(asking, bringing);
    assert_eq!(payloads(&page), ["a1", "a2", "a3"]);
    assert_eq!(page["completeness"], json!({"complete": true}));
    assert!(!page.to_string().contains("cityB"), "{page}");
    assert_eq!(town.counter("cloud_pulls_sent_total"), 1);
    assert_eq!(town.get("ana", "/api/v1/records?series=cityB/meter-1/power").await.0, 403);
    assert_eq!(town.get("ana", "/api/v1/records/cityB/meter-3/power@e.1").await.0, 403);
    // And a relay may state nothing in another's name.
    assert_eq!(relay.client.refused("up/relay-2/index", Vec::new()).await, 0x87);
    assert_eq!(relay.client.refused("up/relay-1/index", b"no page".to_vec()).await, 0x99);
    assert_eq!(relay.client.refused("up/relay-1/reply", b"no reply".to_vec()).await, 0x99);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_walk_through_many_series_has_an_order_a_cursor_that_survives_a_restart_and_no_hole() {
    let (_dir, path) = folder();
    let config = dev(&path);
    let mut town = Town::start(config.clone()).await;
    let relay = town.client("relay-1").await;
    let mut frame = Frame::new(1);
    for meter in 10..30 {
        frame = frame.run(&format!("cityA/meter-{meter}/power"), 1, &["1", "2", "3", "4", "5"]);
    }
    relay.send(&frame.run("cityB/meter-1/power", 1, &["no"])).await;
    drop(relay);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for pages in 1.. {
        let page = ask(&town, &format!("filter=cityA/%23&limit=7{cursor}")).await;
        let keys = page["records"].as_array().unwrap().iter().map(|record| record["key"].as_str().unwrap().to_owned());
        seen.extend(keys);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                assert_eq!((pages, &page["completeness"]), (15, &json!({"complete": true})));
                break;
            }
        }
        if pages == 4 {
            town.stop().await;
            town = Town::start(config.clone()).await;
        }
    }
    let expected: Vec<_> =
        (10..30).flat_map(|meter| (1..=5).map(move |seq| format!("cityA/meter-{meter}/power@e.{seq}"))).collect();
    assert_eq!(seen, expected);
    town.stop().await;
}
