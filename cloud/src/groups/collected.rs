//! What one member has collected in the term that goes on (A9), from what its heartbeats tell.
//!
//! Telling again changes nothing: of each period the largest count is kept, per database of the relay, because a relay that was
//! built anew counts from zero. A relay that was killed in the middle of a period counts it from zero too, so that period may come out too low by
//! what was collected before.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::group::Heartbeat;
use wire::{At, Epoch};

use super::score::Histogram;

/// Periods of a term that are kept. The score of a term that lasts longer is that of its last so many periods.
pub(crate) const PERIODS_KEPT: u64 = 4_096;
/// Counts that are kept: several databases of one relay may have counted in a period.
const COUNTS_KEPT: usize = 2 * PERIODS_KEPT as usize;

/// One database's count in one period.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// What belongs to the term before.
    before: u64,
    told: u64,
}

impl Count {
    fn bytes(self) -> u64 {
        self.told.saturating_sub(self.before)
    }
}

/// Counts of one member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collected {
    period: Duration,
    /// The period in which the term began, by the member's own clock.
    from: Option<u64>,
    /// Only for a term that began before this process: when it did, by our clock.
    since: Option<At>,
    counts: BTreeMap<(u64, Epoch), Count>,
}

impl Collected {
    /// For a term that goes on since `since`; members tell their recent periods again.
    pub(crate) fn resumed(since: At) -> Self {
        Self { since: Some(since), ..Self::default() }
    }

    /// Takes what a heartbeat tells.
    pub(crate) fn take(&mut self, beat: &Heartbeat) {
        let Some((last, _)) = beat.collected.last() else { return };
        if self.period != beat.period {
            *self = Self { period: beat.period, since: self.since, ..Self::default() };
        }
        // A clock that was set back: the periods that it tells now are the ones that count.
        if self.from.is_some_and(|from| *last < from) {
            self.from = None;
            self.counts.clear();
        }
        let since = self.since.take().and_then(|since| period_of(since, beat.period));
        let from = *self.from.get_or_insert_with(|| since.map_or(*last, |since| since.min(*last)));
        for (number, bytes) in beat.collected.iter().filter(|(number, _)| *number >= from) {
            let count = self.counts.entry((*number, beat.relay_epoch)).or_default();
            count.told = count.told.max(*bytes);
        }
        while self.counts.len() > COUNTS_KEPT {
            self.counts.pop_first();
        }
    }

    /// A term begins: what was told so far belongs to the one before.
    pub(crate) fn begin(&mut self) {
        self.since = None;
        let Some(((last, _), _)) = self.counts.last_key_value() else { return };
        let last = *last;
        self.from = Some(last);
        self.counts.retain(|(number, _), count| {
            count.before = count.told;
            *number == last
        });
    }

    /// The term's histogram: one bar a period, from its beginning to the last that was told.
    pub(crate) fn histogram(&self) -> Histogram {
        let (Some(from), Some(((last, _), _))) = (self.from, self.counts.last_key_value()) else {
            return Histogram { period: self.period, first: self.from.unwrap_or(0), bars: Vec::new() };
        };
        let first = from.max(last.saturating_sub(PERIODS_KEPT - 1));
        // At most PERIODS_KEPT.
        let mut bars = vec![0_u64; (last.saturating_sub(first) + 1) as usize];
        for ((number, _), count) in self.counts.range((first, Epoch(0))..) {
            if let Some(bar) = bars.get_mut((number - first) as usize) {
                *bar = bar.saturating_add(count.bytes());
            }
        }
        Histogram { period: self.period, first, bars }
    }
}

fn period_of(at: At, period: Duration) -> Option<u64> {
    u64::try_from(at).ok()?.checked_div(u64::try_from(period.as_nanos()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(epoch: u64, collected: &[(u64, u64)]) -> Heartbeat {
        Heartbeat {
            group: "north".parse().unwrap(),
            relay_epoch: Epoch(epoch),
            beat: 1,
            term: 0,
            address: String::new(),
            done: false,
            period: Duration::from_secs(60),
            collected: collected.to_vec(),
        }
    }

    fn bars(collected: &Collected) -> (u64, Vec<u64>) {
        let histogram = collected.histogram();
        (histogram.first, histogram.bars)
    }

    #[test]
    fn a9_a_period_told_again_counts_once_and_the_larger_count_wins() {
        let mut collected = Collected::default();
        assert_eq!(bars(&collected), (0, vec![]));
        collected.take(&beat(1, &[(7, 10)]));
        collected.take(&beat(1, &[(7, 10), (8, 4)]));
        collected.take(&beat(1, &[(7, 9), (8, 5), (10, 1)]));
        collected.take(&beat(1, &[(7, 10), (8, 5)]));
        assert_eq!(bars(&collected), (7, vec![10, 5, 0, 1]));
    }

    #[test]
    fn a9_another_database_of_the_relay_counts_beside_the_first() {
        let mut collected = Collected::default();
        collected.take(&beat(1, &[(7, 10)]));
        collected.take(&beat(2, &[(7, 3), (8, 1)]));
        collected.take(&beat(2, &[(7, 4), (8, 1)]));
        assert_eq!(bars(&collected), (7, vec![14, 1]));
    }

    #[test]
    fn a9_a_term_counts_from_its_beginning_within_a_period() {
        let mut collected = Collected::default();
        collected.take(&beat(1, &[(7, 10), (8, 4)]));
        collected.begin();
        assert_eq!(bars(&collected), (8, vec![0]));
        collected.take(&beat(1, &[(7, 99), (8, 6), (9, 1)]));
        assert_eq!(bars(&collected), (8, vec![2, 1]));
        collected.begin();
        collected.begin();
        assert_eq!(bars(&collected), (9, vec![0]));
    }

    #[test]
    fn a9_clocks_that_jump_and_numbers_out_of_this_world_are_borne() {
        let mut collected = Collected::default();
        collected.take(&beat(1, &[(1_000, 10)]));
        collected.take(&beat(1, &[(3, 5), (4, 6)]));
        assert_eq!(bars(&collected), (4, vec![6]), "set back: from the current period on");
        collected.take(&beat(1, &[(u64::MAX, 9)]));
        let (first, bars) = bars(&collected);
        assert_eq!((first, bars.len() as u64, bars[bars.len() - 1]), (u64::MAX - PERIODS_KEPT + 1, PERIODS_KEPT, 9));
        for epoch in 0..3 * PERIODS_KEPT {
            collected.take(&beat(epoch, &[(u64::MAX, 1)]));
        }
        assert_eq!(collected.counts.len(), COUNTS_KEPT);
    }

    #[test]
    fn a9_a_term_that_began_before_the_cloud_did_is_told_again() {
        let minute = 60_000_000_000;
        let mut collected = Collected::resumed(7 * minute + 5);
        collected.take(&beat(1, &[(5, 1), (6, 2), (7, 3), (8, 4), (9, 5)]));
        assert_eq!(bars(&collected), (7, vec![3, 4, 5]));
    }

    #[test]
    fn a9_another_length_of_periods_starts_again() {
        let mut collected = Collected::default();
        collected.take(&beat(1, &[(7, 10)]));
        collected.take(&Heartbeat { period: Duration::from_secs(1), ..beat(1, &[(420, 3)]) });
        assert_eq!(bars(&collected), (420, vec![3]));
    }
}
