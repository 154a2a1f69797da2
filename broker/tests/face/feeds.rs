//! Subscriptions that are fed from inside the process: room, order, refusals, ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Client, Feed, FeedEnd, FeedRefusal, Feeds, Message, NoIntake, Policy, Settings, users};
use tokio::sync::mpsc;

use crate::host::{Host, host_with, settings};
use crate::peer::{Hello, PATIENCE, Peer, hello, packet, text};

type Tap = mpsc::Sender<Result<Vec<Message>, FeedEnd>>;

/// Batches that a feed of the client `patient` may have ready.
const DEEP: usize = 50;

/// Feeds whose other ends the test holds. The time is "0", nothing else.
#[derive(Clone, Default)]
struct Taps(Arc<Mutex<Vec<(String, Tap)>>>);

impl Feeds for Taps {
    fn open(&self, client: &Client, since: &str, filter: &str) -> Result<Feed, FeedRefusal> {
        if since != "0" {
            return Err(FeedRefusal::FilterInvalid);
        }
        if client.id == "greedy" {
            return Err(FeedRefusal::QuotaExceeded);
        }
        let (tap, feed) = mpsc::channel(if client.id == "patient" { DEEP } else { 1 });
        self.0.lock().unwrap().push((filter.to_owned(), tap));
        Ok(feed)
    }
}

impl Taps {
    fn tap(&self, index: usize) -> Tap {
        self.0.lock().unwrap()[index].1.clone()
    }
}

async fn fed_host(settings: Settings, policy: Policy) -> (Host, Taps) {
    let taps = Taps::default();
    (host_with(settings, policy, Arc::new(NoIntake), Some(Arc::new(taps.clone()))).await, taps)
}

fn numbered(topic: &str, numbers: std::ops::Range<u32>) -> Vec<Message> {
    numbers.map(|number| Message::new(topic, number.to_string()).user_property("n", "v")).collect()
}

#[tokio::test]
async fn c7_a_feed_goes_to_its_client_alone_in_both_versions() {
    let (host, taps) = fed_host(settings(), Policy::anonymous()).await;
    for (index, v5) in [false, true].into_iter().enumerate() {
        let mut peer = Peer::join(host.address, hello(v5, "reader")).await;
        assert_eq!(peer.subscribe("$from/0/data/a/#", 1).await, 1);
        assert_eq!(host.metric("broker_feeds"), 1.0);
        assert_eq!(taps.0.lock().unwrap()[index].0, "data/a/#");
        taps.tap(index).send(Ok(numbered("data/a/b", 0..3))).await.unwrap();
        for number in 0..3_u32 {
            let (topic, qos, id, properties, payload) = peer.recv().await.publish(v5);
            assert_eq!((topic.as_str(), qos, &payload[..]), ("data/a/b", 1, number.to_string().as_bytes()));
            assert_eq!(properties, if v5 { [vec![0x26], text("n"), text("v")].concat() } else { vec![] });
            peer.send(&packet(0x40, &id.to_be_bytes())).await;
        }
        // The router knows nothing of it.
        assert!(!host.broker.hub().wanted("data/a/b"));
        drop(peer);
        host.until("the feed is closed", |_| taps.tap(index).is_closed()).await;
        assert_eq!(host.metric("broker_feeds"), 0.0);
    }
    host.until("nothing is left", |host| host.metric("broker_subscriptions") == 0.0).await;
}

#[tokio::test]
async fn c7_a_feed_waits_for_the_window_of_its_client_and_others_do_not() {
    let (host, taps) = fed_host(settings(), Policy::anonymous()).await;
    let mut slow = Peer::join(host.address, Hello { properties: &[0x21, 0, 2], ..hello(true, "slow") }).await;
    assert_eq!(slow.subscribe("$from/0/data/#", 1).await, 1);
    let tap = taps.tap(0);
    tap.send(Ok(numbered("data/a", 0..5))).await.unwrap();
    let (_, _, first, _, payload) = slow.recv().await.publish(true);
    assert_eq!(payload, b"0");
    let (_, _, second, _, payload) = slow.recv().await.publish(true);
    assert_eq!(payload, b"1");
    slow.expect_silence().await;
    // One batch is in hand, one in the channel: whoever makes the third waits.
    tap.send(Ok(numbered("data/a", 5..6))).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), tap.reserve()).await.is_err());
    let mut other = Peer::join(host.address, hello(true, "other")).await;
    assert_eq!(other.subscribe("$from/0/data/#", 0).await, 0);
    taps.tap(1).send(Ok(numbered("data/a", 7..8))).await.unwrap();
    assert_eq!(other.recv().await.publish(true).4, b"7");
    let mut ids = vec![first, second];
    for number in 2..6_u32 {
        slow.send(&packet(0x40, &ids.remove(0).to_be_bytes())).await;
        let (_, _, id, _, payload) = slow.recv().await.publish(true);
        assert_eq!(payload, number.to_string().as_bytes());
        ids.push(id);
    }
    host.still_serves().await;
}

/// A socket that takes nothing stops the feed at a few packets, and nothing is lost when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c7_a_feed_waits_for_a_socket_that_is_full_and_loses_nothing() {
    let (host, taps) = fed_host(settings(), Policy::anonymous()).await;
    let mut peer = Peer::join(host.address, hello(false, "slow")).await;
    assert_eq!(peer.subscribe("$from/0/data/#", 0).await, 0);
    let (tap, total) = (taps.tap(0), 3_000_u32);
    let feeding = tokio::spawn(async move {
        for number in 0..total {
            let payload = format!("{number} {}", "x".repeat(10_000));
            tap.send(Ok(vec![Message::new("data/a", payload)])).await.unwrap();
        }
    });
    // Sockets hold some megabytes; that the feed stands still is what is waited for.
    let mut before = -1.0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = host.metric("broker_messages_delivered_total");
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before < f64::from(total) && !feeding.is_finished(), "{before} were delivered to a reader that does not read");
    for number in 0..total {
        let payload = peer.recv().await.publish(false).4;
        assert!(payload.starts_with(format!("{number} ").as_bytes()));
    }
    feeding.await.unwrap();
}

#[tokio::test]
async fn c7_feeds_and_subscriptions_share_one_connection() {
    let (host, taps) = fed_host(settings(), Policy::anonymous()).await;
    let mut peer = Peer::join(host.address, hello(true, "reader")).await;
    for filter in ["$from/0/data/a", "t", "$from/0/data/b"] {
        assert_eq!(peer.subscribe(filter, 1).await, 1);
    }
    taps.tap(0).send(Ok(numbered("data/a", 0..1))).await.unwrap();
    assert_eq!(peer.recv().await.publish(true).0, "data/a");
    host.broker.hub().publish(Message::new("t", "x")).await;
    assert_eq!(peer.recv().await.publish(true).0, "t");
    taps.tap(1).send(Ok(numbered("data/b", 0..1))).await.unwrap();
    assert_eq!(peer.recv().await.publish(true).0, "data/b");
    // The same filter again is the same feed with other options.
    assert_eq!(peer.subscribe("$from/0/data/a", 0).await, 0);
    assert_eq!(host.metric("broker_feeds"), 2.0);
    taps.tap(0).send(Ok(numbered("data/a", 1..2))).await.unwrap();
    assert_eq!(peer.recv().await.publish(true).1, 0);
    let unsubscribe = [vec![0, 9, 0], text("$from/0/data/a"), text("$from/0/data/c")].concat();
    peer.send(&packet(0xA2, &unsubscribe)).await;
    let unsuback = peer.recv().await;
    assert_eq!((unsuback.first, unsuback.body), (0xB0, vec![0, 9, 0, 0, 0x11]));
    assert!(taps.tap(0).is_closed() && !taps.tap(1).is_closed());
    assert_eq!((host.metric("broker_feeds"), host.metric("broker_subscriptions")), (1.0, 2.0));
}

#[tokio::test]
async fn c7_a_feed_that_always_has_more_leaves_the_others_their_turns() {
    let (host, taps) = fed_host(settings(), Policy::anonymous()).await;
    let mut peer = Peer::join(host.address, hello(true, "patient")).await;
    let topics = ["data/a", "data/b"];
    for topic in topics {
        assert_eq!(peer.subscribe(&format!("$from/0/{topic}"), 0).await, 0);
    }
    // On one thread: all of it is there before the broker looks.
    for (index, topic) in topics.into_iter().enumerate() {
        for _ in 0..DEEP {
            taps.tap(index).try_send(Ok(numbered(topic, 0..20))).unwrap();
        }
    }
    let mut seen = std::collections::HashMap::<String, u32>::new();
    for _ in 0..200 {
        *seen.entry(peer.recv().await.publish(true).0).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn c7_what_can_not_be_fed_is_refused_with_the_right_code() {
    let limits = Settings { feeds_per_client_max: 2, feeds_max: 3, ..settings() };
    let (host, _taps) = fed_host(limits, Policy::anonymous()).await;
    for v5 in [true, false] {
        let mut peer = Peer::join(host.address, hello(v5, "reader")).await;
        for filter in ["$from/", "$from/0", "$from/0/", "$from/yesterday/data/#", "$from/0/data/#/x", "$from/0/da+a"] {
            assert_eq!(peer.subscribe(filter, 1).await, if v5 { 0x8F } else { 0x80 }, "{filter}");
        }
        // Two for a client, three for all.
        for (filter, code) in [("a", 1), ("b", 1), ("c", 0x97)] {
            let expected = if v5 || code == 1 { code } else { 0x80 };
            assert_eq!(peer.subscribe(&format!("$from/0/data/{filter}"), 1).await, expected);
        }
        let mut other = Peer::join(host.address, hello(true, "other")).await;
        assert_eq!(other.subscribe("$from/0/data/d", 1).await, 1);
        assert_eq!(other.subscribe("$from/0/data/e", 1).await, 0x97);
        drop((peer, other));
        host.until("their places are free", |host| host.metric("broker_feeds") == 0.0).await;
    }
    let mut greedy = Peer::join(host.address, hello(true, "greedy")).await;
    assert_eq!(greedy.subscribe("$from/0/data/#", 1).await, 0x97);
    let unfed = crate::host::open_host().await;
    let mut peer = Peer::join(unfed.address, hello(true, "reader")).await;
    assert_eq!(peer.subscribe("$from/0/data/#", 1).await, 0x8F, "nobody feeds here");
}

#[tokio::test]
async fn c7_the_end_of_a_feed_ends_the_connection_with_its_reason() {
    let (host, taps) = fed_host(settings(), Policy::anonymous()).await;
    let ends = [(FeedEnd::NotAuthorized, 0x87), (FeedEnd::QuotaExceeded, 0x97), (FeedEnd::Unavailable, 0x83)];
    for (index, (end, code)) in ends.into_iter().enumerate() {
        let mut peer = Peer::join(host.address, hello(true, "reader")).await;
        assert_eq!(peer.subscribe("$from/0/data/#", 0).await, 0);
        taps.tap(index).send(Ok(numbered("data/a", 0..1))).await.unwrap();
        taps.tap(index).send(Err(end)).await.unwrap();
        assert_eq!(peer.recv().await.publish(true).4, b"0");
        peer.expect_end(code).await;
    }
}

const GRANTS: &str = "[[grant]]\nusers = [\"ana\"]\nactions = [\"subscribe\"]\ntopics = [\"data/cityA/#\"]\n";

#[tokio::test]
async fn c7_a_feed_needs_a_grant_and_does_not_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let (names, grants) = (folder.path().join("users"), folder.path().join("grants.toml"));
    users::set_password(&names, "ana", b"a").unwrap();
    std::fs::write(&grants, GRANTS).unwrap();
    let policy = Policy::open(&names, &grants).unwrap();
    let (host, taps) = fed_host(settings(), policy.clone()).await;
    let mut peer = Peer::join(host.address, Hello { login: Some(("ana", "a")), ..hello(true, "desk") }).await;
    for filter in ["data/#", "data/cityB/#", "#"] {
        assert_eq!(peer.subscribe(&format!("$from/0/{filter}"), 1).await, 0x87, "{filter}");
    }
    assert_eq!(taps.0.lock().unwrap().len(), 0, "what is refused is not opened");
    assert_eq!(peer.subscribe("$from/0/data/cityA/#", 0).await, 0);
    let tap = taps.tap(0);
    tap.send(Ok(numbered("data/cityA/m/p", 0..1))).await.unwrap();
    assert_eq!(peer.recv().await.publish(true).4, b"0");
    std::fs::write(&grants, "").unwrap();
    policy.reload().unwrap();
    tap.send(Ok(numbered("data/cityA/m/p", 1..2))).await.unwrap();
    tokio::time::timeout(PATIENCE, peer.expect_end(0x87)).await.unwrap();
    assert_eq!(host.metric("broker_deliveries_withheld_total{reason=\"NotAuthorized\"}"), 1.0);
}
