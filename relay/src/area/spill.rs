//! When a segment moves in, and when the storage area is sent to the cloud first (A5, A6): pure, the archive is elsewhere.
//!
//! ```text
//!            a segment is due, free space at or above the threshold: it moves in
//!            +-------+
//!            v       |
//!          Holding --+
//!            |    ^
//!   below it |    | everything sent and receipted: the segment moves in
//!            v    |
//!          Spilling
//! ```
//!
//! Intake goes on meanwhile, into the buffer area. One that grows beyond [`Rules::buffer`] while the cloud takes nothing moves in all the same,
//! as far as the budget goes: open pages cost memory and four times the disk of chunks. Records are refused at the budget and not before.

/// What a spill goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Bytes of the storage area, buffer and chunks.
    pub(crate) budget: u64,
    /// Free bytes of it below which it is sent to the cloud.
    pub(crate) free_min: u64,
    /// The same for the file system.
    pub(crate) disk_free_min: u64,
    /// Records and bytes of the buffer area at which a segment moves in though the storage area was not emptied.
    pub(crate) buffer: (u64, u64),
    /// Bytes that may wait for the cloud's receipt, of all lanes.
    pub(crate) outgoing_budget: u64,
}

/// What is the case now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Whether a segment is due.
    pub(crate) due: bool,
    /// Bytes of chunks, and records and bytes of the buffer area.
    pub(crate) chunks: u64,
    pub(crate) buffer: (u64, u64),
    /// Free bytes of the file system, if it says.
    pub(crate) disk_free: Option<u64>,
    /// Pages of the running spill that have no receipt.
    pub(crate) undelivered: u64,
    /// Bytes that wait for the cloud's receipt, of all lanes.
    pub(crate) outgoing: u64,
    /// Whether the running spill has handed everything over.
    pub(crate) handed_over: bool,
}

/// Where the storage area stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Spill {
    /// Segments move in when they are due.
    #[default]
    Holding,
    /// What was there when it began is on its way to the cloud.
    Spilling,
}

/// What is to be done: none, one or several of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Acts {
    /// A spill begins.
    pub(crate) begin: bool,
    /// Hand over so many pages at most.
    pub(crate) pages: u64,
    /// The segment moves in.
    pub(crate) move_in: bool,
}

/// Pages of a spill that may be without receipt at a time: a window of the uplink. What a pull brings must wait for them.
const AHEAD_PAGES: u64 = 16;
/// A spill leaves this part of the outgoing budget to readings that are forwarded.
const OUTGOING_SHARE: u64 = 2;

impl Rules {
    /// Free bytes of the storage area.
    pub(crate) fn free(&self, view: &View) -> u64 {
        self.budget.saturating_sub(view.chunks.saturating_add(view.buffer.1))
    }

    fn is_short(&self, view: &View) -> bool {
        self.free(view) < self.free_min || view.disk_free.is_some_and(|free| free < self.disk_free_min)
    }

    fn buffer_is_long(&self, view: &View) -> bool {
        view.buffer.0 >= self.buffer.0 || view.buffer.1 >= self.buffer.1
    }

    /// Pages of `page_bytes` that may be handed over now.
    fn pages(&self, view: &View, page_bytes: u64) -> u64 {
        let room = (self.outgoing_budget / OUTGOING_SHARE).saturating_sub(view.outgoing);
        // A page goes if it fits in part: however small the budget is, a spill has an end.
        room.div_ceil(page_bytes.max(1)).min(AHEAD_PAGES.saturating_sub(view.undelivered))
    }
}

impl Spill {
    /// What comes next.
    pub(crate) fn step(self, rules: &Rules, view: &View, page_bytes: u64) -> (Self, Acts) {
        match self {
            Self::Holding if view.due && view.chunks > 0 && rules.is_short(view) => {
                (Self::Spilling, Acts { begin: true, ..Acts::default() })
            }
            Self::Holding => (self, Acts { move_in: view.due, ..Acts::default() }),
            Self::Spilling if view.handed_over && view.undelivered == 0 => {
                (Self::Holding, Acts { move_in: view.due, ..Acts::default() })
            }
            Self::Spilling => {
                let pages = if view.handed_over { 0 } else { rules.pages(view, page_bytes) };
                (self, Acts { pages, move_in: view.due && rules.buffer_is_long(view), ..Acts::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 10;
    const RULES: Rules =
        Rules { budget: 10_000, free_min: 2_000, disk_free_min: 500, buffer: (1_000, 4_000), outgoing_budget: 2_000 };

    fn view() -> View {
        View { due: true, chunks: 0, buffer: (10, 100), disk_free: None, undelivered: 0, outgoing: 0, handed_over: false }
    }

    const WAIT: Acts = Acts { begin: false, pages: 0, move_in: false };
    const MOVE_IN: Acts = Acts { move_in: true, ..WAIT };
    const BEGIN: Acts = Acts { begin: true, ..WAIT };

    fn step(spill: Spill, view: View) -> (Spill, Acts) {
        spill.step(&RULES, &view, PAGE)
    }

    #[test]
    fn a5_at_or_above_the_threshold_a_segment_moves_in() {
        assert_eq!(step(Spill::Holding, View { chunks: 7_900, ..view() }), (Spill::Holding, MOVE_IN));
        assert_eq!(step(Spill::Holding, View { due: false, chunks: 9_999, ..view() }), (Spill::Holding, WAIT));
        let roomy = View { chunks: 1, disk_free: Some(500), ..view() };
        assert_eq!(step(Spill::Holding, roomy), (Spill::Holding, MOVE_IN));
        // There is nothing that a spill could free.
        assert_eq!(step(Spill::Holding, View { buffer: (10, 9_000), ..view() }), (Spill::Holding, MOVE_IN));
    }

    #[test]
    fn a6_below_the_threshold_everything_goes_first_and_then_the_segment_moves_in() {
        assert_eq!(step(Spill::Holding, View { chunks: 7_901, ..view() }), (Spill::Spilling, BEGIN));
        assert_eq!(step(Spill::Holding, View { chunks: 1, disk_free: Some(499), ..view() }), (Spill::Spilling, BEGIN));
        let sent = View { chunks: 0, handed_over: true, undelivered: 1, ..view() };
        assert_eq!(step(Spill::Spilling, sent), (Spill::Spilling, WAIT));
        assert_eq!(step(Spill::Spilling, View { undelivered: 0, ..sent }), (Spill::Holding, MOVE_IN));
        assert_eq!(step(Spill::Spilling, View { undelivered: 0, due: false, ..sent }), (Spill::Holding, WAIT));
    }

    #[test]
    fn a6_a_spill_goes_in_pieces_and_leaves_half_of_the_outgoing_budget() {
        let pages = |outgoing, undelivered| {
            let (next, acts) = step(Spill::Spilling, View { chunks: 9_000, outgoing, undelivered, ..view() });
            assert_eq!((next, Acts { pages: 0, ..acts }), (Spill::Spilling, WAIT));
            acts.pages
        };
        assert_eq!(pages(0, 0), AHEAD_PAGES);
        assert_eq!(pages(0, AHEAD_PAGES - 3), 3);
        assert_eq!(pages(500, AHEAD_PAGES), 0);
        assert_eq!(pages(960, 5), 4);
        assert_eq!(pages(991, 0), 1);
        assert_eq!(pages(1_000, 0), 0);
        assert_eq!(pages(2_000, 0), 0);
        let tiny = Rules { outgoing_budget: 4, ..RULES };
        let empty = View { chunks: 9_000, ..view() };
        assert_eq!(Spill::Spilling.step(&tiny, &empty, PAGE).1, Acts { pages: 1, ..WAIT });
        assert_eq!(Spill::Spilling.step(&tiny, &View { outgoing: 2, ..empty }, PAGE).1, WAIT);
    }

    #[test]
    fn a6_a_buffer_that_grows_while_the_cloud_is_away_moves_in_and_the_spill_goes_on() {
        let stuck = View { chunks: 8_000, undelivered: AHEAD_PAGES, ..view() };
        assert_eq!(step(Spill::Spilling, stuck), (Spill::Spilling, WAIT));
        assert_eq!(step(Spill::Spilling, View { buffer: (1_000, 100), ..stuck }), (Spill::Spilling, MOVE_IN));
        assert_eq!(step(Spill::Spilling, View { buffer: (10, 4_000), ..stuck }), (Spill::Spilling, MOVE_IN));
        // Neither holds up the other.
        let both = step(Spill::Spilling, View { buffer: (10, 4_000), undelivered: 0, ..stuck });
        assert_eq!(both, (Spill::Spilling, Acts { pages: AHEAD_PAGES, ..MOVE_IN }));
    }

    /// A storage area with a sensor that stores, others that forward, and a cloud that takes some pages now and then or is away.
    #[test]
    fn a6_ten_thousand_steps_neither_stop_nor_take_what_is_forwarded_its_room() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut spill, mut spills, mut ends, mut refused) = (Spill::default(), 0, 0, 0);
        let (mut chunks, mut old, mut buffer, mut pages, mut live) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
        for step in 0..10_000_u64 {
            let away = (step / 500) % 4 == 3;
            match random(40) {
                more if chunks + buffer + more <= RULES.budget => buffer += more,
                _ => refused += 1,
            }
            match random(8) {
                more if live + pages * PAGE + more <= RULES.outgoing_budget => live += more,
                _ => assert!(live > RULES.outgoing_budget / 2, "a spill has taken the room of what is forwarded"),
            }
            if !away {
                live = live.saturating_sub(random(60));
                pages = pages.saturating_sub(random(6));
            }
            let view = View {
                due: buffer > 200,
                chunks,
                buffer: (buffer / 10, buffer),
                disk_free: None,
                undelivered: pages,
                outgoing: live + pages * PAGE,
                handed_over: spill == Spill::Spilling && old == 0,
            };
            let before = spill;
            let acts;
            (spill, acts) = spill.step(&RULES, &view, PAGE);
            if acts.begin {
                spills += 1;
                old = chunks;
            }
            if acts.pages > 0 {
                let moved = old.min(acts.pages * PAGE / 5);
                (old, chunks) = (old - moved, chunks - moved);
                pages += acts.pages;
                assert!(pages <= AHEAD_PAGES);
                assert!(live + pages * PAGE <= RULES.outgoing_budget / OUTGOING_SHARE + PAGE);
            }
            if acts.move_in {
                chunks += buffer / 4;
                buffer = 0;
            }
            if before == Spill::Spilling && spill == Spill::Holding {
                ends += 1;
                assert_eq!((old, pages), (0, 0));
            }
        }
        assert!(spills > 3 && ends >= spills - 1, "{spills} began, {ends} ended, {refused} refused");
    }
}
