//! Runs and frames: how records travel in batches, and how a page keeps them.
//!
//! A *run* holds consecutive sequence numbers of one series, epoch and operation, in columns:
//!
//! ```text
//! run   = [series tstr, epoch uint, operation uint, first_seq uint, first_at int, [at difference int, …], [payload bstr, …]]
//! frame = [1, [[epoch uint, secret bstr .size 32], …], bstr .cborseq run]
//! ```
//!
//! Sequence numbers are implied and times are differences, so a reading costs its payload and a few bytes. Runs stand one behind
//! the other (a CBOR sequence, RFC 8742) in a frame as in a page of the archive, so a relay stores and forwards what it received by
//! copying a slice.

use crate::cbor::{Fault, Strict, put_array, put_bytes, put_head, put_int, put_text, put_uint};
use crate::digest::EpochSecret;
use crate::ids::{Epoch, Series};
use crate::record::{At, Operation, RecordView};

/// Largest payload of one reading, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Largest sequence number: what a signed 64-bit column can hold.
pub const SEQ_MAX: u64 = i64::MAX as u64;
/// Most records that one frame may bring. An empty reading takes two bytes on the wire and far more wherever it is kept, so the
/// size of the packet alone is no bound for what one publish makes of memory.
pub const FRAME_RECORDS_MAX: u64 = 1 << 20;
/// Most epoch secrets that one frame may announce.
pub const SECRETS_MAX: u64 = 4096;

const FRAME_VERSION: u64 = 1;

/// A validated run, borrowed from the bytes that hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunView<'a> {
    series: &'a str,
    epoch: Epoch,
    operation: Operation,
    first_seq: u64,
    count: u64,
    first_at: At,
    last_at: At,
    at_min: At,
    at_max: At,
    payload_bytes: usize,
    differences: &'a [u8],
    payloads: &'a [u8],
    raw: &'a [u8],
}

impl<'a> RunView<'a> {
    /// Reads one run from the start of `bytes` and gives what follows it.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical run that keeps every rule: a valid series name, at least one record, sequence numbers from
    /// 1 to [`SEQ_MAX`], times that are not negative, payloads of at most [`PAYLOAD_BYTES_MAX`].
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(7, "run")?;
        let series = r.text()?;
        if Series::check(series).is_err() {
            return Err(Fault::Rule { field: "series", rule: "is not a valid area/sensor/stream name" });
        }
        let epoch = Epoch(r.uint()?);
        let operation = Operation::from_code(r.uint()?)?;
        let first_seq = r.uint()?;
        let first_at = r.int()?;
        if first_at < 0 {
            return Err(Fault::Rule { field: "at", rule: "is before 1970" });
        }
        let others = r.array()?;
        let start = r.position();
        let (mut last_at, mut at_min, mut at_max) = (first_at, first_at, first_at);
        for _ in 0..others {
            last_at = last_at
                .checked_add(r.int()?)
                .filter(|at| *at >= 0)
                .ok_or(Fault::Rule { field: "at", rule: "leaves the range of times" })?;
            at_min = at_min.min(last_at);
            at_max = at_max.max(last_at);
        }
        let differences = &bytes[start..r.position()];
        let count = r.array()?;
        if count == 0 || count - 1 != others {
            return Err(Fault::Rule { field: "run", rule: "does not have one time a payload" });
        }
        if first_seq == 0 || first_seq > SEQ_MAX || count - 1 > SEQ_MAX - first_seq {
            return Err(Fault::Rule { field: "seq", rule: "is not from 1 to 2^63 - 1" });
        }
        let start = r.position();
        let mut payload_bytes = 0;
        for _ in 0..count {
            let payload = r.bytes()?;
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(Fault::Rule { field: "payload", rule: "is larger than 256 KiB" });
            }
            payload_bytes += payload.len();
        }
        let payloads = &bytes[start..r.position()];
        let raw = &bytes[..r.position()];
        let run = Self {
            series,
            epoch,
            operation,
            first_seq,
            count,
            first_at,
            last_at,
            at_min,
            at_max,
            payload_bytes,
            differences,
            payloads,
            raw,
        };
        Ok((run, r.rest()))
    }

    /// The series, `area/sensor/stream`.
    pub fn series(&self) -> &'a str {
        self.series
    }

    /// The origin's database.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What the relay shall do with these records.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Sequence number of the first record.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Sequence number of the last record.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + self.count - 1
    }

    /// How many records, at least one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Generation time of the first record.
    pub fn first_at(&self) -> At {
        self.first_at
    }

    /// Generation time of the last record.
    pub fn last_at(&self) -> At {
        self.last_at
    }

    /// Earliest generation time.
    pub fn at_min(&self) -> At {
        self.at_min
    }

    /// Latest generation time.
    pub fn at_max(&self) -> At {
        self.at_max
    }

    /// Payload bytes of all records together.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The run's own bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Its records, in order of their sequence numbers.
    pub fn records(&self) -> Records<'a> {
        Records {
            run: *self,
            differences: Strict::new(self.differences),
            payloads: Strict::new(self.payloads),
            next: self.first_seq,
            at: self.first_at,
        }
    }
}

/// Iterator over the records of a run.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    run: RunView<'a>,
    differences: Strict<'a>,
    payloads: Strict<'a>,
    next: u64,
    at: At,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        let seq = self.next;
        if seq > self.run.last_seq() {
            return None;
        }
        if seq != self.run.first_seq {
            self.at += self.differences.int().expect("a run's times were validated when it was parsed");
        }
        let payload = self.payloads.bytes().expect("a run's payloads were validated when it was parsed");
        self.next += 1;
        Some(RecordView {
            series: self.run.series,
            epoch: self.run.epoch,
            seq,
            at: self.at,
            operation: self.run.operation,
            payload,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.run.last_seq() + 1 - self.next) as usize;
        (left, Some(left))
    }
}

/// Iterator over runs that stand one behind the other; ends at the first fault.
#[derive(Debug, Clone)]
pub struct Runs<'a> {
    rest: &'a [u8],
}

impl<'a> Runs<'a> {
    /// Runs of `bytes`, which need not be trusted.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = Result<RunView<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match RunView::parse(self.rest) {
            Ok((run, rest)) => {
                self.rest = rest;
                Some(Ok(run))
            }
            Err(fault) => {
                self.rest = &[];
                Some(Err(fault))
            }
        }
    }
}

/// Collects the records of one run before their sequence numbers are known.
///
/// The first sequence number is given when the run is written, so that an origin can number records at the commit that keeps them.
#[derive(Debug, Clone)]
pub struct RunBuilder {
    series: Series,
    operation: Operation,
    count: u64,
    first_at: At,
    last_at: At,
    differences: Vec<u8>,
    payloads: Vec<u8>,
}

impl RunBuilder {
    /// An empty run.
    pub fn new(series: Series, operation: Operation) -> Self {
        Self { series, operation, count: 0, first_at: 0, last_at: 0, differences: Vec::new(), payloads: Vec::new() }
    }

    /// Adds a record behind the others.
    ///
    /// # Errors
    /// [`Fault::Rule`] for a time before 1970 or a payload above [`PAYLOAD_BYTES_MAX`]; the run stays as it was.
    #[inline]
    pub fn push(&mut self, at: At, payload: &[u8]) -> Result<(), Fault> {
        if at < 0 {
            return Err(Fault::Rule { field: "at", rule: "is before 1970" });
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Fault::Rule { field: "payload", rule: "is larger than 256 KiB" });
        }
        if self.count == 0 {
            self.first_at = at;
        } else {
            // Both are in 0..=i64::MAX, so the difference fits.
            put_int(&mut self.differences, at - self.last_at);
        }
        self.last_at = at;
        self.count += 1;
        put_bytes(&mut self.payloads, payload);
        Ok(())
    }

    /// The series.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// The operation.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// How many records were added.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// About how many bytes [`RunBuilder::write`] will write.
    pub fn bytes(&self) -> usize {
        self.series.as_str().len() + 48 + self.differences.len() + self.payloads.len()
    }

    /// Writes the run behind what `out` holds. Writes nothing if no record was added.
    pub fn write(&self, epoch: Epoch, first_seq: u64, out: &mut Vec<u8>) {
        if self.count == 0 {
            return;
        }
        out.reserve(self.bytes());
        put_array(out, 7);
        put_text(out, self.series.as_str());
        put_uint(out, epoch.0);
        put_uint(out, self.operation.code());
        put_uint(out, first_seq);
        put_int(out, self.first_at);
        put_array(out, self.count - 1);
        out.extend_from_slice(&self.differences);
        put_array(out, self.count);
        out.extend_from_slice(&self.payloads);
    }
}

/// A validated frame: what an edge agent publishes to a relay.
#[derive(Debug, Clone)]
pub struct FrameView<'a> {
    /// Secrets of the epochs that the agent has not announced to this relay before.
    pub secrets: Vec<(Epoch, EpochSecret)>,
    /// The runs, one behind the other, each validated.
    pub runs: &'a [u8],
    /// How many runs.
    pub run_count: u64,
    /// How many records all runs hold.
    pub record_count: u64,
}

impl<'a> FrameView<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical frame with at least one run and at most [`FRAME_RECORDS_MAX`] records.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(3, "frame")?;
        check_version(r.uint()?)?;
        let announced = r.array()?;
        if announced > SECRETS_MAX {
            return Err(Fault::Rule { field: "secrets", rule: "are more than 4096" });
        }
        let mut secrets = Vec::new();
        for _ in 0..announced {
            r.array_of(2, "secret")?;
            secrets.push((Epoch(r.uint()?), EpochSecret::new(r.array_of_bytes("secret")?)));
        }
        let runs = r.bytes()?;
        r.end()?;
        let (run_count, record_count) = count_runs(runs)?;
        if record_count > FRAME_RECORDS_MAX {
            return Err(Fault::Rule { field: "runs", rule: "hold more than 1048576 records; send several frames" });
        }
        Ok(Self { secrets, runs, run_count, record_count })
    }

    /// The runs, one by one.
    pub fn runs(&self) -> impl Iterator<Item = RunView<'a>> + use<'a> {
        Runs::new(self.runs).map(|run| run.expect("a frame's runs were validated when it was parsed"))
    }
}

pub(crate) fn check_version(version: u64) -> Result<(), Fault> {
    if version == FRAME_VERSION { Ok(()) } else { Err(Fault::Rule { field: "version", rule: "is not 1" }) }
}

/// Validates runs and gives how many there are and how many records they hold.
pub(crate) fn count_runs(bytes: &[u8]) -> Result<(u64, u64), Fault> {
    let (mut runs, mut records) = (0, 0);
    for run in Runs::new(bytes) {
        runs += 1;
        records += run?.count();
    }
    if runs == 0 {
        return Err(Fault::Rule { field: "runs", rule: "are missing" });
    }
    Ok((runs, records))
}

/// Writes a frame of the given runs (each one canonical run) behind what `out` holds.
pub fn encode_frame(secrets: &[(Epoch, EpochSecret)], runs: &[&[u8]], out: &mut Vec<u8>) {
    put_array(out, 3);
    put_uint(out, FRAME_VERSION);
    put_array(out, secrets.len() as u64);
    for (epoch, secret) in secrets {
        put_array(out, 2);
        put_uint(out, epoch.0);
        put_bytes(out, secret.expose());
    }
    put_head(out, 2, runs.iter().map(|run| run.len() as u64).sum());
    for run in runs {
        out.extend_from_slice(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_seq: u64, readings: &[(At, &[u8])]) -> Vec<u8> {
        let mut builder = RunBuilder::new("a/b/c".parse().unwrap(), Operation::Forward);
        for (at, payload) in readings {
            builder.push(*at, payload).unwrap();
        }
        let mut out = Vec::new();
        builder.write(Epoch(0x9f3c), first_seq, &mut out);
        out
    }

    #[test]
    fn a_run_is_read_back_as_it_was_written() {
        let bytes = run(7, &[(100, b"x"), (90, b""), (i64::MAX, b"0.5")]);
        let (view, rest) = RunView::parse(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!((view.first_seq(), view.last_seq(), view.count(), view.at_min(), view.at_max()), (7, 9, 3, 90, i64::MAX));
        let read: Vec<_> = view.records().map(|r| (r.seq, r.at, r.payload.to_vec())).collect();
        assert_eq!(read, [(7, 100, b"x".to_vec()), (8, 90, vec![]), (9, i64::MAX, b"0.5".to_vec())]);
        assert_eq!(view.raw(), bytes);
    }

    #[test]
    fn a_frame_is_read_back_and_nothing_may_follow_it() {
        let (one, two) = (run(1, &[(1, b"p")]), run(2, &[(2, b"q"), (3, b"r")]));
        let mut bytes = Vec::new();
        encode_frame(&[(Epoch(5), EpochSecret::new([7; 32]))], &[&one, &two], &mut bytes);
        let frame = FrameView::parse(&bytes).unwrap();
        assert_eq!((frame.run_count, frame.record_count, frame.secrets[0].0), (2, 3, Epoch(5)));
        assert_eq!(frame.runs().flat_map(|run| run.records()).map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
        bytes.push(0);
        assert!(matches!(FrameView::parse(&bytes), Err(Fault::Trailing { .. })));
    }

    #[test]
    fn sequence_numbers_cannot_leave_their_range() {
        assert!(RunView::parse(&run(0, &[(1, b"p")])).is_err());
        assert!(RunView::parse(&run(SEQ_MAX, &[(1, b"p")])).is_ok());
        assert!(RunView::parse(&run(SEQ_MAX, &[(1, b"p"), (2, b"q")])).is_err());
        assert!(RunView::parse(&run(u64::MAX, &[(1, b"p"), (2, b"q")])).is_err());
    }
}
