//! Hand-overs page by page, and the index while records are on their way.
#![allow(clippy::unwrap_used)]

mod common;

use archive::{Archive, HandingOver, IndexChange, Lane, Selection};
use common::{drain, everything, open, options, payloads, raw, scan_all, series, wait};
use wire::Intervals;
use wire::index::{IndexEntry, Stretch};
use wire::uplink::NUMBER_MAX;

fn index(archive: &Archive) -> Vec<IndexEntry> {
    archive.index_entries(Stretch { after: 0, through: NUMBER_MAX }, 10_000).unwrap()
}

fn numbers(archive: &Archive) -> Vec<u64> {
    index(archive).iter().map(|entry| entry.chunk).collect()
}

fn changed(archive: &Archive) -> Vec<(u64, u64)> {
    match archive.take_index_changes() {
        IndexChange::Numbers(numbers) => numbers.as_slice().to_vec(),
        IndexChange::Anything => panic!("few changes are kept apart"),
    }
}

fn range(name: &str, from: i64, to: i64) -> Selection {
    Selection::Range { series: series(name), from, to }
}

#[test]
fn a5_the_index_names_what_a_close_published_and_forgets_it_with_the_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let relay = open(folder.path(), "relay-1");
    let told = relay.watch_index();
    for at in 0..120 {
        raw(&relay, Lane::Store, "a/b/c", &[(at, "x")]);
    }
    assert_eq!(index(&relay), []);
    relay.close_now().unwrap();
    assert!(told.has_changed().unwrap());
    assert_eq!(changed(&relay), [(1, 3)]);
    let entries = index(&relay);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.chunk, entry.at_min, entry.at_max, entry.records)).collect();
    assert_eq!(seen, [(1, 0, 49, 50), (2, 50, 99, 50), (3, 100, 119, 20)]);
    for (entry, (id, header)) in entries.iter().zip(relay.chunks_after(0, 9).unwrap()) {
        assert_eq!((entry.chunk, entry.root, &entry.seqs), (id.cast_unsigned(), header.root, &header.intervals));
    }
    assert_eq!(relay.index_entries(Stretch { after: 1, through: 3 }, 1).unwrap()[0].chunk, 2);

    // Handed over, a chunk is on its way and in the index until the frame has its receipt; after a kill -9, too.
    let handed = relay.hand_over(&range("a/b/c", 60, 61)).unwrap();
    assert_eq!((handed.moved, handed.records, handed.frames.count()), (50, 50, 1));
    assert_eq!((numbers(&relay), changed(&relay)), (vec![1, 2, 3], vec![]));
    drop(relay);
    let relay = open(folder.path(), "relay-1");
    assert_eq!(numbers(&relay), [1, 2, 3]);
    wait(relay.delivered(&handed.frames).unwrap()).unwrap();
    assert_eq!((numbers(&relay), changed(&relay)), (vec![1, 3], vec![(2, 2)]));
    drop(relay);
    assert_eq!(numbers(&open(folder.path(), "relay-1")), [1, 3]);
}

#[test]
fn a12_a_pull_finds_what_lies_in_the_open_segment_and_closes_nothing() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (relay, cloud) = (open(near.path(), "relay-1"), open(far.path(), "cloud"));
    for at in 0..10 {
        raw(&relay, Lane::Store, "a/b/c", &[(at, "x"), (at, "y")]);
        raw(&relay, Lane::Store, "a/b/d", &[(at, "z")]);
    }
    // Up to the last page that touches the range: what is behind stays.
    let handed = relay.hand_over(&range("a/b/c", 3, 6)).unwrap();
    assert_eq!((handed.moved, handed.frames.count()), (12, 1));
    assert_eq!((relay.stats().chunks.records, index(&relay).len()), (0, 0));
    assert_eq!(scan_all(&relay, "a/b/c", 0, 100, 5).len(), 8);
    assert_eq!(everything(&relay, "a/b/d").len(), 10);
    // Asked again before the receipt, the same frame is named and nothing moves.
    let again = relay.hand_over(&range("a/b/c", 0, 6)).unwrap();
    assert_eq!((again.moved, again.records, again.frames), (0, 12, handed.frames.clone()));
    raw(&relay, Lane::Store, "a/b/c", &[(20, "later")]);
    drop(relay);

    // A crash brings nothing back that has gone, neither into the open segment nor into chunks.
    let relay = open(near.path(), "relay-1");
    assert_eq!(everything(&relay, "a/b/c").len(), 9);
    assert_eq!(relay.held(&series("a/b/c")).unwrap()[0].1, Intervals::of(1, 21));
    assert_eq!(drain(&relay, &cloud), 12);
    assert_eq!(relay.hand_over(&range("a/b/c", 0, 6)).unwrap(), Default::default());
    relay.close_now().unwrap();
    assert_eq!(relay.stats().chunks.records, 19);
    // Numbers go on, and the mark of what has gone does not touch a later segment.
    assert_eq!(relay.hand_over(&range("a/b/c", 0, 100)).unwrap().moved, 9);
    raw(&relay, Lane::Store, "a/b/c", &[(30, "last")]);
    assert_eq!(relay.hand_over(&range("a/b/c", 30, 31)).unwrap().moved, 1);
    drain(&relay, &cloud);
    assert_eq!(payloads(&everything(&cloud, "a/b/c")).len(), 22);
    assert_eq!(cloud.stats().conflicts, 0);
}

#[test]
fn a6_a_hand_over_goes_page_by_page_while_segments_are_closed() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (relay, cloud) = (open(near.path(), "relay-1"), open(far.path(), "cloud"));
    for at in 0..2_000 {
        raw(&relay, Lane::Store, "a/b/c", &[(at, "payload")]);
    }
    relay.close_now().unwrap();
    let mut handing = HandingOver::new(Selection::Chunks);
    let mut pages = 0;
    while !handing.is_done() {
        relay.hand_over_page(&mut handing).unwrap();
        let undelivered = relay.undelivered(&handing.so_far().frames);
        assert!(undelivered.count() <= 1, "one page a call");
        pages += undelivered.count();
        raw(&relay, Lane::Store, "a/b/c", &[(5_000 + pages.cast_signed(), "new")]);
        relay.close_now().unwrap();
        drain(&relay, &cloud);
    }
    assert!(pages > 4, "{pages}");
    assert_eq!(handing.into_handed().moved, 2_000);
    // What was closed meanwhile is the next hand-over's.
    assert_eq!(everything(&relay, "a/b/c").len() as u64, pages + 1);
    assert_eq!(everything(&cloud, "a/b/c").len(), 2_000);
}

#[test]
fn a6_one_chunk_that_cannot_be_read_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let relay = open(folder.path(), "relay-1");
    for at in 0..150 {
        raw(&relay, Lane::Store, "a/b/c", &[(at, "x")]);
    }
    relay.close_now().unwrap();
    let database = rusqlite::Connection::open(folder.path().join("archive.sqlite")).unwrap();
    assert_eq!(database.execute("UPDATE chunks SET body = x'00' WHERE id = 2", []).unwrap(), 1);
    let handed = relay.hand_over(&Selection::Chunks).unwrap();
    assert_eq!((handed.moved, handed.damaged), (100, vec![2]));
    assert_eq!(relay.stats().chunks.records, 50);
}

#[test]
fn a6_delivered_pages_make_room_before_the_segment_is_old_when_room_is_short() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options("relay-1");
    options.budgets.outgoing_bytes_max = 40_000;
    let (relay, _) = Archive::open(folder.path(), options).unwrap();
    let payload = "x".repeat(2_000);
    for at in 0..10 {
        raw(&relay, Lane::Live, "a/b/c", &[(at, &payload)]);
    }
    relay.close_due(0).unwrap();
    wait(relay.delivered(&Intervals::of(1, 9)).unwrap()).unwrap();
    assert_eq!(relay.stats().live.records, 10);
    relay.close_due(2_000_000_000).unwrap();
    assert_eq!(relay.stats().live.records, 1);
}

#[test]
fn a5_a_close_that_failed_leaves_nothing_that_a_later_root_would_publish() {
    let folder = tempfile::tempdir().unwrap();
    let relay = open(folder.path(), "relay-1");
    let framed = |first, secrets| archive::Append::Framed {
        lane: Lane::Store,
        runs: common::run("a/b/agent", 7, first, &[(1, "x")]).into(),
        secrets,
    };
    relay.append(framed(1, vec![])).unwrap().wait().unwrap();
    relay.close_now().unwrap();
    assert_eq!(index(&relay), []);
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (state >> 25) as u8 % 90)
    };
    for at in 0..600 {
        let payload: String = (0..4_000).map(|_| noise()).collect();
        raw(&relay, Lane::Store, &format!("a/b/c{}", at % 6), &[(at, &payload)]);
    }
    // The first piece of chunks, a mebibyte, is committed, the publication is not.
    relay.faults().limit_growth(420);
    assert!(relay.close_now().is_err());
    relay.faults().unlimit_growth();
    let secret = wire::EpochSecret::new([9; 32]);
    let announced = wire::Announcement { epoch: wire::Epoch(7), scope: Some("a/b".parse().unwrap()), secret };
    relay.append(framed(2, vec![announced])).unwrap().wait().unwrap();
    assert_eq!(relay.close_due(1).unwrap().roots, 1);
    let listed: u64 = index(&relay).iter().map(|entry| entry.records).sum();
    assert_eq!(listed, 1, "the chunk that got its root, and no other");
    assert_eq!(everything(&relay, "a/b/c1").len(), 100);
    relay.close_now().unwrap();
    assert_eq!(index(&relay).iter().map(|entry| entry.records).sum::<u64>(), 602);
}

#[test]
fn a6_a_page_carries_few_chunks_however_small_they_are() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut options = options("relay-1");
    options.page_bytes_max = 1 << 20;
    let relay = Archive::open(near.path(), options).unwrap().0;
    for meter in 0..600 {
        raw(&relay, Lane::Store, &format!("a/m{meter}/c"), &[(meter, "x")]);
    }
    relay.close_now().unwrap();
    let handed = relay.hand_over(&Selection::Chunks).unwrap();
    // What moves shares a commit with records that wait for their acknowledgement.
    assert_eq!((handed.moved, handed.frames.count()), (600, 3));
    assert_eq!(index(&relay).len(), 600);
    assert_eq!(drain(&relay, &open(far.path(), "cloud")), 600);
    assert_eq!(index(&relay), []);
}
