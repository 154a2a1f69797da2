//! What a meter would have taken without an event: its baseline. Pure.
//!
//! The usual method of settlement: of the last `of` similar days the `days` with the highest load at the time of the event, averaged; and
//! that times how much more or less the meter took just before the event than it did before the same hour on those days, within a cap (the
//! same-day adjustment). Similar are weekdays among themselves, and weekend days; days on which the program had asked for less at that time
//! are left out. Where there are too few such days the interval before the event stands for it. Which of the two it was is said.

use serde::{Deserialize, Serialize};
use wire::At;

use super::logic::Window;

/// A day.
const DAY: i64 = 86_400_000_000_000;

/// How a baseline is made.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Days that are averaged: those with the highest load.
    pub days: usize,
    /// Similar days that are looked at.
    pub of: usize,
    /// How far the adjustment may go, as a share; 0 leaves it out.
    pub adjust: f64,
    /// By how much local time is ahead of UTC, minutes: it decides what a weekend is.
    pub utc_offset: i32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { days: 4, of: 5, adjust: 0.2, utc_offset: 0 }
    }
}

/// How a baseline was made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "method")]
pub enum Method {
    /// The mean of the interval before the event.
    IntervalBefore,
    /// The mean of the highest of the last similar days, adjusted.
    HighDays {
        /// Days that were averaged.
        days: u32,
        /// Days that there were to choose from.
        of: u32,
        /// What the mean was multiplied with.
        factor: f64,
    },
}

/// What a meter would have taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Kilowatts.
    pub kw: f64,
    /// How that was found.
    #[serde(flatten)]
    pub method: Method,
}

/// What a meter took on an earlier day: at the time of the event, and in the interval before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Day {
    pub(crate) during_kw: f64,
    pub(crate) before_kw: Option<f64>,
}

impl Terms {
    /// How many days before an event the days lie that are similar to its own, the nearest first: enough to find `of` of them with as many
    /// missing.
    pub(crate) fn similar(&self, start: At) -> Vec<i64> {
        let offset = i64::from(self.utc_offset) * 60_000_000_000;
        // 1970 began on a Thursday.
        let is_weekend = |days_before: i64| {
            let day = start.saturating_add(offset).div_euclid(DAY) - days_before;
            matches!((day + 4).rem_euclid(7), 0 | 6)
        };
        let of = is_weekend(0);
        (1_i64..).filter(|days| is_weekend(*days) == of).take(self.of.saturating_mul(2)).collect()
    }

    /// The same window so many days before.
    pub(crate) fn before(window: Window, days: i64) -> Window {
        Window { from: window.from.saturating_sub(days * DAY), to: window.to.saturating_sub(days * DAY) }
    }

    /// The baseline from the similar days with readings, the nearest first, and from what was taken in the interval before the event.
    pub(crate) fn baseline(&self, days: &[Day], before_kw: Option<f64>) -> Option<Baseline> {
        let mut nearest: Vec<Day> = days.iter().take(self.of).copied().collect();
        let of = nearest.len();
        if self.days == 0 || of < self.days {
            return before_kw.map(|kw| Baseline { kw, method: Method::IntervalBefore });
        }
        // Of equal ones the nearest: the sort is stable.
        nearest.sort_by(|one, other| other.during_kw.total_cmp(&one.during_kw));
        nearest.truncate(self.days);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let during = mean(&nearest.iter().map(|day| day.during_kw).collect::<Vec<_>>());
        let befores: Vec<f64> = nearest.iter().filter_map(|day| day.before_kw).collect();
        // Only where every day has an interval before, and it is a load.
        let factor = match before_kw {
            Some(today) if befores.len() == nearest.len() && mean(&befores) > 0.0 && today >= 0.0 => {
                (today / mean(&befores)).clamp(1.0 - self.adjust, 1.0 + self.adjust)
            }
            _ => 1.0,
        };
        let method = Method::HighDays { days: nearest.len() as u32, of: of as u32, factor };
        Some(Baseline { kw: during * factor, method })
    }

    /// Whether the terms make sense; else what is wrong.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match () {
            () if self.of > 60 => Err(("of", "must be at most 60")),
            () if self.days > self.of => Err(("days", "must be at most as many as of")),
            () if !(0.0..1.0).contains(&self.adjust) => Err(("adjust", "must be a share of at least 0 and below 1")),
            () if self.utc_offset.abs() > 14 * 60 => Err(("utc_offset", "must be minutes, at most 14 hours")),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(during_kw: f64, before_kw: f64) -> Day {
        Day { during_kw, before_kw: Some(before_kw) }
    }

    fn at(text: &str) -> At {
        wire::openadr::time_nanos(text).unwrap()
    }

    #[test]
    fn c13_a_baseline_is_the_highest_of_the_last_similar_days_adjusted_to_today() {
        let terms = Terms::default();
        let days = [day(4.0, 2.0), day(1.0, 9.0), day(6.0, 2.0), day(5.0, 2.0), day(5.0, 2.0), day(99.0, 2.0)];
        let found = terms.baseline(&days, Some(2.2)).unwrap();
        assert!((found.kw - 5.5).abs() < 1e-9, "{found:?}");
        assert!(matches!(found.method, Method::HighDays { days: 4, of: 5, factor } if (factor - 1.1).abs() < 1e-9));
        // The adjustment has a cap, and needs what was before.
        assert!((terms.baseline(&days, Some(20.0)).unwrap().kw - 6.0).abs() < 1e-9);
        assert_eq!(terms.baseline(&days, None).unwrap().kw, 5.0);
        let lone = Day { during_kw: 7.0, before_kw: None };
        assert_eq!(terms.baseline(&[lone; 5], Some(1.0)).unwrap().kw, 7.0);
        // Too few days.
        let before = Baseline { kw: 3.0, method: Method::IntervalBefore };
        assert_eq!(terms.baseline(&days[..3], Some(3.0)), Some(before));
        assert_eq!(terms.baseline(&days[..3], None), None);
        let said = serde_json::to_value(before).unwrap();
        assert_eq!(said, serde_json::json!({"kw": 3.0, "method": "interval-before"}));
    }

    #[test]
    fn c13_similar_days_are_weekdays_among_themselves_and_weekends() {
        let terms = Terms { of: 3, ..Terms::default() };
        // A Monday, a Friday, a Sunday of January 2016.
        assert_eq!(terms.similar(at("2016-01-18T17:00:00Z")), [3, 4, 5, 6, 7, 10]);
        assert_eq!(terms.similar(at("2016-01-22T17:00:00Z")), [1, 2, 3, 4, 7, 8]);
        assert_eq!(terms.similar(at("2016-01-24T17:00:00Z")), [1, 7, 8, 14, 15, 21]);
        // What is Sunday evening in UTC is Monday where the clock is two hours ahead.
        let east = Terms { utc_offset: 120, ..terms };
        assert_eq!(east.similar(at("2016-01-17T23:00:00Z")), [3, 4, 5, 6, 7, 10]);
        let moved = Terms::before(Window { from: DAY, to: DAY + 5 }, 1);
        assert_eq!(moved, Window { from: 0, to: 5 });
    }

    proptest! {
        /// A baseline lies between the smallest and the largest of the days, as far as the cap lets it; a load that is the same every day
        /// and before is its own baseline; and scaling the load scales it.
        #[test]
        fn c13_a_baseline_stays_within_its_days(
            loads in prop::collection::vec((0.1_f64..50.0, 0.1_f64..50.0), 5..12),
            today in 0.0_f64..100.0,
            scale in 0.1_f64..10.0,
        ) {
            let terms = Terms::default();
            let days: Vec<Day> = loads.iter().map(|(during, before)| day(*during, *before)).collect();
            let found = terms.baseline(&days, Some(today)).unwrap().kw;
            let used = &days[..5];
            let (low, high) = used.iter().fold((f64::MAX, 0.0_f64), |(low, high), day| (low.min(day.during_kw), high.max(day.during_kw)));
            prop_assert!(found >= 0.8 * low - 1e-9 && found <= 1.2 * high + 1e-9);
            let scaled: Vec<Day> = loads.iter().map(|(during, before)| day(during * scale, before * scale)).collect();
            let again = terms.baseline(&scaled, Some(today * scale)).unwrap().kw;
            prop_assert!((again - found * scale).abs() < 1e-6 * (1.0 + found * scale));
            let same = vec![day(loads[0].0, today); 5];
            let own = terms.baseline(&same, Some(today)).unwrap().kw;
            prop_assert!((own - loads[0].0).abs() < 1e-9);
        }
    }

    /// On the real data set (SimBench, January 2016): for every profile, weekday and quarter of the evening peak, how far the baseline is
    /// from what was taken, beside the interval before.
    #[test]
    fn c13_on_the_real_data_set_the_baseline_is_nearer_to_what_was_taken_hours_later_than_the_interval_before() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/simbench-loads-2016-01.csv")).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap().split(',').count(), 28);
        let rows: Vec<Vec<f64>> = lines.map(|line| line.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect()).collect();
        let first = at("2016-01-01T00:00:00Z");
        let terms = Terms::default();
        let (mut of_days, mut of_before, mut taken, mut asked) = (0.0, 0.0, 0.0, 0_u32);
        // An event of two hours, from 17:00, known at 16:00: its interval before is 15:45 to 16:00.
        let hours = |row: usize, profile: usize| (row..row + 8).map(|row| rows[row][profile]).sum::<f64>() / 8.0;
        for date in 14..31_usize {
            let (start, before) = (date * 96 + 68, date * 96 + 63);
            let similar = terms.similar(first + start as i64 * 900_000_000_000);
            for (profile, before_kw) in rows[before].iter().copied().enumerate() {
                let days: Vec<Day> = similar
                    .iter()
                    .filter_map(|days| start.checked_sub(*days as usize * 96).zip(before.checked_sub(*days as usize * 96)))
                    .map(|(start, before)| day(hours(start, profile), rows[before][profile]))
                    .collect();
                let found = terms.baseline(&days, Some(before_kw)).unwrap();
                assert!(matches!(found.method, Method::HighDays { .. }), "{date}: {found:?}");
                let real = hours(start, profile);
                of_days += (found.kw - real).abs();
                of_before += (before_kw - real).abs();
                (taken, asked) = (taken + real, asked + 1);
            }
        }
        let (days, before) = (of_days / taken, of_before / taken);
        assert_eq!(asked, 17 * 27);
        assert!(days < 0.75 * before && days < 0.2, "off by {days:.3} of what was taken, the interval before by {before:.3}");
    }
}
