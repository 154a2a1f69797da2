//! Mean power of a meter within an interval, from its readings. The cloud and the terminals reckon alike.
//!
//! Means are weighted with time: a reading of power counts from its time until the next one, at most for `hold`; readings of a register
//! (energy) count between two of them, at most `hold` apart. What no reading covers is left out of a mean, and told: [`Mean::covered`].

use serde::{Deserialize, Serialize};

use crate::At;

/// A meter has reported when readings cover at least this share of the interval.
const COVERED_MIN: f64 = 0.5;
/// What the readings of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Power, kilowatts.
    Power,
    /// A register that counts energy, kilowatt hours.
    Energy,
}

/// Mean power of a meter in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Over what readings cover, kilowatts.
    pub kw: f64,
    /// Share of the interval that they cover, above 0 and at most 1.
    pub covered: f64,
}

impl Mean {
    /// Whether enough of the interval is covered: at least half.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.covered >= COVERED_MIN
    }
}

/// Adds up the readings of one meter in order of time.
#[derive(Debug)]
pub struct Meter {
    kind: Kind,
    hold: i64,
    from: At,
    to: At,
    last: Option<(At, f64)>,
    /// Kilowatt nanoseconds.
    sum: f64,
    covered: i64,
}

impl Meter {
    /// For the mean from one time to another, the end not included. A reading counts for `hold` nanoseconds at most.
    #[must_use]
    pub fn new(kind: Kind, hold: i64, (from, to): (At, At)) -> Self {
        Self { kind, hold: hold.max(1), from, to, last: None, sum: 0.0, covered: 0 }
    }

    /// Readings from when to when matter to the mean from one time to another.
    #[must_use]
    pub fn reach(kind: Kind, hold: i64, (from, to): (At, At)) -> (At, At) {
        let after = if kind == Kind::Energy { hold } else { 0 };
        (from.saturating_sub(hold), to.saturating_add(after))
    }

    /// The next reading; one that is earlier than the last, or no number, is left out.
    pub fn take(&mut self, at: At, value: f64) {
        if !value.is_finite() || self.last.is_some_and(|(last, _)| at < last) {
            return;
        }
        if let Some((from, before)) = self.last {
            match self.kind {
                Kind::Power => self.add(from, at.min(from.saturating_add(self.hold)), before),
                Kind::Energy => {
                    let nanos = at - from;
                    // A register that went back was replaced: what flowed meanwhile is not known.
                    if nanos > 0 && nanos <= self.hold && value >= before {
                        self.add(from, at, (value - before) / (nanos as f64 / 3_600e9));
                    }
                }
            }
        }
        self.last = Some((at, value));
    }

    fn add(&mut self, from: At, to: At, kw: f64) {
        let nanos = to.min(self.to).saturating_sub(from.max(self.from));
        if nanos > 0 {
            self.sum += kw * nanos as f64;
            self.covered += nanos;
        }
    }

    /// The mean; `None` if nothing is covered.
    #[must_use]
    pub fn mean(mut self) -> Option<Mean> {
        if let (Kind::Power, Some((from, kw))) = (self.kind, self.last) {
            self.add(from, from.saturating_add(self.hold), kw);
        }
        let length = self.to.saturating_sub(self.from);
        (self.covered > 0).then(|| Mean { kw: self.sum / self.covered as f64, covered: self.covered as f64 / length as f64 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn mean(kind: Kind, hold: i64, window: (At, At), readings: &[(At, f64)]) -> Option<Mean> {
        let mut meter = Meter::new(kind, hold, window);
        let reach = Meter::reach(kind, hold, window);
        readings.iter().filter(|(at, _)| (reach.0..reach.1).contains(at)).for_each(|(at, value)| meter.take(*at, *value));
        meter.mean()
    }

    #[test]
    fn b6_a_mean_is_weighted_with_time_and_says_how_much_is_covered() {
        let window = (100, 200);
        let power = |readings: &[(At, f64)]| mean(Kind::Power, 100, window, readings);
        // Many readings at the end weigh no more than the time that they stand for.
        assert_eq!(power(&[(100, 2.0), (190, 10.0), (191, 10.0), (192, 10.0)]), Some(Mean { kw: 2.8, covered: 1.0 }));
        // What was said before the interval holds on into it, and nothing holds longer than it may.
        assert_eq!(power(&[(50, 4.0)]), Some(Mean { kw: 4.0, covered: 0.5 }));
        assert_eq!(power(&[(1, 4.0)]), Some(Mean { kw: 4.0, covered: 0.01 }));
        assert_eq!(power(&[(0, 4.0), (200, 1.0)]), None);
        assert_eq!(power(&[(150, 1.0), (150, 3.0)]), Some(Mean { kw: 3.0, covered: 0.5 }));
        assert_eq!(power(&[(150, f64::NAN)]), None);
        assert_eq!(mean(Kind::Power, 20, window, &[(100, 1.0), (180, 3.0)]), Some(Mean { kw: 2.0, covered: 0.4 }));
        // A register: kilowatt hours between two readings.
        let day = (10 * HOUR, 11 * HOUR);
        let energy = |readings: &[(At, f64)]| mean(Kind::Energy, 2 * HOUR, day, readings);
        assert_eq!(energy(&[(10 * HOUR, 100.0), (11 * HOUR, 103.0)]), Some(Mean { kw: 3.0, covered: 1.0 }));
        assert_eq!(energy(&[(9 * HOUR, 100.0), (10 * HOUR + HOUR / 2, 103.0)]), Some(Mean { kw: 2.0, covered: 0.5 }));
        assert_eq!(energy(&[(10 * HOUR, 100.0), (11 * HOUR, 3.0)]), None, "the register was replaced");
        assert_eq!(energy(&[(8 * HOUR, 100.0), (11 * HOUR, 103.0)]), None, "too far apart");
    }

    proptest! {
        /// A mean lies between the smallest and the largest reading, and more readings of the same power change nothing.
        #[test]
        fn b6_a_mean_stays_within_its_readings(
            steps in prop::collection::vec((0_i64..50, -100.0_f64..100.0), 1..40),
            hold in 1_i64..200,
        ) {
            let window = (200, 700);
            let mut at = 0;
            let readings: Vec<(At, f64)> = steps.iter().map(|(step, value)| { at += step; (at, *value) }).collect();
            let found = mean(Kind::Power, hold, window, &readings);
            if let Some(mean) = found {
                let (low, high) = readings.iter().fold((f64::MAX, f64::MIN), |(low, high), (_, kw)| (low.min(*kw), high.max(*kw)));
                prop_assert!(mean.kw >= low - 1e-9 && mean.kw <= high + 1e-9);
                prop_assert!(mean.covered > 0.0 && mean.covered <= 1.0);
            }
            // Each said again in the middle of its time, so that nothing else holds longer.
            let mut doubled = Vec::new();
            for (index, (at, kw)) in readings.iter().enumerate() {
                doubled.push((*at, *kw));
                let next = readings.get(index + 1).map_or(at + hold, |(next, _)| *next);
                if next - at <= hold && index + 1 < readings.len() {
                    doubled.push(((at + next) / 2, *kw));
                }
            }
            let again = mean(Kind::Power, hold, window, &doubled);
            prop_assert_eq!(found.is_some(), again.is_some());
            if let (Some(one), Some(other)) = (found, again) {
                prop_assert!((one.kw - other.kw).abs() < 1e-6 && (one.covered - other.covered).abs() < 1e-9);
            }
        }

        /// The power of a register's readings is what the same load shows as power.
        #[test]
        fn b6_energy_and_power_of_the_same_load_have_the_same_mean(loads in prop::collection::vec(0.0_f64..50.0, 4..20)) {
            let quarter = HOUR / 4;
            let (mut register, mut energy, mut power) = (1_000.0, vec![(0, 1_000.0)], Vec::new());
            for (index, kw) in loads.iter().enumerate() {
                register += kw / 4.0;
                energy.push(((index as i64 + 1) * quarter, register));
                power.push((index as i64 * quarter, *kw));
            }
            let window = (quarter, 3 * quarter);
            let (of_energy, of_power) =
                (mean(Kind::Energy, quarter, window, &energy).unwrap(), mean(Kind::Power, quarter, window, &power).unwrap());
            prop_assert!((of_energy.kw - of_power.kw).abs() < 1e-6);
            prop_assert_eq!((of_energy.covered, of_power.covered), (1.0, 1.0));
        }
    }
}
