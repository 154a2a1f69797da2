//! New records reach live subscribers, with key, time and relay beside the payload.

mod town;

use town::{Frame, Town, dev, folder, property};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_record_reaches_a_subscriber_with_its_properties_and_a_repeated_one_does_not() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut reader = town.client("reader").await;
    reader.subscribe("data/cityA/#").await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run("cityA/meter-1/power", 1, &["230.1"]).run("cityB/meter-1/power", 1, &["no"])).await;
    let received = reader.next().await;
    assert_eq!((received.topic.as_str(), &received.payload[..]), ("data/cityA/meter-1/power", &b"230.1"[..]));
    assert_eq!(property(&received, "key"), Some("cityA/meter-1/power@e.1"));
    assert_eq!(property(&received, "at"), Some("1970-01-01T00:00:01.000000000Z"));
    assert_eq!(property(&received, "relay"), Some("relay-1"));
    assert_eq!(property(&received, "operation"), Some("forward"));
    assert_eq!(property(&received, "historical"), None);
    // Of a frame that is partly known only the rest is new; what is late says so.
    let late = Frame { historical: true, ..Frame::new(2).run("cityA/meter-1/power", 1, &["230.1", "230.2"]) };
    relay.send(&late).await;
    let received = reader.next().await;
    assert_eq!(property(&received, "key"), Some("cityA/meter-1/power@e.2"));
    assert_eq!(property(&received, "historical"), Some("true"));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_arrives_whole_and_in_order() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut reader = town.client("reader").await;
    reader.subscribe("data/#").await;
    let relay = town.client("relay-1").await;
    let payloads: Vec<String> = (1..=2_000).map(|n| n.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    relay.send(&Frame::new(1).run("cityA/meter-1/power", 1, &payloads)).await;
    for payload in payloads {
        assert_eq!(reader.next().await.payload, payload.as_bytes());
    }
    assert_eq!(town.counter("cloud_live_records_published_total"), 2_000);
    town.stop().await;
}
