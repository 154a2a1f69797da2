//! What is missing is said: by the gap ledger and at the end of every answer about the past.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use link::Message;
use serde_json::{Value, json};
use town::{Frame, Town, dev, folder, guarded};

const SERIES: &str = "cityA/meter-1/power";
const WHOLE: &str = "cityA/meter-2/power";

/// A relay that has left out 1 to 2, 5, and 8 to 9.
async fn holes(town: &Town) -> town::Client {
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(SERIES, 3, &["3", "4"]).run(WHOLE, 1, &["1", "2"])).await;
    relay.send(&Frame::new(2).run(SERIES, 6, &["6", "7"]).run(SERIES, 10, &["10"])).await;
    relay
}

fn ledger_of(series: &str) -> String {
    format!("/api/v1/gaps?series={series}")
}

async fn completeness(town: &Town, query: &str) -> Value {
    let (status, page) = town.get("", &format!("/api/v1/records?series={SERIES}&{query}")).await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["next_cursor"].is_null(), page.get("completeness").is_some(), "{page}");
    page["completeness"].clone()
}

fn missing(ranges: &[(u64, u64)]) -> Value {
    let range = |(low, high): &(u64, u64)| json!({"epoch": "e", "from_seq": low, "to_seq": high, "reason": "gap"});
    json!({"complete": false, "missing": ranges.iter().map(range).collect::<Vec<_>>()})
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_the_ledger_shows_what_a_relay_left_out_until_it_is_healed_and_after_a_restart() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.storage.segment_age = chassis::Span::millis(50);
    let town = Town::start(config.clone()).await;
    holes(&town).await;
    let expected = json!({"holdings": [{
        "series": SERIES, "epoch": "e", "first_seq": 3, "last_seq": 10, "held": 5, "missing": 5, "given_up": 0, "more_gaps": 0,
        "gaps": [{"from_seq": 1, "to_seq": 2}, {"from_seq": 5, "to_seq": 5}, {"from_seq": 8, "to_seq": 9}],
    }], "next_cursor": null});
    assert_eq!(town.get("", &ledger_of(SERIES)).await, (200, expected.clone()));
    assert_eq!(town.get("", &ledger_of("cityA/meter-9/power")).await, (200, json!({"holdings": [], "next_cursor": null})));
    town.stop().await;
    let town = Town::start(config).await;
    assert_eq!(town.get("", &ledger_of(SERIES)).await.1, expected);
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(3).run(SERIES, 5, &["5"]).run(SERIES, 8, &["8", "9"])).await;
    let (_, healing) = town.get("", &ledger_of(SERIES)).await;
    assert_eq!(healing["holdings"][0]["gaps"], json!([{"from_seq": 1, "to_seq": 2}]));
    relay.send(&Frame::new(4).run(SERIES, 1, &["1", "2"])).await;
    let (_, healed) = town.get("", &ledger_of(SERIES)).await;
    let holding = &healed["holdings"][0];
    assert_eq!((&holding["missing"], &holding["gaps"], &holding["held"]), (&json!(0), &json!([]), &json!(10)));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_the_ledger_goes_by_page_and_shows_what_the_grants_name() {
    let (_dir, path) = folder();
    let grants = "[[grant]]\nusers = [\"relay-1\"]\nactions = [\"publish\"]\ntopics = [\"up/%u/#\"]\n\
                  [[grant]]\nusers = [\"ana\"]\nactions = [\"query\"]\nareas = [\"cityA\"]\n";
    let town = Town::start(guarded(&path, &["relay-1", "ana", "eve"], grants)).await;
    let relay = town.client("relay-1").await;
    let names: Vec<String> = (100..300).map(|meter| format!("cityA/meter-{meter}/power")).collect();
    let mut frame = Frame::new(1).run("city/meter-1/power", 7, &["7"]).run("cityB/meter-1/power", 7, &["7"]);
    for name in &names {
        frame = frame.run(name, 2, &["2"]);
    }
    relay.send(&frame).await;
    for limit in [1_000, 200, 199, 64, 1] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (status, page) = town.get("ana", &format!("/api/v1/gaps?limit={limit}{cursor}")).await;
            assert_eq!(status, 200, "{page}");
            let page: cloud::gaps::LedgerPage = serde_json::from_value(page).unwrap();
            assert!(page.holdings.iter().all(|holding| holding.missing == 1));
            seen.extend(page.holdings.into_iter().map(|holding| holding.series.to_string()));
            pages += 1;
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((&seen, pages), (&names, 200_usize.div_ceil(limit)), "{limit}");
    }
    assert_eq!(town.get("eve", "/api/v1/gaps").await, (200, json!({"holdings": [], "next_cursor": null})));
    for (user, path, expected) in [
        ("ana", ledger_of("cityB/meter-1/power"), 403),
        ("eve", ledger_of("cityA/meter-100/power"), 403),
        ("", "/api/v1/gaps".to_owned(), 401),
        ("ana", ledger_of("cityA/meter-100/power"), 200),
        ("ana", "/api/v1/gaps?limit=0".to_owned(), 400),
        ("ana", ledger_of("cityA"), 400),
    ] {
        assert_eq!(town.get(user, &path).await.0, expected, "{user} {path}");
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_the_last_page_says_whether_the_answer_is_complete() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = holes(&town).await;
    let (_, page) = town.get("", &format!("/api/v1/records?series={WHOLE}")).await;
    assert_eq!(page["completeness"], json!({"complete": true}));
    // The same from open pages and from chunks.
    for _ in 0..2 {
        assert_eq!(completeness(&town, "limit=1000").await, missing(&[(1, 2), (5, 5), (8, 9)]));
        assert_eq!(completeness(&town, "limit=2").await, Value::Null);
        // The time of record n is n seconds.
        for (from, to, ranges) in [
            (0, 3, &[(1, 2)][..]),
            (3, 5, &[(1, 2), (5, 5)]),
            (4, 6, &[(5, 5)]),
            (5, 6, &[(5, 5)]),
            (6, 7, &[(5, 5)]),
            (8, 10, &[(8, 9)]),
            (3, 11, &[(1, 2), (5, 5), (8, 9)]),
        ] {
            let query = format!("from={from}000000000&to={to}000000000");
            assert_eq!(completeness(&town, &query).await, missing(ranges), "{query}");
        }
        for query in ["from=6500000000&to=7000000000", "from=11000000000"] {
            assert_eq!(completeness(&town, query).await, json!({"complete": true}), "{query}");
        }
        town.archive.close_now().unwrap();
    }
    relay.send(&Frame::new(3).run(SERIES, 1, &["1", "2"]).run(SERIES, 5, &["5"])).await;
    assert_eq!(completeness(&town, "from=0").await, missing(&[(8, 9)]));
    relay.send(&Frame::new(4).run(SERIES, 8, &["8", "9"])).await;
    assert_eq!(completeness(&town, "from=0").await, json!({"complete": true}));
    assert_eq!(town.walk("", SERIES, 3).await.len(), 10);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_an_answer_over_mqtt_says_it_too() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    holes(&town).await;
    let mut ana = town.client("ana").await;
    ana.subscribe("answers/ana").await;
    let mut ask = async |question: Value| -> Value {
        let message = Message::new("query/ana", question.to_string()).asking("answers/ana", "7");
        ana.link.send(message).await.unwrap().await.unwrap();
        serde_json::from_slice(&ana.next().await.payload).unwrap()
    };
    let first = ask(json!({"series": SERIES, "limit": 3})).await;
    assert_eq!(first.get("completeness"), None);
    let last = ask(json!({"series": SERIES, "limit": 3, "cursor": first["next_cursor"]})).await;
    assert_eq!((last["next_cursor"].clone(), last["completeness"].clone()), (Value::Null, missing(&[(1, 2), (5, 5), (8, 9)])));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_c6_a_range_with_a_tombstone_says_why_and_where_in_ledger_answer_and_ladder() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = holes(&town).await;
    let grave = |series: &str, epoch: &str, from: u64, to: u64, place: &str| {
        let json = json!({"series": series, "epoch": epoch, "from_seq": from, "to_seq": to, "reason": "outbox full", "place": place, "at_ns": 1});
        json.to_string()
    };
    let graves = [
        grave(SERIES, "e", 8, 8, "relay"),
        grave(SERIES, "e", 11, 12, "agent"),
        grave(SERIES, "f", 1, 3, "agent"),
        "no tombstone".to_owned(),
    ];
    let graves: Vec<&str> = graves.iter().map(String::as_str).collect();
    relay.send(&Frame::new(3).run("cityA/meter-1/forebay/tombstones", 1, &graves)).await;
    // Another sensor has nothing to say about this one.
    let foreign = grave(SERIES, "e", 1, 9, "agent");
    relay.send(&Frame::new(4).run("cityA/meter-2/forebay/tombstones", 1, &[&foreign])).await;
    let of = |place: &str| json!({"why": "outbox full", "place": place});
    let expected = json!([
        {"series": SERIES, "epoch": "e", "first_seq": 3, "last_seq": 10, "held": 5, "missing": 7, "given_up": 3, "more_gaps": 0, "gaps": [
            {"from_seq": 1, "to_seq": 2}, {"from_seq": 5, "to_seq": 5}, {"from_seq": 8, "to_seq": 8, "tombstone": of("relay")},
            {"from_seq": 9, "to_seq": 9}, {"from_seq": 11, "to_seq": 12, "tombstone": of("agent")}]},
        {"series": SERIES, "epoch": "f", "first_seq": 0, "last_seq": 0, "held": 0, "missing": 3, "given_up": 3, "more_gaps": 0,
            "gaps": [{"from_seq": 1, "to_seq": 3, "tombstone": of("agent")}]},
    ]);
    assert_eq!(town.get("", &ledger_of(SERIES)).await.1["holdings"], expected);
    let answer = completeness(&town, "from=0").await;
    assert_eq!((&answer["complete"], answer["missing"].as_array().unwrap().len()), (&json!(false), 6));
    assert_eq!(answer["missing"][0], json!({"epoch": "e", "from_seq": 1, "to_seq": 2, "reason": "gap"}));
    let told = json!({"epoch": "e", "from_seq": 8, "to_seq": 8, "reason": "tombstone", "why": "outbox full", "place": "relay"});
    assert_eq!(answer["missing"][2], told);
    let absent = async |key: &str| town.get("", &format!("/api/v1/where/{SERIES}@{key}")).await.1["absent"].clone();
    let beyond = json!({"reason": "tombstone", "from_seq": 11, "to_seq": 12, "why": "outbox full", "place": "agent"});
    assert_eq!(absent("e.12").await, beyond);
    assert_eq!(absent("e.9").await, json!({"reason": "gap", "from_seq": 9, "to_seq": 9, "last_seq": 10}));
    assert_eq!(absent("f.2").await["reason"], json!("tombstone"));
    assert_eq!(absent("e.13").await, json!({"reason": "beyond", "last_seq": 10}));
    town.stop().await;
}
