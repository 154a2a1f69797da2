//! Secrets of epochs: told to the cloud once a connection, and never in the way of a page.

use broker::Refusal;
use chassis::Span;
use testkit::CutLink;
use wire::Operation::Forward;

use crate::town::{Cloud, Seen, Town, dev, eventually, frame, run};

/// Epoch, scope and first byte of the secrets in these frames.
fn told(seen: &[Seen]) -> Vec<(u64, String, u8)> {
    let all = seen.iter().flat_map(|seen| &seen.secrets);
    all.map(|told| {
        (told.epoch.0, told.scope.as_ref().map_or(String::new(), |sensor| sensor.to_string()), told.secret.expose()[0])
    })
    .collect()
}

async fn announce(town: &Town, sensor: &str, epoch: u64, seq: u64) {
    let agent = town.client("agent").await;
    let records = run(&format!("cityA/{sensor}/power"), Forward, epoch, seq, &["1"]);
    let payload = frame(&[(epoch, epoch as u8)], &[&records]);
    agent.publish(&format!("op/forward/cityA/{sensor}"), payload).await.unwrap();
    agent.link.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_told_once_a_connection_with_or_before_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let cut = CutLink::start(cloud.address).await;
    let town = Town::start(dev(folder.path(), Some(cut.address()))).await;
    let (own, first) = (town.archive.epoch().0, town.archive.secret().expose()[0]);
    announce(&town, "m1", 11, 1).await;
    eventually("the first", async || town.waiting() == 0).await;
    assert_eq!(told(&cloud.seen()), [(own, String::new(), first), (11, "cityA/m1".into(), 11)]);
    // While the uplink sends, on the same connection; the known one is not told again.
    announce(&town, "m1", 11, 2).await;
    announce(&town, "m2", 12, 1).await;
    eventually("the second", async || town.waiting() == 0).await;
    let seen = cloud.seen();
    assert_eq!(told(&seen)[2..], [(12, "cityA/m2".into(), 12)]);
    for seen in &seen {
        for (key, _) in &seen.records {
            let epoch = key.split(['@', '.']).nth(1).unwrap();
            let until: Vec<Seen> = cloud.seen().into_iter().filter(|other| other.number <= seen.number).collect();
            assert!(told(&until).iter().any(|(told, ..)| format!("{told:x}") == epoch), "{key} came before its secret");
        }
    }
    // On another connection everything again.
    cut.reset();
    eventually("the cut was seen", async || cut.accepted() == 2 && town.metric("relay_uplink_connected") == 1).await;
    announce(&town, "m1", 11, 3).await;
    eventually("the third", async || town.waiting() == 0).await;
    let again = told(&cloud.seen()[seen.len()..]);
    assert_eq!(again, [(own, String::new(), first), (11, "cityA/m1".into(), 11), (12, "cityA/m2".into(), 12)]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_a_connection_that_ended_before_its_commit_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    // Frames are sent all the time, and so secrets looked for, also while the commit is held up.
    config.cloud.as_mut().unwrap().receipt_timeout = Span::millis(50);
    let town = Town::start(config).await;
    announce(&town, "m1", 11, 1).await;
    town.archive.faults().hold();
    let agent = town.client("agent-2").await;
    let payload = frame(&[(12, 12)], &[&run("cityA/m2/power", Forward, 12, 1, &["1"])]);
    let ticket = agent.link.enqueue("op/forward/cityA/m2", payload).await.unwrap();
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.faults().wait_at_gate()).await.unwrap();
    agent.link.close().await;
    assert!(ticket.await.is_err());
    eventually("the connection is gone", async || town.metric("broker_connections") == 0).await;
    let before = cloud.seen().len();
    cloud.seen_until("some frames", |seen| seen.len() >= before + 3).await;
    town.archive.faults().release();
    eventually("the second", async || cloud.payloads().len() == 2).await;
    assert!(told(&cloud.seen()).contains(&(12, "cityA/m2".into(), 12)));
    // All is settled, so nothing is looked for any more: what was told on this connection is not told again.
    let before = cloud.seen().len();
    let seen = cloud.seen_until("some frames more", |seen| seen.len() >= before + 3).await;
    assert_eq!(told(&seen).len(), 3);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_announces_anothers_epoch_makes_no_page_unsendable() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    // As the cloud judges: an epoch announced as a sensor's has only that sensor's series.
    cloud.verdict(|seen| {
        let lie = seen.secrets.iter().any(|told| {
            let Some(sensor) = &told.scope else { return false };
            let of_epoch = |key: &str| key.contains(&format!("@{}.", told.epoch));
            seen.records.iter().any(|(key, _)| of_epoch(key) && !sensor.owns(key.split('@').next().unwrap()))
        });
        if lie { Err(Refusal::PayloadFormatInvalid) } else { Ok(()) }
    });
    let town = Town::start(dev(folder.path(), None)).await;
    // The liar has records of his own under the epoch of m2, and they share a page with those of m2.
    let (liar, honest) = (town.client("m1").await, town.client("m2").await);
    let lie = frame(&[(22, 99)], &[&run("cityA/m1/power", Forward, 22, 1, &["lie"])]);
    let truth = frame(&[(22, 22)], &[&run("cityA/m2/power", Forward, 22, 1, &["truth"])]);
    town.archive.faults().hold();
    let first = liar.link.enqueue("op/forward/cityA/m1", lie).await.unwrap();
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.faults().wait_at_gate()).await.unwrap();
    let both = [
        liar.link.enqueue("op/forward/cityA/m1/x", "1").await.unwrap(),
        honest.link.enqueue("op/forward/cityA/m2", truth).await.unwrap(),
    ];
    town.archive.faults().release();
    first.await.unwrap();
    for ticket in both {
        ticket.await.unwrap();
    }
    town.stop().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    eventually("all", async || town.waiting() == 0).await;
    // At the latest it is told with a page that has nothing of the liar's.
    let honest = town.client("m2").await;
    honest.publish("op/forward/cityA/m2/x", "1").await.unwrap();
    eventually("all", async || town.waiting() == 0).await;
    assert_eq!(town.metric("relay_frames_refused_total{reason=\"ForGood\"}"), 0);
    assert!(told(&cloud.seen()).contains(&(22, "cityA/m2".into(), 22)));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_refused_with_its_secrets_goes_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.verdict(|seen| if seen.secrets.is_empty() { Ok(()) } else { Err(Refusal::PayloadFormatInvalid) });
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    for seq in 1..=3 {
        announce(&town, "m1", 11, seq).await;
    }
    eventually("all", async || town.waiting() == 0).await;
    assert_eq!(town.metric("relay_pages_aside"), 0);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_a_full_cloud_refused_are_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let mut tries = 0;
    cloud.verdict(move |_| {
        tries += 1;
        if tries <= 2 { Err(Refusal::QuotaExceeded) } else { Ok(()) }
    });
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    announce(&town, "m1", 11, 1).await;
    eventually("all", async || town.waiting() == 0).await;
    let seen = cloud.seen();
    assert_eq!(told(&seen[2..]).len(), 2, "own and m1's, with the frame that was taken");
    town.stop().await;
}
