//! Merkle roots over records as they are held, however many pages and chunks they came in (C5).

use rusqlite::OptionalExtension;
use wire::{Digest, Epoch, Intervals, RecordView, RelayId, Series, merkle};

use crate::archive::Archive;
use crate::error::{Damage, ReadError};
use crate::find::find;
use crate::schema::{decode, to_sql};

/// Sequence numbers that are read in one go: what bounds the memory, whatever the set looks like.
const SPAN_MAX: u64 = 16_384;

/// The root over a set of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuilt {
    /// The root over the leaves of these records, in order of their sequence numbers.
    Root(Digest),
    /// Some of the records are not held.
    Missing,
    /// The secret of their epoch is not known, so that their leaves can't be had.
    NoSecret,
}

impl Archive {
    /// The Merkle root over the records of a series and epoch under `seqs`, from what is held now: what a chunk of exactly these records
    /// had as its root at a relay.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn root_over(&self, series: &Series, epoch: Epoch, seqs: &Intervals) -> Result<Rebuilt, ReadError> {
        let shared = &*self.inner.shared;
        let Some(id) = shared.series.get(series.as_str()) else { return Ok(Rebuilt::Missing) };
        let Some(secret) = shared.secrets.of(series.as_str(), epoch) else { return Ok(Rebuilt::NoSecret) };
        let mut leaves = Vec::new();
        let mut rest = seqs.as_slice();
        while let Some((low, _)) = rest.first().copied() {
            // As many whole intervals as fit the span; of one that does not fit, pieces.
            let fit = rest.partition_point(|(_, high)| high - low < SPAN_MAX);
            let (whole, behind) = rest.split_at(fit.max(1));
            rest = behind;
            let mut next = low;
            let last = whole.last().map_or(low, |(_, high)| *high);
            while next <= last {
                let high = last.min(next.saturating_add(SPAN_MAX - 1));
                // Each piece in a snapshot of its own: `find` looks at the open pages first.
                let found = self.inner.readers.read(|tx| find(tx, shared, id, epoch.0, (next, high), std::iter::empty()))?;
                for (low, high) in whole.iter().map(|(l, h)| (next.max(*l), high.min(*h))).filter(|(l, h)| l <= h) {
                    let held = found.range(low..=high);
                    let before = leaves.len() as u64;
                    leaves.extend(secret.leaves(held.map(|(seq, found)| RecordView {
                        series: series.as_str(),
                        epoch,
                        seq: *seq,
                        at: found.at,
                        operation: found.operation,
                        payload: &found.payload,
                    })));
                    if leaves.len() as u64 - before != high - low + 1 {
                        return Ok(Rebuilt::Missing);
                    }
                }
                next = high + 1;
            }
        }
        Ok(Rebuilt::Root(merkle::root(&leaves)))
    }

    /// Numbers of the frames of a relay's database that are committed here.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn frames_of(&self, relay: &RelayId, relay_epoch: Epoch) -> Result<Intervals, ReadError> {
        let Some(id) = self.inner.shared.relays.get(relay.as_str()) else { return Ok(Intervals::new()) };
        self.inner.readers.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT numbers FROM frames WHERE relay = ?1 AND epoch = ?2")?;
            let numbers: Option<Vec<u8>> = statement.query_row((id, to_sql(relay_epoch.0)), |row| row.get(0)).optional()?;
            let numbers = numbers.map(|bytes| decode(&bytes)).transpose();
            Ok(numbers.map_err(|fault| Damage::Intervals { table: "frames", fault })?.unwrap_or_default())
        })
    }
}
