//! An analyst sees what the grants name and nothing else: live, by question over MQTT, and over HTTP.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use link::{Message, PublishError, Received, SubscribeError};
use serde_json::{Value, json};
use town::{Client, Frame, Town, eventually, folder, guarded};

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
actions = ["publish"]
topics = ["query/%c"]

[[grant]]
users = ["ana"]
actions = ["subscribe"]
topics = ["answers/%u"]

[[grant]]
users = ["oscar"]
actions = ["publish"]
topics = ["down/+/commands"]

[[grant]]
users = ["oscar"]
actions = ["query"]
topics = ["status"]
"#;

const ANALYST: &str = r#"
[[grant]]
users = ["ana"]
actions = ["subscribe", "query"]
areas = ["cityA"]
"#;

const NOT_AUTHORIZED: u8 = 0x87;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

async fn ask(
    client: &mut Client,
    question: &Value,
    response_topic: &str,
) -> (Result<(), PublishError>, Option<(Value, Received)>) {
    let topic = format!("query/{}", client.name);
    let message = Message::new(topic, question.to_string()).asking(response_topic, "7");
    let acknowledged = client.link.send(message).await.unwrap().await;
    if response_topic != "answers/ana" {
        return (acknowledged, None);
    }
    let received = client.next().await;
    assert_eq!((received.topic.as_str(), received.correlation_data.as_deref()), ("answers/ana", Some(&b"7"[..])));
    (acknowledged, Some((serde_json::from_slice(&received.payload).unwrap(), received)))
}

async fn town(path: &std::path::Path) -> (Town, Client) {
    let town = Town::start(guarded(path, &["relay-1", "ana", "oscar"], &format!("{GRANTS}{ANALYST}"))).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run("cityA/meter-1/power", 1, &["a"]).run("cityB/meter-1/power", 1, &["b"])).await;
    (town, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_live_shows_the_granted_area_and_refuses_the_others() {
    let (_dir, path) = folder();
    let (town, relay) = town(&path).await;
    let mut ana = town.client("ana").await;
    ana.subscribe("data/cityA/#").await;
    for filter in ["data/#", "data/cityB/#", "data/+/meter-1/power", "#", "down/relay-1/receipts"] {
        let refused = ana.link.subscribe(filter, link::Qos::One).await;
        assert_eq!(refused, Err(SubscribeError::Refused { reason_code: NOT_AUTHORIZED }), "{filter}");
    }
    relay.send(&Frame::new(2).run("cityB/meter-1/power", 2, &["b"]).run("cityA/meter-1/power", 2, &["a2"])).await;
    assert_eq!(ana.next().await.payload, "a2");
    // A relay speaks for itself alone.
    let foreign = Frame::new(9).run("cityA/meter-1/power", 9, &["x"]).encode("relay-2");
    assert_eq!(relay.refused("up/relay-2/frames", foreign.clone()).await, NOT_AUTHORIZED);
    assert_eq!(relay.refused("up/relay-1/frames", foreign).await, PAYLOAD_FORMAT_INVALID);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_question_over_mqtt_is_answered_for_the_granted_area_only() {
    let (_dir, path) = folder();
    let (town, _relay) = town(&path).await;
    let mut ana = town.client("ana").await;
    ana.subscribe("answers/ana").await;
    let (acknowledged, answer) = ask(&mut ana, &json!({"series": "cityA/meter-1/power", "limit": 5}), "answers/ana").await;
    assert_eq!(acknowledged, Ok(()));
    let (answer, _) = answer.unwrap();
    assert_eq!(answer["records"][0]["key"], "cityA/meter-1/power@e.1");
    assert_eq!(answer["next_cursor"], Value::Null);
    let (acknowledged, answer) = ask(&mut ana, &json!({"series": "cityB/meter-1/power"}), "answers/ana").await;
    assert_eq!(acknowledged, Err(PublishError::Refused { reason_code: NOT_AUTHORIZED }));
    assert_eq!(answer.unwrap().0["status"], 403);
    let (acknowledged, answer) = ask(&mut ana, &json!({"series": "cityA/meter-1/power", "limit": 0}), "answers/ana").await;
    assert_eq!(acknowledged, Err(PublishError::Refused { reason_code: PAYLOAD_FORMAT_INVALID }));
    assert_eq!(answer.unwrap().0["field"], "limit");
    // Where the asker may not listen no answer goes, and none ever to a topic that means something else.
    for topic in ["answers/oscar", "data/cityA/meter-1/power", "data/cityA/meter-9/power"] {
        let (acknowledged, _) = ask(&mut ana, &json!({"series": "cityA/meter-1/power"}), topic).await;
        assert_eq!(acknowledged, Err(PublishError::Refused { reason_code: NOT_AUTHORIZED }), "{topic}");
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_http_shows_the_granted_area_to_a_verified_user() {
    let (_dir, path) = folder();
    let (town, _relay) = town(&path).await;
    let records = |area: &str| format!("/api/v1/records?series={area}/meter-1/power");
    let (status, page) = town.get("ana", &records("cityA")).await;
    assert_eq!((status, &page["records"][0]["payload"]), (200, &json!("a")));
    for (user, path, expected) in [
        ("ana", records("cityB"), 403),
        ("oscar", records("cityA"), 403),
        ("", records("cityA"), 401),
        ("eve", records("cityA"), 401),
        ("ana", "/api/v1/records/cityA/meter-1/power@e.1".into(), 200),
        ("ana", "/api/v1/records/cityA/meter-1/power@e.2".into(), 404),
        ("ana", "/api/v1/records/cityB/meter-1/power@e.1".into(), 403),
        ("ana", "/api/v1/records/cityB/meter-1/power@e.2".into(), 403),
        ("ana", "/api/v1/records/cityA/meter-1".into(), 400),
        ("ana", "/api/v1/where/cityA/meter-1/power@e.1".into(), 200),
        ("ana", "/api/v1/where/cityB/meter-1/power@e.1".into(), 403),
        ("ana", "/api/v1/proofs/cityB/meter-1/power@e.1".into(), 403),
        ("ana", "/api/v1/proofs/cityA/meter-1/power@e.1".into(), 404),
        ("ana", "/api/v1/status".into(), 403),
        ("oscar", "/api/v1/status".into(), 200),
        ("ana", "/api/v1/nothing".into(), 404),
        ("ana", format!("{}&limit=none", records("cityA")), 400),
        ("ana", format!("{}&from=noon", records("cityA")), 400),
    ] {
        let (status, answer) = town.get(user, &path).await;
        assert_eq!(status, expected, "{user} {path}: {answer}");
        if status >= 400 {
            assert_eq!(answer["status"], expected);
        }
    }
    let (_, problem) = town.get("ana", &format!("{}&limit=none", records("cityA"))).await;
    assert_eq!(problem["field"], "limit");
    let unauthorized = reqwest::get(format!("http://{}{}", town.http, records("cityA"))).await.unwrap();
    assert!(unauthorized.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    assert_eq!(unauthorized.headers()["content-type"], "application/problem+json");
    let (status, answer) = town.request(reqwest::Method::DELETE, "ana", &records("cityA")).await;
    assert_eq!((status, &answer["status"]), (405, &json!(405)));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_revoked_grant_ends_live_mqtt_and_http_within_a_second() {
    let (_dir, path) = folder();
    let (town, relay) = town(&path).await;
    let mut ana = town.client("ana").await;
    ana.subscribe("answers/ana").await;
    ana.subscribe("data/cityA/#").await;
    relay.send(&Frame::new(2).run("cityA/meter-1/power", 2, &["a2"])).await;
    assert_eq!(ana.next().await.payload, "a2");
    let revoked = std::time::Instant::now();
    std::fs::write(path.join("grants.toml"), GRANTS).unwrap();
    eventually("HTTP refuses", async || town.get("ana", "/api/v1/records?series=cityA/meter-1/power").await.0 == 403).await;
    assert!(revoked.elapsed() < std::time::Duration::from_secs(1), "{:?}", revoked.elapsed());
    relay.send(&Frame::new(3).run("cityA/meter-1/power", 3, &["a3"])).await;
    // The next thing that comes is the refused answer, and not the record.
    let (acknowledged, answer) = ask(&mut ana, &json!({"series": "cityA/meter-1/power"}), "answers/ana").await;
    assert_eq!(acknowledged, Err(PublishError::Refused { reason_code: NOT_AUTHORIZED }));
    assert_eq!(answer.unwrap().0["status"], 403);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_orders_a_connected_relay_to_flush() {
    let (_dir, path) = folder();
    let (town, mut relay) = town(&path).await;
    let flush = "/api/v1/relays/relay-1/flush";
    assert_eq!(town.request(reqwest::Method::POST, "oscar", flush).await.0, 409);
    relay.subscribe("down/relay-1/commands").await;
    assert_eq!(town.request(reqwest::Method::POST, "ana", flush).await.0, 403);
    assert_eq!(town.request(reqwest::Method::POST, "", flush).await.0, 401);
    let (status, ordered) = town.request(reqwest::Method::POST, "oscar", flush).await;
    assert_eq!((status, &ordered["relay"]), (202, &json!("relay-1")));
    let received = relay.next().await;
    let id = ordered["command"].as_u64().unwrap();
    assert_eq!(wire::Command::parse(&received.payload), Ok(wire::Command::Flush { id }));
    let (_, status) = town.get("oscar", "/api/v1/status").await;
    assert_eq!(status["records"]["held"], 2);
    assert_eq!(status["relays"], json!([{"relay": "relay-1", "frames": 1, "connected": true}]));
    assert_eq!(status["batches"], Value::Null);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_live_and_past_show_the_sensors_with_the_granted_tags_only() {
    let (_dir, path) = folder();
    let homes = "[[grant]]\nusers = [\"ana\"]\nactions = [\"subscribe\", \"query\"]\nareas = [\"cityA\"]\ntags = [\"residential\"]\nstreams = [\"power\"]\n";
    let mut config = guarded(&path, &["relay-1", "ana"], &format!("{GRANTS}{homes}"));
    let registry = path.join("sensors.toml");
    let both = "[sensors]\n\"cityA/home\" = [\"residential\"]\n\"cityA/flat\" = [\"residential\"]\n\"cityA/shop\" = [\"commercial\"]\n\"cityB/home\" = [\"residential\"]\n";
    std::fs::write(&registry, both).unwrap();
    if let cloud::Access::Files { sensors, .. } = &mut config.access {
        *sensors = Some(registry.clone());
    }
    let town = Town::start(config).await;
    let (relay, mut ana) = (town.client("relay-1").await, town.client("ana").await);
    for filter in ["data/#", "data/cityA/#", "data/cityA/shop/power", "data/+/home/power", "data/cityB/home/power"] {
        let refused = ana.link.subscribe(filter, link::Qos::One).await;
        assert_eq!(refused, Err(SubscribeError::Refused { reason_code: NOT_AUTHORIZED }), "{filter}");
    }
    ana.subscribe("data/cityA/+/power").await;
    let frame = |number: u64| {
        let frame = Frame::new(number).run("cityA/shop/power", number, &["shop"]).run("cityB/home/power", number, &["far"]);
        frame.run("cityA/new/power", number, &["new"]).run("cityA/flat/power", number, &["flat"]).run(
            "cityA/home/power",
            number,
            &["home"],
        )
    };
    relay.send(&frame(1)).await;
    let mut came = [ana.next().await.topic, ana.next().await.topic];
    came.sort();
    assert_eq!(came, ["data/cityA/flat/power", "data/cityA/home/power"]);
    let past = async |series: &str| town.get("ana", &format!("/api/v1/records?series={series}")).await.0;
    for (series, status) in [
        ("cityA/home/power", 200),
        ("cityA/flat/power", 200),
        ("cityA/home/water", 403),
        ("cityA/shop/power", 403),
        ("cityB/home/power", 403),
    ] {
        assert_eq!(past(series).await, status, "{series}");
    }
    // The flat is not residential any more.
    std::fs::write(&registry, both.replace("\"cityA/flat\" = [\"residential\"]", "\"cityA/flat\" = []")).unwrap();
    let changed = std::time::Instant::now();
    eventually("the flat is out", async || past("cityA/flat/power").await == 403).await;
    assert!(changed.elapsed() < std::time::Duration::from_secs(1), "{:?}", changed.elapsed());
    relay.send(&frame(2)).await;
    assert_eq!(ana.next().await.topic, "data/cityA/home/power");
    assert!(town.counter("broker_deliveries_withheld_total{reason=\"NotAuthorized\"}") >= 4);
    town.stop().await;
}
