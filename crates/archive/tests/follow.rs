//! Everything once, for those who follow: what is held is walked by number, what is committed comes as it is.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use archive::{Archive, Behind, SeriesId, Walk};
use common::{ingest, open, run};
use wire::{Epoch, Intervals};

const SERIES: &str = "a/b/c";

fn id(archive: &Archive) -> SeriesId {
    archive.series_ids(SERIES)[0]
}

/// Walks over `wanted` in pieces of `records_max`; checks order and that nothing comes twice.
fn walk_all(archive: &Archive, epoch: u64, wanted: &Intervals, from: i64, records_max: usize) -> BTreeMap<u64, String> {
    let (mut wanted, mut found) = (wanted.clone(), BTreeMap::new());
    while !wanted.is_empty() {
        let what = Walk { series: id(archive), epoch: Epoch(epoch), wanted: &wanted, from, records_max, bytes_max: 1 << 20 };
        let walked = archive.walk(&what).unwrap();
        assert!(walked.records.len() <= records_max && walked.unreadable == 0);
        for record in &walked.records {
            assert!(found.last_key_value().is_none_or(|(last, _)| *last < record.seq), "{} comes late", record.seq);
            assert!(record.seq <= walked.to && record.at >= from);
            found.insert(record.seq, String::from_utf8(record.payload.to_vec()).unwrap());
        }
        assert!(walked.to >= wanted.first().unwrap(), "a piece goes on");
        wanted.remove(0, walked.to);
    }
    found
}

fn numbers(low: u64, high: u64) -> Vec<(i64, String)> {
    (low..=high).map(|seq| (seq as i64 * 10, seq.to_string())).collect()
}

fn send(archive: &Archive, relay: &str, number: u64, low: u64, high: u64) {
    let readings = numbers(low, high);
    let readings: Vec<(i64, &str)> = readings.iter().map(|(at, text)| (*at, text.as_str())).collect();
    ingest(archive, relay, number, run(SERIES, 7, low, &readings));
}

#[test]
fn c7_a_walk_gives_every_record_once_in_order_over_pages_chunks_and_relays() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    // Two relays in turns, holes, and the holes filled after a segment was closed.
    let pieces = [(1, 40), (61, 100), (41, 55), (101, 180), (56, 60), (200, 230)];
    for (number, (low, high)) in (1..).zip(pieces) {
        send(&archive, if number % 2 == 0 { "relay-1" } else { "relay-2" }, number, low, high);
        if number == 2 || number == 4 {
            archive.close_now().unwrap();
        }
    }
    let all: Intervals = [(1, 180), (200, 230)].into_iter().collect();
    for (from, since) in [(0, true), (2_300, true), (2_301, false)] {
        let held = archive.held_of(&[id(&archive)], from).unwrap().remove(0);
        assert_eq!((held.epochs, held.since), (vec![(Epoch(7), all.clone())], since));
    }
    let expected = |low: u64| (low..=180).chain(200..=230).map(|seq| (seq, seq.to_string())).collect::<BTreeMap<_, _>>();
    for records_max in [1, 7, 50, 1_000] {
        assert_eq!(walk_all(&archive, 7, &all, 0, records_max), expected(1));
        // Older records are passed over, whole chunks of them unread.
        assert_eq!(walk_all(&archive, 7, &all, 1_195, records_max), expected(120));
        assert_eq!(walk_all(&archive, 7, &all, 2_301, records_max), BTreeMap::new());
    }
    let some: Intervals = [(10, 12), (59, 62), (175, 205)].into_iter().collect();
    let found: Vec<u64> = walk_all(&archive, 7, &some, 0, 3).into_keys().collect();
    assert_eq!(found, (10..=12).chain(59..=62).chain(175..=180).chain(200..=205).collect::<Vec<_>>());
    assert_eq!(walk_all(&archive, 8, &some, 0, 3), BTreeMap::new());
    assert_eq!(archive.epochs_by_age(id(&archive)).unwrap(), [Epoch(7)]);
}

#[test]
fn c7_the_older_epoch_comes_first_wherever_its_records_are() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    ingest(&archive, "relay-1", 1, run(SERIES, 5, 1, &[(300, "c")]));
    ingest(&archive, "relay-1", 2, run(SERIES, 9, 1, &[(100, "a")]));
    archive.close_now().unwrap();
    ingest(&archive, "relay-1", 3, run(SERIES, 7, 1, &[(200, "b")]));
    assert_eq!(archive.epochs_by_age(id(&archive)).unwrap(), [Epoch(9), Epoch(7), Epoch(5)]);
}

#[test]
fn c7_a_follower_sees_each_page_once_with_its_readings() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    send(&archive, "relay-1", 1, 1, 3);
    let mut follower = archive.follow();
    assert_eq!(follower.take(10).unwrap().len(), 0, "what was before is in `held_of`");
    for number in 2..=9 {
        send(&archive, "relay-1", number, number * 10, number * 10 + 4);
    }
    let mut seen = Vec::new();
    loop {
        let pages = follower.take(3).unwrap();
        if pages.is_empty() {
            break;
        }
        assert!(pages.len() <= 3);
        for page in pages {
            assert_eq!(follower.relay(&page).as_deref(), Some("relay-1"));
            for stretch in page.stretches() {
                assert_eq!((stretch.series, stretch.epoch), (id(&archive), Epoch(7)));
                let run = page.run(&stretch).unwrap();
                assert_eq!((run.first_seq(), run.last_seq()), (stretch.first_seq, stretch.last_seq));
                seen.extend(run.records().map(|record| record.seq));
            }
        }
    }
    assert_eq!(seen, (2..=9).flat_map(|number| number * 10..=number * 10 + 4).collect::<Vec<_>>());
    common::wait(async {
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), follower.changed());
        assert!(waiting.await.is_err(), "there is nothing more");
    });
}

#[test]
fn c7_a_follower_that_falls_behind_is_told_once_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    let mut follower = archive.follow();
    let large = "x".repeat(200_000);
    for number in 1..=100 {
        ingest(&archive, "relay-1", number, run(SERIES, 7, number, &[(1, &large)]));
    }
    assert_eq!(follower.take(100).unwrap_err(), Behind);
    assert_eq!(follower.take(100).unwrap().len(), 0);
    assert_eq!(archive.held_of(&[id(&archive)], 0).unwrap()[0].epochs[0].1, Intervals::of(1, 100));
    send(&archive, "relay-1", 101, 101, 101);
    assert_eq!(follower.take(100).unwrap().len(), 1);
    // One that comes later than the pages that were kept is not behind.
    drop(follower);
    send(&archive, "relay-1", 102, 102, 102);
    let mut follower = archive.follow();
    assert_eq!(follower.take(100).unwrap().len(), 0);
    send(&archive, "relay-1", 103, 103, 103);
    assert_eq!(follower.take(100).unwrap().len(), 1);
}
