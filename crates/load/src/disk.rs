//! What one durable write costs here, without any broker: 4 KiB and `fdatasync`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;
use crate::clock::nanos;
use crate::latency::Latencies;
use crate::payload::filler;
use crate::report::DiskReport;

const BLOCK_BYTES: usize = 4096;
/// The file written in place: a write-ahead log's usual size.
const BLOCKS: u64 = 1024;
const NAME: &str = "forebay-load-disk.tmp";

/// Measures half the time in place, as a log that is used again, and half at the end of a growing file.
pub(crate) fn run(directory: &Path, seconds: Duration) -> Result<DiskReport, Error> {
    let path = directory.join(NAME);
    let outcome = measure(&path, seconds);
    // Whatever happened, leave nothing behind; a file that was never made can't be removed.
    let _ = std::fs::remove_file(&path);
    outcome.map_err(|source| Error::io(path.display().to_string(), source))
}

fn measure(path: &Path, seconds: Duration) -> io::Result<DiskReport> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    let block = filler(1, BLOCK_BYTES);
    for _ in 0..BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let in_place = writes(&file, &block, seconds / 2, |number| number % BLOCKS)?;
    let appended = writes(&file, &block, seconds / 2, |number| BLOCKS + number)?;
    Ok(DiskReport { in_place: in_place.percentiles(), appended: appended.percentiles() })
}

fn writes(file: &File, block: &[u8], seconds: Duration, place: impl Fn(u64) -> u64) -> io::Result<Latencies> {
    let mut latencies = Latencies::new().map_err(io::Error::other)?;
    let began = Instant::now();
    let mut number = 0;
    // One at least, however short the time.
    while number == 0 || began.elapsed() < seconds {
        let start = Instant::now();
        file.write_all_at(block, place(number) * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        latencies.record(nanos(start.elapsed()));
        number += 1;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_timed_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let report = run(directory.path(), Duration::from_millis(50)).unwrap();
        assert!(report.in_place.is_some_and(|found| found.samples > 0 && found.p50 > 0.0));
        assert!(report.appended.is_some_and(|found| found.samples > 0));
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let message = run(Path::new("/nonexistent/here"), Duration::ZERO).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/here"), "{message}");
    }
}
