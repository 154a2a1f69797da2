//! Heartbeats: what they say and when they go.

use std::time::{Duration, Instant};

use wire::group::{Heartbeat, PERIODS_MAX};
use wire::{At, Epoch, RelayId};

use super::volume::Volume;

/// Periods that each heartbeat tells: more than go by while one is on its way.
const RECENT: usize = 8;

/// Makes a member's heartbeats.
#[derive(Debug)]
pub(crate) struct Pulse {
    group: RelayId,
    relay_epoch: Epoch,
    address: String,
    interval: Duration,
    volume: Volume,
    number: u64,
    due: Instant,
    /// The next one is the first by its connection: the cloud may have missed more than a few periods.
    first: bool,
}

impl Pulse {
    /// A member of `group` whom the others reach at `address`.
    pub(crate) fn new(
        group: RelayId,
        relay_epoch: Epoch,
        address: String,
        interval: Duration,
        volume: Volume,
        now: Instant,
    ) -> Self {
        Self { group, relay_epoch, address, interval, volume, number: 0, due: now, first: true }
    }

    /// The group.
    pub(crate) fn group(&self) -> &RelayId {
        &self.group
    }

    /// Time between heartbeats.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// When the next heartbeat goes.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Another connection: its first heartbeat goes at once.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.due = now;
        self.first = true;
    }

    /// The next heartbeat; the one behind it is due an interval later.
    pub(crate) fn beat(&mut self, term: u64, done: bool, now: Instant, at: At) -> Heartbeat {
        self.number += 1;
        self.due = now + self.interval;
        let periods = if std::mem::take(&mut self.first) { PERIODS_MAX } else { RECENT };
        Heartbeat {
            group: self.group.clone(),
            relay_epoch: self.relay_epoch,
            beat: self.number,
            term,
            address: self.address.clone(),
            done,
            period: self.volume.period(),
            collected: self.volume.recent(at, periods),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_the_first_heartbeat_of_a_connection_tells_all_and_the_others_the_last_periods() {
        let start = Instant::now();
        let interval = Duration::from_millis(500);
        let volume = Volume::new(Duration::from_secs(1));
        for second in 1..=50 {
            volume.add(second * 1_000_000_000, 3);
        }
        let at = 50_000_000_000;
        let mut pulse = Pulse::new("north".parse().unwrap(), Epoch(7), "r:1".to_owned(), interval, volume, start);
        let first = pulse.beat(0, false, start, at);
        assert_eq!((first.beat, first.collected.len(), pulse.due()), (1, 50, start + interval));
        let second = pulse.beat(4, true, start + interval, at);
        assert_eq!((second.beat, second.term, second.done, second.collected.len()), (2, 4, true, RECENT));
        pulse.connected(start + interval);
        assert_eq!(pulse.due(), start + interval);
        assert_eq!(pulse.beat(4, false, start + interval, at).collected.len(), 50);
    }
}
