//! Which missing records were given up on purpose (C3): what the tombstones say that agents have sent as records.
//!
//! Nothing is kept beside the archive: the records under `forebay/tombstones` of a sensor are read when something of it is missing.

use std::collections::BTreeMap;

use archive::{Archive, Cursor, ReadError, Scan};
use serde::{Deserialize, Serialize};
use wire::system::{Place, TOMBSTONES, TombstoneReport};
use wire::{At, Epoch, SensorId, Series};

/// Reports of one sensor that are read; those behind are left out, and what they name shows as a gap.
const REPORTS_MAX: usize = 100_000;
/// No database gives a number above this.
const SEQ_MAX: u64 = i64::MAX as u64;
/// Reports read at once.
const PIECE: usize = 1_000;

/// Why and where records were given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Why, in the words of whoever gave them up.
    pub why: String,
    /// Where: at the agent that had no room, or at a relay that refused them for good.
    pub place: Place,
}

/// Missing records that have one explanation, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) from_seq: u64,
    pub(crate) to_seq: u64,
    pub(crate) tombstone: Option<Tombstone>,
}

#[derive(Debug)]
struct Grave {
    to_seq: u64,
    tombstone: Tombstone,
}

/// The tombstones of one sensor.
#[derive(Debug, Default)]
pub(crate) struct Graves {
    /// By series and epoch, then by the first number.
    known: BTreeMap<(Series, u64), BTreeMap<u64, Grave>>,
}

impl Graves {
    /// Reads what the archive holds of a sensor.
    pub(crate) fn of(archive: &Archive, sensor: &SensorId) -> Result<Self, ReadError> {
        let mut graves = Self::default();
        let Ok(series) = Series::new(sensor, TOMBSTONES) else { return Ok(graves) };
        let (mut after, mut read) = (None, 0);
        while read < REPORTS_MAX {
            let scan = Scan { series: series.clone(), from: 0, to: At::MAX, after, limit: PIECE };
            let entries = archive.scan(&scan)?;
            for entry in &entries {
                after = Some(Cursor::after(&entry.record));
                if let Some(report) = TombstoneReport::parse(&entry.record.payload) {
                    graves.dig(sensor, report);
                }
            }
            read += entries.len();
            if entries.len() < PIECE {
                return Ok(graves);
            }
        }
        tracing::warn!(%sensor, reports = read, "a sensor has too many tombstones; the last ones are not looked at");
        Ok(graves)
    }

    /// A sensor speaks for itself only.
    fn dig(&mut self, sensor: &SensorId, report: TombstoneReport) {
        let range = report.from_seq..=report.to_seq;
        if !sensor.owns(report.series.as_str()) || range.is_empty() || *range.start() == 0 || *range.end() > SEQ_MAX {
            return;
        }
        let grave = Grave { to_seq: report.to_seq, tombstone: Tombstone { why: report.reason, place: report.place } };
        self.known.entry((report.series, report.epoch.0)).or_default().entry(report.from_seq).or_insert(grave);
    }

    /// Epochs of a series that have tombstones, with the last number that was given up.
    pub(crate) fn epochs(&self, series: &Series) -> impl Iterator<Item = (Epoch, u64)> {
        let of = self.known.range((series.clone(), 0)..=(series.clone(), u64::MAX));
        of.map(|((_, epoch), graves)| (Epoch(*epoch), graves.values().map(|grave| grave.to_seq).max().unwrap_or(0)))
    }

    /// Cuts missing ranges, in order, where their explanation changes.
    pub(crate) fn explain(&self, series: &Series, epoch: Epoch, missing: &[(u64, u64)]) -> Vec<Stretch> {
        let plain = |(from_seq, to_seq)| Stretch { from_seq, to_seq, tombstone: None };
        let Some(graves) = self.known.get(&(series.clone(), epoch.0)) else {
            return missing.iter().copied().map(plain).collect();
        };
        let mut stretches = Vec::with_capacity(missing.len());
        for (low, high) in missing.iter().copied() {
            let mut next = low;
            // The grave that begins at or before the range may reach into it.
            let first = graves.range(..=low).next_back().map_or(low, |(first, _)| *first);
            for (first, grave) in graves.range(first..=high) {
                let (from, to) = ((*first).max(next), grave.to_seq.min(high));
                if from > to {
                    continue;
                }
                if from > next {
                    stretches.push(plain((next, from - 1)));
                }
                stretches.push(Stretch { from_seq: from, to_seq: to, tombstone: Some(grave.tombstone.clone()) });
                next = to + 1;
            }
            if next <= high {
                stretches.push(plain((next, high)));
            }
        }
        stretches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graves(of: &[(u64, u64)]) -> Graves {
        let mut graves = Graves::default();
        for (from_seq, to_seq) in of.iter().copied() {
            let report = TombstoneReport {
                series: "a/b/c".parse().unwrap(),
                epoch: Epoch(1),
                from_seq,
                to_seq,
                reason: "outbox full".into(),
                place: Place::Agent,
                at_ns: 0,
            };
            graves.dig(&"a/b".parse().unwrap(), report.clone());
            // Of another sensor nobody may say this.
            graves.dig(&"a/x".parse().unwrap(), TombstoneReport { from_seq: 1, to_seq: u64::MAX, ..report });
        }
        graves
    }

    #[test]
    fn c3_a_missing_range_is_cut_where_its_explanation_changes() {
        let series: Series = "a/b/c".parse().unwrap();
        let cut = |of: &[(u64, u64)], missing: &[(u64, u64)]| -> Vec<(u64, u64, bool)> {
            let stretches = graves(of).explain(&series, Epoch(1), missing);
            stretches.into_iter().map(|s| (s.from_seq, s.to_seq, s.tombstone.is_some())).collect()
        };
        assert_eq!(cut(&[], &[(1, 9)]), [(1, 9, false)]);
        assert_eq!(cut(&[(1, 9)], &[(2, 3), (5, 5)]), [(2, 3, true), (5, 5, true)]);
        assert_eq!(cut(&[(3, 4), (7, 7)], &[(1, 9)]), [(1, 2, false), (3, 4, true), (5, 6, false), (7, 7, true), (8, 9, false)]);
        assert_eq!(cut(&[(3, 6), (5, 8)], &[(4, 9)]), [(4, 6, true), (7, 8, true), (9, 9, false)]);
        assert_eq!(cut(&[(10, 12), (20, SEQ_MAX)], &[(1, 2), (30, SEQ_MAX)]), [(1, 2, false), (30, SEQ_MAX, true)]);
        assert_eq!(cut(&[(20, SEQ_MAX + 1), (0, 5), (9, 8)], &[(1, 30)]), [(1, 30, false)]);
        assert_eq!(graves(&[(3, 4), (7, 7)]).epochs(&series).collect::<Vec<_>>(), [(Epoch(1), 7)]);
        let other = graves(&[(1, 9)]).explain(&series, Epoch(2), &[(1, 9)]);
        assert_eq!(other[0].tombstone, None);
    }
}
