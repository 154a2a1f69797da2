//! How fast frames go up after the cloud refused some, as a pure state machine.
//!
//! Two kinds of refusals. *Not now* (full, stopping, out of order): everything pauses, longer each time, and then one frame at a time is
//! tried until a receipt comes. *Not this* (not a valid frame, not authorised, too large): the page is put aside, so that the others
//! go on; it is kept, counted and tried again, less and less often. Nothing is given up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use link::PublishError;
use wire::Intervals;

use crate::traffic::Traffic;

/// First and longest pause after a refusal.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A page that is put aside is tried again after this time, which doubles up to the longest.
const ASIDE_MAX: Duration = Duration::from_secs(3_600);

/// Whether sending this page again can only help if something changes at the cloud: the frame itself was refused, not the moment.
pub(crate) fn is_for_good(error: &PublishError) -> bool {
    match error {
        // Not authorised, topic name invalid, packet too large, payload format invalid.
        PublishError::Refused { reason_code } => matches!(reason_code, 0x87 | 0x90 | 0x95 | 0x99),
        PublishError::TooLarge { .. } | PublishError::Invalid(_) => true,
        PublishError::Lost | PublishError::Closed => false,
    }
}

/// Pauses after refusals.
#[derive(Debug)]
pub(crate) struct Pace {
    next: Duration,
    until: Option<Instant>,
    probing: bool,
}

impl Pace {
    /// Full speed.
    pub(crate) fn new() -> Self {
        Self { next: PAUSE_MIN, until: None, probing: false }
    }

    /// Something was refused: pause, and then go on with one frame at a time. Refusals during a pause are answers to what was sent before
    /// it and don't prolong it.
    pub(crate) fn slow(&mut self, now: Instant) -> Instant {
        if let Some(until) = self.paused_until(now) {
            return until;
        }
        let until = now + self.next;
        self.next = (self.next * 2).min(PAUSE_MAX);
        self.until = Some(until);
        self.probing = true;
        until
    }

    /// A receipt came: full speed. Says whether it was slow before.
    pub(crate) fn receipted(&mut self) -> bool {
        let was_slow = self.probing;
        *self = Self::new();
        was_slow
    }

    /// The end of the pause, while there is one.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Whether only one frame may be on its way.
    pub(crate) fn is_probing(&self) -> bool {
        self.probing
    }
}

/// A page that was refused.
#[derive(Debug)]
struct Put {
    traffic: Traffic,
    /// When it is to be tried again; `None` while it is on its way.
    due: Option<Instant>,
    /// How long it then waits if it is refused for good again; `None` if it never was.
    next: Option<Duration>,
    /// It goes without announcements: it was refused for good.
    alone: bool,
}

/// Pages that were refused, until their receipts.
#[derive(Debug)]
pub(crate) struct Aside {
    first_wait: Duration,
    pages: BTreeMap<u64, Put>,
}

impl Aside {
    /// None yet. A page that is refused for good is tried again after `first_wait`.
    pub(crate) fn new(first_wait: Duration) -> Self {
        Self { first_wait, pages: BTreeMap::new() }
    }

    fn entry(&mut self, number: u64, traffic: Traffic) -> &mut Put {
        self.pages.entry(number).or_insert(Put { traffic, due: None, next: None, alone: false })
    }

    /// Refused for now: to be tried again at `due`.
    pub(crate) fn put_off(&mut self, number: u64, traffic: Traffic, due: Instant) {
        self.entry(number, traffic).due = Some(due);
    }

    /// Refused for good, with announcements: they may be the reason, so it is tried without them.
    pub(crate) fn put_alone(&mut self, number: u64, traffic: Traffic, now: Instant) {
        let put = self.entry(number, traffic);
        put.due = Some(now);
        put.alone = true;
    }

    /// Refused for good. Says whether that is new.
    pub(crate) fn put_aside(&mut self, number: u64, traffic: Traffic, now: Instant) -> bool {
        let first_wait = self.first_wait;
        let put = self.entry(number, traffic);
        let wait = put.next.unwrap_or(first_wait);
        put.due = Some(now + wait);
        // What is told beside it should not share its fate.
        put.alone = true;
        put.next.replace((wait * 2).min(ASIDE_MAX)).is_none()
    }

    /// Whether this page was refused, and whether it goes without announcements.
    pub(crate) fn goes_alone(&self, number: u64) -> bool {
        self.pages.get(&number).is_some_and(|put| put.alone)
    }

    /// It is on its way again.
    pub(crate) fn sent(&mut self, number: u64) {
        if let Some(put) = self.pages.get_mut(&number) {
            put.due = None;
        }
    }

    /// The first page of the kinds that have room that is to be tried again by now.
    pub(crate) fn due(&self, now: Instant, has_room: impl Fn(Traffic) -> bool) -> Option<(u64, Traffic)> {
        let is_due = |put: &Put| put.due.is_some_and(|due| due <= now) && has_room(put.traffic);
        self.pages.iter().find(|(_, put)| is_due(put)).map(|(number, put)| (*number, put.traffic))
    }

    /// When the next one of the kinds that have room is due.
    pub(crate) fn next_due(&self, has_room: impl Fn(Traffic) -> bool) -> Option<Instant> {
        self.pages.values().filter(|put| has_room(put.traffic)).filter_map(|put| put.due).min()
    }

    /// The cloud takes frames again, so it may take these.
    pub(crate) fn release(&mut self, now: Instant) {
        for due in self.pages.values_mut().filter_map(|put| put.due.as_mut()) {
            *due = now.min(*due);
        }
    }

    /// The cloud holds these, or they are gone.
    pub(crate) fn remove(&mut self, numbers: &Intervals) {
        if !self.pages.is_empty() {
            self.pages.retain(|number, _| !numbers.contains(*number));
        }
    }

    /// Whether this page was refused and has no receipt.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.pages.contains_key(&number)
    }

    /// Pages that were refused for good.
    pub(crate) fn len(&self) -> usize {
        self.pages.values().filter(|put| put.next.is_some()).count()
    }

    /// Another connection: everything is sent from the start.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn any(_: Traffic) -> bool {
        true
    }

    #[test]
    fn pauses_double_and_a_burst_of_refusals_is_one() {
        let mut now = Instant::now();
        let mut pace = Pace::new();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let until = pace.slow(now);
            assert_eq!(pace.slow(now + PAUSE_MIN / 2), until, "within the pause");
            assert!(pace.paused_until(now).is_some() && pace.is_probing());
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(pace.paused_until(now), None);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert!(pace.receipted() && !pace.is_probing() && !pace.receipted());
        assert_eq!(pace.slow(now), now + PAUSE_MIN);
    }

    #[test]
    fn a_page_refused_for_good_is_tried_less_and_less_often_and_leaves_by_its_receipt() {
        let mut now = Instant::now();
        let mut aside = Aside::new(60 * SECOND);
        assert!(aside.put_aside(7, Traffic::Live, now));
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let due = now + minutes * 60 * SECOND;
            assert_eq!((aside.next_due(any), aside.due(due - SECOND, any)), (Some(due), None));
            assert_eq!(aside.due(due, any), Some((7, Traffic::Live)));
            aside.sent(7);
            assert_eq!((aside.next_due(any), aside.due(due, any), aside.len()), (None, None, 1), "while it is on its way");
            now = due;
            assert!(!aside.put_aside(7, Traffic::Live, now));
        }
        aside.release(now);
        assert_eq!(aside.due(now, any), Some((7, Traffic::Live)));
        aside.remove(&Intervals::of(7, 7));
        assert_eq!((aside.next_due(any), aside.len(), aside.holds(7)), (None, 0, false));
    }

    #[test]
    fn a_page_put_off_is_not_counted_as_put_aside() {
        let now = Instant::now();
        let mut aside = Aside::new(60 * SECOND);
        aside.put_off(3, Traffic::Backlog, now + SECOND);
        aside.put_alone(4, Traffic::Live, now);
        assert_eq!(
            (aside.len(), aside.due(now, any), aside.due(now + SECOND, |traffic| traffic == Traffic::Backlog)),
            (0, Some((4, Traffic::Live)), Some((3, Traffic::Backlog)))
        );
        assert!(aside.goes_alone(4) && !aside.goes_alone(3));
    }

    #[test]
    fn only_what_the_frame_itself_is_refused_for_is_for_good() {
        let code = |reason_code| is_for_good(&PublishError::Refused { reason_code });
        assert!([0x87, 0x90, 0x95, 0x99].into_iter().all(code));
        assert!(![0x80, 0x83, 0x88, 0x97].into_iter().any(code));
        assert!(is_for_good(&PublishError::TooLarge { bytes: 2, max: 1 }) && !is_for_good(&PublishError::Lost));
    }
}
