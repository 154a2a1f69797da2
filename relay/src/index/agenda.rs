//! What of the index is to be said next: pure.

use archive::IndexChange;
use wire::Intervals;
use wire::index::Stretch;

/// Changes kept apart at most; with more, sums are cheaper.
const CHANGES_MAX: usize = 4_096;

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Sums of everything.
    Sums,
    /// The entries of this stretch, as far as they fit a page.
    Page(Stretch),
}

/// What the cloud may not know yet.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    sums: bool,
    changed: Intervals,
}

impl Agenda {
    /// There is a new connection: whatever was said may be lost, and the cloud may be another. Sums find out.
    pub(crate) fn start_over(&mut self) {
        self.sums = true;
        self.changed = Intervals::new();
    }

    /// Entries came or went.
    pub(crate) fn change(&mut self, change: &IndexChange) {
        match change {
            IndexChange::Numbers(numbers) => self.state(numbers),
            IndexChange::Anything => self.start_over(),
        }
    }

    /// These are to be stated.
    pub(crate) fn state(&mut self, numbers: &Intervals) {
        self.changed.extend(numbers);
        if self.changed.as_slice().len() > CHANGES_MAX {
            self.start_over();
        }
    }

    /// What comes next. It counts as said up to what [`Agenda::covered`] is told, before it is sent: what changes while it is on
    /// its way is said again.
    pub(crate) fn next(&mut self) -> Option<Next> {
        if std::mem::take(&mut self.sums) {
            return Some(Next::Sums);
        }
        let (low, high) = *self.changed.as_slice().first()?;
        Some(Next::Page(Stretch { after: low.saturating_sub(1), through: high }))
    }

    /// A page was made that covers this stretch.
    pub(crate) fn covered(&mut self, stretch: Stretch) {
        self.changed.remove(stretch.after + 1, stretch.through);
    }

    /// Something did not arrive.
    pub(crate) fn put_back(&mut self, what: Next) {
        match what {
            Next::Sums => self.sums = true,
            Next::Page(stretch) => self.state(&Intervals::of(stretch.after + 1, stretch.through)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(numbers: &[(u64, u64)]) -> IndexChange {
        IndexChange::Numbers(numbers.iter().copied().collect())
    }

    fn page(after: u64, through: u64) -> Option<Next> {
        Some(Next::Page(Stretch { after, through }))
    }

    #[test]
    fn a5_a_connection_begins_with_sums_and_changes_follow_as_they_come() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.next(), None);
        agenda.change(&numbers(&[(1, 4)]));
        agenda.start_over();
        agenda.change(&numbers(&[(5, 9), (12, 12)]));
        assert_eq!(agenda.next(), Some(Next::Sums));
        assert_eq!(agenda.next(), page(4, 9));
        // The page had room for a part.
        agenda.covered(Stretch { after: 4, through: 7 });
        assert_eq!(agenda.next(), page(7, 9));
        agenda.covered(Stretch { after: 7, through: 9 });
        assert_eq!(agenda.next(), page(11, 12));
        agenda.covered(Stretch { after: 11, through: 12 });
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn a5_what_did_not_arrive_is_said_again_and_so_is_what_changed_meanwhile() {
        let mut agenda = Agenda::default();
        agenda.change(&numbers(&[(1, 4)]));
        assert_eq!(agenda.next(), page(0, 4));
        agenda.covered(Stretch { after: 0, through: 4 });
        agenda.change(&numbers(&[(2, 2)]));
        assert_eq!(agenda.next(), page(1, 2));
        agenda.put_back(Next::Page(Stretch { after: 0, through: 4 }));
        assert_eq!(agenda.next(), page(0, 4));
        agenda.covered(Stretch { after: 0, through: 4 });
        agenda.put_back(Next::Sums);
        assert_eq!((agenda.next(), agenda.next()), (Some(Next::Sums), None));
    }

    #[test]
    fn a5_more_changes_than_are_kept_apart_become_sums() {
        let mut agenda = Agenda::default();
        for number in 0..=CHANGES_MAX as u64 {
            agenda.change(&numbers(&[(number * 2 + 1, number * 2 + 1)]));
        }
        assert_eq!((agenda.next(), agenda.next()), (Some(Next::Sums), None));
        agenda.change(&IndexChange::Anything);
        assert_eq!(agenda.next(), Some(Next::Sums));
    }
}
