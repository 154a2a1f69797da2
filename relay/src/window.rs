//! Which frames are on their way to the cloud and not receipted yet: the end-to-end window, as a pure state machine.
//!
//! The window belongs to relay and cloud alone. A PUBACK of whatever stands between them says nothing about custody, so a frame
//! leaves the window by a receipt, or it is sent again: after a timeout, or all of them when the connection is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use archive::Lane;
use wire::Intervals;

/// Limits of the window.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most frames on their way.
    pub frames_max: usize,
    /// Most bytes on their way; one frame may always go.
    pub bytes_max: usize,
    /// How long a receipt may take before the frame is sent again.
    pub receipt_timeout: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    lane: Lane,
    bytes: usize,
    sent: Instant,
}

/// Frames that were sent and not receipted.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    flights: BTreeMap<u64, Flight>,
    bytes: usize,
}

impl Window {
    /// An empty window.
    pub fn new(limits: Limits) -> Self {
        Self { limits, flights: BTreeMap::new(), bytes: 0 }
    }

    /// Whether another frame may be sent.
    pub fn has_room(&self) -> bool {
        self.flights.is_empty() || (self.flights.len() < self.limits.frames_max && self.bytes < self.limits.bytes_max)
    }

    /// Frames on their way.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether this frame is on its way.
    pub fn holds(&self, number: u64) -> bool {
        self.flights.contains_key(&number)
    }

    /// A frame was sent, for the first time or again.
    pub fn sent(&mut self, number: u64, lane: Lane, bytes: usize, now: Instant) {
        self.bytes += bytes;
        if let Some(before) = self.flights.insert(number, Flight { lane, bytes, sent: now }) {
            self.bytes -= before.bytes;
        }
    }

    /// The cloud holds these frames. Numbers that are not on their way are ignored: a receipt may come twice.
    pub fn receipted(&mut self, numbers: &Intervals) {
        for (low, high) in numbers.as_slice() {
            while let Some((&number, _)) = self.flights.range(low..=high).next() {
                self.remove(number);
            }
        }
    }

    /// A frame must be sent again, though it is not overdue: it was refused, or its connection is gone.
    pub fn remove(&mut self, number: u64) {
        if let Some(flight) = self.flights.remove(&number) {
            self.bytes -= flight.bytes;
        }
    }

    /// The connection is gone: whatever was on its way may be lost.
    pub fn clear(&mut self) {
        self.flights.clear();
        self.bytes = 0;
    }

    /// Frames whose receipt is overdue, oldest number first.
    pub fn overdue(&self, now: Instant) -> Vec<(u64, Lane)> {
        let late = |flight: &Flight| now.saturating_duration_since(flight.sent) >= self.limits.receipt_timeout;
        self.flights.iter().filter(|(_, flight)| late(flight)).map(|(number, flight)| (*number, flight.lane)).collect()
    }

    /// When the next frame will be overdue.
    pub fn next_overdue(&self) -> Option<Instant> {
        self.flights.values().map(|flight| flight.sent).min().map(|sent| sent + self.limits.receipt_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> (Window, Instant) {
        let limits = Limits { frames_max: 3, bytes_max: 100, receipt_timeout: Duration::from_secs(5) };
        (Window::new(limits), Instant::now())
    }

    #[test]
    fn a_frame_leaves_only_by_a_receipt() {
        let (mut window, now) = window();
        for number in [4, 5, 9] {
            assert!(window.has_room());
            window.sent(number, Lane::Live, 10, now);
        }
        assert!(!window.has_room());
        window.receipted(&[(1, 4), (6, 8)].into_iter().collect());
        assert!(window.has_room() && !window.holds(4) && window.holds(5) && window.holds(9));
        window.receipted(&Intervals::of(0, u64::MAX));
        assert_eq!((window.len(), window.bytes), (0, 0));
    }

    #[test]
    fn bytes_count_once_however_often_a_frame_is_sent() {
        let (mut window, now) = window();
        window.sent(1, Lane::Live, 60, now);
        window.sent(1, Lane::Live, 60, now);
        assert!(window.has_room());
        window.sent(2, Lane::Backlog, 60, now);
        assert!(!window.has_room());
        window.remove(1);
        window.remove(1);
        assert_eq!(window.bytes, 60);
        window.clear();
        window.sent(3, Lane::Live, 1_000, now);
        assert!(!window.has_room(), "a frame larger than the window goes alone");
    }

    #[test]
    fn frames_without_a_receipt_are_overdue_after_the_timeout() {
        let (mut window, now) = window();
        window.sent(2, Lane::Backlog, 1, now);
        window.sent(1, Lane::Live, 1, now + Duration::from_secs(2));
        assert_eq!(window.next_overdue(), Some(now + Duration::from_secs(5)));
        assert!(window.overdue(now + Duration::from_secs(4)).is_empty());
        assert_eq!(window.overdue(now + Duration::from_secs(5)), [(2, Lane::Backlog)]);
        assert_eq!(window.overdue(now + Duration::from_secs(9)), [(1, Lane::Live), (2, Lane::Backlog)]);
    }
}
