//! History through the relays: what the index knows is pulled for those who may see it, once, and loses and doubles nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::time::Duration;

use chassis::Span;
use serde_json::{Value, json};
use town::keeper::{Relay, SECOND, SERIES, ask, entry, payloads, quick};
use town::{Frame, Town, dev, eventually, folder, guarded};

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

const TAGGED: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
[[grant]]
users = ["ana"]
actions = ["query"]
topics = ["data/+/+/power"]
[[grant]]
users = ["ana"]
actions = ["publish"]
topics = ["query/%u"]
[[grant]]
users = ["ana"]
actions = ["subscribe"]
topics = ["answers/%u"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a12_tags_name_sensors_over_http_and_mqtt_alike() {
    let (_dir, path) = folder();
    let mut config = guarded(&path, &["relay-1", "ana"], TAGGED);
    let sensors = path.join("sensors.toml");
    let tags = "[sensors]\n\"cityA/meter-1\" = [\"home\", \"h0\"]\n\"cityA/meter-2\" = [\"home\"]\n\"cityB/meter-1\" = [\"home\", \"h0\"]\n";
    std::fs::write(&sensors, tags).unwrap();
    let cloud::Access::Files { sensors: file, .. } = &mut config.access else { panic!("files") };
    *file = Some(sensors);
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let frame = Frame::new(1).run("cityA/meter-1/power", 1, &["a1"]).run("cityA/meter-1/volt", 1, &["no"]);
    let frame = frame.run("cityA/meter-2/power", 1, &["a2"]).run("cityA/meter-3/power", 1, &["no"]);
    relay.send(&frame.run("cityB/meter-1/power", 1, &["b1"])).await;
    for (query, expected) in [
        ("tags=home", vec!["a1", "a2", "b1"]),
        ("tags=h0,home", vec!["a1", "b1"]),
        ("tags=h0&filter=cityB/%23", vec!["b1"]),
        ("tags=nobody", vec![]),
    ] {
        let (status, page) = town.get("ana", &format!("/api/v1/records?{query}")).await;
        assert_eq!((status, payloads(&page)), (200, expected), "{query}");
    }
    let mut ana = town.client("ana").await;
    ana.subscribe("answers/ana").await;
    let question = link::Message::new("query/ana", r#"{"tags":["h0"],"limit":1}"#).asking("answers/ana", "7");
    ana.link.send(question).await.unwrap().await.unwrap();
    let page: Value = serde_json::from_slice(&ana.next().await.payload).unwrap();
    assert_eq!(payloads(&page), ["a1"]);
    assert!(page["next_cursor"].as_str().is_some(), "{page}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_pulls_above_the_limit_wait_their_turn_within_the_same_deadline() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.history.pulls_relay_max = 2;
    let town = Town::start(config).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    let names: Vec<String> = (1..=7).map(|meter| format!("cityA/meter-{meter}/power")).collect();
    let entries = (1..).zip(&names).map(|(chunk, name)| entry(chunk, name, 1, &["x"])).collect();
    relay.states(0, 9, entries).await;
    let bringing = async {
        let mut waiting = Vec::new();
        for number in 1..=7 {
            let (id, series, ..) = relay.pull().await;
            waiting.push(id);
            let frame = Frame::new(number).announcing(None).run(&series, 1, &["x"]);
            relay.client.send(&frame).await;
            // Never more than two are unanswered.
            assert!(waiting.len() <= 2);
            if waiting.len() == 2 || number == 7 || number == 1 {
                for id in waiting.drain(..) {
                    relay.done(id, &[(number, number)]).await;
                }
            }
        }
    };
    let (page, ()) = tokio::join!(ask(&town, "filter=cityA/%23"), bringing);
    assert_eq!(payloads(&page).len(), 7);
    assert_eq!(page["completeness"], json!({"complete": true}));
    assert_eq!(town.counter("cloud_pulls_answered_total"), 7);
    town.stop().await;
}
