//! What the tests of the archive share.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use archive::{Append, Appended, Archive, Cursor, Entry, FrameRef, Lane, Options, Scan};
use bytes::Bytes;
use wire::{Epoch, Operation, RunBuilder, Series};

/// Small segments, pages and chunks, so that little data has many of them. Nothing is due by itself.
pub fn options(name: &str) -> Options {
    let clock = Arc::new(AtomicI64::new(1));
    let mut options = Options::new(name.parse().unwrap(), Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)));
    options.segment.age_max = Duration::from_secs(1 << 30);
    options.page_bytes_max = 4096;
    options.chunk_records_max = 50;
    options
}

pub fn open(folder: &Path, name: &str) -> Archive {
    Archive::open(folder, options(name)).unwrap().0
}

pub fn series(name: &str) -> Series {
    name.parse().unwrap()
}

pub fn builder(name: &str, readings: &[(i64, &str)]) -> RunBuilder {
    let mut run = RunBuilder::new(series(name), Operation::Store);
    for (at, payload) in readings {
        run.push(*at, payload.as_bytes()).unwrap();
    }
    run
}

/// A run with keys.
pub fn run(name: &str, epoch: u64, first_seq: u64, readings: &[(i64, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder(name, readings).write(Epoch(epoch), first_seq, &mut bytes);
    bytes
}

pub fn raw(archive: &Archive, lane: Lane, name: &str, readings: &[(i64, &str)]) -> Appended {
    archive.append(Append::Raw { lane, runs: vec![builder(name, readings)] }).unwrap().wait().unwrap()
}

pub fn frame(relay: &str, number: u64, runs: Vec<u8>) -> Append {
    let from = FrameRef { relay: relay.parse().unwrap(), relay_epoch: Epoch(0xabc), number };
    Append::Ingest { from, runs: Bytes::from(runs), secrets: vec![] }
}

pub fn ingest(archive: &Archive, relay: &str, number: u64, runs: Vec<u8>) -> Appended {
    archive.append(frame(relay, number, runs)).unwrap().wait().unwrap()
}

/// Everything of a series, read in pieces of `limit` with a cursor that goes through its text.
pub fn scan_all(archive: &Archive, name: &str, from: i64, to: i64, limit: usize) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = archive.scan(&Scan { series: series(name), from, to, after, limit }).unwrap();
        let Some(last) = page.last() else { return all };
        after = Some(Cursor::after(&last.record).to_string().parse().unwrap());
        all.extend(page);
    }
}

pub fn everything(archive: &Archive, name: &str) -> Vec<Entry> {
    scan_all(archive, name, 0, i64::MAX, 1000)
}

/// Payloads by sequence number.
pub fn payloads(entries: &[Entry]) -> BTreeMap<u64, String> {
    entries.iter().map(|entry| (entry.record.key.seq, String::from_utf8(entry.record.payload.clone()).unwrap())).collect()
}

/// Sends everything that waits at `relay` to `cloud`, with receipts.
pub fn drain(relay: &Archive, cloud: &Archive) -> u64 {
    let mut sent = 0;
    for lane in [Lane::Live, Lane::Backlog] {
        let mut after = 0;
        loop {
            let pages = relay.outgoing(lane, after, 10_000).unwrap();
            let Some(last) = pages.last() else { break };
            after = last.id;
            for page in pages {
                let from = FrameRef { relay: relay.name().clone(), relay_epoch: relay.epoch(), number: page.id };
                let done = cloud.append(Append::Ingest { from, runs: page.body, secrets: vec![] }).unwrap().wait().unwrap();
                assert_eq!(done.conflict, 0);
                wait(relay.delivered(&wire::Intervals::of(page.id, page.id)).unwrap()).unwrap();
                sent += done.new;
            }
        }
    }
    sent
}

pub fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}
