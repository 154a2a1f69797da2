//! What a user terminal takes: the last readings of its power stream, as they are committed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

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
    recent: Mutex<VecDeque<(At, f64)>>,
}

impl Gauge {
    pub(crate) fn new(series: Series, kilowatts: f64) -> Self {
        Self { series, kilowatts, recent: Mutex::default() }
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

    /// The mean of the readings within `from..to`, if there are any.
    pub(crate) fn mean(&self, from: At, to: At) -> Option<f64> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let within = recent.iter().filter(|(at, _)| (from..to).contains(at));
        let (sum, count) = within.fold((0.0, 0_u64), |(sum, count), (_, value)| (sum + value, count + 1));
        (count > 0).then(|| sum / count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Operation;

    #[test]
    fn b4_the_load_is_the_mean_of_the_last_readings_of_one_stream() {
        let gauge = Gauge::new("a/b/power".parse().unwrap(), 0.001);
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
        assert_eq!((gauge.mean(0, 10), gauge.mean(2, 10), gauge.mean(4, 10)), (Some(2.0), Some(3.0), None));
        gauge.remember((0..20_000).map(|at| (at + 100, 1.0)).collect());
        assert_eq!((gauge.mean(0, 100), gauge.recent.lock().unwrap().len()), (None, READINGS_MAX));
    }
}
