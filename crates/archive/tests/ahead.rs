//! Pages that are seen before their commit: what was seen is never called otherwise.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use archive::{Append, Appending, Archive, Lane, Options};
use bytes::Bytes;
use common::{builder, raw, run, series};
use wire::{Announcement, Epoch, EpochSecret, Intervals, Runs};

const SERIES: &str = "a/b/c";

fn options() -> Options {
    Options { ahead: true, ..common::options("relay-1") }
}

fn open(folder: &Path) -> Archive {
    Archive::open(folder, options()).unwrap().0
}

fn submit(archive: &Archive, lane: Lane, payload: &str) -> Appending {
    archive.append(Append::Raw { lane, runs: vec![builder(SERIES, &[(1, payload)])] }).unwrap()
}

/// A live page that is seen and not committed.
fn seen_at_the_gate(archive: &Archive, payload: &str) -> Appending {
    archive.faults().hold();
    let appending = submit(archive, Lane::Live, payload);
    archive.faults().wait_at_gate();
    appending
}

/// Number, epoch, first sequence number and payload of each live page.
fn pages(archive: &Archive) -> Vec<(u64, Epoch, u64, String)> {
    let pages = archive.outgoing(Lane::Live, 0, 1 << 20).unwrap();
    let read = |page: &archive::Page| {
        let run = Runs::new(&page.body).next().unwrap().unwrap();
        let payload = String::from_utf8(run.records().next().unwrap().payload.to_vec()).unwrap();
        (page.id, run.epoch(), run.first_seq(), payload)
    };
    pages.iter().map(read).collect()
}

#[test]
fn c1_a_page_is_seen_ahead_of_its_commit_and_answered_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path());
    let own = archive.epoch();
    raw(&archive, Lane::Live, SERIES, &[(1, "first")]);
    let second = seen_at_the_gate(&archive, "second");
    assert_eq!((*archive.watch_outgoing().borrow(), *archive.watch_visible().borrow()), (1, 2));
    assert_eq!(pages(&archive), [(1, own, 1, "first".to_owned()), (2, own, 2, "second".to_owned())]);
    archive.faults().release();
    second.wait().unwrap();
    assert_eq!((*archive.watch_outgoing().borrow(), archive.stats().waiting_pages, pages(&archive).len()), (2, 2, 2));
}

#[test]
fn b8_a_page_that_was_seen_and_not_committed_leaves_its_number_and_its_keys_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path());
    let own = archive.epoch();
    raw(&archive, Lane::Live, SERIES, &[(1, "first")]);
    let refused = seen_at_the_gate(&archive, "refused");
    archive.faults().fail_commits(1);
    archive.faults().release();
    refused.wait().unwrap_err();
    assert_eq!(pages(&archive), [(1, own, 1, "first".to_owned())]);
    // The cloud may have it, and says so.
    common::wait(archive.delivered(&Intervals::of(2, 2)).unwrap()).unwrap();
    raw(&archive, Lane::Live, SERIES, &[(1, "third")]);
    let other = archive.origin();
    assert!(other != own && archive.origin_secret(other).is_some());
    assert!(archive.announcements_after(0, 9).unwrap().iter().any(|(_, told)| told.epoch == other && told.scope.is_none()));
    raw(&archive, Lane::Live, SERIES, &[(1, "fourth")]);
    let left = [(1, own, 1, "first".to_owned()), (3, other, 1, "third".to_owned()), (4, other, 2, "fourth".to_owned())];
    assert_eq!((pages(&archive), archive.stats().waiting_pages), (left.to_vec(), 3));
    drop(archive);
    // Closed in order: it goes on where it was.
    let archive = open(folder.path());
    raw(&archive, Lane::Live, SERIES, &[(1, "fifth")]);
    assert_eq!((pages(&archive)[..3].to_vec(), pages(&archive)[3].clone()), (left.to_vec(), (5, other, 3, "fifth".to_owned())));
    assert_eq!((archive.epoch(), archive.origin(), archive.stats().waiting_pages), (own, other, 4));
    let held = archive.held(&series(SERIES)).unwrap();
    assert_eq!(held.iter().map(|(_, held)| held.count()).sum::<u64>(), 4, "{held:?}");
}

#[test]
fn b8_after_a_kill_nothing_gets_the_names_of_what_may_have_been_seen() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path());
    let own = archive.epoch();
    raw(&archive, Lane::Live, SERIES, &[(1, "first")]);
    let second = seen_at_the_gate(&archive, "second");
    // What a kill -9 leaves: the files as they are now.
    let left = tempfile::tempdir().unwrap();
    for name in ["archive.sqlite", "archive.sqlite-wal"] {
        std::fs::copy(folder.path().join(name), left.path().join(name)).unwrap();
    }
    archive.faults().release();
    second.wait().unwrap();
    let archive = open(left.path());
    assert_eq!((pages(&archive), archive.stats().waiting_pages), (vec![(1, own, 1, "first".to_owned())], 1));
    raw(&archive, Lane::Live, SERIES, &[(1, "other")]);
    let (number, epoch, seq, _) = pages(&archive)[1].clone();
    assert!(number > 2 && epoch != own && seq == 1, "{number} {epoch} {seq}");
    assert_eq!((archive.stats().waiting_pages, archive.epoch()), (2, own));
    common::wait(archive.delivered(&Intervals::of(1, number)).unwrap()).unwrap();
    assert_eq!(archive.stats().waiting_pages, 0);
}

#[test]
fn b8_what_may_not_be_sent_before_its_commit_is_not_seen_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path());
    let visible = || *archive.watch_visible().borrow();
    // The first page of a process: nothing says yet that its number may be seen.
    archive.faults().hold();
    let first = submit(&archive, Lane::Live, "first");
    archive.faults().wait_at_gate();
    assert_eq!(visible(), 0);
    archive.faults().release();
    first.wait().unwrap();
    // Secrets are read from the file when a page is sent.
    archive.faults().hold();
    let secret = Announcement { epoch: Epoch(7), scope: Some("a/b".parse().unwrap()), secret: EpochSecret::new([1; 32]) };
    let runs = Bytes::from(run(SERIES, 7, 1, &[(1, "x")]));
    let framed = archive.append(Append::Framed { lane: Lane::Live, runs, secrets: vec![secret] }).unwrap();
    archive.faults().wait_at_gate();
    assert_eq!(visible(), 1);
    archive.faults().release();
    framed.wait().unwrap();
    // Pages of two lanes have numbers between each other: all of a commit are seen, or none.
    archive.faults().hold();
    let gate = submit(&archive, Lane::Store, "gate");
    archive.faults().wait_at_gate();
    let both = [submit(&archive, Lane::Backlog, "old"), submit(&archive, Lane::Live, "new")];
    archive.faults().release();
    gate.wait().unwrap();
    for one in both {
        one.wait().unwrap();
    }
    assert_eq!(visible(), 4);
    // After a failure, until a commit succeeds.
    archive.faults().fail_commits(1);
    submit(&archive, Lane::Live, "refused").wait().unwrap_err();
    let seen = visible();
    let next = seen_at_the_gate(&archive, "next");
    assert_eq!(visible(), seen);
    archive.faults().release();
    next.wait().unwrap();
    assert_eq!(visible(), 6);
}
