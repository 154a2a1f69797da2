//! When less power is asked for, how much, and what came of it. Pure: measurements and the time come in, decisions go out.
//!
//! An area's load is the sum, over its sensors, of each one's mean in an interval ([`super::sums`]). When it is above the limit, an event
//! asks for the difference. While an event runs no interval that it touches leads to another: its effect is not known yet. What was measured
//! is what a meter would have taken ([`super::baseline`]) less what it took.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::openadr::{DEMAND, LOAD_SHED_DELTA_AVAILABLE, OPERATING_STATE, OPTED_OUT, ReportRequest, USAGE};
use wire::power::Mean;
use wire::{At, RecordKey, SensorId};

use super::baseline::Baseline;
use super::config::Program;
use super::sums::{Coverage, Sum};

/// From one time to another, the end not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Nanoseconds since 1970.
    pub from: At,
    /// Nanoseconds since 1970.
    pub to: At,
}

/// The numbers of a program, in nanoseconds and kilowatts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    pub(crate) limit_kw: f64,
    pub(crate) interval: i64,
    pub(crate) grace: i64,
    pub(crate) notice: i64,
    pub(crate) duration: i64,
    pub(crate) randomize: i64,
}

impl Rules {
    pub(crate) fn of(program: &Program) -> Self {
        let nanos = |span: chassis::Span| i64::try_from(span.duration().as_nanos()).unwrap_or(i64::MAX / 4);
        Self {
            limit_kw: program.limit_kw,
            interval: nanos(program.interval).max(1),
            grace: nanos(program.grace),
            notice: nanos(program.notice),
            duration: nanos(program.duration),
            randomize: nanos(program.randomize_start),
        }
    }

    /// The last interval whose grace is over.
    pub(crate) fn last_interval(&self, now: At) -> Window {
        let to = now.saturating_sub(self.grace).div_euclid(self.interval) * self.interval;
        Window { from: to - self.interval, to }
    }
}

/// What an event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// The reduction, kilowatts.
    pub asked_kw: f64,
    /// What the area took in the baseline.
    pub area_kw: f64,
    /// How many meters that is made of.
    #[serde(default)]
    pub coverage: Coverage,
    /// What it may take.
    pub limit_kw: f64,
    /// The interval that led to the event.
    pub baseline: Window,
    /// From the start, without what terminals add by chance, to the end.
    pub window: Window,
    /// How far terminals spread their starts, nanoseconds.
    pub randomize: i64,
}

impl Ask {
    /// The time in which every terminal takes part.
    pub(crate) fn common(&self) -> Window {
        Window { from: self.window.from.saturating_add(self.randomize), to: self.window.to }
    }

    /// When the last terminal has ended.
    pub(crate) fn over(&self) -> At {
        self.window.to.saturating_add(self.randomize)
    }
}

/// What one program has judged so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    /// End of the last interval that was judged.
    judged: At,
    /// End of the last event.
    busy_until: At,
}

impl Watch {
    /// The event is known: it was made in this run, or by one before.
    pub(crate) fn has_asked(&mut self, ask: &Ask) {
        self.judged = self.judged.max(ask.baseline.to);
        self.busy_until = self.busy_until.max(ask.over());
    }

    /// When the last of the events ends, as they are now: some may have been cancelled, changed or posted by others.
    pub(crate) fn is_busy_until(&mut self, until: At) {
        self.busy_until = until;
    }

    /// The newest interval that has ended, if it was not judged. Those before it are past: asking would change nothing.
    pub(crate) fn due(&self, rules: &Rules, now: At) -> Option<Window> {
        let last = rules.last_interval(now);
        (last.to > self.judged && last.to >= rules.interval).then_some(last)
    }

    /// Judges what an interval's load was.
    pub(crate) fn judge(&mut self, rules: &Rules, interval: Window, area: &Sum, now: At) -> Option<Ask> {
        self.judged = self.judged.max(interval.to);
        if interval.from < self.busy_until || area.kw <= rules.limit_kw {
            return None;
        }
        let from = now.saturating_add(rules.notice);
        let ask = Ask {
            asked_kw: area.kw - rules.limit_kw,
            area_kw: area.kw,
            coverage: area.coverage,
            limit_kw: rules.limit_kw,
            baseline: interval,
            window: Window { from, to: from.saturating_add(rules.duration) },
            randomize: rules.randomize,
        };
        self.has_asked(&ask);
        Some(ask)
    }
}

/// A report on an event, as a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub(crate) key: RecordKey,
    pub(crate) at: At,
    pub(crate) report: ReportRequest,
}

/// A terminal's part in an event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What it promised, kilowatts: the last promise before the event's start, and without one the first after it.
    pub promised_kw: Option<f64>,
    /// Whether that says that the user takes no part.
    #[serde(default)]
    pub opted_out: bool,
    /// The record that promises.
    pub promise: Option<RecordKey>,
    /// What it says it took during the event, kilowatts; the last word counts.
    pub reported_kw: Option<f64>,
    /// The record that says so.
    pub result: Option<RecordKey>,
    /// What its meter showed in the interval before the event, kilowatts.
    pub before_kw: Option<f64>,
    /// What it would have taken without the event, and how that was found.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// What its meter showed during the event.
    pub during_kw: Option<f64>,
    /// Share of the event that its readings cover.
    #[serde(default)]
    pub covered: Option<f64>,
}

impl Part {
    /// The reduction that its meter shows; `None` without a baseline or without readings during the event.
    pub fn measured_kw(&self) -> Option<f64> {
        Some(self.baseline.map(|baseline| baseline.kw).or(self.before_kw)? - self.during_kw?)
    }
}

/// What came of an event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settlement {
    /// Reduction that was asked for, kilowatts.
    pub asked_kw: f64,
    /// Sum of the promises.
    pub promised_kw: f64,
    /// Sum of the reductions that the meters of those who promised show.
    pub measured_kw: f64,
    /// What the area took in the baseline.
    pub area_before_kw: f64,
    /// What it took during the event.
    pub area_during_kw: f64,
    /// How many meters both are made of.
    #[serde(default)]
    pub coverage_before: Coverage,
    /// During the event.
    #[serde(default)]
    pub coverage_during: Coverage,
    /// Meters that count with an estimate during the event, the first hundred.
    #[serde(default)]
    pub estimated: Vec<SensorId>,
    /// Meters that count as nothing during the event, the first hundred.
    #[serde(default)]
    pub missing: Vec<SensorId>,
    /// Who took part. Sensors that promised nothing and reported nothing are left out.
    pub parts: BTreeMap<SensorId, Part>,
}

/// What a terminal's meter shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Shown {
    /// In the interval before the event, kilowatts.
    pub(crate) before_kw: Option<f64>,
    pub(crate) during: Option<Mean>,
    pub(crate) baseline: Option<Baseline>,
}

/// What the meters show of an event.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Measured {
    /// Of those who reported.
    pub(crate) shown: BTreeMap<SensorId, Shown>,
    /// Of the whole area, during the event.
    pub(crate) area: Sum,
}

/// Sums up what is known of an event that ends at `ends`: while it runs, and at its end for good.
pub(crate) fn settle(ask: &Ask, ends: At, mut heard: Vec<Heard>, measured: &Measured) -> Settlement {
    heard.sort_by(|one, other| (one.at, &one.key).cmp(&(other.at, &other.key)));
    let Sum { kw, coverage, estimated, missing } = measured.area.clone();
    let mut settlement = Settlement {
        asked_kw: ask.asked_kw,
        area_before_kw: ask.area_kw,
        coverage_before: ask.coverage,
        area_during_kw: kw,
        coverage_during: coverage,
        estimated,
        missing,
        ..Settlement::default()
    };
    let hours = (ask.window.to.min(ends) - ask.window.from).max(1) as f64 / 3_600e9;
    for Heard { key, at, report } in heard {
        let part = settlement.parts.entry(key.series.sensor_id()).or_default();
        if let Some(promised) = report.number(LOAD_SHED_DELTA_AVAILABLE)
            && promised >= 0.0
            && (at < ask.window.from || (part.promise.is_none() && at < ends))
        {
            (part.promised_kw, part.promise) = (Some(promised), Some(key.clone()));
            part.opted_out = report.text(OPERATING_STATE) == Some(OPTED_OUT);
        }
        let mean = report.number(DEMAND).or_else(|| report.number(USAGE).map(|energy| energy / hours));
        if let Some(mean) = mean.filter(|mean| mean.is_finite()) {
            (part.reported_kw, part.result) = (Some(mean), Some(key));
        }
    }
    settlement.parts.retain(|_, part| part.promise.is_some() || part.result.is_some());
    for (sensor, part) in &mut settlement.parts {
        let shown = measured.shown.get(sensor).copied().unwrap_or_default();
        (part.before_kw, part.baseline) = (shown.before_kw, shown.baseline);
        (part.during_kw, part.covered) = (shown.during.map(|mean| mean.kw), shown.during.map(|mean| mean.covered));
    }
    settlement.promised_kw = settlement.parts.values().filter_map(|part| part.promised_kw).sum();
    let promised = settlement.parts.values().filter(|part| part.promise.is_some() && !part.opted_out);
    settlement.measured_kw = promised.filter_map(Part::measured_kw).sum();
    settlement
}

#[cfg(test)]
mod tests;
