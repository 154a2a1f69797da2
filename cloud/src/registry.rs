//! The target registry's mirror (A1): which sensor uses which relay, at which round-trip time, since when and why.
//!
//! Agents say it in records under `forebay/targets`. The newest one of a sensor is its entry: the mirror is read from the archive, so it is
//! there after a restart, and as fresh as what has arrived.

use archive::{Archive, ReadError};
use serde::{Deserialize, Serialize};
use wire::system::{TARGETS, TargetReport};
use wire::{Record, RecordKey, RelayId, SensorId, Series};

use crate::history::{History, Viewer};
use crate::moment;
use crate::problem::Problem;

/// Sensors of a page at most, and when no limit is asked for.
const SENSORS_MAX: usize = 1_000;

/// What a sensor's agent said last about its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The sensor.
    pub sensor: SensorId,
    /// The relay that its agent sends to.
    pub relay: RelayId,
    /// The relay's round-trip time in nanoseconds, if it was measured.
    pub rtt_ns: Option<u64>,
    /// Since when it is the target.
    pub since: String,
    /// Why: only, first, unprobed, faster, gone or refused.
    pub why: String,
    /// The target before.
    pub from: Option<RelayId>,
    /// When the agent said so.
    pub at: String,
    /// The record that says it.
    pub key: RecordKey,
}

impl Target {
    fn new(record: Record) -> Option<Self> {
        let TargetReport { relay, rtt_ns, since_ns, why, from } = TargetReport::parse(&record.payload)?;
        let sensor = record.key.series.sensor_id();
        Some(Self {
            sensor,
            relay,
            rtt_ns,
            since: moment::format(since_ns),
            why,
            from,
            at: moment::format(record.at),
            key: record.key,
        })
    }
}

/// A page of the registry, by sensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetsPage {
    /// One entry a sensor.
    pub targets: Vec<Target>,
    /// What to send as `cursor` for the page after this one; `null` at the end.
    pub next_cursor: Option<String>,
}

/// A question about the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TargetsQuery {
    area: Option<String>,
    after: Option<SensorId>,
    limit: Option<usize>,
}

impl TargetsQuery {
    /// The question of `name=value` pairs of a URL.
    pub(crate) fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (name, value) in pairs {
            let before = match name.as_str() {
                "area" => {
                    let valid = wire::topics::SegmentName::new(&value).map(|_| ());
                    valid.map_err(|fault| Problem::field("area", fault.to_string()))?;
                    query.area.replace(value).is_some()
                }
                "cursor" => {
                    let after = value.parse().map_err(|_| Problem::field("cursor", archive::CursorFault.to_string()))?;
                    query.after.replace(after).is_some()
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| *limit > 0);
                    let limit = limit.ok_or_else(|| Problem::field("limit", "is not a whole number of at least 1"))?;
                    query.limit.replace(limit).is_some()
                }
                _ => return Err(Problem::field(&name, "is unknown; there are area, limit and cursor")),
            };
            if before {
                return Err(Problem::field(&name, "is given twice"));
            }
        }
        Ok(query)
    }
}

impl History {
    /// A page of the target registry: of the sensors whose `forebay/targets` the viewer may query.
    ///
    /// # Errors
    /// The archive can't answer.
    pub(crate) async fn targets(&self, viewer: &Viewer, query: TargetsQuery) -> Result<TargetsPage, Problem> {
        let (history, viewer) = (self.clone(), viewer.clone());
        self.read(move |archive| {
            let area = query.area.as_deref().unwrap_or("+");
            let mut names = archive.series_like(&format!("{area}/+/{TARGETS}"));
            names.retain(|series| query.after.as_ref().is_none_or(|after| series.sensor_id() > *after));
            names.retain(|series| history.permit(&viewer, series).is_ok());
            page(archive, &names, query.limit.unwrap_or(SENSORS_MAX).min(SENSORS_MAX))
        })
        .await
    }
}

fn page(archive: &Archive, names: &[Series], limit: usize) -> Result<TargetsPage, ReadError> {
    let shown = &names[..names.len().min(limit)];
    let mut targets = Vec::with_capacity(shown.len());
    for (series, held) in shown.iter().zip(archive.received(shown)?) {
        let mut newest: Option<Record> = None;
        for (epoch, held) in held {
            let Some(seq) = held.last() else { continue };
            let entry = archive.get(&RecordKey { series: series.clone(), epoch, seq })?;
            newest = entry.map(|entry| entry.record).into_iter().chain(newest).max_by_key(|record| record.at);
        }
        targets.extend(newest.and_then(Target::new));
    }
    let next_cursor = if shown.len() < names.len() { shown.last().map(|series| series.sensor_id().to_string()) } else { None };
    Ok(TargetsPage { targets, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_a_question_about_targets_names_what_is_wrong_with_it() {
        let query = |name: &str, value: &str| TargetsQuery::from_pairs(vec![(name.to_owned(), value.to_owned())]);
        assert_eq!(query("area", "cityA").unwrap().area.as_deref(), Some("cityA"));
        for (name, value) in [("area", "a/#"), ("limit", "0"), ("cursor", "a"), ("from", "1")] {
            assert_eq!(query(name, value).unwrap_err().field.as_deref(), Some(name));
        }
    }
}
