//! How much was collected from sensors in each period (A9): the bars of the histogram by which the cloud chooses the next proxy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wire::At;
use wire::group::PERIODS_MAX;

/// Bytes collected, by period since 1970. Clones share the counts; they begin anew with the process.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    period: Duration,
    bytes: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Volume {
    /// Nothing collected yet.
    pub(crate) fn new(period: Duration) -> Self {
        Self { period, bytes: Arc::default() }
    }

    /// Length of a period.
    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    fn number(&self, now: At) -> u64 {
        let period = u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX).max(1);
        now.max(0).cast_unsigned() / period
    }

    /// These bytes of readings were committed now.
    pub(crate) fn add(&self, now: At, bytes: u64) {
        let number = self.number(now);
        let mut periods = self.bytes.lock();
        *periods.entry(number).or_default() += bytes;
        if periods.len() > PERIODS_MAX {
            periods.pop_first();
        }
    }

    /// The last `count` periods in which something was collected, oldest first, and the current one in any case.
    pub(crate) fn recent(&self, now: At, count: usize) -> Vec<(u64, u64)> {
        let mut periods = self.bytes.lock();
        let current = self.number(now);
        periods.entry(current).or_default();
        // A clock that was set back leaves periods behind that are still to come.
        let mut recent: Vec<_> = periods.range(..=current).rev().take(count).map(|(number, bytes)| (*number, *bytes)).collect();
        recent.reverse();
        if periods.len() > PERIODS_MAX {
            periods.pop_first();
        }
        recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: At = 1_000_000_000;

    #[test]
    fn a9_bytes_are_counted_by_period_and_the_last_ones_are_told() {
        let volume = Volume::new(Duration::from_secs(60));
        assert_eq!(volume.recent(60 * SECOND, 8), [(1, 0)], "the current one is told though nothing came");
        for (second, bytes) in [(59, 1), (60, 10), (119, 5), (120, 100), (300, 7)] {
            volume.add(second * SECOND, bytes);
        }
        assert_eq!(volume.recent(301 * SECOND, 8), [(0, 1), (1, 15), (2, 100), (5, 7)]);
        assert_eq!(volume.recent(301 * SECOND, 2), [(2, 100), (5, 7)]);
        assert_eq!(volume.recent(360 * SECOND, 1), [(6, 0)]);
        assert_eq!(volume.recent(130 * SECOND, 2), [(1, 15), (2, 100)], "a clock that was set back");
    }

    #[test]
    fn a9_no_more_periods_are_kept_than_a_heartbeat_can_tell() {
        let volume = Volume::new(Duration::from_secs(1));
        for second in 0..2 * PERIODS_MAX as At {
            volume.add(second * SECOND, 1);
        }
        let told = volume.recent(2 * PERIODS_MAX as At * SECOND, PERIODS_MAX);
        assert_eq!((told.len(), told.last()), (PERIODS_MAX, Some(&(2 * PERIODS_MAX as u64, 0))));
    }
}
