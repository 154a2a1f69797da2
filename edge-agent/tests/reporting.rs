//! What an agent says about itself: records under `forebay/`.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use chassis::Span;
use common::{Held, Running, SOON, config, relay};
use edge_agent::config::RelayConfig;
use edge_agent::{Config, Reading};
use testkit::{Answer, Peer, wait_until};
use wire::system::{Place, TargetReport, TombstoneReport};
use wire::{Operation, Series};

const TARGETS: &str = "cityA/meter-1/forebay/targets";
const TOMBSTONES: &str = "cityA/meter-1/forebay/tombstones";
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

fn series() -> Series {
    "cityA/meter-1/power".parse().unwrap()
}

fn readings(numbers: std::ops::Range<i64>) -> Vec<Reading> {
    numbers.map(|n| Reading::new(series(), Operation::Forward, n, n.to_string()).unwrap()).collect()
}

fn talking(folder: &Path, peer: &Peer) -> Config {
    let mut config = config(folder, peer.address());
    config.report.enabled = true;
    config
}

/// Payloads of one series, in order of sequence.
fn payloads(held: &Arc<Mutex<Held>>, series: &str) -> Vec<Vec<u8>> {
    let held = held.lock().unwrap();
    let of = held.records.iter().filter(|(key, _)| key.0 == series);
    of.map(|(_, delivered)| {
        assert_eq!(delivered.operation, Operation::Forward);
        delivered.payload.clone()
    })
    .collect()
}

async fn wait_for(held: &Arc<Mutex<Held>>, series: &str, count: usize) -> Vec<Vec<u8>> {
    wait_until(SOON, &format!("{count} records of {series}"), async || {
        let found = payloads(held, series);
        if found.len() >= count { Ok(found) } else { Err(found.len()) }
    })
    .await
}

#[tokio::test]
async fn a1_the_agent_tells_its_target_at_the_start_at_each_change_and_at_a_period() {
    let folder = tempfile::tempdir().unwrap();
    let ((first, of_first), (second, of_second)) = (relay(|_| Answer::Ack).await, relay(|_| Answer::Ack).await);
    let mut config = talking(folder.path(), &first);
    let other = RelayConfig { name: "relay-2".parse().unwrap(), address: second.address().into(), user: None, password: None };
    config.relays.push(other);
    (config.probe.distance, config.probe.gone_after) = (Span::millis(100), Span::millis(100));
    config.probe.tie = Span::seconds(5);
    config.report.every = Span::millis(10);
    let running = Running::start(config.clone()).await;
    let target = wait_until(SOON, "the first target", async || {
        let all = [payloads(&of_first, TARGETS), payloads(&of_second, TARGETS)].concat();
        all.first().and_then(|payload| TargetReport::parse(payload)).ok_or(all.len())
    })
    .await;
    assert_eq!((target.why.as_str(), &target.from, target.rtt_ns.is_some()), ("first", &None, true));
    let (dying, left, taking) = match target.relay.as_str() {
        "relay-1" => (first, second, of_second),
        _ => (second, first, of_first),
    };
    drop(dying);
    let moved = wait_until(SOON, "the move", async || {
        let told = payloads(&taking, TARGETS);
        told.iter().filter_map(|payload| TargetReport::parse(payload)).find(|report| report.why == "gone").ok_or(told.len())
    })
    .await;
    assert_eq!(moved.from, Some(target.relay));
    // And again, without a change.
    let before = payloads(&taking, TARGETS).len();
    wait_for(&taking, TARGETS, before + 2).await;
    running.stop().await;
    drop(left);
}

#[tokio::test]
async fn c3_what_was_given_up_is_told_once_also_over_a_restart_and_while_the_outbox_was_full() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let address = peer.address();
    drop(peer);
    let mut quiet = config(folder.path(), address);
    quiet.outbox.bytes_max = chassis::Size(1000);
    quiet.report.enabled = true;
    let running = Running::start(quiet.clone()).await;
    let outbox = running.agent.outbox().clone();
    outbox.take(readings(0..12), None).await.unwrap();
    // No room is left for the telling either, and nobody takes anything.
    outbox.drop_untaken(vec![(series(), 3)], "outbox full", 7).await.unwrap();
    outbox.drop_untaken(vec![(series(), 2)], "outbox full", 8).await.unwrap();
    running.stop().await;
    let (peer, held_now) = relay(|_| Answer::Ack).await;
    quiet.relays[0].address = peer.address().into();
    let running = Running::start(quiet.clone()).await;
    let told = wait_for(&held_now, TOMBSTONES, 1).await;
    let report = TombstoneReport::parse(&told[0]).unwrap();
    assert_eq!((report.series, report.from_seq, report.to_seq, report.place), (series(), 13, 17, Place::Agent));
    assert_eq!((report.reason.as_str(), report.at_ns, report.epoch), ("outbox full", 7, outbox.origin().epoch));
    // A tombstone that grows is told as what it grew by.
    running.agent.outbox().drop_untaken(vec![(series(), 1)], "outbox full", 9).await.unwrap();
    let told = wait_for(&held_now, TOMBSTONES, 2).await;
    let grown = TombstoneReport::parse(&told[1]).unwrap();
    assert_eq!((grown.from_seq, grown.to_seq), (18, 18));
    running.stop().await;
    let running = Running::start(quiet).await;
    running.agent.outbox().take(readings(20..21), None).await.unwrap();
    running.until("all accepted", |progress| progress.pending() == 0 && progress.accepted >= 15).await;
    running.stop().await;
    assert_eq!(payloads(&held_now, TOMBSTONES).len(), 2);
    assert!(held.lock().unwrap().records.is_empty());
}

#[tokio::test]
async fn c3_a_refusal_for_good_is_told_and_a_refusal_of_the_telling_is_not_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let held = Arc::new(Mutex::new(Held::default()));
    let keeps = held.clone();
    let script = testkit::Script::default().on_publish(move |_, publish| {
        let frame = wire::FrameView::parse(&publish.payload).unwrap();
        let told = frame.runs().any(|run| run.series() == TOMBSTONES);
        let bad = frame.runs().flat_map(|run| run.records()).any(|record| record.payload == b"13");
        if told || bad {
            // Also what was said about itself is refused here, so that it becomes a tombstone.
            if told {
                keeps.lock().unwrap().take(&publish.payload, &publish.topic);
            }
            return Answer::Refuse(PAYLOAD_FORMAT_INVALID);
        }
        Answer::Ack
    });
    let peer = Peer::start(script).await;
    let running = Running::start(talking(folder.path(), &peer)).await;
    running.agent.outbox().take(readings(13..14), None).await.unwrap();
    let told = wait_for(&held, TOMBSTONES, 1).await;
    let report = TombstoneReport::parse(&told[0]).unwrap();
    assert_eq!((report.series, report.from_seq, report.to_seq, report.place), (series(), 1, 1, Place::Relay));
    running.until("two rejected", |progress| progress.rejected >= 2 && progress.pending() == 0).await;
    // Two more looks, with a chunk pass in between, find nothing new to say.
    let taken = running.agent.progress().taken;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(running.stop().await.taken, taken);
}
