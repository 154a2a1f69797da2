//! The disk is slow, fails, or its thread dies: what is said is what is durable.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use chassis::UnitsFault;
use link::PublishError;
use town::{Frame, Town, dev, eventually, folder};

const SERIES: &str = "cityA/meter-1/power";
const UNAVAILABLE: u8 = 0x83;

async fn at_gate(town: &Town) {
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.faults().wait_at_gate()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_acknowledgement_and_receipt_wait_for_the_commit_and_live_delivery_does_not() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = town.client("relay-1").await;
    let mut reader = town.client("reader").await;
    relay.subscribe("down/relay-1/receipts").await;
    reader.subscribe("data/#").await;
    town.archive.faults().hold();
    let mut acknowledgement =
        relay.link.enqueue("up/relay-1/frames", Frame::new(1).run(SERIES, 1, &["x"]).encode("relay-1")).await.unwrap();
    at_gate(&town).await;
    assert_eq!(reader.next().await.payload, "x");
    // The gate is closed: neither may come, however long one waits.
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(100), async {
        tokio::select! {
            acknowledged = &mut acknowledgement => panic!("acknowledged before the commit: {acknowledged:?}"),
            receipt = relay.incoming.next() => panic!("receipted before the commit: {receipt:?}"),
        }
    });
    assert!(nothing.await.is_err());
    town.archive.faults().release();
    assert_eq!(acknowledgement.await, Ok(()));
    assert_eq!(relay.receipt().await, [(1, 1)]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_a_failed_commit_is_refused_and_the_frame_sent_again_is_new() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = town.client("relay-1").await;
    relay.subscribe("down/relay-1/receipts").await;
    town.archive.faults().fail_commits(1);
    let frame = Frame::new(1).run(SERIES, 1, &["x"]);
    let refused = relay.publish("up/relay-1/frames", frame.encode("relay-1")).await;
    assert_eq!(refused, Err(PublishError::Refused { reason_code: UNAVAILABLE }));
    assert!(town.walk("", SERIES, 10).await.is_empty());
    relay.send(&frame).await;
    assert_eq!(relay.receipt().await, [(1, 1)]);
    assert_eq!(town.counter("cloud_records_ingested_total"), 1);
    assert_eq!(town.counter("cloud_receipts_sent_total"), 1);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_counted_even_if_the_relay_hangs_up_before_the_commit() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(SERIES, 1, &["x"])).await;
    town.archive.faults().hold();
    let forged = Frame::new(2).run(SERIES, 1, &["forged"]).encode("relay-1");
    let _ticket = relay.link.enqueue("up/relay-1/frames", forged).await.unwrap();
    at_gate(&town).await;
    relay.link.close().await;
    town.archive.faults().release();
    eventually("the alarm", async || town.counter("cloud_records_conflict_total") == 1).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_writer_ends_the_cloud() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    town.archive.faults().panic();
    let _ticket = relay.link.enqueue("up/relay-1/frames", Frame::new(1).run(SERIES, 1, &["x"]).encode("relay-1")).await.unwrap();
    match town.ended().await {
        Err(UnitsFault::Failed { unit, .. }) => assert_eq!(unit, "archive"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_archive_refuses_and_keeps_what_it_has() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.storage.budget = cloud::config::BUDGET_MIN;
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let payload = noise(200_000);
    let mut acknowledged = 0;
    let refused = loop {
        let parts: Vec<&str> = std::iter::repeat_n(payload.as_str(), 20).collect();
        let frame = Frame::new(acknowledged + 1).run(SERIES, 20 * acknowledged + 1, &parts);
        match relay.publish("up/relay-1/frames", frame.encode("relay-1")).await {
            Ok(()) => acknowledged += 1,
            Err(refused) => break refused,
        }
    };
    assert!(refused.is_quota(), "{refused:?}");
    assert!((10..=20).contains(&acknowledged), "{acknowledged}");
    let (_, status) = town.get("", "/api/v1/status").await;
    assert_eq!(status["records"]["held"], 20 * acknowledged);
    town.stop().await;
}

/// Text that does not compress away.
fn noise(length: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + (state >> 33) as u8 % 90)
    };
    (0..length).map(|_| next()).collect()
}
