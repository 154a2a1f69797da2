//! The gap ledger (C3): what the cloud has received of each series and epoch, and which records are missing in between.
//!
//! Sequence numbers have no gap at their origin, so a number that lies below the last one received and was not received is missing:
//! late, lost, or dropped on purpose; of a drop the agent's tombstone says why and where ([`crate::graves`]). Since when it is missing is
//! not kept.

use std::collections::BTreeMap;

use archive::{Archive, ReadError};
use serde::{Deserialize, Serialize};
use wire::{Epoch, Intervals, SensorId, Series};

use crate::graves::{Graves, Stretch, Tombstone};
use crate::history::{History, Viewer};
use crate::problem::Problem;

/// Series of a page at most, and when no limit is asked for.
const SERIES_MAX: usize = 1_000;
/// Series whose numbers are asked for at once.
const SERIES_AT_ONCE: usize = 64;
/// Gaps that are listed of one series and epoch; the others are counted.
const LISTED_MAX: usize = 1_000;
/// Gaps on a page above which it ends with the series in hand.
const PAGE_GAPS: usize = 10_000;

/// Missing records: consecutive sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first one that is missing.
    pub from_seq: u64,
    /// The last one.
    pub to_seq: u64,
    /// That they were given up on purpose, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
}

impl From<Stretch> for Gap {
    fn from(stretch: Stretch) -> Self {
        Self { from_seq: stretch.from_seq, to_seq: stretch.to_seq, tombstone: stretch.tombstone }
    }
}

/// What was received of one series in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The series.
    pub series: Series,
    /// The epoch, as in a record key.
    pub epoch: String,
    /// The smallest sequence number received; 0 if none was, and tombstones are all that is known of the epoch.
    pub first_seq: u64,
    /// The largest one. What lies beyond is not missing, unless a tombstone names it: it may not exist.
    pub last_seq: u64,
    /// Records received.
    pub held: u64,
    /// Records missing between 1 and `last_seq`, or the last one that a tombstone names.
    pub missing: u64,
    /// How many of the missing were given up on purpose.
    #[serde(default)]
    pub given_up: u64,
    /// Which: the gaps in order.
    pub gaps: Vec<Gap>,
    /// Gaps behind those listed; 0 unless there are very many.
    pub more_gaps: u64,
}

impl Holding {
    /// `known_to` is the last number that is known to exist.
    fn new(series: &Series, epoch: Epoch, held: &Intervals, known_to: u64, graves: &Graves) -> Option<Self> {
        let last_seq = held.last().unwrap_or(0);
        if last_seq.max(known_to) == 0 {
            return None;
        }
        let missing = graves.explain(series, epoch, &held.missing(1, last_seq.max(known_to)));
        let count = |stretch: &Stretch| stretch.to_seq - stretch.from_seq + 1;
        Some(Self {
            series: series.clone(),
            epoch: epoch.to_string(),
            first_seq: held.first().unwrap_or(0),
            last_seq,
            held: held.count(),
            missing: missing.iter().map(count).sum(),
            given_up: missing.iter().filter(|stretch| stretch.tombstone.is_some()).map(count).sum(),
            more_gaps: missing.len().saturating_sub(LISTED_MAX) as u64,
            gaps: missing.into_iter().take(LISTED_MAX).map(Gap::from).collect(),
        })
    }
}

/// A page of the ledger, by series and epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// One entry a series and epoch, those without gaps too.
    pub holdings: Vec<Holding>,
    /// What to send as `cursor` for the page after this one; `null` at the end.
    pub next_cursor: Option<String>,
}

/// A question about the ledger: one series, or all that the viewer may query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LedgerQuery {
    series: Option<Series>,
    after: Option<Series>,
    limit: Option<usize>,
}

impl LedgerQuery {
    /// The question of `name=value` pairs of a URL.
    pub(crate) fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (name, value) in pairs {
            let series = || value.parse::<Series>().map_err(|fault| Problem::field(&name, fault.to_string()));
            let before = match name.as_str() {
                "series" => query.series.replace(series()?).is_some(),
                "cursor" => {
                    let after = series().map_err(|_| Problem::field("cursor", archive::CursorFault.to_string()))?;
                    query.after.replace(after).is_some()
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| *limit > 0);
                    let limit = limit.ok_or_else(|| Problem::field("limit", "is not a whole number of at least 1"))?;
                    query.limit.replace(limit).is_some()
                }
                _ => return Err(Problem::field(&name, "is unknown; there are series, limit and cursor")),
            };
            if before {
                return Err(Problem::field(&name, "is given twice"));
            }
        }
        Ok(query)
    }
}

impl History {
    /// A page of the gap ledger: of one series, or of all that the viewer may query.
    ///
    /// # Errors
    /// No grant for the series asked for, or the archive can't answer.
    pub(crate) async fn ledger(&self, viewer: &Viewer, query: LedgerQuery) -> Result<LedgerPage, Problem> {
        if let Some(series) = &query.series {
            self.permit(viewer, series)?;
        }
        let (history, viewer) = (self.clone(), viewer.clone());
        self.read(move |archive| {
            let mut names = match query.series {
                Some(series) => vec![series],
                None => archive.series_like("#"),
            };
            names.drain(..query.after.map_or(0, |after| names.partition_point(|name| *name <= after)));
            names.retain(|series| history.permit(&viewer, series).is_ok());
            page(archive, &names, query.limit.unwrap_or(SERIES_MAX).min(SERIES_MAX))
        })
        .await
    }
}

fn page(archive: &Archive, names: &[Series], limit: usize) -> Result<LedgerPage, ReadError> {
    let mut page = LedgerPage { holdings: Vec::new(), next_cursor: None };
    let (mut shown, mut gaps) = (0, 0);
    // Names are in order, so the series of one sensor come together.
    let mut of_sensor = OfSensor::default();
    for names in names[..names.len().min(limit)].chunks(SERIES_AT_ONCE) {
        for (series, held) in names.iter().zip(archive.received(names)?) {
            if gaps >= PAGE_GAPS {
                break;
            }
            let graves = of_sensor.graves(archive, series)?;
            for (epoch, (held, known_to)) in with_graves(series, held, graves) {
                let holding = Holding::new(series, epoch, &held, known_to, graves);
                gaps += holding.as_ref().map_or(0, |holding| holding.gaps.len());
                page.holdings.extend(holding);
            }
            shown += 1;
        }
        if gaps >= PAGE_GAPS {
            break;
        }
    }
    if shown < names.len() {
        page.next_cursor = shown.checked_sub(1).map(|last| names[last].to_string());
    }
    Ok(page)
}

/// The tombstones of the sensor at hand.
#[derive(Default)]
pub(crate) struct OfSensor(Option<(SensorId, Graves)>);

impl OfSensor {
    pub(crate) fn graves(&mut self, archive: &Archive, series: &Series) -> Result<&Graves, ReadError> {
        let sensor = series.sensor_id();
        let known = match self.0.take() {
            Some(known) if known.0 == sensor => known,
            _ => {
                let graves = Graves::of(archive, &sensor)?;
                (sensor, graves)
            }
        };
        Ok(&self.0.insert(known).1)
    }
}

/// What was received of each epoch, those that only tombstones speak of too, with the last number that one names.
pub(crate) fn with_graves(series: &Series, held: Vec<(Epoch, Intervals)>, graves: &Graves) -> BTreeMap<Epoch, (Intervals, u64)> {
    let mut epochs: BTreeMap<_, _> = held.into_iter().map(|(epoch, held)| (epoch, (held, 0))).collect();
    for (epoch, last) in graves.epochs(series) {
        epochs.entry(epoch).or_default().1 = last;
    }
    epochs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<LedgerQuery, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        LedgerQuery::from_pairs(pairs.collect()).map_err(|problem| problem.field.unwrap_or_default())
    }

    #[test]
    fn c3_a_question_about_the_ledger_names_what_is_wrong_with_it() {
        let asked = query(&[("series", "a/b/c"), ("limit", "3"), ("cursor", "a/b/b")]).unwrap();
        assert_eq!((asked.series, asked.limit, asked.after), ("a/b/c".parse().ok(), Some(3), "a/b/b".parse().ok()));
        for (name, value) in [("series", "a/#"), ("limit", "0"), ("limit", "-1"), ("cursor", "a"), ("from", "1")] {
            assert_eq!(query(&[(name, value)]), Err(name.to_owned()), "{name}={value}");
        }
        assert_eq!(query(&[("limit", "1"), ("limit", "1")]), Err("limit".to_owned()));
    }

    #[test]
    fn c3_a_holding_counts_what_is_missing_and_lists_it_up_to_a_limit() {
        let series: Series = "a/b/c".parse().unwrap();
        assert_eq!(Holding::new(&series, Epoch(1), &Intervals::new(), 0, &Graves::default()), None);
        let every_second: Intervals = (1..=1_501_u64).map(|number| (2 * number, 2 * number)).collect();
        let holding = Holding::new(&series, Epoch(0x9f), &every_second, 0, &Graves::default()).unwrap();
        assert_eq!((holding.first_seq, holding.last_seq, holding.held, holding.missing), (2, 3_002, 1_501, 1_501));
        assert_eq!((holding.epoch.as_str(), holding.gaps.len(), holding.more_gaps), ("9f", 1_000, 501));
        assert_eq!(holding.gaps[0], Gap { from_seq: 1, to_seq: 1, tombstone: None });
    }
}
