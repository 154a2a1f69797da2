//! Scans while records come in and segments close: nothing that was durable is missing, nothing is there twice.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use archive::{Archive, Lane};
use common::{everything, options, raw, wait};
use wire::{Intervals, RecordKey, Series};

#[test]
fn a_scan_sees_all_that_was_durable_while_segments_close() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options("relay-1");
    // Hardly anything stays in memory, so readers meet pages that are just being deleted.
    options.cache_bytes_max = 500;
    let (archive, _) = Archive::open(folder.path(), options).unwrap();
    let (durable, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let closer = scope.spawn(|| {
            let mut chunks = 0;
            while !stop.load(Ordering::Relaxed) {
                chunks += archive.close_now().unwrap().chunks;
            }
            chunks
        });
        let scanners: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut scans = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let before = durable.load(Ordering::Acquire);
                        let seqs: Vec<u64> = everything(&archive, "a/b/c").iter().map(|entry| entry.record.key.seq).collect();
                        assert!(seqs.len() as u64 >= before, "{} of {before} are there", seqs.len());
                        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
                        if before > 0 {
                            let series: Series = "a/b/c".parse().unwrap();
                            let key = RecordKey { series, epoch: archive.epoch(), seq: before };
                            assert!(archive.get(&key).unwrap().is_some(), "{key} is not there");
                        }
                        scans += 1;
                    }
                    scans
                })
            })
            .collect();
        for at in 0..600 {
            raw(&archive, Lane::Store, "a/b/c", &[(at, "0.5")]);
            durable.store(at as u64 + 1, Ordering::Release);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(closer.join().unwrap() > 5);
        assert!(scanners.into_iter().map(|scanner| scanner.join().unwrap()).sum::<u64>() > 5);
    });
}

#[test]
fn the_uplink_misses_no_page_while_pages_are_delivered_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options("relay-1");
    options.cache_bytes_max = 300;
    let (archive, _) = Archive::open(folder.path(), options).unwrap();
    const PAGES: u64 = 400;
    thread::scope(|scope| {
        let uplink = scope.spawn(|| {
            let (mut after, mut seen) = (0, Vec::new());
            let mut watch = archive.watch_outgoing();
            while after < PAGES {
                let pages = archive.outgoing(Lane::Live, after, 1000).unwrap();
                if pages.is_empty() {
                    wait(watch.wait_for(|last| *last > after)).unwrap();
                }
                for page in pages {
                    after = page.id;
                    seen.push(page.id);
                    drop(archive.delivered(&Intervals::of(page.id, page.id)).unwrap());
                }
                archive.close_now().unwrap();
            }
            seen
        });
        for at in 0..PAGES as i64 {
            raw(&archive, Lane::Live, "a/b/c", &[(at, "0.5")]);
        }
        assert_eq!(uplink.join().unwrap(), (1..=PAGES).collect::<Vec<_>>());
    });
    archive.close_now().unwrap();
    assert_eq!((archive.stats().waiting_pages, archive.stats().live.records), (0, 0));
}
