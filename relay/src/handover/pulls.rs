//! Pulls that wait: equal ones are one work (A12).

use std::collections::VecDeque;

use wire::{At, Series};

/// Pulls that differ, at most, and askers of one.
const PULLS_MAX: usize = 256;
const ASKERS_MAX: usize = 256;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) series: Series,
    pub(crate) from: At,
    pub(crate) to: At,
}

/// A queue of pulls. One that is being carried out is no longer in it: what was stored since then would be missing in its answer.
#[derive(Debug, Default)]
pub(crate) struct Pulls(VecDeque<(Range, Vec<u64>)>);

impl Pulls {
    /// Adds a pull of command `id`. `false` if too many wait.
    pub(crate) fn add(&mut self, id: u64, range: Range) -> bool {
        if let Some((_, askers)) = self.0.iter_mut().find(|(other, _)| *other == range) {
            // A command that is said twice has one answer.
            if askers.contains(&id) {
                return true;
            }
            if askers.len() < ASKERS_MAX {
                askers.push(id);
                return true;
            }
            return false;
        }
        if self.0.len() >= PULLS_MAX {
            return false;
        }
        self.0.push_back((range, vec![id]));
        true
    }

    /// The oldest, with the commands that ask for it.
    pub(crate) fn next(&mut self) -> Option<(Range, Vec<u64>)> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: At) -> Range {
        Range { series: "a/b/c".parse().unwrap(), from, to: 100 }
    }

    #[test]
    fn a12_equal_pulls_that_wait_are_one_and_a_running_one_is_not_joined() {
        let mut pulls = Pulls::default();
        assert!(pulls.add(1, range(0)) && pulls.add(2, range(5)) && pulls.add(3, range(0)) && pulls.add(3, range(0)));
        assert_eq!(pulls.next(), Some((range(0), vec![1, 3])));
        assert!(pulls.add(4, range(0)));
        assert_eq!(pulls.next(), Some((range(5), vec![2])));
        assert_eq!(pulls.next(), Some((range(0), vec![4])));
        assert_eq!(pulls.next(), None);
    }

    #[test]
    fn a12_too_many_pulls_are_refused() {
        let mut pulls = Pulls::default();
        assert!((0..PULLS_MAX as i64).all(|from| pulls.add(1, range(from))));
        assert!(!pulls.add(1, range(-1)) && pulls.add(2, range(0)));
        assert!((3..).take(ASKERS_MAX - 2).all(|id| pulls.add(id, range(0))));
        assert!(!pulls.add(9_999, range(0)));
    }
}
