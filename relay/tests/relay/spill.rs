//! The storage area above and below its threshold.

use chassis::{Size, Span};
use relay::{Config, Threshold};

use crate::town::{Cloud, Sensor, Town, dev, eventually, stored};

const SERIES: &str = "cityA/meter-1/power";

/// 200 kilobytes of storage area, of which half is to be free; segments close at 20 kilobytes.
fn small(folder: &std::path::Path, cloud: std::net::SocketAddr) -> Config {
    let mut config = dev(folder, Some(cloud));
    config.storage.budget = Size(200_000);
    config.storage.free_min = Threshold::Percent(50);
    config.storage.disk_free_min = Size(0);
    config.storage.segment_bytes = Size(20_000);
    config.storage.segment_age = Span::seconds(3_600);
    config
}

/// A reading that does not compress.
fn noise(n: u64) -> String {
    let mut state = n + 1;
    let text = (0..2_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + (state >> 57) as u8 % 90)
    });
    format!("{n} {}", text.collect::<String>())
}

/// Stores readings until `done`; what is refused for want of room is tried again. Gives how many were acknowledged.
async fn store(sensor: &Sensor, from: u64, mut done: impl FnMut(u64) -> bool) -> u64 {
    let deadline = tokio::time::Instant::now() + crate::town::DEADLINE;
    let mut n = from;
    while !done(n) {
        assert!(tokio::time::Instant::now() < deadline, "still not done after {n} readings");
        match sensor.publish(&format!("op/store/{SERIES}"), noise(n)).await {
            Ok(()) => n += 1,
            Err(link::PublishError::Refused { reason_code: 0x97 }) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    n
}

/// Every reading is at the relay or at the cloud, once, and the index agrees with the relay.
async fn check(town: &Town, cloud: &Cloud, count: u64) {
    eventually("no spill", async || town.metric("relay_spilling") == 0 && town.waiting() == 0).await;
    let mut all = cloud.payloads();
    all.extend(stored(&town.archive, SERIES));
    let mut numbers: Vec<u64> = all.iter().map(|text| text.split_once(' ').unwrap().0.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    let own = || {
        let everything = wire::index::Stretch { after: 0, through: wire::uplink::NUMBER_MAX };
        town.archive.index_entries(everything, 10_000).unwrap()
    };
    eventually("an index that agrees", async || cloud.index() == own()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_below_the_threshold_the_storage_area_goes_to_the_cloud_and_intake_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(small(folder.path(), cloud.address)).await;
    let sensor = town.client("meter-1").await;
    let count = store(&sensor, 0, |_| town.metric("relay_spills_total") >= 3).await;
    check(&town, &cloud, count).await;
    assert!(cloud.seen().iter().all(|seen| seen.historical));
    assert!(town.archive.stats().chunks.bytes < 200_000);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_above_the_threshold_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let mut config = small(folder.path(), cloud.address);
    config.storage.segment_age = Span::millis(300);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    // Two segments are far from half of the budget.
    let mut count = 0;
    for segment in 1..=2 {
        count = store(&sensor, count, |n| n >= segment * 12).await;
        eventually("moved in", async || town.archive.stats().chunks.records == count).await;
    }
    assert_eq!((cloud.seen().len(), town.metric("relay_spills_total")), (0, 0));
    check(&town, &cloud, count).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_the_segment_moves_in_only_when_the_cloud_holds_everything_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(small(folder.path(), cloud.address)).await;
    let sensor = town.client("meter-1").await;
    // At a pace at which the buffer area stays short of four segments until the relay looks.
    let count = store(&sensor, 0, |_| {
        std::thread::sleep(std::time::Duration::from_millis(12));
        town.metric("relay_spilling") == 1
    });
    let count = count.await;
    let seen = cloud.seen_until("the storage area", |_| town.archive.stats().chunks.records == 0).await;
    let handed_over: u64 = town.metric("relay_records_handed_over_total");
    // Not receipted: the buffer area stays where it is, and is readable; the index has not forgotten anything.
    let count = store(&sensor, count, |n| n >= count + 5).await;
    assert_eq!(town.archive.stats().chunks.records, 0);
    assert_eq!(stored(&town.archive, SERIES).len() as u64, count - handed_over);
    eventually("the index", async || cloud.index().iter().map(|entry| entry.records).sum::<u64>() == handed_over).await;
    cloud.receipts(true);
    cloud.receipt(seen.first().map_or(town.archive.epoch(), |seen| seen.epoch), &[(1, 1_000_000)]).await;
    eventually("moved in", async || town.archive.stats().chunks.records > 0).await;
    check(&town, &cloud, count).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_when_the_cloud_is_away_a_full_storage_area_refuses_and_what_is_forwarded_has_its_room() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = small(folder.path(), cloud.address);
    config.storage.outgoing_budget = Size(100_000);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    // Until nothing more is taken: chunks, buffer, and the half of the outgoing budget that a spill may use.
    let mut count = 0;
    let mut refused = 0;
    while refused < 50 {
        match sensor.publish(&format!("op/store/{SERIES}"), noise(count)).await {
            Ok(()) => (count, refused) = (count + 1, 0),
            Err(link::PublishError::Refused { reason_code: 0x97 }) => {
                refused += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(town.metric("relay_spilling"), 1);
    assert!(town.metric("relay_publishes_refused_total{reason=\"Full\"}") >= 50);
    // One page may be larger than half of this small budget; without it there are at least those kilobytes.
    let outgoing = town.archive.stats().backlog.bytes;
    let room = 100_000_u64.saturating_sub(outgoing) / 2_500;
    for n in 0..room {
        sensor.publish("op/forward/cityA/meter-1/alarm", format!("alarm {n}")).await.unwrap();
    }
    // The cloud is back, and everything flows again.
    cloud.receipts(true);
    cloud.receipt(town.archive.epoch(), &[(1, 1_000_000)]).await;
    let spills = town.metric("relay_spills_total");
    let count = store(&sensor, count, |_| town.metric("relay_spills_total") > spills).await;
    eventually("no spill", async || town.metric("relay_spilling") == 0 && town.waiting() == 0).await;
    let mut all: Vec<String> = cloud.payloads().into_iter().filter(|payload| !payload.starts_with("alarm")).collect();
    all.extend(stored(&town.archive, SERIES));
    assert_eq!(all.len() as u64, count);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_a_disk_that_is_full_in_the_middle_of_a_spill_loses_nothing_and_the_spill_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = small(folder.path(), cloud.address);
    (config.storage.budget, config.storage.free_min) = (Size(4_000_000), Threshold::Bytes(Size(3_900_000)));
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    let count = store(&sensor, 0, |_| town.metric("relay_spilling") == 1).await;
    // In the end neither a hand-over nor a segment can be written, nor a reading.
    town.archive.faults().limit_growth(20);
    let mut taken = count;
    let deadline = tokio::time::Instant::now() + crate::town::DEADLINE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "the disk never was full");
        match sensor.publish(&format!("op/store/{SERIES}"), noise(taken)).await {
            Ok(()) => taken += 1,
            Err(link::PublishError::Refused { reason_code: 0x83 }) => break,
            Err(link::PublishError::Refused { reason_code: 0x97 }) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(town.metric("relay_spilling"), 1);
    town.archive.faults().unlimit_growth();
    cloud.receipts(true);
    cloud.receipt(town.archive.epoch(), &[(1, 1_000_000)]).await;
    let spills = town.metric("relay_spills_total");
    let count = store(&sensor, taken, |_| town.metric("relay_spills_total") > spills).await;
    check(&town, &cloud, count).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_a_file_system_that_is_short_spills_though_the_budget_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let mut config = small(folder.path(), cloud.address);
    config.storage.budget = Size::gib(1);
    config.storage.disk_free_min = Size(1 << 60);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    let count = store(&sensor, 0, |_| town.metric("relay_spills_total") >= 1).await;
    check(&town, &cloud, count).await;
    assert!(!cloud.payloads().is_empty());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_without_a_cloud_segments_move_in_until_the_budget_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small(folder.path(), "127.0.0.1:1".parse().unwrap());
    config.cloud = None;
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    let count = store(&sensor, 0, |_| town.archive.stats().chunks.bytes > 120_000).await;
    assert_eq!((town.metric("relay_spills_total"), town.archive.stats().backlog.records), (0, 0));
    assert_eq!(stored(&town.archive, SERIES).len() as u64, count);
    town.stop().await;
}
