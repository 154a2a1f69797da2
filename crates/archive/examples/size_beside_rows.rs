//! What a record costs at rest, beside the same records as plain SQLite rows.
//!
//! `cargo run --release -p archive --example size_beside_rows [CSV]`
//!
//! The data are 27 load profiles in steps of 15 minutes (data/simbench-loads-2016-01.csv), as a cloud gets them from agents. Counted are the
//! pages that each database uses, indexes included; free pages are not. The rows have a number for their series, no text, and what both
//! need: to be found by key and by time.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use archive::{Append, Archive, FrameRef, Options};
use rusqlite::Connection;
use wire::{Announcement, Epoch, EpochSecret, Operation, RunBuilder};

const STEP: i64 = 900_000_000_000;
const START: i64 = 1_451_606_400_000_000_000;

fn main() {
    let file = std::env::args().nth(1);
    let file = file.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/simbench-loads-2016-01.csv").to_owned());
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').skip(1).collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').skip(1).collect()).collect();
    let records = (names.len() * rows.len()) as f64;
    println!("{} series, {} readings each, {records} records", names.len(), rows.len());
    let plain = in_rows(&names, &rows);
    println!("{:<44} {plain:>10} bytes  {:>6.2} a record", "plain rows", plain as f64 / records);
    for (name, steps) in [("a month", rows.len()), ("a week", 672), ("a day", 96), ("an hour", 4)] {
        let chunked = in_chunks(&names, &rows, steps);
        println!(
            "{:<44} {chunked:>10} bytes  {:>6.2} a record  1/{:.1} of the rows",
            format!("archive, segments of {name}"),
            chunked as f64 / records,
            plain as f64 / chunked as f64
        );
    }
}

/// One row a record, one transaction.
fn in_rows(names: &[&str], rows: &[Vec<&str>]) -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.sqlite");
    let mut connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
             CREATE TABLE readings (series INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
                 operation INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (series, epoch, seq)) STRICT, WITHOUT ROWID;
             CREATE INDEX readings_by_time ON readings (series, at);",
        )
        .unwrap();
    let tx = connection.transaction().unwrap();
    for (series, name) in names.iter().enumerate() {
        tx.execute("INSERT INTO series (id, name) VALUES (?1, ?2)", (series as i64, series_name(name))).unwrap();
        for (step, row) in rows.iter().enumerate() {
            tx.prepare_cached("INSERT INTO readings VALUES (?1, ?2, ?3, ?4, 0, ?5)")
                .unwrap()
                .execute((series as i64, epoch(series).0.cast_signed(), step as i64 + 1, at(step), row[series].as_bytes()))
                .unwrap();
        }
    }
    tx.commit().unwrap();
    connection.execute_batch("VACUUM").unwrap();
    used(&path)
}

/// As a cloud keeps them: frames that carry a few steps of all series, and a segment that is closed after so many steps.
fn in_chunks(names: &[&str], rows: &[Vec<&str>], steps: usize) -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new("cloud".parse().unwrap(), Arc::new(|| START));
    let archive = Archive::open(folder.path(), options).unwrap().0;
    for (segment, rows) in rows.chunks(steps).enumerate() {
        let mut runs = Vec::new();
        let mut secrets = Vec::new();
        for (series, name) in names.iter().enumerate() {
            let mut run = RunBuilder::new(series_name(name).parse().unwrap(), Operation::Store);
            for (step, row) in rows.iter().enumerate() {
                run.push(at(segment * steps + step), row[series].as_bytes()).unwrap();
            }
            run.write(epoch(series), (segment * steps) as u64 + 1, &mut runs);
            let scope = Some(format!("cityA/{name}").parse().unwrap());
            secrets.push(Announcement { epoch: epoch(series), scope, secret: EpochSecret::new([series as u8; 32]) });
        }
        let from = FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: Epoch(1), number: segment as u64 + 1 };
        archive.append_blocking(Append::Ingest { from, runs: runs.into(), secrets }).unwrap().wait().unwrap();
        archive.close_now().unwrap();
    }
    archive.stop();
    drop(archive);
    used(&folder.path().join("archive.sqlite"))
}

fn series_name(profile: &str) -> String {
    format!("cityA/{profile}/power/active")
}

/// Epochs are random numbers of 64 bits; these are as wide.
fn epoch(series: usize) -> Epoch {
    Epoch((series as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn at(step: usize) -> i64 {
    START + step as i64 * STEP
}

/// Bytes of the pages in use.
fn used(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    let number = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
    (number("page_count") - number("freelist_count")) * number("page_size")
}
