//! Chunk roots: the same leaves as anybody else computes, in order, reproducible.
#![allow(clippy::unwrap_used)]

mod common;

use archive::{Append, Lane};
use common::{everything, open, raw, run};
use wire::{Announcement, Epoch, EpochSecret, SensorId, merkle};

#[test]
fn c5_a_chunk_root_covers_its_records_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = open(folder.path(), "relay-1");
    for at in 0..120 {
        raw(&archive, Lane::Store, "a/b/c", &[(at * 3 % 50, &format!("{at}"))]);
    }
    assert_eq!(archive.chunks_after(0, 100).unwrap(), []);
    archive.close_now().unwrap();
    let secret = archive.secret().clone();
    let mut seen = 0;
    for round in 0..2 {
        let chunks = archive.chunks_after(0, 100).unwrap();
        assert_eq!(chunks.iter().map(|(_, header)| header.count).collect::<Vec<_>>(), [50, 50, 20]);
        for (id, header) in &chunks {
            let mut records: Vec<_> = everything(&archive, "a/b/c").into_iter().map(|entry| entry.record).collect();
            records.retain(|record| header.intervals.contains(record.key.seq));
            records.sort_by_key(|record| record.key.seq);
            let leaves: Vec<_> = records.iter().map(|record| secret.leaf(&record.view())).collect();
            assert_eq!(archive.chunk_leaves(*id).unwrap().unwrap(), leaves);
            assert_eq!(merkle::root(&leaves), header.root);
            assert_eq!(
                (header.at_min, header.at_max),
                (records.iter().map(|r| r.at).min().unwrap(), records.iter().map(|r| r.at).max().unwrap())
            );
            for (index, record) in records.iter().enumerate() {
                assert_eq!(archive.chunk_of(&record.key).unwrap(), Some((*id, index)));
                let path = merkle::path(&leaves, index);
                assert!(merkle::verify(&leaves[index], index as u64, header.count, &path, &header.root));
                seen += 1;
            }
        }
        let (second, _) = chunks[1];
        assert_eq!(archive.chunks_after(second, 100).unwrap().len(), 1);
        assert_eq!(archive.chunks_after(0, 2).unwrap().len(), 2);
        if round == 0 {
            drop(archive);
            archive = open(folder.path(), "relay-1");
        }
    }
    assert_eq!(seen, 240);
}

#[test]
fn a_root_waits_for_the_secret_and_comes_behind_the_chunks_already_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = open(folder.path(), "relay-1");
    let append = |archive: &archive::Archive, first: u64, secrets: Vec<Announcement>| {
        let runs = [run("a/b/c", 7, first, &[(1, "x"), (2, "y")]), run("a/z/c", 7, first, &[(1, "x")])].concat();
        archive.append(Append::Framed { lane: Lane::Store, runs: runs.into(), secrets }).unwrap().wait().unwrap();
    };
    append(&archive, 1, vec![]);
    raw(&archive, Lane::Store, "a/own/c", &[(1, "x")]);
    archive.close_now().unwrap();
    let seen = archive.chunks_after(0, 100).unwrap();
    assert_eq!(seen.len(), 1);
    let (last, _) = seen[0];
    // The secret of one sensor is not the secret of another, though the epoch is the same.
    let secret = EpochSecret::new([9; 32]);
    let announced = Announcement { epoch: Epoch(7), scope: Some(SensorId::new("a", "b").unwrap()), secret: secret.clone() };
    append(&archive, 10, vec![announced.clone()]);
    assert_eq!(archive.close_due(1).unwrap().roots, 1);
    let later = archive.chunks_after(last, 100).unwrap();
    assert_eq!(later.len(), 1);
    let (id, header) = &later[0];
    assert_eq!(header.series.as_str(), "a/b/c");
    assert_eq!(merkle::root(&archive.chunk_leaves(*id).unwrap().unwrap()), header.root);
    assert_eq!(archive.announcements_after(0, 10).unwrap()[0].1, announced);
    drop(archive);
    archive = open(folder.path(), "relay-1");
    archive.close_now().unwrap();
    assert_eq!(archive.chunks_after(*id, 100).unwrap().len(), 1);
    assert_eq!(archive.announcements_after(0, 10).unwrap().len(), 1);
    // Another secret for the same epoch and sensor changes nothing.
    append(&archive, 20, vec![Announcement { secret: EpochSecret::new([1; 32]), ..announced }]);
    assert_eq!(archive.announcements_after(0, 10).unwrap().len(), 1);
}

#[test]
fn a12_series_are_found_by_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    for name in ["cityA/m2/power/active", "cityA/m1/power/active", "cityA/m1/voltage", "cityB/m1/power/active"] {
        raw(&archive, Lane::Store, name, &[(1, "1")]);
    }
    let like = |pattern: &str| archive.series_like(pattern).iter().map(|series| series.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(like("cityA/+/power/#"), ["cityA/m1/power/active", "cityA/m2/power/active"]);
    assert_eq!(like("#").len(), 4);
    archive.close_now().unwrap();
    drop(archive);
    assert_eq!(open(folder.path(), "cloud").series_like("cityB/#").len(), 1);
}

#[test]
fn chunks_of_a_close_that_a_crash_cut_short_are_made_again() {
    let (folder, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = open(folder.path(), "relay-1");
    for at in 0..120 {
        raw(&archive, Lane::Store, "a/b/c", &[(at, "0.5")]);
    }
    drop(archive);
    // The pages of before the close together with the chunks of after it: what a crash between its two last commits leaves.
    let name = "archive.sqlite";
    std::fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
    let archive = open(folder.path(), "relay-1");
    archive.close_now().unwrap();
    drop(archive);
    let database = rusqlite::Connection::open(crashed.path().join(name)).unwrap();
    database.execute("ATTACH ?1 AS closed", [folder.path().join(name).to_str().unwrap()]).unwrap();
    database
        .execute_batch("INSERT INTO series SELECT * FROM closed.series; INSERT INTO chunks SELECT * FROM closed.chunks")
        .unwrap();
    drop(database);
    let (archive, recovered) = archive::Archive::open(crashed.path(), common::options("relay-1")).unwrap();
    assert_eq!((recovered.unfinished_chunks, recovered.records), (3, 120));
    assert_eq!(archive.chunks_after(0, 100).unwrap(), []);
    archive.close_now().unwrap();
    assert_eq!(archive.chunks_after(0, 100).unwrap().iter().map(|(_, header)| header.count).sum::<u64>(), 120);
    assert_eq!((everything(&archive, "a/b/c").len(), archive.stats().chunks.records), (120, 120));
}
