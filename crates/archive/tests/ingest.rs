//! Every datum counts once: new, duplicate, conflict.
#![allow(clippy::unwrap_used)]

mod common;

use std::thread;

use archive::Appended;
use common::{everything, frame, ingest, open, payloads, run, series};
use wire::{Epoch, Intervals, RecordKey};

fn verdict(new: u64, duplicate: u64, conflict: u64) -> Appended {
    Appended { new, duplicate, conflict, repeated: false }
}

#[test]
fn b8_ten_threads_at_one_key_find_it_new_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    for seq in 1..=20 {
        let verdicts: Vec<Appended> = thread::scope(|scope| {
            let threads: Vec<_> = (0..10)
                .map(|relay| {
                    let archive = &archive;
                    scope.spawn(move || ingest(archive, &format!("relay-{relay}"), seq, run("a/b/c", 7, seq, &[(1, "same")])))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(verdicts.iter().map(|verdict| verdict.new).sum::<u64>(), 1);
        assert_eq!(verdicts.iter().map(|verdict| verdict.duplicate).sum::<u64>(), 9);
    }
    assert_eq!(everything(&archive, "a/b/c").len(), 20);
}

#[test]
fn b8_two_frames_of_one_group_with_one_key_are_one_record() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    archive.faults().hold();
    let first = archive.append(frame("relay-1", 1, run("a/b/z", 7, 1, &[(1, "first")]))).unwrap();
    archive.faults().wait_at_gate();
    // These four share the next commit.
    let same: Vec<_> = ["x", "x", "other", "x"]
        .iter()
        .enumerate()
        .map(|(index, payload)| archive.append(frame("relay-1", 2 + index as u64, run("a/b/c", 7, 5, &[(9, payload)]))).unwrap())
        .collect();
    archive.faults().release();
    first.wait().unwrap();
    let verdicts: Vec<_> = same.into_iter().map(|appending| appending.wait().unwrap()).collect();
    assert_eq!(verdicts, [verdict(1, 0, 0), verdict(0, 1, 0), verdict(0, 0, 1), verdict(0, 1, 0)]);
    assert_eq!(archive.stats().writer.groups, 2);
    assert_eq!(payloads(&everything(&archive, "a/b/c"))[&5], "x");
}

#[test]
fn b8_a_frame_received_before_is_not_looked_at_again() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    assert_eq!(ingest(&archive, "relay-1", 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "y")])), verdict(2, 0, 0));
    let again = ingest(&archive, "relay-1", 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "y")]));
    assert_eq!(again, Appended { duplicate: 2, repeated: true, ..verdict(0, 0, 0) });
    drop(archive);
    let archive = open(folder.path(), "cloud");
    assert!(ingest(&archive, "relay-1", 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "y")])).repeated);
    // The same number of another relay is another frame.
    assert_eq!(ingest(&archive, "relay-2", 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "y")])), verdict(0, 2, 0));
}

#[test]
fn b8_a_run_that_overlaps_is_split_wherever_the_rest_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = open(folder.path(), "cloud");
    let all = [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5"), (6, "6")];
    ingest(&archive, "relay-1", 1, run("a/b/c", 7, 2, &all[1..3]));
    ingest(&archive, "relay-1", 2, run("a/b/c", 7, 5, &all[4..5]));
    for step in ["open", "closed", "reopened"] {
        match step {
            "closed" => drop(archive.close_now().unwrap()),
            "reopened" => {
                drop(archive);
                archive = open(folder.path(), "cloud");
            }
            _ => {}
        }
        let number = 10 + archive.stats().series;
        let name = format!("relay-{step}");
        let expected = if step == "open" { verdict(3, 3, 0) } else { verdict(0, 6, 0) };
        assert_eq!(ingest(&archive, &name, number, run("a/b/c", 7, 1, &all)), expected, "{step}");
        // The same numbers, other content in one of them.
        let mut changed = all;
        changed[2] = (3, "changed");
        assert_eq!(ingest(&archive, &name, number + 1, run("a/b/c", 7, 1, &changed)), verdict(0, 5, 1), "{step}");
        changed[2] = (33, "3");
        assert_eq!(ingest(&archive, &name, number + 2, run("a/b/c", 7, 1, &changed)), verdict(0, 5, 1), "{step}");
    }
    let entries = everything(&archive, "a/b/c");
    assert_eq!(payloads(&entries).into_values().collect::<Vec<_>>(), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(archive.held(&series("a/b/c")).unwrap(), [(Epoch(7), Intervals::of(1, 6))]);
    let key: RecordKey = "a/b/c@7.2".parse().unwrap();
    assert_eq!(archive.get(&key).unwrap().unwrap().via.as_str(), "relay-1");
    assert_eq!(archive.get(&"a/b/c@7.7".parse().unwrap()).unwrap(), None);
    assert_eq!(archive.stats().conflicts, 2);
}

#[test]
fn b8_a_verdict_that_was_not_committed_was_not_given() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    ingest(&archive, "relay-1", 1, run("a/b/c", 7, 1, &[(1, "1")]));
    archive.faults().fail_commits(1);
    archive.append(frame("relay-1", 2, run("a/b/c", 7, 2, &[(2, "2"), (3, "3")]))).unwrap().wait().unwrap_err();
    assert_eq!(archive.held(&series("a/b/c")).unwrap()[0].1, Intervals::of(1, 1));
    // The same frame again is neither repeated nor a duplicate.
    assert_eq!(ingest(&archive, "relay-1", 2, run("a/b/c", 7, 2, &[(2, "2"), (3, "3")])), verdict(2, 0, 0));
}

#[test]
fn c3_what_is_missing_shows_as_a_hole_in_what_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    ingest(&archive, "relay-1", 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "x")]));
    ingest(&archive, "relay-1", 2, run("a/b/c", 7, 6, &[(6, "x")]));
    ingest(&archive, "relay-1", 3, run("a/b/c", 8, 1, &[(1, "another epoch")]));
    archive.close_now().unwrap();
    drop(archive);
    let held = open(folder.path(), "cloud").held(&series("a/b/c")).unwrap();
    assert_eq!(held[0].1.missing(1, 6), [(3, 5)]);
    assert_eq!(held[1], (Epoch(8), Intervals::of(1, 1)));
}

#[test]
fn c3_the_neighbours_of_a_hole_have_times_in_pages_and_in_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    ingest(&archive, "relay-1", 1, run("a/b/c", 7, 1, &[(10, "x"), (20, "x")]));
    ingest(&archive, "relay-2", 1, run("a/b/c", 7, 5, &[(50, "x"), (60, "x")]));
    archive.close_now().unwrap();
    ingest(&archive, "relay-1", 2, run("a/b/c", 7, 9, &[(90, "x")]));
    ingest(&archive, "relay-1", 3, run("a/b/c", 8, 2, &[(22, "another epoch")]));
    let times = archive.times(&series("a/b/c"), Epoch(7), &[2, 3, 5, 6, 9, 10]).unwrap();
    assert_eq!(times.into_iter().collect::<Vec<_>>(), [(2, 20), (5, 50), (6, 60), (9, 90)]);
    assert!(archive.times(&series("a/b/c"), Epoch(7), &[]).unwrap().is_empty());
    assert!(archive.times(&series("a/b/d"), Epoch(7), &[1]).unwrap().is_empty());
}

#[test]
fn c3_what_was_received_is_known_without_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    let both = [series("a/b/d"), series("a/b/c")];
    for round in 0..6_u64 {
        let first = 1 + 4 * round;
        ingest(&archive, "relay-1", 2 * round + 1, run("a/b/c", 7, first, &[(1, "x"), (2, "x")]));
        ingest(&archive, "relay-2", 2 * round + 2, run("a/b/c", 8 - round % 2, first + 2, &[(3, "x")]));
        let mut held = archive.held(&both[1]).unwrap();
        held.sort_by_key(|(epoch, _)| *epoch);
        assert_eq!(archive.received(&both).unwrap(), [vec![], held], "{round}");
        if round % 2 == 1 {
            archive.close_now().unwrap();
        }
    }
    let received = archive.received(&both).unwrap();
    assert_eq!(received[1][0].1.missing(1, 8), [(3, 4), (8, 8)]);
    archive.stop();
    archive.held(&both[1]).unwrap_err();
    assert_eq!(archive.received(&both).unwrap(), received);
    drop(archive);
    assert_eq!(open(folder.path(), "cloud").received(&both).unwrap(), received);
}
