//! Appends are durable when they say so, numbered without gaps, and refused rather than dropped.
#![allow(clippy::unwrap_used)]

mod common;

use std::task::{Context, Poll, Waker};

use archive::{Append, AppendError, Archive, Fault, Lane};
use bytes::Bytes;
use common::{builder, drain, everything, open, options, payloads, raw, run, series};
use wire::{Intervals, Runs};

#[test]
fn c1_an_append_resolves_after_its_commit_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "relay-1");
    archive.faults().hold();
    let mut appending = archive.append(Append::Raw { lane: Lane::Store, runs: vec![builder("a/b/c", &[(1, "x")])] }).unwrap();
    archive.faults().wait_at_gate();
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(std::pin::Pin::new(&mut appending).poll(&mut context), Poll::Pending));
    assert_eq!(everything(&archive, "a/b/c"), []);
    archive.faults().release();
    assert_eq!(appending.wait().unwrap().new, 1);
    assert_eq!(everything(&archive, "a/b/c").len(), 1);
}

#[test]
fn numbers_have_no_gap_over_lanes_commits_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let epoch = {
        let archive = open(folder.path(), "relay-1");
        raw(&archive, Lane::Store, "a/b/c", &[(1, "1"), (2, "2")]);
        raw(&archive, Lane::Live, "a/b/c", &[(3, "3")]);
        archive.close_now().unwrap();
        raw(&archive, Lane::Store, "a/b/c", &[(4, "4")]);
        raw(&archive, Lane::Live, "a/b/d", &[(1, "other series, other numbers")]);
        archive.epoch()
    };
    let archive = open(folder.path(), "relay-1");
    assert_eq!(archive.epoch(), epoch);
    raw(&archive, Lane::Backlog, "a/b/c", &[(5, "5")]);
    assert_eq!(archive.held(&series("a/b/c")).unwrap(), [(epoch, Intervals::of(1, 5))]);
    assert_eq!(archive.held(&series("a/b/d")).unwrap(), [(epoch, Intervals::of(1, 1))]);
    let page = &archive.outgoing(Lane::Backlog, 0, 1 << 20).unwrap()[0];
    let run = Runs::new(&page.body).next().unwrap().unwrap();
    assert_eq!((run.first_seq(), run.count()), (5, 1));
    assert_eq!(
        payloads(&everything(&archive, "a/b/c")).into_iter().collect::<Vec<_>>(),
        [(1, "1".into()), (2, "2".into()), (4, "4".into())]
    );
}

#[test]
fn a_commit_that_fails_gives_no_number_away() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "relay-1");
    raw(&archive, Lane::Live, "a/b/c", &[(1, "1")]);
    for lane in Lane::ALL {
        archive.faults().fail_commits(1);
        let lost = archive.append(Append::Raw { lane, runs: vec![builder("a/b/c", &[(2, "lost")])] }).unwrap().wait();
        assert!(matches!(lost, Err(AppendError::NotKept(_))), "{lost:?}");
    }
    raw(&archive, Lane::Live, "a/b/c", &[(2, "2")]);
    assert_eq!(archive.held(&series("a/b/c")).unwrap()[0].1, Intervals::of(1, 2));
    let pages = archive.outgoing(Lane::Live, 0, 1 << 20).unwrap();
    // Page numbers have no gap either: the cloud's receipts stay one interval.
    assert_eq!(pages.iter().map(|page| page.id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(everything(&archive, "a/b/c"), []);
}

#[test]
fn c10_a_full_disk_refuses_and_serving_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "relay-1");
    raw(&archive, Lane::Store, "a/b/c", &[(1, "0.5")]);
    archive.faults().limit_growth(30);
    let payload = "x".repeat(3000);
    let mut kept = 1;
    let fault = loop {
        match archive.append(Append::Raw { lane: Lane::Store, runs: vec![builder("a/b/c", &[(2, &payload)])] }).unwrap().wait() {
            Ok(_) => kept += 1,
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, AppendError::NotKept(Fault::Full)), "{fault}");
    assert_eq!(everything(&archive, "a/b/c").len(), kept);
    // Closing needs room as well: it fails, loses nothing, and works when there is room again.
    let closed = archive.close_now();
    assert_eq!(everything(&archive, "a/b/c").len(), kept);
    archive.faults().unlimit_growth();
    assert!(closed.is_err() || closed.unwrap().records as usize == kept);
    raw(&archive, Lane::Store, "a/b/c", &[(3, "after")]);
    archive.close_now().unwrap();
    assert_eq!(
        payloads(&everything(&archive, "a/b/c")).keys().copied().collect::<Vec<_>>(),
        (1..=kept as u64 + 1).collect::<Vec<_>>()
    );
    // What the failed close had made is gone: every record is under one root.
    let under_roots: u64 = archive.chunks_after(0, 1000).unwrap().iter().map(|(_, header)| header.count).sum();
    assert_eq!((under_roots, archive.stats().chunks.records), (kept as u64 + 1, kept as u64 + 1));
    drop(archive);
    assert_eq!(everything(&open(folder.path(), "relay-1"), "a/b/c").len(), kept + 1);
}

#[test]
fn c10_a_lane_above_its_budget_refuses_and_takes_again_when_there_is_room() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut options = options("relay-1");
    options.budgets.store_bytes_max = 20_000;
    options.budgets.outgoing_bytes_max = 1_000_000;
    let (archive, _) = Archive::open(folder.path(), options).unwrap();
    let cloud = open(other.path(), "cloud");
    let noise: String =
        (0..3000u32).map(|index| char::from(b'!' + (index.wrapping_mul(2_654_435_761) >> 25) as u8 % 90)).collect();
    let append = || archive.append(Append::Raw { lane: Lane::Store, runs: vec![builder("a/b/c", &[(1, &noise)])] });
    let mut kept = 0;
    let refused = loop {
        match append() {
            Ok(appending) => kept += appending.wait().unwrap().new,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, AppendError::Full { lane: Lane::Store, budget: 20_000 }), "{refused}");
    assert!(kept >= 6);
    // The other lanes have a budget of their own.
    raw(&archive, Lane::Live, "a/b/c", &[(2, "live")]);
    assert_eq!(archive.hand_over(&archive::Selection::All).unwrap().moved, kept);
    append().unwrap().wait().unwrap();
    assert_eq!(drain(&archive, &cloud), kept + 1);
    assert_eq!(payloads(&everything(&cloud, "a/b/c")).len() as u64, kept + 1);
}

#[test]
fn what_is_not_canonical_is_refused_before_it_is_queued() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "relay-1");
    let mut bytes = run("a/b/c", 7, 1, &[(1, "x")]);
    bytes.push(0);
    for runs in [bytes, vec![], vec![0xff]] {
        let refused = archive.append(Append::Framed { lane: Lane::Live, runs: Bytes::from(runs), secrets: vec![] });
        assert!(matches!(refused, Err(AppendError::Malformed(_))));
    }
    let empty = archive.append(Append::Raw { lane: Lane::Live, runs: vec![builder("a/b/c", &[])] });
    assert!(matches!(empty, Err(AppendError::Malformed(_))));
    assert_eq!(archive.stats().writer.groups, 0);
}

#[test]
fn new_records_are_shown_before_they_are_durable_and_repeated_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut options = options("cloud");
    let sink = seen.clone();
    options.observer = Some(std::sync::Arc::new(move |fresh: archive::Fresh| {
        for run in Runs::new(&fresh.runs) {
            let run = run.unwrap();
            sink.lock().push((fresh.via.to_string(), run.first_seq(), run.last_seq()));
        }
    }));
    let (archive, _) = Archive::open(folder.path(), options).unwrap();
    archive.faults().hold();
    let first = archive.append(common::frame("relay-1", 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "y")]))).unwrap();
    archive.faults().wait_at_gate();
    assert_eq!(*seen.lock(), [("relay-1".to_owned(), 1, 2)]);
    archive.faults().release();
    first.wait().unwrap();
    common::ingest(&archive, "relay-2", 1, run("a/b/c", 7, 2, &[(2, "y"), (3, "z")]));
    assert_eq!(*seen.lock(), [("relay-1".to_owned(), 1, 2), ("relay-2".to_owned(), 3, 3)]);
}

#[test]
fn b3_frames_share_a_commit_and_are_shown_when_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let (sink, seen) = std::sync::mpsc::channel();
    let mut options = options("cloud");
    options.observer = Some(std::sync::Arc::new(move |fresh: archive::Fresh| {
        let run = Runs::new(&fresh.runs).next().unwrap().unwrap();
        sink.send((fresh.via.to_string(), run.first_seq(), run.last_seq())).unwrap();
    }));
    options.writer.group_wait = std::time::Duration::from_secs(600);
    let (archive, _) = Archive::open(folder.path(), options).unwrap();
    let shown = || seen.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    let mut frames = Vec::new();
    for (number, relay) in [(1, "relay-1"), (2, "relay-2"), (3, "relay-1")] {
        frames.push(archive.append(common::frame(relay, number, run("a/b/c", 7, number, &[(1, "x")]))).unwrap());
        assert_eq!(shown(), (relay.to_owned(), number, number));
    }
    assert_eq!((archive.stats().writer.groups, archive.stats().buffer.records), (0, 0));
    // Who asks does not wait for company, and what came before him is committed with him.
    assert_eq!(archive.held(&common::series("a/b/c")).unwrap(), [(wire::Epoch(7), wire::Intervals::of(1, 3))]);
    for frame in frames {
        assert_eq!(frame.wait().unwrap().new, 1);
    }
    assert_eq!((archive.stats().writer.groups, archive.stats().buffer.records), (1, 3));
    assert_eq!(seen.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty), "each was shown once");
    let kept: Vec<_> = everything(&archive, "a/b/c").into_iter().map(|entry| entry.via.to_string()).collect();
    assert_eq!(kept, ["relay-1", "relay-2", "relay-1"]);
}

#[test]
fn c10_a_damaged_archive_is_put_aside_and_a_fresh_one_serves() {
    let folder = tempfile::tempdir().unwrap();
    let epoch = {
        let archive = open(folder.path(), "relay-1");
        for _ in 0..20 {
            raw(&archive, Lane::Store, "a/b/c", &[(1, &"x".repeat(4000))]);
        }
        archive.epoch()
    };
    let path = folder.path().join("archive.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let (archive, recovered) = Archive::open(folder.path(), options("relay-1")).unwrap();
    assert!(recovered.quarantined.unwrap().exists());
    // Numbers start again, so the epoch must be another.
    assert_ne!(archive.epoch(), epoch);
    raw(&archive, Lane::Store, "a/b/c", &[(1, "1")]);
    assert_eq!(everything(&archive, "a/b/c").len(), 1);
}

#[test]
fn an_archive_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _archive = open(folder.path(), "relay-1");
    assert!(matches!(Archive::open(folder.path(), options("relay-1")), Err(archive::OpenError::Lock(_))));
}
