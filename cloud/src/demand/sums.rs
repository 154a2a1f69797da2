//! What an area takes: the sum over its meters. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::SensorId;
use wire::openadr::{QUALITY_ESTIMATED, QUALITY_MISSING, QUALITY_OK};
use wire::power::Mean;

/// Names of meters that are told of an interval; the counts are exact.
const NAMES_MAX: usize = 100;

/// How many meters a sum is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Sensors of the area that have the stream.
    pub meters: u64,
    /// Those whose readings cover at least half of the interval.
    pub reported: u64,
    /// Those that count with what they took in the interval before, or in the part that is covered.
    pub estimated: u64,
    /// Those that count as nothing: nothing is known of them.
    pub missing: u64,
}

impl Coverage {
    /// The word of the standard's DATA_QUALITY for a sum of these meters.
    pub const fn quality(&self) -> &'static str {
        match (self.missing, self.estimated) {
            (0, 0) => QUALITY_OK,
            (0, _) => QUALITY_ESTIMATED,
            _ => QUALITY_MISSING,
        }
    }
}

/// What an area took in an interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    /// Kilowatts.
    pub kw: f64,
    /// Of how many meters.
    pub coverage: Coverage,
    /// The first hundred of those that were estimated.
    pub estimated: Vec<SensorId>,
    /// The first hundred of those that are missing.
    pub missing: Vec<SensorId>,
}

/// Adds up an area: of each meter the mean in the interval, and in the one before for where it did not report.
pub(crate) fn sum(means: &BTreeMap<SensorId, [Option<Mean>; 2]>) -> Sum {
    let mut sum = Sum::default();
    for (sensor, [during, before]) in means {
        let name = |names: &mut Vec<SensorId>| {
            if names.len() < NAMES_MAX {
                names.push(sensor.clone());
            }
        };
        sum.coverage.meters += 1;
        let whole = during.filter(Mean::is_whole);
        let Some(mean) = whole.or(before.filter(Mean::is_whole)).or(*during) else {
            sum.coverage.missing += 1;
            name(&mut sum.missing);
            continue;
        };
        sum.kw += mean.kw;
        if whole.is_some() {
            sum.coverage.reported += 1;
        } else {
            sum.coverage.estimated += 1;
            name(&mut sum.estimated);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b6_a_sum_names_who_was_estimated_and_who_is_missing() {
        let (whole, little) = (|kw| Some(Mean { kw, covered: 0.9 }), |kw| Some(Mean { kw, covered: 0.1 }));
        let meter = |name: &str, of: [Option<Mean>; 2]| (format!("a/{name}").parse().unwrap(), of);
        let means = [
            meter("m1", [whole(1.0), whole(9.0)]),
            meter("m2", [None, whole(2.0)]),
            meter("m3", [little(30.0), whole(4.0)]),
            meter("m4", [little(8.0), None]),
            meter("m5", [little(16.0), little(99.0)]),
            meter("m6", [None, little(99.0)]),
            meter("m7", [None, None]),
        ];
        let sum = sum(&means.into());
        assert_eq!(sum.kw, 1.0 + 2.0 + 4.0 + 8.0 + 16.0);
        assert_eq!(sum.coverage, Coverage { meters: 7, reported: 1, estimated: 4, missing: 2 });
        assert_eq!(sum.coverage.quality(), "MISSING");
        assert_eq!(Coverage { missing: 0, ..sum.coverage }.quality(), "ESTIMATED");
        assert_eq!(Coverage { missing: 0, estimated: 0, ..sum.coverage }.quality(), "OK");
        let names = |of: &[SensorId]| of.iter().map(|sensor| sensor.sensor().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            (names(&sum.estimated), names(&sum.missing)),
            (vec!["m2".into(), "m3".into(), "m4".into(), "m5".into()], vec!["m6".into(), "m7".into()])
        );
    }
}
