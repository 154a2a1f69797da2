//! When each message is due. Open loop: a message that leaves late keeps the time at which it should have left, so a
//! stalled broker shows in the percentiles instead of slowing the questions down (coordinated omission).

use crate::clock::Nanos;

const SECOND: u128 = 1_000_000_000;

/// The timetable of one connection: messages of all connections interleave evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    rate: u64,
    start: Nanos,
    lane: u64,
    lanes: u64,
}

impl Pace {
    /// `rate` messages a second over `lanes` connections, of which this is number `lane`. `None` when there is no limit.
    pub(crate) fn new(rate: u64, start: Nanos, lane: u16, lanes: u16) -> Option<Self> {
        (rate > 0).then_some(Self { rate, start, lane: lane.into(), lanes: lanes.into() })
    }

    /// When message `number` of this connection is due. Computed from the start each time, so that nothing adds up.
    pub(crate) fn due(&self, number: u64) -> Nanos {
        let overall = u128::from(number) * u128::from(self.lanes) + u128::from(self.lane);
        let after = overall * SECOND / u128::from(self.rate);
        self.start.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }
}

/// Bounds how many records may be between publisher and subscribers, so that a chain of brokers is measured at what it
/// carries and not at how much its first member can queue.
#[derive(Debug)]
pub(crate) struct Lead {
    max: u64,
    forgiven: u64,
    last_delivered: u64,
    last_progress: Nanos,
}

impl Lead {
    /// After this long without any delivery what is outstanding counts as lost, and sending goes on.
    const FORGIVE_AFTER: Nanos = 1_000_000_000;

    /// `None` when `max` is 0: no bound.
    pub(crate) fn new(max: u64) -> Option<Self> {
        (max > 0).then_some(Self { max, forgiven: 0, last_delivered: 0, last_progress: 0 })
    }

    /// How many more records may be sent now.
    pub(crate) fn room(&mut self, sent: u64, delivered: u64, now: Nanos) -> u64 {
        if delivered != self.last_delivered || sent == 0 {
            self.last_delivered = delivered;
            self.last_progress = now;
        }
        let room = self.left(sent, delivered);
        if room == 0 && now.saturating_sub(self.last_progress) >= Self::FORGIVE_AFTER {
            self.forgiven = sent.saturating_sub(delivered);
            self.last_progress = now;
            return self.left(sent, delivered);
        }
        room
    }

    fn left(&self, sent: u64, delivered: u64) -> u64 {
        let between = sent.saturating_sub(delivered).saturating_sub(self.forgiven);
        self.max.saturating_sub(between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns_and_no_error_adds_up() {
        let lanes: Vec<Pace> = (0..7).map(|lane| Pace::new(3, 100, lane, 7).unwrap()).collect();
        let mut times: Vec<Nanos> = (0..1_000).flat_map(|number| lanes.iter().map(move |lane| lane.due(number))).collect();
        assert!(times.is_sorted());
        assert_eq!(times.len(), 7_000);
        times.dedup();
        assert_eq!(times.len(), 7_000);
        assert_eq!(times[0], 100);
        assert_eq!(times[3], 1_000_000_100);
        assert_eq!(times[6_999], 100 + 2_333 * 1_000_000_000);
    }

    #[test]
    fn no_rate_is_no_timetable() {
        assert!(Pace::new(0, 0, 0, 1).is_none());
    }

    #[test]
    fn the_lead_is_bounded_and_forgives_what_never_arrives() {
        let mut lead = Lead::new(10).unwrap();
        assert_eq!(lead.room(0, 0, 5), 10);
        assert_eq!(lead.room(10, 0, 6), 0);
        assert_eq!(lead.room(10, 4, 7), 4);
        assert_eq!(lead.room(14, 4, 1_000_000_006), 0);
        assert_eq!(lead.room(14, 4, 1_000_000_007), 10);
        assert_eq!(lead.room(24, 4, 1_000_000_008), 0);
        assert_eq!(lead.room(24, 24, 1_000_000_009), 10);
    }
}
