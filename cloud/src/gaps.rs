//! The gap ledger (C3): what the cloud has received of each series and epoch, and which records are missing in between.
//!
//! Sequence numbers have no gap at their origin, so a number that lies below the last one received and was not received is missing:
//! late, lost, or dropped on purpose (the tombstone of a drop stays with the agent that made it). Since when it is missing is not kept.

use archive::{Archive, ReadError};
use serde::{Deserialize, Serialize};
use wire::{Epoch, Intervals, Series};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first one that is missing.
    pub from_seq: u64,
    /// The last one.
    pub to_seq: u64,
}

/// What was received of one series in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The series.
    pub series: Series,
    /// The epoch, as in a record key.
    pub epoch: String,
    /// The smallest sequence number received.
    pub first_seq: u64,
    /// The largest one. What lies beyond is not missing: it may not exist.
    pub last_seq: u64,
    /// Records received.
    pub held: u64,
    /// Records missing between 1 and `last_seq`.
    pub missing: u64,
    /// Which: the gaps in order.
    pub gaps: Vec<Gap>,
    /// Gaps behind those listed; 0 unless there are very many.
    pub more_gaps: u64,
}

impl Holding {
    fn new(series: &Series, epoch: Epoch, held: &Intervals) -> Option<Self> {
        let (first_seq, last_seq) = (held.first()?, held.last()?);
        let missing = held.missing(1, last_seq);
        Some(Self {
            series: series.clone(),
            epoch: epoch.to_string(),
            first_seq,
            last_seq,
            held: held.count(),
            missing: missing.iter().map(|(low, high)| high - low + 1).sum(),
            gaps: missing.iter().take(LISTED_MAX).map(|(low, high)| Gap { from_seq: *low, to_seq: *high }).collect(),
            more_gaps: missing.len().saturating_sub(LISTED_MAX) as u64,
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
    for names in names[..names.len().min(limit)].chunks(SERIES_AT_ONCE) {
        for (series, held) in names.iter().zip(archive.received(names)?) {
            if gaps >= PAGE_GAPS {
                break;
            }
            for (epoch, held) in held {
                let holding = Holding::new(series, epoch, &held);
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
        assert_eq!(Holding::new(&series, Epoch(1), &Intervals::new()), None);
        let every_second: Intervals = (1..=1_501_u64).map(|number| (2 * number, 2 * number)).collect();
        let holding = Holding::new(&series, Epoch(0x9f), &every_second).unwrap();
        assert_eq!((holding.first_seq, holding.last_seq, holding.held, holding.missing), (2, 3_002, 1_501, 1_501));
        assert_eq!((holding.epoch.as_str(), holding.gaps.len(), holding.more_gaps), ("9f", 1_000, 501));
        assert_eq!(holding.gaps[0], Gap { from_seq: 1, to_seq: 1 });
    }
}
