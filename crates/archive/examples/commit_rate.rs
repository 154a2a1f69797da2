//! How fast records become durable, beside what the disk itself needs for a sync.
//!
//! `cargo run --release -p archive --example commit_rate [FOLDER] [SECONDS]`
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archive::{Append, Archive, FrameRef, Lane, Options};
use bytes::Bytes;
use wire::{Epoch, Operation, RunBuilder};

const RECORDS_A_JOB: u64 = 200;
const THREADS: usize = 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().unwrap_or_else(|| "target".to_owned());
    let seconds: f64 = arguments.next().map_or(5.0, |text| text.parse().unwrap());
    let only = arguments.next().unwrap_or_default();
    let run = |name: &str, measure: &dyn Fn(&Path, &str)| {
        if name.contains(&only) {
            // A folder of its own, gone before the next one starts: the disk shall not be busy with what is over.
            let folder = tempfile::tempdir_in(&base).unwrap();
            measure(folder.path(), name);
        }
    };
    for (name, lane) in [("one job in flight, live", Lane::Live), ("one job in flight, store", Lane::Store)] {
        run(name, &|folder, name| one_job(folder, name, lane));
    }
    for (name, lane, in_flight) in [
        ("raw, live", Lane::Live, 1),
        ("raw, live, 4 jobs in flight a thread", Lane::Live, 4),
        ("raw, store", Lane::Store, 1),
        ("raw, store, 4 jobs in flight a thread", Lane::Store, 4),
    ] {
        run(name, &|folder, name| raw(folder, name, lane, in_flight, seconds));
    }
    for (name, lane) in [("framed, live", Lane::Live), ("framed, store", Lane::Store)] {
        run(name, &|folder, name| framed(folder, name, lane, seconds));
    }
    run("query", &query);
    for runs in [1, 10, 200, 2000] {
        run(&format!("ingest, frames of 2000 records in {runs} runs"), &|folder, name| ingest(folder, name, runs, seconds));
    }
}

/// One series' day among ten million records, and what a record costs at rest.
fn query(folder: &Path, name: &str) {
    const SERIES: u64 = 100;
    let archive = open(folder);
    for day in 0..100i64 {
        for meter in 0..SERIES {
            let mut run = RunBuilder::new(format!("cityA/meter-{meter}/power/active").parse().unwrap(), Operation::Store);
            for index in 0..1000 {
                let load = (meter as i64 * 31 + index * index) % 997;
                run.push((day * 1000 + index) * 86_400_000, format!("0.{load:03}").as_bytes()).unwrap();
            }
            archive.append_blocking(Append::Raw { lane: Lane::Store, runs: vec![run] }).unwrap().wait().unwrap();
        }
        archive.close_due(0).unwrap();
    }
    let start = Instant::now();
    let closed = archive.close_now().unwrap();
    println!("{name:<44} closing the last {} records took {}", closed.records, us(start.elapsed()));
    let bytes = std::fs::metadata(folder.join("archive.sqlite")).unwrap().len();
    let stats = archive.stats();
    println!("  {} records, {} compressed bytes, file {} bytes", stats.chunks.records, stats.chunks.bytes, bytes);
    for limit in [100, 1000] {
        let time = |meter: u64| {
            let series = format!("cityA/meter-{meter}/power/active").parse().unwrap();
            let from = (meter as i64 * 7 % 100) * 86_400_000_000;
            let start = Instant::now();
            let found = archive.scan(&archive::Scan { series, from, to: from + 86_400_000_000, after: None, limit }).unwrap();
            assert_eq!(found.len(), limit);
            start.elapsed()
        };
        let mut times: Vec<Duration> = (0..SERIES).map(time).collect();
        times.sort_unstable();
        println!("  first page of {limit:<5} p50 {:>9}  max {:>9}", us(times[50]), us(times[99]));
    }
}

fn sync_times(folder: &Path) -> Vec<Duration> {
    let path = folder.join("sync");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = [7u8; 4096];
    let times = (0..1000)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&block).unwrap();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    std::fs::remove_file(path).unwrap();
    times
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn us(time: Duration) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6)
}

fn open(folder: &Path) -> Archive {
    let mut options = Options::new("relay-1".parse().unwrap(), Arc::new(|| 1));
    options.budgets.store_bytes_max = 64 << 30;
    options.budgets.outgoing_bytes_max = 64 << 30;
    Archive::open(folder, options).unwrap().0
}

fn batch(series: &str, records: u64, at: i64) -> RunBuilder {
    let mut run = RunBuilder::new(series.parse().unwrap(), Operation::Forward);
    for index in 0..records as i64 {
        run.push(at + index, &[b'x'; 100]).unwrap();
    }
    run
}

fn one_job(folder: &Path, name: &str, lane: Lane) {
    let archive = open(folder);
    let time = |_| {
        let start = Instant::now();
        archive.append(Append::Raw { lane, runs: vec![batch("a/b/c", 1, 1)] }).unwrap().wait().unwrap();
        start.elapsed()
    };
    for index in 0..2000 {
        time(index);
    }
    let mut times: Vec<Duration> = (0..4000).map(time).collect();
    times.sort_unstable();
    println!("{name:<44} p50 {:>9}  p99 {:>9}", us(times[2000]), us(times[3960]));
    println!("{:<44} p50 {:>9}", "  4 KiB write + fdatasync beside it", us(median(sync_times(folder))));
}

/// Closes what is due while the load runs, as a relay does.
fn with_upkeep(archive: &Archive, load: impl FnOnce()) {
    let stop = AtomicU64::new(0);
    thread::scope(|scope| {
        let upkeep = scope.spawn(|| {
            let mut now = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                thread::sleep(Duration::from_millis(200));
                now += 200_000_000;
                archive.close_due(now).unwrap();
            }
        });
        load();
        stop.store(1, Ordering::Relaxed);
        upkeep.join().unwrap();
    });
}

fn report(name: &str, records: u64, took: Duration, archive: &Archive) {
    let stats = archive.stats();
    println!(
        "{name:<44} {:>12.0} records/s  {:.0} records and {} a commit",
        records as f64 / took.as_secs_f64(),
        records as f64 / stats.writer.groups.max(1) as f64,
        us(stats.writer.busy / stats.writer.groups.max(1) as u32),
    );
}

fn raw(folder: &Path, name: &str, lane: Lane, in_flight: usize, seconds: f64) {
    let archive = open(folder);
    let records = AtomicU64::new(0);
    let start = Instant::now();
    with_upkeep(&archive, || {
        thread::scope(|scope| {
            for index in 0..THREADS {
                let (archive, records) = (&archive, &records);
                scope.spawn(move || {
                    let run = batch(&format!("cityA/meter-{index}/power/active"), RECORDS_A_JOB, 1);
                    let mut waiting = std::collections::VecDeque::new();
                    while start.elapsed().as_secs_f64() < seconds {
                        waiting.push_back(archive.append_blocking(Append::Raw { lane, runs: vec![run.clone()] }).unwrap());
                        if waiting.len() >= in_flight {
                            let done = waiting.pop_front().unwrap().wait().unwrap();
                            records.fetch_add(done.new, Ordering::Relaxed);
                        }
                    }
                    for appending in waiting {
                        records.fetch_add(appending.wait().unwrap().new, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    report(name, records.into_inner(), start.elapsed(), &archive);
}

fn framed(folder: &Path, name: &str, lane: Lane, seconds: f64) {
    let archive = open(folder);
    let records = AtomicU64::new(0);
    let start = Instant::now();
    with_upkeep(&archive, || {
        thread::scope(|scope| {
            for index in 0..THREADS {
                let (archive, records) = (&archive, &records);
                scope.spawn(move || {
                    let run = batch(&format!("cityA/meter-{index}/power/active"), RECORDS_A_JOB, 1);
                    let mut next = 1;
                    while start.elapsed().as_secs_f64() < seconds {
                        let mut bytes = Vec::new();
                        run.write(Epoch(7), next, &mut bytes);
                        next += RECORDS_A_JOB;
                        let done = archive
                            .append_blocking(Append::Framed { lane, runs: bytes.into(), secrets: vec![] })
                            .unwrap()
                            .wait()
                            .unwrap();
                        records.fetch_add(done.new, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    report(name, records.into_inner(), start.elapsed(), &archive);
}

/// Frames of 2000 records in so many runs, from three relays with eight frames in flight each.
fn ingest(folder: &Path, name: &str, runs: u64, seconds: f64) {
    let archive = open(folder);
    let records = AtomicU64::new(0);
    let start = Instant::now();
    with_upkeep(&archive, || {
        thread::scope(|scope| {
            for relay in 0..3 {
                let (archive, records) = (&archive, &records);
                scope.spawn(move || {
                    let each = 2000 / runs;
                    let builders: Vec<_> =
                        (0..runs).map(|run| batch(&format!("city{relay}/meter-{run}/power/active"), each, 1)).collect();
                    let mut waiting = std::collections::VecDeque::new();
                    let mut number = 0;
                    while start.elapsed().as_secs_f64() < seconds {
                        let mut bytes = Vec::new();
                        builders.iter().for_each(|run| run.write(Epoch(relay), number * each + 1, &mut bytes));
                        number += 1;
                        let from =
                            FrameRef { relay: format!("relay-{relay}").parse().unwrap(), relay_epoch: Epoch(relay), number };
                        waiting.push_back(
                            archive.append_blocking(Append::Ingest { from, runs: Bytes::from(bytes), secrets: vec![] }).unwrap(),
                        );
                        if waiting.len() >= 8 {
                            records.fetch_add(waiting.pop_front().unwrap().wait().unwrap().new, Ordering::Relaxed);
                        }
                    }
                    for appending in waiting {
                        records.fetch_add(appending.wait().unwrap().new, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    report(name, records.into_inner(), start.elapsed(), &archive);
}
