//! What meters show: means, sums and baselines, from the archive.

use std::collections::{BTreeMap, BTreeSet};

use archive::ReadError;
use wire::power::{Mean, Meter};
use wire::{At, SensorId, Series};

use super::baseline::{Baseline, Day, Terms};
use super::book::Book;
use super::config::Program;
use super::logic::{Measured, Rules, Settlement, Shown, Window, settle};
use super::made::{EventRecord, Made};
use super::records::{read, walk};
use super::sums::{Sum, sum};

/// So many similar days without a reading, and a meter has no past.
const EMPTY_DAYS: usize = 5;
/// Events are looked for that were made so long before they begin: a week.
const AHEAD: i64 = 7 * 86_400_000_000_000;

impl Book {
    /// What an area took in an interval; meters that are silent in it count with the interval before.
    pub(crate) fn sum(&self, program: &Program, interval: Window) -> Result<Sum, ReadError> {
        let length = interval.to - interval.from;
        let before = Window { from: interval.from - length, to: interval.from };
        let mut means = BTreeMap::new();
        for series in self.archive().series_like(&format!("{}/+/{}", program.area, program.stream)) {
            let during = self.mean(program, &series, interval)?;
            let is_whole = during.is_some_and(|mean| mean.is_whole());
            let before = if is_whole { None } else { self.mean(program, &series, before)? };
            means.insert(series.sensor_id(), [during, before]);
        }
        Ok(sum(&means))
    }

    /// The last interval whose grace is over, and what the area took in it.
    pub(crate) fn before(&self, program: &Program, now: At) -> Result<(Window, Sum), ReadError> {
        let baseline = Rules::of(program).last_interval(now);
        Ok((baseline, self.sum(program, baseline)?))
    }

    /// What is known of an event now: its settlement, or what it would be if the event ended now. Until then the interval before the event
    /// stands for the baselines.
    pub(crate) fn standing(&self, program: &Program, made: &Made, now: At) -> Result<Settlement, ReadError> {
        match &made.settled {
            Some((settlement, _)) => Ok(settlement.clone()),
            None => self.measured(program, made, now, false),
        }
    }

    /// What came of an event.
    pub(crate) fn outcome(&self, program: &Program, made: &Made, now: At) -> Result<Settlement, ReadError> {
        self.measured(program, made, now, true)
    }

    fn measured(&self, program: &Program, made: &Made, now: At, finally: bool) -> Result<Settlement, ReadError> {
        let Window { from, to } = made.ask.common();
        let during = Window { from, to: to.min(now).min(made.ends()).max(from) };
        let heard = self.heard(program, made)?;
        let sensors: BTreeSet<SensorId> = heard.iter().map(|heard| heard.key.series.sensor_id()).collect();
        let asked = if finally { self.asked_before(program, made)? } else { Vec::new() };
        let mut shown = BTreeMap::new();
        for sensor in sensors {
            let Ok(series) = Series::new(&sensor, &program.stream) else { continue };
            let before = self.mean(program, &series, made.ask.baseline)?;
            let before_kw = before.map(|mean| mean.kw);
            let days = if finally { self.days(program, &series, (during, made.ask.baseline), &asked)? } else { Vec::new() };
            let baseline: Option<Baseline> = program.baseline.baseline(&days, before_kw);
            shown.insert(sensor, Shown { before_kw, during: self.mean(program, &series, during)?, baseline });
        }
        let area = if during.from < during.to { self.sum(program, during)? } else { Sum::default() };
        Ok(settle(&made.ask, made.ends(), heard, &Measured { shown, area }))
    }

    /// What a meter took on similar days at the same time, where nothing was asked then.
    fn days(
        &self,
        program: &Program,
        series: &Series,
        (during, before): (Window, Window),
        asked: &[Window],
    ) -> Result<Vec<Day>, ReadError> {
        let terms = &program.baseline;
        let (mut days, mut empty) = (Vec::new(), 0);
        for back in terms.similar(during.from) {
            let window = Terms::before(during, back);
            if days.len() == terms.of || (days.is_empty() && empty == EMPTY_DAYS) || window.from < 0 {
                break;
            }
            if asked.iter().any(|asked| asked.from < window.to && window.from < asked.to) {
                continue;
            }
            match self.mean(program, series, window)?.filter(Mean::is_whole) {
                None => empty += 1,
                Some(mean) => {
                    let before = self.mean(program, series, Terms::before(before, back))?.filter(Mean::is_whole);
                    days.push(Day { during_kw: mean.kw, before_kw: before.map(|mean| mean.kw) });
                }
            }
        }
        Ok(days)
    }

    /// When else the program had asked for less on the days that may count for the baseline; also of events that are not shown any more.
    fn asked_before(&self, program: &Program, made: &Made) -> Result<Vec<Window>, ReadError> {
        let Some(series) = self.own(program) else { return Ok(Vec::new()) };
        let Some(back) = program.baseline.similar(made.ask.window.from).last().copied() else { return Ok(Vec::new()) };
        let from = Terms::before(made.ask.baseline, back).from.saturating_sub(AHEAD).max(0);
        let entries = read(self.archive(), &series, Window { from, to: made.ask.window.from })?;
        let asked = entries.iter().filter_map(|entry| {
            let record: EventRecord = serde_json::from_slice(&entry.record.payload).ok()?;
            Some(Window { from: record.forebay.window.from, to: record.forebay.over() })
        });
        Ok(asked.filter(|window| window.from < made.ask.window.from).collect())
    }

    fn mean(&self, program: &Program, series: &Series, window: Window) -> Result<Option<Mean>, ReadError> {
        if window.from >= window.to {
            return Ok(None);
        }
        let (kind, hold) = (program.unit.kind(), program.hold());
        let (from, to) = Meter::reach(kind, hold, (window.from, window.to));
        let mut meter = Meter::new(kind, hold, (window.from, window.to));
        walk(self.archive(), series, Window { from: from.max(0), to }, |entry| {
            let value = std::str::from_utf8(&entry.record.payload).ok().and_then(|text| text.trim().parse::<f64>().ok());
            if let Some(value) = value {
                meter.take(entry.record.at, program.unit.kilo(value));
            }
        })?;
        Ok(meter.mean())
    }
}
