//! What goes up: pages in order, receipts, lazy deletion, hand-over.
#![allow(clippy::unwrap_used)]

mod common;

use archive::{Archive, Lane, Page, Selection};
use common::{drain, everything, open, options, payloads, raw, series, wait};
use wire::Intervals;

fn ids(pages: &[Page]) -> Vec<u64> {
    pages.iter().map(|page| page.id).collect()
}

#[test]
fn a4_pages_of_a_lane_come_in_order_from_memory_and_from_the_file_alike() {
    let folder = tempfile::tempdir().unwrap();
    for cache in [0, 1000, 1 << 20] {
        let folder = folder.path().join(cache.to_string());
        let mut options = options("relay-1");
        options.cache_bytes_max = cache;
        let (archive, _) = Archive::open(&folder, options).unwrap();
        for index in 0..30 {
            let lane = if index % 3 == 0 { Lane::Backlog } else { Lane::Live };
            raw(&archive, lane, "a/b/c", &[(index, &"x".repeat(80))]);
        }
        assert_eq!(*archive.watch_outgoing().borrow(), 30);
        let all = archive.outgoing(Lane::Live, 0, 1 << 20).unwrap();
        assert_eq!(ids(&all), (1..=30).filter(|id| id % 3 != 1).collect::<Vec<_>>(), "cache {cache}");
        // In pieces, at least one page each, it is the same.
        for bytes in [1, 300, 5000] {
            let (mut pieces, mut after) = (Vec::new(), 0);
            loop {
                let piece = archive.outgoing(Lane::Live, after, bytes).unwrap();
                let Some(last) = piece.last() else { break };
                assert!(piece.len() == 1 || piece.iter().map(|page| page.body.len()).sum::<usize>() <= bytes);
                after = last.id;
                pieces.extend(piece);
            }
            assert_eq!(pieces, all, "cache {cache}, bytes {bytes}");
        }
    }
}

#[test]
fn a_delivered_page_is_not_handed_out_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "relay-1");
    for index in 0..10 {
        raw(&archive, Lane::Live, "a/b/c", &[(index, "x")]);
    }
    wait(archive.delivered(&[(2, 4), (7, 7), (100, 200)].into_iter().collect()).unwrap()).unwrap();
    let waiting = [1, 5, 6, 8, 9, 10];
    assert_eq!(ids(&archive.outgoing(Lane::Live, 0, 1 << 20).unwrap()), waiting);
    assert_eq!((archive.stats().waiting_pages, archive.stats().live.records), (6, 10));
    drop(archive);
    let archive = open(folder.path(), "relay-1");
    assert_eq!(ids(&archive.outgoing(Lane::Live, 0, 1 << 20).unwrap()), waiting);
    // A receipt for pages that do not exist yet did not count.
    raw(&archive, Lane::Live, "a/b/c", &[(11, "x")]);
    assert_eq!(archive.outgoing(Lane::Live, 10, 1 << 20).unwrap().len(), 1);
    // Deleted when the counters are saved, not before.
    archive.close_now().unwrap();
    assert_eq!((archive.stats().waiting_pages, archive.stats().live.records), (7, 7));
    drop(archive);
    let archive = open(folder.path(), "relay-1");
    assert_eq!(archive.stats().live.records, 7);
    assert_eq!(archive.held(&series("a/b/c")).unwrap()[0].1, Intervals::of(1, 11));
}

#[test]
fn page_numbers_go_on_when_every_page_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let archive = open(folder.path(), "relay-1");
        raw(&archive, Lane::Live, "a/b/c", &[(1, "x")]);
        raw(&archive, Lane::Backlog, "a/b/c", &[(1, "x")]);
        let last = *archive.watch_outgoing().borrow();
        // A number that came twice would make the cloud take a new page for an old one.
        assert_eq!(last, 2 * (round + 1));
        wait(archive.delivered(&Intervals::of(1, last)).unwrap()).unwrap();
        archive.close_now().unwrap();
        assert_eq!((archive.stats().live.records, archive.stats().backlog.records), (0, 0));
    }
}

#[test]
fn a6_a_spill_moves_everything_to_the_cloud_and_each_record_is_there_once() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (relay, cloud) = (open(near.path(), "relay-1"), open(far.path(), "cloud"));
    for index in 0..200 {
        raw(&relay, Lane::Store, "a/b/c", &[(index, &format!("{index}.5")), (index, "second")]);
        raw(&relay, Lane::Live, "a/b/d", &[(index, "live")]);
        if index == 100 {
            relay.close_now().unwrap();
        }
    }
    let before = everything(&relay, "a/b/c");
    assert_eq!(relay.hand_over(&Selection::All).unwrap().moved, 400);
    assert_eq!(everything(&relay, "a/b/c"), []);
    assert_eq!((relay.stats().chunks, relay.stats().buffer), Default::default());
    assert_eq!(relay.stats().backlog.records, 400);
    assert_eq!(relay.hand_over(&Selection::All).unwrap().moved, 0);
    drop(relay);
    let relay = open(near.path(), "relay-1");
    assert_eq!(drain(&relay, &cloud), 600);
    relay.close_now().unwrap();
    assert_eq!((relay.stats().backlog.records, relay.stats().waiting_pages), (0, 0));
    let after = everything(&cloud, "a/b/c");
    assert_eq!(
        after.iter().map(|entry| &entry.record).collect::<Vec<_>>(),
        before.iter().map(|entry| &entry.record).collect::<Vec<_>>()
    );
    assert_eq!(everything(&cloud, "a/b/d").len(), 200);
}

#[test]
fn a13_a_pull_moves_the_chunks_of_one_range_and_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let relay = open(folder.path(), "relay-1");
    for at in 0..100 {
        raw(&relay, Lane::Store, "a/b/c", &[(at, "x")]);
        raw(&relay, Lane::Store, "a/b/d", &[(at, "y")]);
        if at % 20 == 19 {
            relay.close_now().unwrap();
        }
    }
    let range = Selection::Range { series: series("a/b/c"), from: 30, to: 45 };
    assert_eq!(relay.hand_over(&range).unwrap().moved, 40);
    let left: Vec<i64> = everything(&relay, "a/b/c").iter().map(|entry| entry.record.at).collect();
    assert_eq!(left, (0..20).chain(60..100).collect::<Vec<_>>());
    assert_eq!(everything(&relay, "a/b/d").len(), 100);
    assert_eq!(relay.hand_over(&Selection::Range { series: series("no/such/series"), from: 0, to: 9 }).unwrap().moved, 0);
}

#[test]
fn two_contents_under_one_key_at_a_relay_are_both_kept() {
    let folder = tempfile::tempdir().unwrap();
    let relay = open(folder.path(), "relay-1");
    let framed = |payload: &str| archive::Append::Framed {
        lane: Lane::Store,
        runs: common::run("a/b/c", 7, 1, &[(1, payload), (2, "same")]).into(),
        secrets: vec![],
    };
    for payload in ["first", "second", "first"] {
        relay.append(framed(payload)).unwrap().wait().unwrap();
    }
    relay.close_now().unwrap();
    assert_eq!(payloads(&everything(&relay, "a/b/c")).into_values().collect::<Vec<_>>(), ["first", "same"]);
    assert_eq!(relay.stats().conflicts, 1);
    drop(relay);
    let database = rusqlite::Connection::open(folder.path().join("archive.sqlite")).unwrap();
    let aside: Vec<u8> = database.query_row("SELECT payload FROM conflicts", [], |row| row.get(0)).unwrap();
    assert_eq!(aside, b"second");
}

#[test]
fn a_segment_is_closed_when_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options("relay-1");
    options.segment.records_max = 10;
    options.segment.age_max = std::time::Duration::from_secs(60);
    let (relay, _) = Archive::open(folder.path(), options).unwrap();
    let seconds = |seconds: i64| seconds * 1_000_000_000;
    raw(&relay, Lane::Store, "a/b/c", &[(1, "x")]);
    assert_eq!(relay.close_due(seconds(0)).unwrap().chunks, 0);
    assert_eq!(relay.close_due(seconds(59)).unwrap().chunks, 0);
    assert_eq!(relay.close_due(seconds(60)).unwrap().records, 1);
    for at in 0..10 {
        raw(&relay, Lane::Store, "a/b/c", &[(at, "x")]);
    }
    assert_eq!(relay.close_due(seconds(61)).unwrap().records, 10);
    // Outgoing pages are counted by age, so that a restart replays little.
    raw(&relay, Lane::Live, "a/b/c", &[(1, "x")]);
    relay.close_due(seconds(70)).unwrap();
    wait(relay.delivered(&Intervals::of(1, 1)).unwrap()).unwrap();
    relay.close_due(seconds(71)).unwrap();
    assert_eq!(relay.stats().live.records, 1);
    relay.close_due(seconds(200)).unwrap();
    assert_eq!(relay.stats().live.records, 0);
}
