//! What a user terminal takes: the last readings of its power stream, as they are committed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use wire::power::{Kind, Mean, Meter};
use wire::{At, Series};

use crate::reading::Reading;

/// Readings that are remembered; a reading a second covers an event of nearly three hours.
const READINGS_MAX: usize = 10_000;

/// The last readings of one series, in kilowatts, by time of generation.
#[derive(Debug)]
pub(crate) struct Gauge {
    series: Series,
    /// Of a reading's unit.
    kilowatts: f64,
    /// For how long a reading counts at most, nanoseconds.
    hold: i64,
    recent: Mutex<VecDeque<(At, f64)>>,
}

impl Gauge {
    pub(crate) fn new(series: Series, kilowatts: f64, hold: i64) -> Self {
        Self { series, kilowatts, hold, recent: Mutex::default() }
    }

    /// Those of `readings` that count. What is no number does not.
    pub(crate) fn pick(&self, readings: &[Reading]) -> Vec<(At, f64)> {
        let of = readings.iter().filter(|reading| *reading.series() == self.series);
        let value = |reading: &Reading| {
            let value: f64 = std::str::from_utf8(reading.payload()).ok()?.trim().parse().ok()?;
            value.is_finite().then_some((reading.at(), value * self.kilowatts))
        };
        of.filter_map(value).collect()
    }

    /// Remembers what was picked, once it is committed.
    pub(crate) fn remember(&self, picked: Vec<(At, f64)>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.extend(picked);
        let over = recent.len().saturating_sub(READINGS_MAX);
        recent.drain(..over);
    }

    /// The mean from one time to another, weighted with time, if readings cover some of it.
    pub(crate) fn mean(&self, from: At, to: At) -> Option<Mean> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut meter = Meter::new(Kind::Power, self.hold, (from, to));
        let reach = Meter::reach(Kind::Power, self.hold, (from, to));
        recent.iter().filter(|(at, _)| (reach.0..reach.1).contains(at)).for_each(|(at, kw)| meter.take(*at, *kw));
        meter.mean()
    }

    /// The load of now: the mean since `back` nanoseconds before. Readings may be ahead of this clock.
    pub(crate) fn load(&self, now: At, back: i64) -> Option<f64> {
        let newest = self.recent.lock().unwrap_or_else(PoisonError::into_inner).back().map(|(at, _)| *at)?;
        // Of readings within the time: an older one that still counts is not the load of now.
        let to = now.max(newest);
        (newest >= now.saturating_sub(back))
            .then(|| self.mean(to.saturating_sub(back), to.saturating_add(1)))?
            .map(|mean| mean.kw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Operation;

    #[test]
    fn b4_the_load_is_the_mean_of_the_last_readings_of_one_stream() {
        let gauge = Gauge::new("a/b/power".parse().unwrap(), 0.001, 5);
        let reading = |series: &str, at: At, text: &str| {
            Reading::new(series.parse().unwrap(), Operation::Forward, at, text.as_bytes().to_vec()).unwrap()
        };
        let readings = [
            reading("a/b/power", 1, "1000"),
            reading("a/b/door", 2, "9"),
            reading("a/b/power", 3, " 3000 "),
            reading("a/b/power", 4, "?"),
        ];
        gauge.remember(gauge.pick(&readings));
        let whole = |kw| Some(Mean { kw, covered: 1.0 });
        assert_eq!((gauge.mean(1, 5), gauge.mean(3, 8), gauge.mean(8, 10)), (whole(2.0), whole(3.0), None));
        assert_eq!(gauge.mean(0, 10), Some(Mean { kw: 17.0 / 7.0, covered: 0.7 }), "weighted with time");
        assert_eq!((gauge.load(3, 2), gauge.load(4, 100), gauge.load(9, 5)), (Some(5.0 / 3.0), Some(2.0), None));
        gauge.remember((0..20_000).map(|at| (at + 100, 1.0)).collect());
        assert_eq!((gauge.mean(8, 100), gauge.recent.lock().unwrap().len()), (None, READINGS_MAX));
    }
}
