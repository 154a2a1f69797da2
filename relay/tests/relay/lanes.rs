//! What is live and what is old share the way (C8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::{Size, Span};
use parking_lot::Mutex;
use testkit::CutLink;
use wire::Operation::Forward;

use crate::town::{Cloud, Seen, Town, dev, eventually, frame, run};

const LATE: Duration = Duration::from_millis(300);

/// A relay whose cloud is out of reach until the link is healed.
async fn cut_off(folder: &std::path::Path, cloud: &Cloud, change: impl FnOnce(&mut relay::CloudConfig)) -> (Town, CutLink) {
    let cut = CutLink::start(cloud.address).await;
    cut.refuse();
    let mut config = dev(folder, Some(cut.address()));
    let settings = config.cloud.as_mut().unwrap();
    settings.late_after = Span::millis(LATE.as_millis() as u64);
    change(settings);
    (Town::start(config).await, cut)
}

/// Publishes readings `{from}`…`{to}` and waits until they are late.
async fn outage(town: &Town, from: usize, to: usize) {
    let sensor = town.client("meter-1").await;
    for n in from..to {
        sensor.publish("op/forward/cityA/meter-1/power", format!("old {n}")).await.unwrap();
    }
    let until = Instant::now() + LATE * 2;
    eventually("they are late", async || Instant::now() > until).await;
}

fn payloads(seen: &[Seen], historical: bool) -> Vec<String> {
    let kind = seen.iter().filter(|seen| seen.historical == historical);
    kind.flat_map(|seen| seen.records.iter().map(|(_, payload)| payload.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_after_an_outage_what_comes_in_is_not_held_up_by_what_is_late() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let (town, cut) = cut_off(folder.path(), &cloud, |cloud| cloud.window_frames = 8).await;
    outage(&town, 0, 40).await;
    cut.heal();
    // Half of the window is what is late may have; without receipts it stands.
    cloud.seen_until("what is late", |seen| seen.len() == 4).await;
    let sensor = town.client("meter-2").await;
    for n in 0..4 {
        sensor.publish("op/forward/cityA/meter-1/power", format!("new {n}")).await.unwrap();
    }
    let seen = cloud.seen_until("what is live", |seen| seen.len() == 8).await;
    assert_eq!(payloads(&seen, false), ["new 0", "new 1", "new 2", "new 3"]);
    assert_eq!(payloads(&seen, true), ["old 0", "old 1", "old 2", "old 3"]);
    cloud.receipts(true);
    cloud.receipt(town.archive.epoch(), &[(1, 1_000)]).await;
    eventually("all", async || town.waiting() == 0).await;
    let seen = cloud.seen();
    assert_eq!(payloads(&seen, true), (0..40).map(|n| format!("old {n}")).collect::<Vec<_>>(), "in their order, each once");
    assert_eq!(payloads(&seen, false).len(), 4);
    assert_eq!(town.metric("relay_frames_historical_total"), 40);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_a_short_cut_changes_no_order_and_makes_nothing_historical() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let cut = CutLink::start(cloud.address).await;
    let town = Town::start(dev(folder.path(), Some(cut.address()))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..60 {
        if n % 20 == 10 {
            cut.reset();
        }
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    eventually("all", async || town.waiting() == 0).await;
    assert_eq!(cloud.payloads(), (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(cloud.seen().iter().all(|seen| !seen.historical));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_the_backlog_keeps_to_its_rate_and_what_is_live_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let (town, cut) = cut_off(folder.path(), &cloud, |cloud| cloud.backlog_rate = Some(Size(20 << 10))).await;
    let sensor = town.client("meter-1").await;
    let large = "x".repeat(1 << 10);
    for n in 0..40 {
        sensor.publish("op/forward/cityA/meter-1/power", format!("{n} {large}")).await.unwrap();
    }
    outage(&town, 0, 1).await;
    cut.heal();
    cloud.seen_until("the first", |seen| !seen.is_empty()).await;
    let start = Instant::now();
    let mut worst = Duration::ZERO;
    for n in 0..10 {
        let published = Instant::now();
        sensor.publish("op/forward/cityA/meter-1/power", format!("new {n}")).await.unwrap();
        cloud.seen_until("what is live", |seen| payloads(seen, false).len() > n).await;
        worst = worst.max(published.elapsed());
    }
    assert!(payloads(&cloud.seen(), true).len() < 40, "the live ones did not wait for the others: {worst:?}");
    eventually("all", async || town.waiting() == 0).await;
    // 40 KiB at 20 KiB a second, less what went before the watch was started.
    assert!(start.elapsed() > Duration::from_millis(1_500), "{:?}", start.elapsed());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_a_change_of_the_way_in_the_middle_loses_nothing_of_either() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let (town, cut) = cut_off(folder.path(), &cloud, |cloud| cloud.window_frames = 16).await;
    outage(&town, 0, 100).await;
    cut.heal();
    let sensor = town.client("meter-2").await;
    for n in 0..6 {
        sensor.publish("op/forward/cityA/meter-1/power", format!("new {n}")).await.unwrap();
        let before = cloud.seen().len();
        cut.reset();
        cloud.seen_until("sent again", |seen| seen.len() > before + 4).await;
    }
    cloud.receipts(true);
    cut.reset();
    eventually("all", async || town.waiting() == 0).await;
    let mut all = cloud.payloads();
    all.sort();
    let mut expected: Vec<_> = (0..100).map(|n| format!("old {n}")).chain((0..6).map(|n| format!("new {n}"))).collect();
    expected.sort();
    assert_eq!(all, expected);
    town.stop().await;
}

/// A cloud that takes a millisecond for a hundred records, a backlog that keeps it busy for seconds, and readings that come in meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c8_live_readings_stay_quick_while_a_backlog_drains() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let (town, cut) = cut_off(folder.path(), &cloud, |cloud| cloud.window_frames = 4_000).await;
    let agent = town.client("agent").await;
    let (frames, records) = (1_000, 100);
    let payloads: Vec<&str> = vec!["some 30 bytes of a late reading"; records];
    for n in 0..frames {
        let run = run("cityA/meter-9/power", Forward, 7, 1 + (n * records) as u64, &payloads);
        agent.publish("op/forward/cityA/meter-9", frame(&[], &[&run])).await.unwrap();
    }
    outage(&town, 0, 1).await;
    let came: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
    let noted = came.clone();
    cloud.verdict(move |seen| {
        std::thread::sleep(Duration::from_micros(10 * seen.records.len() as u64));
        if !seen.historical {
            noted.lock().extend(seen.records.iter().map(|(_, payload)| (payload.clone(), Instant::now())));
        }
        Ok(())
    });
    cut.heal();
    cloud.seen_until("the first", |seen| !seen.is_empty()).await;
    let start = Instant::now();
    let sensor = town.client("meter-1").await;
    let mut published = Vec::new();
    let mut during = 0;
    while town.archive.stats().waiting_pages > 0 || published.len() < 100 {
        let payload = format!("new {}", published.len());
        let at = Instant::now();
        sensor.publish("op/forward/cityA/meter-1/power", payload.clone()).await.unwrap();
        published.push((payload, at));
        during += usize::from(town.metric("relay_outgoing_pages") > 20);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let drained = start.elapsed();
    eventually("all", async || came.lock().len() >= published.len()).await;
    let came = came.lock().clone();
    let mut waits: Vec<Duration> = published.iter().map(|(payload, at)| came[payload].saturating_duration_since(*at)).collect();
    waits.sort();
    let p99 = waits[waits.len() * 99 / 100];
    assert!(during > 30, "the backlog was gone before anything was measured: {during} in {drained:?}");
    assert!(p99 < Duration::from_millis(250), "{p99:?} of {} readings in {drained:?}", waits.len());
    assert!(drained < Duration::from_secs(10), "{drained:?}");
    town.stop().await;
}
