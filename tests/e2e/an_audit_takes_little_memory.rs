//! An audit of much takes no more memory than one of little, does not mind that everybody works, and never takes damage for order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;
use rusqlite::{Connection, OpenFlags};
use testkit::Seed;

use crate::estate::{Estate, Folders, SMALL, Size};
use crate::town::FOREBAY;

/// The most memory that the audit of an estate had, in KiB, and how long it took.
fn peak(estate: &Estate) -> (u64, Duration) {
    let start = Instant::now();
    let mut audit = Command::new(FOREBAY)
        .args(["--log", "error", "audit", "--rpc", &estate.anvil.rpc(), "--terminal"])
        .arg(estate.terminal(1))
        .arg("--cloud")
        .arg(estate.cloud())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", audit.id());
    let mut peak = 0;
    loop {
        // It only ever grows, so the last look before the end is as good as one behind it.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        if let Some(ended) = audit.try_wait().unwrap() {
            assert_eq!(ended.code(), Some(0), "it is clean");
            return (peak, start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_an_audit_of_twenty_times_as_much_takes_little_more_memory() {
    let mut peaks = Vec::new();
    for records in [4_000, 80_000] {
        // Segments don't end where the terminal's chunks do, so that every record is compared by its leaf.
        let size =
            Size { sensors: 1, series: 2, records: records / 2, arrived: records / 2, chunk: 64, segment: 5_000, batch: 500 };
        let estate = Estate::build(size).await;
        let (kib, took) = peak(&estate);
        let rate = records as f64 / took.as_secs_f64();
        eprintln!("{records} records on either side: {kib} KiB at most, {rate:.0} records/s");
        peaks.push(kib);
    }
    assert!(peaks[0] > 0 && peaks[1] * 10 <= peaks[0] * 15, "{peaks:?} KiB");
}

/// What the audit answers for: every column that is covered, in the order of the rows.
const COVERED: [(&str, &str, &str); 9] = [
    ("meter", "outbox", "SELECT epoch, secret, sensor FROM origin"),
    ("meter", "outbox", "SELECT id, name, next_seq FROM series ORDER BY id"),
    ("meter", "outbox", "SELECT id, series, seq_first, seq_last, at_min, at_max, root, leaves FROM chunks ORDER BY id"),
    ("cloud", "archive", "SELECT name FROM series ORDER BY id"),
    ("cloud", "archive", "SELECT series, epoch, seqs FROM held ORDER BY series, epoch"),
    (
        "cloud",
        "archive",
        "SELECT id, series, epoch, seq_first, seq_last, at_min, at_max, records, seqs, root FROM chunks ORDER BY id",
    ),
    ("both", "anchor", "SELECT kind, name FROM party"),
    (
        "both",
        "anchor",
        "SELECT number, root, first_seq, count, records, prev, head, tx, block_number, block_hash FROM batches ORDER BY number",
    ),
    ("both", "anchor", "SELECT batch, position, source, chunk, leaf, header FROM leaves ORDER BY batch, position"),
];

type Rows = BTreeMap<String, Result<Vec<String>, String>>;

/// Everything that is covered, as SQLite reads it from tables, without an index.
fn meaning(folders: &Folders) -> Rows {
    let mut rows = Rows::new();
    for (place, file, sql) in COVERED {
        for (side, folder) in [("meter", &folders.terminal), ("cloud", &folders.cloud)] {
            if place == side || place == "both" {
                let path = folder.join(format!("{file}.sqlite"));
                rows.insert(format!("{side} {sql}"), read(&path, sql).map_err(|error| error.to_string()));
            }
        }
    }
    rows
}

fn read(path: &Path, sql: &str) -> rusqlite::Result<Vec<String>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut read = Vec::new();
    while let Some(row) = rows.next()? {
        let value = |column| row.get_ref(column).map(|value| format!("{value:?}"));
        read.push((0..columns).map(value).collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_flipped_byte_of_any_database_is_found_refused_or_meaningless() {
    let estate = Estate::build(SMALL).await;
    let (seed, whole) = (Seed::new(), estate.copy());
    let rng = &mut seed.rng();
    let meant = meaning(&whole);
    let (mut found, mut refused, mut meaningless) = (0, 0, 0);
    for _ in 0..60 {
        let folders = estate.copy();
        let files = [
            folders.terminal.join("outbox.sqlite"),
            folders.terminal.join("anchor.sqlite"),
            folders.cloud.join("archive.sqlite"),
            folders.cloud.join("anchor.sqlite"),
        ];
        let path = &files[rng.random_range(0..files.len())];
        let mut bytes = fs::read(path).unwrap();
        // Where there is something: most of a small database is empty.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for _ in 0..rng.random_range(1..12) {
            let at = used[rng.random_range(0..used.len())];
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        fs::write(path, bytes).unwrap();
        let said = estate.audit(&folders, &[]);
        match said.code {
            0 => {
                assert_eq!(meaning(&folders), meant, "{seed:?}: {} changed its meaning, and the audit is silent", path.display());
                meaningless += 1;
            }
            1 => found += 1,
            2 => refused += 1,
            other => panic!("{seed:?}: exit code {other}: {}{}", said.text, said.errors),
        }
    }
    eprintln!("{found} found, {refused} refused, {meaningless} without a meaning");
    assert!(found + refused > 0);
}
