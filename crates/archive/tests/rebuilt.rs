//! Roots that a relay announced are found again over what came, in whatever pieces it came.
#![allow(clippy::unwrap_used)]

mod common;

use archive::{Append, Archive, FrameRef, Lane, Rebuilt, Selection};
use common::{open, raw, run, series};
use wire::{Announcement, Epoch, EpochSecret, Intervals};

fn ingest(cloud: &Archive, number: u64, runs: Vec<u8>, secrets: Vec<Announcement>) {
    let from = FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: Epoch(0xabc), number };
    cloud.append(Append::Ingest { from, runs: runs.into(), secrets }).unwrap().wait().unwrap();
}

#[test]
fn c5_the_root_of_a_relays_chunk_is_rebuilt_at_the_cloud_over_pages_and_chunks() {
    let (at_relay, at_cloud) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let relay = open(at_relay.path(), "relay-1");
    for at in 0..120 {
        raw(&relay, Lane::Store, "a/b/c", &[(at * 3 % 50, &format!("{at}"))]);
    }
    relay.close_now().unwrap();
    let announced: Vec<_> = relay.chunks_after(0, 100).unwrap().into_iter().map(|(_, header)| header).collect();
    relay.hand_over(&Selection::All).unwrap();
    let cloud = open(at_cloud.path(), "cloud");
    let secret = Announcement { epoch: relay.epoch(), scope: None, secret: relay.secret().clone() };
    let root = |header: &wire::ChunkHeader| cloud.root_over(&header.series, header.epoch, &header.intervals).unwrap();
    assert_eq!(root(&announced[0]), Rebuilt::Missing);
    for page in relay.outgoing(Lane::Backlog, 0, usize::MAX).unwrap() {
        ingest(&cloud, page.id, page.body.to_vec(), vec![secret.clone()]);
        // Some of it in chunks, whose borders are others than the relay's, and the rest in pages.
        if page.id % 2 == 0 {
            cloud.close_now().unwrap();
        }
    }
    for header in &announced {
        assert_eq!(root(header), Rebuilt::Root(header.root));
    }
    cloud.close_now().unwrap();
    for header in &announced {
        assert_eq!(root(header), Rebuilt::Root(header.root));
    }
    let others = announced[0].intervals.as_slice().iter().map(|(low, high)| (*low, high - 1)).collect();
    assert_ne!(cloud.root_over(&announced[0].series, relay.epoch(), &others).unwrap(), Rebuilt::Root(announced[0].root));
}

#[test]
fn c5_one_changed_byte_gives_another_root_and_without_the_secret_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = open(folder.path(), "cloud");
    let secret = EpochSecret::new([3; 32]);
    ingest(&cloud, 1, run("a/b/c", 7, 1, &[(1, "x"), (2, "y"), (3, "z")]), vec![]);
    let (name, pair) = (series("a/b/c"), [(1, 1), (3, 3)].into_iter().collect::<Intervals>());
    assert_eq!(cloud.root_over(&name, Epoch(7), &pair).unwrap(), Rebuilt::NoSecret);
    assert_eq!(cloud.root_over(&series("a/b/d"), Epoch(7), &pair).unwrap(), Rebuilt::Missing);
    let announced = Announcement { epoch: Epoch(7), scope: Some("a/b".parse().unwrap()), secret: secret.clone() };
    ingest(&cloud, 2, run("a/b/c", 7, 4, &[(4, "z")]), vec![announced]);
    let leaves = |payloads: [&str; 2]| {
        [(1, 1, payloads[0]), (3, 3, payloads[1])].map(|(seq, at, payload)| {
            let view = wire::RecordView {
                series: "a/b/c",
                epoch: Epoch(7),
                seq,
                at,
                operation: wire::Operation::Store,
                payload: payload.as_bytes(),
            };
            secret.leaf(&view)
        })
    };
    let root = cloud.root_over(&name, Epoch(7), &pair).unwrap();
    assert_eq!(root, Rebuilt::Root(wire::merkle::root(&leaves(["x", "z"]))));
    assert_ne!(root, Rebuilt::Root(wire::merkle::root(&leaves(["x", "Z"]))));
    let beyond = [(1, 1), (5, 5)].into_iter().collect();
    assert_eq!(cloud.root_over(&name, Epoch(7), &beyond).unwrap(), Rebuilt::Missing);
    let endless = [(1, u64::MAX)].into_iter().collect();
    assert_eq!(cloud.root_over(&name, Epoch(7), &endless).unwrap(), Rebuilt::Missing);
}

#[test]
fn a12_the_frames_that_are_committed_are_known_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let relay = "relay-1".parse().unwrap();
    let cloud = open(folder.path(), "cloud");
    assert!(cloud.frames_of(&relay, Epoch(0xabc)).unwrap().is_empty());
    ingest(&cloud, 4, run("a/b/c", 7, 1, &[(1, "x")]), vec![]);
    ingest(&cloud, 6, run("a/b/c", 7, 2, &[(1, "x")]), vec![]);
    let frames = |cloud: &Archive| cloud.frames_of(&relay, Epoch(0xabc)).unwrap().as_slice().to_vec();
    assert_eq!(frames(&cloud), [(4, 4), (6, 6)]);
    drop(cloud);
    assert_eq!(frames(&open(folder.path(), "cloud")), [(4, 4), (6, 6)]);
    assert!(open(tempfile::tempdir().unwrap().path(), "cloud").frames_of(&relay, Epoch(1)).unwrap().is_empty());
}
