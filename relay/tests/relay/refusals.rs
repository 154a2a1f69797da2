//! What is not taken, and what the publisher is told.

use std::time::Duration;

use chassis::{Size, Span};
use wire::Operation::{Forward, Store};

use crate::town::{Cloud, Town, dev, eventually, frame, run, stored};

const TOPIC_NAME_INVALID: u8 = 0x90;
const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
const UNAVAILABLE: u8 = 0x83;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_topic_or_payload_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let town = Town::start(dev(folder.path(), None)).await;
    let client = town.client("meter-1").await;
    for topic in ["op/store/cityA", "op/drop/cityA/meter-1/power", "op/store/cityA/mé/power", "probe/cityA", "probe/cityA/a/b"] {
        assert_eq!(client.refused(topic, "1").await, TOPIC_NAME_INVALID, "{topic}");
    }
    let own = town.archive.epoch().0;
    let good = run("cityA/meter-1/power", Store, 7, 1, &["1"]);
    let cases: [(&str, Vec<u8>); 9] = [
        ("not a frame", b"1".to_vec()),
        ("cut off", frame(&[], &[&good])[..20].to_vec()),
        ("something behind it", [frame(&[], &[&good]), vec![0]].concat()),
        ("another sensor", frame(&[], &[&good, &run("cityA/meter-10/power", Store, 7, 1, &["1"])])),
        ("another operation", frame(&[], &[&good, &run("cityA/meter-1/power", Forward, 7, 2, &["1"])])),
        ("the relay's own epoch", frame(&[], &[&good, &run("cityA/meter-1/power", Store, own, i64::MAX as u64, &["1"])])),
        ("a secret of the relay's own epoch", frame(&[(own, 1)], &[&good])),
        ("a secret of an epoch without records", frame(&[(7, 1), (8, 1)], &[&good])),
        ("seventeen secrets", frame(&[(7, 1); 17], &[&good])),
    ];
    for (what, payload) in cases {
        assert_eq!(client.refused("op/store/cityA/meter-1", payload).await, PAYLOAD_FORMAT_INVALID, "{what}");
    }
    assert_eq!(client.refused("op/store/cityA/meter-1/power", vec![0; (256 << 10) + 1]).await, PAYLOAD_FORMAT_INVALID);
    // The connection is as good as before.
    client.publish("op/store/cityA/meter-1", frame(&[(7, 1)], &[&good])).await.unwrap();
    client.publish("op/store/cityA/meter-1/power", "2").await.unwrap();
    assert_eq!(stored(&town.archive, "cityA/meter-1/power").len(), 2);
    assert_eq!(town.metric("relay_publishes_refused_total{reason=\"Topic\"}"), 5);
    assert_eq!(town.metric("relay_publishes_refused_total{reason=\"Payload\"}"), 10);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_a_full_lane_is_told_and_takes_again_when_receipts_made_room() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.storage.outgoing_budget = Size(64 << 10);
    config.storage.segment_age = Span::millis(100);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    let mut taken = 0;
    loop {
        match sensor.publish("op/forward/cityA/meter-1/power", vec![b'x'; 4 << 10]).await {
            Ok(()) => taken += 1,
            Err(link::PublishError::Refused { reason_code: QUOTA_EXCEEDED }) => break,
            Err(other) => panic!("{other:?}"),
        }
        assert!(taken < 100, "nothing was refused");
    }
    assert!(taken >= 16);
    // The other lane has room.
    sensor.publish("op/store/cityA/meter-1/power", "stored").await.unwrap();
    assert_eq!(sensor.refused("op/forward/cityA/meter-1/power", "small").await, QUOTA_EXCEEDED);
    cloud.seen_until("all that was taken", |seen| seen.len() >= taken).await;
    cloud.receipts(true);
    cloud.receipt(town.archive.epoch(), &[(1, 1_000)]).await;
    eventually("room", async || sensor.publish("op/forward/cityA/meter-1/power", "after").await.is_ok()).await;
    eventually("all", async || town.waiting() == 0).await;
    assert_eq!(cloud.payloads().len(), taken + 1, "what was refused was not taken");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_a_full_disk_keeps_serving() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/forward/cityA/meter-1/power", "before").await.unwrap();
    sensor.publish("op/store/cityA/meter-1/power", "before").await.unwrap();
    town.archive.faults().limit_growth(0);
    let mut taken = 2;
    // The file may have free pages; then it is full.
    while sensor.publish("op/store/cityA/meter-1/power", vec![b'x'; 64 << 10]).await.is_ok() {
        taken += 1;
        assert!(taken < 100, "the disk is not full");
    }
    assert_eq!(sensor.refused("op/store/cityA/meter-1/power", vec![b'x'; 64 << 10]).await, UNAVAILABLE);
    assert!(stored(&town.archive, "cityA/meter-1/power").contains(&"before".to_owned()), "reads go on");
    eventually("the uplink goes on", async || cloud.payloads() == ["before"]).await;
    sensor.publish("probe/cityA/meter-1", "").await.unwrap();
    town.archive.faults().unlimit_growth();
    eventually("taken again", async || sensor.publish("op/store/cityA/meter-1/power", "after").await.is_ok()).await;
    cloud.receipt(town.archive.epoch(), &[(1, 9)]).await;
    eventually("receipts are kept again", async || town.waiting() == 0).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_upkeep_that_fails_is_tried_again_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = dev(folder.path(), None);
    config.storage.segment_age = Span::millis(50);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/store/cityA/meter-1/power", "1").await.unwrap();
    town.archive.faults().fail_commits(4);
    sensor.publish("op/store/cityA/meter-1/power", "2").await.unwrap_err();
    eventually("failures", async || town.archive.stats().writer.failed_groups >= 4).await;
    eventually("the segment is closed", async || town.archive.stats().chunks.records == 1).await;
    sensor.publish("op/store/cityA/meter-1/power", "2").await.unwrap();
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_probe_keeps_nothing_and_is_answered_whatever_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = dev(folder.path(), None);
    config.storage.budget = Size(1);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/store/cityA/meter-1/power", "1").await.unwrap();
    eventually("full", async || sensor.publish("op/store/cityA/meter-1/power", "2").await.is_err()).await;
    tokio::time::timeout(Duration::from_secs(5), sensor.publish("probe/cityA/meter-1", "")).await.unwrap().unwrap();
    assert_eq!(town.archive.stats().buffer.records + town.archive.stats().chunks.records, 1);
    town.stop().await;
}
