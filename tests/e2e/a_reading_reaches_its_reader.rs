//! The whole way, once: a plain MQTT device publishes, the reading is kept or forwarded, and read live and later.

use link::Qos;
use testkit::wait_until;

use crate::town;

#[tokio::test(flavor = "multi_thread")]
async fn a4_forward_goes_to_the_cloud_at_once_and_store_stays_until_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = town::cloud(folder.path()).await;
    let relay = town::relay(folder.path(), "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let (meter, _) = town::client("meter", relay.place("listen"));
    meter.publish("op/store/cityA/meter-1/energy", "kept").await.unwrap();
    meter.publish("op/forward/cityA/meter-1/power", "sent").await.unwrap();

    let sent = town::wait_for_records(&cloud, "cityA/meter-1/power", 1).await;
    assert_eq!(sent[0]["payload"], "sent");
    assert_eq!(sent[0]["operation"], "forward");
    assert_eq!(sent[0]["relay"], "relay-1");
    assert!(town::records(&cloud, "cityA/meter-1/energy").await.is_empty(), "a stored reading stays at the relay");

    // The relay announces itself when its subscriptions stand; until then a command may find nobody.
    let flush = format!("http://{}/api/v1/relays/relay-1/flush", cloud.place("http"));
    wait_until(town::PATIENCE, "the relay hands over what it keeps", async || {
        let answer = reqwest::Client::new().post(&flush).send().await.unwrap().status();
        let held = town::records(&cloud, "cityA/meter-1/energy").await;
        if held.len() == 1 { Ok(()) } else { Err((answer, held)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_live_reader_gets_the_reading_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = town::cloud(folder.path()).await;
    let relay = town::relay(folder.path(), "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let (reader, mut readings) = town::client("reader", cloud.place("listen"));
    let mut connected = reader.connected();
    connected.wait_for(|up| *up).await.unwrap();
    reader.subscribe("data/cityA/#", Qos::One).await.unwrap();

    let (meter, _) = town::client("meter", relay.place("listen"));
    meter.publish("op/forward/cityB/meter-9/power", "elsewhere").await.unwrap();
    meter.publish("op/forward/cityA/meter-1/power", "0.25").await.unwrap();
    let reading = tokio::time::timeout(town::PATIENCE, readings.next()).await.expect("a reading in time").unwrap();
    assert_eq!((reading.topic.as_str(), &reading.payload[..]), ("data/cityA/meter-1/power", &b"0.25"[..]));
    let property = |name: &str| reading.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let key: wire::RecordKey = property("key").unwrap().parse().unwrap();
    assert_eq!((key.series.as_str(), key.seq), ("cityA/meter-1/power", 1));
    assert_eq!(property("relay").as_deref(), Some("relay-1"));
    let held = town::wait_for_records(&cloud, "cityA/meter-1/power", 1).await;
    assert_eq!(held[0]["key"], key.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_a_cloud_keeps_everything_and_hands_it_over_when_it_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut alone = town::relay(folder.path(), "relay-1", town::any_port(), None).await;
    let (meter, _) = town::client("meter", alone.place("listen"));
    for number in 0..100 {
        meter.publish("op/forward/cityA/meter-1/power", number.to_string()).await.unwrap();
    }
    alone.child.kill_9().await;
    let cloud = town::cloud(folder.path()).await;
    let _relay = town::relay(folder.path(), "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let held = town::wait_for_records(&cloud, "cityA/meter-1/power", 100).await;
    let payloads: Vec<_> = held.iter().map(|record| record["payload"].as_str().unwrap().to_owned()).collect();
    assert_eq!(payloads, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
}
