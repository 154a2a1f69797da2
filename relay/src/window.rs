//! Which frames are on their way to the cloud and not receipted yet: the end-to-end window, as a pure state machine.
//!
//! The window belongs to relay and cloud alone. A PUBACK of whatever stands between them says nothing about custody, so a frame
//! leaves the window by a receipt, or it is sent again: after a timeout, or all of them when the connection is lost. And a receipt
//! only counts for a frame that is in the window: what was not sent can't have arrived.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::Intervals;

use crate::share::Share;
use crate::traffic::Traffic;

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
    traffic: Traffic,
    bytes: usize,
    sent: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    frames: usize,
    bytes: usize,
}

impl Load {
    fn has_room(self, frames_max: usize, bytes_max: usize) -> bool {
        self.frames == 0 || (self.frames < frames_max && self.bytes < bytes_max)
    }

    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.frames -= 1;
        self.bytes -= bytes;
    }
}

/// Frames that were sent and not receipted.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    flights: BTreeMap<u64, Flight>,
    all: Load,
    old: Load,
    share: Share,
}

impl Window {
    /// An empty window.
    pub fn new(limits: Limits) -> Self {
        let share = Share::new(limits.bytes_max / 2);
        Self { limits, flights: BTreeMap::new(), all: Load::default(), old: Load::default(), share }
    }

    /// Whether another frame of this kind may be sent. What is old gets at most half of the window, and no more than what keeps live
    /// frames from waiting long behind it (C8).
    pub fn has_room(&self, traffic: Traffic) -> bool {
        let Limits { frames_max, bytes_max, .. } = self.limits;
        self.all.has_room(frames_max, bytes_max) && (!traffic.is_old() || self.old.has_room(frames_max / 2, self.share.bytes()))
    }

    /// Bytes of old frames that may be on their way.
    pub fn share(&self) -> usize {
        self.share.bytes()
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
    pub fn sent(&mut self, number: u64, traffic: Traffic, bytes: usize, now: Instant) {
        self.remove(number);
        self.flights.insert(number, Flight { traffic, bytes, sent: now });
        self.all.add(bytes);
        if traffic.is_old() {
            self.old.add(bytes);
        }
    }

    /// The cloud says that it holds these frames. Gives those that were on their way; the others are none of its business, or were
    /// receipted before.
    pub fn receipted(&mut self, numbers: &Intervals, now: Instant) -> Intervals {
        let mut receipted = Intervals::new();
        let mut quickest: Option<Duration> = None;
        let mut old: Option<(Duration, usize)> = None;
        for (low, high) in numbers.as_slice() {
            while let Some((&number, &flight)) = self.flights.range(low..=high).next() {
                self.remove(number);
                receipted.insert(number, number);
                let took = now.saturating_duration_since(flight.sent);
                quickest = Some(quickest.map_or(took, |known| known.min(took)));
                if flight.traffic.is_old() {
                    let (slowest, bytes) = old.unwrap_or_default();
                    old = Some((slowest.max(took), bytes + flight.bytes));
                }
            }
        }
        if let Some(quickest) = quickest {
            self.share.receipted(quickest, old, now);
        }
        receipted
    }

    /// A frame must be sent again, though it is not overdue: it was refused. Gives its kind if it was on its way.
    pub fn remove(&mut self, number: u64) -> Option<Traffic> {
        let flight = self.flights.remove(&number)?;
        self.all.remove(flight.bytes);
        if flight.traffic.is_old() {
            self.old.remove(flight.bytes);
        }
        Some(flight.traffic)
    }

    /// The connection is gone: whatever was on its way may be lost.
    pub fn clear(&mut self) {
        self.flights.clear();
        self.all = Load::default();
        self.old = Load::default();
        self.share.start_over();
    }

    /// The first frame whose receipt is overdue.
    pub fn overdue(&self, now: Instant) -> Option<(u64, Traffic)> {
        let late = |flight: &Flight| now.saturating_duration_since(flight.sent) >= self.limits.receipt_timeout;
        self.flights.iter().find(|(_, flight)| late(flight)).map(|(number, flight)| (*number, flight.traffic))
    }

    /// When the next frame will be overdue.
    pub fn next_overdue(&self) -> Option<Instant> {
        self.flights.values().map(|flight| flight.sent).min().map(|sent| sent + self.limits.receipt_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(frames_max: usize) -> (Window, Instant) {
        (Window::new(Limits { frames_max, bytes_max: 100, receipt_timeout: Duration::from_secs(5) }), Instant::now())
    }

    #[test]
    fn a_frame_leaves_only_by_a_receipt_and_a_receipt_counts_only_for_what_was_sent() {
        let (mut window, now) = window(3);
        for number in [4, 5, 9] {
            assert!(window.has_room(Traffic::Live));
            window.sent(number, Traffic::Live, 10, now);
        }
        assert!(!window.has_room(Traffic::Live));
        assert_eq!(window.receipted(&[(1, 4), (6, 8)].into_iter().collect(), now), Intervals::of(4, 4));
        assert!(window.has_room(Traffic::Live) && !window.holds(4) && window.holds(5) && window.holds(9));
        assert_eq!(window.receipted(&Intervals::of(0, u64::MAX), now), [(5, 5), (9, 9)].into_iter().collect());
        assert_eq!(window.receipted(&Intervals::of(0, u64::MAX), now), Intervals::new());
        assert_eq!((window.len(), window.all.bytes), (0, 0));
    }

    #[test]
    fn bytes_count_once_however_often_a_frame_is_sent() {
        let (mut window, now) = window(3);
        window.sent(1, Traffic::Live, 60, now);
        window.sent(1, Traffic::Live, 60, now);
        assert!(window.has_room(Traffic::Live));
        window.sent(2, Traffic::Backlog, 60, now);
        assert!(!window.has_room(Traffic::Live));
        assert_eq!((window.remove(1), window.remove(1)), (Some(Traffic::Live), None));
        assert_eq!((window.all.bytes, window.old.bytes), (60, 60));
        window.clear();
        window.sent(3, Traffic::Live, 1_000, now);
        assert!(!window.has_room(Traffic::Live), "a frame larger than the window goes alone");
    }

    #[test]
    fn c8_the_backlog_leaves_half_of_the_window_to_the_live_lane() {
        let (mut window, now) = window(8);
        for number in 1..=4 {
            assert!(window.has_room(Traffic::Backlog));
            window.sent(number, Traffic::Backlog, 1, now);
        }
        assert!(!window.has_room(Traffic::Backlog) && window.has_room(Traffic::Live));
        window.clear();
        window.sent(1, Traffic::Backlog, 50, now);
        assert!(!window.has_room(Traffic::Backlog) && window.has_room(Traffic::Live));
        window.sent(2, Traffic::Live, 1, now);
        assert_eq!(window.receipted(&Intervals::of(1, 1), now).count(), 1);
        assert!(window.has_room(Traffic::Backlog));
    }

    #[test]
    fn frames_without_a_receipt_are_overdue_after_the_timeout() {
        let (mut window, now) = window(3);
        let second = Duration::from_secs(1);
        window.sent(2, Traffic::Backlog, 1, now);
        window.sent(1, Traffic::Live, 1, now + 2 * second);
        assert_eq!(window.next_overdue(), Some(now + 5 * second));
        assert_eq!(window.overdue(now + 4 * second), None);
        assert_eq!(window.overdue(now + 5 * second), Some((2, Traffic::Backlog)));
        window.sent(2, Traffic::Backlog, 1, now + 5 * second);
        assert_eq!(window.overdue(now + 9 * second), Some((1, Traffic::Live)));
    }
}
