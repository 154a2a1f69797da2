//! Latencies: a histogram to three digits, and the percentiles that a report prints.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clock::Nanos;

/// Percentiles in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Percentiles {
    /// How many measurements there were.
    pub samples: u64,
    /// The median.
    pub p50: f64,
    /// Nine of ten were at most this.
    pub p90: f64,
    /// 99 of 100 were at most this.
    pub p99: f64,
    /// 999 of 1000 were at most this.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// Collects latencies without allocating.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// Longer than any run: what exceeds it is recorded as this.
    const MAX: Nanos = 3_600_000_000_000;

    pub(crate) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Histogram::new_with_bounds(1, Self::MAX, 3).map(Self)
    }

    pub(crate) fn record(&mut self, nanos: Nanos) {
        self.0.saturating_record(nanos);
    }

    /// `None` when nothing was recorded.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Percentiles {
            samples: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(self.0.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth_of_the_sorted_list() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.percentiles(), None);
        for micros in (1..=10_000u64).rev() {
            latencies.record(micros * 1_000);
        }
        let found = latencies.percentiles().unwrap();
        assert_eq!(found.samples, 10_000);
        for (measured, exact) in
            [(found.p50, 5_000.0), (found.p90, 9_000.0), (found.p99, 9_900.0), (found.p999, 9_990.0), (found.max, 10_000.0)]
        {
            assert!((measured / exact - 1.0).abs() < 0.001, "{measured} for {exact}");
        }
    }

    #[test]
    fn a_latency_beyond_every_bound_is_kept_as_the_largest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(u64::MAX);
        assert!(latencies.percentiles().unwrap().max >= 3.6e9);
    }
}
