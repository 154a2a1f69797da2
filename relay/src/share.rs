//! How much of what is old may be on its way at once, so that what is live never waits long behind it (C8). A pure state machine.
//!
//! A live frame stands in the same queues as the old ones before it: the connection's, the proxy's, the cloud's. How long they are shows in how much
//! longer receipts take than they once did. So the share grows while that is little, and is halved when it is much.

use std::time::{Duration, Instant};

/// How long a live frame may wait behind old ones.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// The share does not shrink below this; one frame may always go.
const FLOOR_BYTES: usize = 16 * 1024;
/// Where it begins.
const START_BYTES: usize = 128 * 1024;

/// Bytes of old frames that may be on their way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    ceiling: usize,
    bytes: usize,
    /// The quickest receipt of this connection.
    quickest: Option<Duration>,
    halved: Option<Instant>,
}

impl Share {
    /// At most `ceiling` bytes.
    pub(crate) fn new(ceiling: usize) -> Self {
        Self { ceiling, bytes: START_BYTES.min(ceiling), quickest: None, halved: None }
    }

    /// Bytes that may be on their way now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Another connection: other queues.
    pub(crate) fn start_over(&mut self) {
        *self = Self::new(self.ceiling);
    }

    /// A receipt came: the quickest frame in it took `quickest`; and if there were old ones in it, the slowest of these took so long, and
    /// they had so many bytes.
    pub(crate) fn receipted(&mut self, quickest: Duration, old: Option<(Duration, usize)>, now: Instant) {
        let quickest = self.quickest.map_or(quickest, |known| known.min(quickest));
        self.quickest = Some(quickest);
        let Some((slowest, bytes)) = old else { return };
        if slowest.saturating_sub(quickest) <= WAIT_MAX {
            self.bytes = self.bytes.saturating_add(bytes / 8).min(self.ceiling);
        } else if self.halved.is_none_or(|halved| now.saturating_duration_since(halved) >= slowest) {
            // Once for all that was on its way together.
            self.halved = Some(now);
            self.bytes = (self.bytes / 2).max(FLOOR_BYTES.min(self.ceiling));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A way that carries so many bytes a second, with so long a round trip, and a sender that always has old frames. Gives the bytes
    /// carried in 20 s and the longest wait in the last ten.
    fn way(per_second: u64, round_trip: Duration, frame: usize) -> (u64, Duration) {
        let start = Instant::now();
        let mut share = Share::new(8 << 20);
        let (mut now, mut free_at) = (start, start);
        let mut flying: std::collections::VecDeque<(Instant, Instant)> = std::collections::VecDeque::new();
        let (mut carried, mut longest) = (0, Duration::ZERO);
        while now < start + 20_000 * MS {
            while flying.is_empty() || flying.len() * frame < share.bytes() {
                free_at = free_at.max(now) + Duration::from_nanos(frame as u64 * 1_000_000_000 / per_second);
                flying.push_back((now, free_at + round_trip));
                if now > start + 10_000 * MS {
                    longest = longest.max(free_at - now);
                }
            }
            let Some((sent, receipted)) = flying.pop_front() else { break };
            now = receipted;
            carried += frame as u64;
            share.receipted(now - sent, Some((now - sent, frame)), now);
        }
        (carried, longest)
    }

    #[test]
    fn c8_the_way_is_used_and_what_is_live_does_not_wait_long() {
        for (per_second, round_trip, frame) in [
            (20_000_000, 5, 30_000),
            (20_000_000, 80, 30_000),
            (2_000_000, 20, 10_000),
            (100_000_000, 1, 500_000),
            (500_000, 40, 4_000),
        ] {
            let (carried, longest) = way(per_second, round_trip * MS, frame);
            assert!(longest < 250 * MS, "{per_second} {round_trip}: {longest:?}");
            let part = carried as f64 / (20.0 * per_second as f64);
            assert!(part > 0.6, "{per_second} {round_trip}: only {part} of it is used");
        }
    }

    #[test]
    fn c8_a_burst_of_late_receipts_halves_once_and_there_is_a_floor() {
        let start = Instant::now();
        let mut share = Share::new(1 << 20);
        share.receipted(5 * MS, None, start);
        assert_eq!(share.bytes(), START_BYTES);
        for _ in 0..10 {
            share.receipted(5 * MS, Some((500 * MS, 1_000)), start);
        }
        assert_eq!(share.bytes(), START_BYTES / 2);
        for step in 1..20 {
            share.receipted(5 * MS, Some((500 * MS, 1_000)), start + step * 500 * MS);
        }
        assert_eq!(share.bytes(), FLOOR_BYTES);
        share.start_over();
        assert_eq!(share.bytes(), START_BYTES);
    }
}
