//! A relay gets kill -9 while it is loaded at full speed, again and again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use testkit::{Seed, wait_until};

use crate::town;

const CONNECTIONS: usize = 10;
const KILLS: usize = 20;

/// One publisher: numbers its readings, never sends one twice, and remembers which were acknowledged.
async fn publish(at: std::net::SocketAddr, name: usize, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<u64> {
    let (link, _incoming) = town::client(&format!("meter-{name}"), at);
    let topic = format!("op/forward/cityA/meter-{name}/power");
    let mut durable = Vec::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let mut window = Vec::new();
        for _ in 0..50 {
            number += 1;
            match link.enqueue(topic.as_str(), number.to_string()).await {
                Ok(ticket) => window.push((number, ticket)),
                // The connection is gone: the reading was not sent, and the next one waits for the relay to come back.
                Err(_) => break,
            }
        }
        for (number, ticket) in window {
            if ticket.await.is_ok() {
                durable.push(number);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    durable
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_every_acknowledged_record_survives_20_kills_and_reaches_the_cloud_once() {
    let folder = tempfile::tempdir().unwrap();
    let seed = Seed::new();
    let cloud = town::cloud(folder.path()).await;
    let mut relay = town::relay(folder.path(), "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let at = relay.place("listen");
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let publishers: Vec<_> =
        (0..CONNECTIONS).map(|name| tokio::spawn(publish(at, name, Arc::clone(&acknowledged), Arc::clone(&stop)))).collect();

    let mut random = seed.rng();
    for kill in 0..KILLS {
        // At full speed, and at another place of the commit cycle each time.
        let before = acknowledged.load(Ordering::Relaxed);
        let more = 200 + u64::from(rand::Rng::next_u32(&mut random) % 400);
        wait_until(town::PATIENCE, "the load is acknowledged again", async || {
            let so_far = acknowledged.load(Ordering::Relaxed) - before;
            if so_far >= more { Ok(()) } else { Err(format!("kill {kill}: {so_far} of {more}")) }
        })
        .await;
        relay.child.kill_9().await;
        relay = town::relay(folder.path(), "relay-1", at, Some(cloud.place("listen"))).await;
    }
    stop.store(true, Ordering::Relaxed);

    for (name, publisher) in publishers.into_iter().enumerate() {
        let durable = tokio::time::timeout(Duration::from_secs(30), publisher).await.expect("a publisher ends").unwrap();
        assert!(!durable.is_empty(), "publisher {name} got no acknowledgement at all");
        let series = format!("cityA/meter-{name}/power");
        let missing = |held: &HashMap<u64, u32>| durable.iter().filter(|number| !held.contains_key(number)).count();
        let held = wait_until(town::PATIENCE, "the cloud holds every acknowledged record", async || {
            let mut held: HashMap<u64, u32> = HashMap::new();
            for record in town::records(&cloud, &series).await {
                *held.entry(record["payload"].as_str().unwrap().parse().unwrap()).or_default() += 1;
            }
            if missing(&held) == 0 { Ok(held) } else { Err(format!("{series}: {} missing of {}", missing(&held), durable.len())) }
        })
        .await;
        let doubled: Vec<_> = held.iter().filter(|(_, times)| **times != 1).collect();
        assert!(doubled.is_empty(), "{series}: more than once: {doubled:?}");
    }
}
