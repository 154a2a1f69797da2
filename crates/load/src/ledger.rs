//! What a subscriber got of one publisher's numbered messages: missing, twice, out of order.

use std::collections::BTreeMap;

/// The ledger of one publisher at one subscriber. Numbers start at 0.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: u64,
    /// Holes below `next`, by first number: last number, inclusive.
    holes: BTreeMap<u64, u64>,
    given_up: u64,
    duplicate: u64,
    reordered: u64,
}

impl Ledger {
    /// Holes beyond this are given up for lost, oldest first.
    const HOLES_MAX: usize = 65_536;

    pub(crate) fn got(&mut self, number: u64) {
        if number == self.next {
            self.next += 1;
            return;
        }
        if number > self.next {
            self.holes.insert(self.next, number - 1);
            self.next = number + 1;
            if self.holes.len() > Self::HOLES_MAX
                && let Some((first, last)) = self.holes.pop_first()
            {
                self.given_up += last - first + 1;
            }
            return;
        }
        match self.holes.range(..=number).next_back() {
            Some((&first, &last)) if last >= number => {
                self.holes.remove(&first);
                if first < number {
                    self.holes.insert(first, number - 1);
                }
                if number < last {
                    self.holes.insert(number + 1, last);
                }
                self.reordered += 1;
            }
            _ => self.duplicate += 1,
        }
    }

    /// How many of the first `sent` never came.
    pub(crate) fn lost(&self, sent: u64) -> u64 {
        let holes: u64 = self.holes.iter().map(|(first, last)| last - first + 1).sum();
        holes + self.given_up + sent.saturating_sub(self.next)
    }

    /// How many came more than once.
    pub(crate) fn duplicate(&self) -> u64 {
        self.duplicate
    }

    /// How many came after one with a higher number.
    pub(crate) fn reordered(&self) -> u64 {
        self.reordered
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in proptest::collection::vec(0u64..60, 0..150)) {
            let mut ledger = Ledger::default();
            let mut seen = BTreeSet::new();
            let (mut duplicate, mut reordered) = (0, 0);
            for number in numbers {
                ledger.got(number);
                let late = seen.last().is_some_and(|last| number < *last);
                if !seen.insert(number) {
                    duplicate += 1;
                } else if late {
                    reordered += 1;
                }
            }
            prop_assert_eq!(ledger.lost(60), 60 - seen.len() as u64);
            prop_assert_eq!(ledger.duplicate(), duplicate);
            prop_assert_eq!(ledger.reordered(), reordered);
        }
    }

    #[test]
    fn too_many_holes_are_counted_as_lost() {
        let mut ledger = Ledger::default();
        let holes = Ledger::HOLES_MAX as u64 + 10;
        for number in 0..holes {
            ledger.got(number * 2 + 1);
        }
        assert_eq!(ledger.holes.len(), Ledger::HOLES_MAX);
        assert_eq!(ledger.lost(holes * 2), holes);
    }
}
