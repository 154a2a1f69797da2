//! The ordered end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use testkit::{Peer, Script};
use wire::Command;

use crate::town::{Cloud, Town, dev, eventually, reopen, stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_nothing_acknowledged_is_lost_by_a_stop_and_packets_in_hand_are_finished() {
    let folder = tempfile::tempdir().unwrap();
    let town = Town::start(dev(folder.path(), None)).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut publishers = Vec::new();
    for n in 0..4 {
        let (sensor, acknowledged) = (town.client(&format!("meter-{n}")).await, acknowledged.clone());
        publishers.push(tokio::spawn(async move {
            let mut waiting = std::collections::VecDeque::new();
            let (mut mine, mut refused) = (0, 0);
            // At full speed, until the connection is gone.
            let ended = async {
                loop {
                    let Ok(ticket) = sensor.link.enqueue(format!("op/store/cityA/meter-{n}/power"), "1").await else { return };
                    waiting.push_back(ticket);
                    if waiting.len() >= 100 {
                        match waiting.pop_front().unwrap().await {
                            Ok(()) => {
                                mine += 1;
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(link::PublishError::Refused { .. }) => refused += 1,
                            Err(_) => return,
                        }
                    }
                }
            };
            let mut connected = sensor.link.connected();
            tokio::select! {
                () = ended => {}
                _ = connected.wait_for(|connected| !connected) => {}
            }
            for ticket in waiting {
                match ticket.await {
                    Ok(()) => mine += 1,
                    Err(link::PublishError::Refused { .. }) => refused += 1,
                    Err(_) => {}
                }
            }
            (n, mine, refused)
        }));
    }
    eventually("some hundreds", async || acknowledged.load(Ordering::Relaxed) > 500).await;
    town.stop().await;
    let archive = reopen(folder.path());
    for publisher in publishers {
        let (n, acknowledged, refused) = publisher.await.unwrap();
        let kept = stored(&archive, &format!("cityA/meter-{n}/power")).len();
        assert!(kept >= acknowledged, "meter-{n}: {acknowledged} acknowledged, {kept} kept");
        assert_eq!(refused, 0, "what was in hand was taken");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_stops_at_once_whatever_its_cloud_does() {
    let silent = Peer::start(Script { answers_connect: false, ..Script::default() }).await;
    let gone = Peer::start(Script::default()).await;
    let nobody = gone.address();
    drop(gone);
    for cloud in [silent.address(), nobody] {
        let folder = tempfile::tempdir().unwrap();
        let town = Town::start(dev(folder.path(), Some(cloud))).await;
        let sensor = town.client("meter-1").await;
        sensor.publish("op/forward/cityA/meter-1/power", "1").await.unwrap();
        let started = Instant::now();
        town.stop().await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(reopen(folder.path()).stats().waiting_pages, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_hand_overs_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..200 {
        sensor.publish(&format!("op/store/cityA/meter-1/s{}", n % 50), format!("{n}")).await.unwrap();
    }
    eventually("the uplink", async || town.metric("relay_uplink_connected") == 1).await;
    // The writer stands still with the hand-over's first transaction until the relay is told to stop.
    town.archive.faults().hold();
    for id in 0..5 {
        cloud.command(Command::Flush { id }).await;
    }
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.faults().wait_at_gate()).await.unwrap();
    let archive = town.archive.clone();
    let release = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        archive.faults().release();
    });
    let started = Instant::now();
    town.stop().await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    release.await.unwrap();
    // Hand-overs that were cut off let go of the archive a moment later.
    let options = || archive::Options::new(crate::town::RELAY.parse().unwrap(), Arc::new(|| 0));
    let mut reopened = None;
    eventually("the archive is free", async || {
        reopened = archive::Archive::open(&folder.path().join("data"), options()).ok();
        reopened.is_some()
    })
    .await;
    let stats = reopened.unwrap().0.stats();
    assert_eq!(stats.buffer.records + stats.chunks.records + stats.backlog.records, 200, "{stats:?}");
}
