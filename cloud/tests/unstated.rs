//! What relays have taken and not stated yet is in the answer, or named in its completeness statement (C6).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::time::{Duration, Instant};

use serde_json::json;
use town::keeper::{Relay, SECOND, SERIES, ask, payloads, quick};
use town::{Frame, Town, dev, eventually, folder};
use wire::{Intervals, Series, Unstated};

fn holds(series: &[&str], at: (i64, i64)) -> Unstated {
    let names = series.iter().map(|name| name.parse::<Series>().unwrap()).collect();
    Unstated { through: 1, at: Some(at), series: names, ..Unstated::default() }
}

impl Relay {
    /// From now on it says this when it is asked.
    fn says(&self, unstated: Option<(Intervals, Unstated)>) {
        self.client.says.lock().unwrap().unstated = unstated;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_what_a_relay_has_taken_and_not_stated_is_brought_for_the_answer() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![]).await;
    let frame = Frame::new(1).announcing(None);
    relay.client.send(&frame.run(SERIES, 1, &["1"])).await;
    // A series that the cloud has never heard of is found by its name all the same.
    relay.says(Some((Intervals::new(), holds(&[SERIES, "cityA/meter-2/power"], (2 * SECOND, 4 * SECOND)))));
    let bringing = async {
        for number in 2..4 {
            let (id, series, from, to) = relay.pull().await;
            assert_eq!((from, to), (2 * SECOND, 4 * SECOND + 1));
            relay.client.send(&Frame::new(number).run(&series, 2, &["2", "3"])).await;
            relay.done(id, &[(number, number)]).await;
        }
    };
    let (page, ()) = tokio::join!(ask(&town, "filter=cityA/%23"), bringing);
    assert_eq!(payloads(&page), ["1", "2", "3", "2", "3"]);
    // Number 1 of the second series is a gap now; nothing else is missing.
    assert_eq!(page["completeness"]["missing"].as_array().map(Vec::len), Some(1), "{page}");
    assert!(page["completeness"].get("unheard").is_none(), "{page}");
    // Times that it holds nothing of cost no pull, and neither does another series.
    for query in [format!("series={SERIES}&to=2000000000"), "series=cityA/meter-9/power".to_owned()] {
        assert_eq!(ask(&town, &query).await["completeness"], json!({"complete": true}), "{query}");
    }
    assert_eq!(town.counter("cloud_pulls_sent_total"), 2);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_what_a_relay_did_not_bring_of_what_it_has_not_stated_is_named() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let mut relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![]).await;
    relay.says(Some((Intervals::new(), holds(&[SERIES], (SECOND, SECOND)))));
    let (page, _) = tokio::join!(ask(&town, "filter=cityA/%23"), relay.pull());
    let unheard = &page["completeness"]["unheard"];
    assert_eq!((&unheard[0]["relay"], &unheard[0]["series"], &unheard[1]), (&json!("relay-1"), &json!(SERIES), &json!(null)));
    assert_eq!(page["completeness"]["complete"], false);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_relay_that_does_not_say_what_it_holds_is_named_until_the_operator_retires_it() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![]).await;
    let query = format!("series={SERIES}");
    assert_eq!(ask(&town, &query).await["completeness"], json!({"complete": true}));
    relay.says(None);
    let began = Instant::now();
    let page = ask(&town, &query).await;
    let unheard = &page["completeness"]["unheard"][0];
    assert_eq!((&unheard["relay"], &unheard["reason"]), (&json!("relay-1"), &json!("relay-unreachable")));
    assert!(began.elapsed() >= Duration::from_millis(700) && unheard["since"].as_str().is_some(), "{page}");
    // Times that were over long before it was heard are none of its business, and it is not asked.
    let asked = relay.client.says.lock().unwrap().times;
    let old = ask(&town, &format!("{query}&to=5000000000")).await;
    assert_eq!(old["completeness"], json!({"complete": true}));
    assert_eq!(relay.client.says.lock().unwrap().times, asked);
    let retire = async || town.request(reqwest::Method::POST, "", "/api/v1/relays/relay-1/retire").await;
    assert_eq!(retire().await.0, 409, "it is connected");
    drop(relay);
    eventually("the relay is gone", async || retire().await.0 == 200).await;
    assert_eq!(ask(&town, &query).await["completeness"], json!({"complete": true}));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_relay_that_is_gone_is_named_after_a_restart_of_the_cloud_too() {
    let (_dir, path) = folder();
    let town = Town::start(quick(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![]).await;
    assert_eq!(ask(&town, &format!("series={SERIES}")).await["completeness"], json!({"complete": true}));
    drop(relay);
    town.stop().await;
    let town = Town::start(quick(&path)).await;
    let page = ask(&town, &format!("series={SERIES}")).await;
    let unheard = &page["completeness"]["unheard"][0];
    assert_eq!((&unheard["relay"], &unheard["reason"]), (&json!("relay-1"), &json!("relay-unreachable")));
    assert!(unheard["since"].as_str().is_some(), "when it was heard is kept: {page}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_frames_on_their_way_are_waited_for_and_named_if_they_do_not_come() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    // What is waited for comes within it on a busy machine.
    config.history.pull_wait = chassis::Span::seconds(3);
    let town = Town::start(config).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![]).await;
    relay.says(Some((Intervals::of(1, 2), Unstated::default())));
    relay.client.send(&Frame::new(1).announcing(None).run(SERIES, 1, &["1"])).await;
    let query = format!("series={SERIES}");
    let sending = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        relay.client.send(&Frame::new(2).run(SERIES, 2, &["2"])).await;
    };
    let (page, ()) = tokio::join!(ask(&town, &query), sending);
    assert_eq!((payloads(&page), &page["completeness"]), (vec!["1", "2"], &json!({"complete": true})));
    relay.says(Some((Intervals::of(3, 3), Unstated::default())));
    let page = ask(&town, &query).await;
    assert_eq!(page["completeness"]["unheard"][0]["reason"], "on-the-way", "{page}");
    // So many are a backlog, and no answer waits for that.
    relay.says(Some((Intervals::of(3, 9_999), Unstated::default())));
    let began = Instant::now();
    let page = ask(&town, &query).await;
    assert_eq!(page["completeness"]["unheard"][0]["reason"], "on-the-way", "{page}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_questions_that_come_together_share_what_a_relay_is_asked() {
    const QUESTIONS: usize = 50;
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = Relay::start(&town, "relay-1").await;
    relay.states(0, 9, vec![]).await;
    // The first is under way, unanswered; all others share the second.
    relay.says(None);
    let asking: Vec<_> = (0..QUESTIONS)
        .map(|_| {
            let url = format!("http://{}/api/v1/records?series={SERIES}", town.http);
            tokio::spawn(async move { reqwest::get(url).await.unwrap().json::<serde_json::Value>().await.unwrap() })
        })
        .collect();
    for question in asking {
        assert_eq!(question.await.unwrap()["completeness"]["unheard"][0]["relay"], "relay-1");
    }
    assert!(relay.client.says.lock().unwrap().times <= 2, "{}", relay.client.says.lock().unwrap().times);
    town.stop().await;
}
