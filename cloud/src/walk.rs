//! Fills one page of an answer, series by series.

use archive::{Archive, Cursor, ReadError, Scan};
use wire::{Epoch, Intervals, Series};

use crate::question::{Place, Query};
use crate::reading::{Page, Reading};

/// Records that are read before it is known how large they are.
const FIRST_PIECE: usize = 256;

/// What the archive had received of a series before its records were read.
pub(crate) type Received = Vec<(Epoch, Intervals)>;

/// A page that is being filled.
#[derive(Debug)]
pub(crate) struct Walk {
    query: Query,
    page_bytes: usize,
    records: Vec<Reading>,
    bytes: usize,
    last: Option<Place>,
    /// Series of this page, in order, each with what was received of it. Read before the records: what arrives in between is then at
    /// worst called missing, and never the other way round.
    received: Vec<(Series, Received)>,
    has_passed: bool,
}

impl Walk {
    /// An empty page for a question. Its JSON stays within `page_bytes`, but for the one record that may be larger.
    pub(crate) fn new(query: Query, page_bytes: usize) -> Self {
        let has_passed = query.after.as_ref().is_some_and(|after| after.has_passed);
        let last = query.after.clone();
        Self { query, page_bytes, records: Vec::new(), bytes: 0, last, received: Vec::new(), has_passed }
    }

    /// Notes that records of the next series are elsewhere, and will be passed.
    pub(crate) fn passes(&mut self) {
        self.has_passed = true;
    }

    /// Reads on through these series, which rise and lie behind what was read. Says whether the page is full.
    pub(crate) fn fill(&mut self, archive: &Archive, names: &[Series]) -> Result<bool, ReadError> {
        let received = archive.received(names)?;
        for (series, received) in names.iter().zip(received) {
            self.received.push((series.clone(), received));
            if self.series(archive, series)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads in pieces: whoever asks for many records does not know how large they are, and they must not all be in memory.
    fn series(&mut self, archive: &Archive, series: &Series) -> Result<bool, ReadError> {
        let mut after = self.last.as_ref().filter(|last| last.series == *series).map(|last| last.cursor);
        loop {
            // One more than wanted shows whether anything follows.
            let limit = (self.query.limit + 1 - self.records.len()).min(self.piece());
            let scan = Scan { series: series.clone(), from: self.query.from, to: self.query.to, after, limit };
            let entries = archive.scan(&scan)?;
            let is_all = entries.len() < limit;
            for entry in entries {
                self.bytes += json_bytes(&entry.record);
                if self.records.len() == self.query.limit || (self.bytes > self.page_bytes && !self.records.is_empty()) {
                    return Ok(true);
                }
                let cursor = Cursor::after(&entry.record);
                after = Some(cursor);
                self.last = Some(Place { series: series.clone(), cursor, has_passed: false });
                self.records.push(Reading::new(entry.record, entry.via));
            }
            if is_all {
                return Ok(false);
            }
        }
    }

    /// As many as should fill the page, judged by those before.
    fn piece(&self) -> usize {
        match self.bytes.checked_div(self.records.len()) {
            None => FIRST_PIECE,
            Some(mean) => self.page_bytes.saturating_sub(self.bytes) / mean.max(1) + 1,
        }
    }

    /// What was received of the series of this page before they were read.
    pub(crate) fn take_received(&mut self) -> Vec<(Series, Received)> {
        std::mem::take(&mut self.received)
    }

    /// The page, full.
    pub(crate) fn full(self) -> Page {
        let has_passed = self.has_passed;
        let next_cursor = self.last.map(|last| Place { has_passed, ..last }.to_string());
        Page { records: self.records, next_cursor, completeness: None }
    }

    /// The last page of the answer.
    pub(crate) fn last(self, completeness: crate::completeness::Completeness) -> Page {
        Page { records: self.records, next_cursor: None, completeness: Some(completeness) }
    }
}

/// At most so many bytes is a record in JSON: each byte of text takes at most two there (a quote or backslash), base64 fewer.
fn json_bytes(record: &wire::Record) -> usize {
    2 * record.payload.len() + 2 * record.key.series.as_str().len() + 256
}
