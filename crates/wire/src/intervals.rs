//! Sets of sequence numbers, kept as intervals: what is held, what was received, and so what is missing (C3).

use crate::cbor::{Fault, Strict, put_array, put_uint};

/// A set of numbers as sorted inclusive intervals that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The set of `low..=high`.
    pub fn of(low: u64, high: u64) -> Self {
        let mut set = Self::new();
        set.insert(low, high);
        set
    }

    /// The intervals, in order.
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers the set holds; `u64::MAX` also for the set of all numbers, which holds one more.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |count: u64, (low, high)| count.saturating_add(high - low).saturating_add(1))
    }

    /// The smallest number.
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|interval| interval.0)
    }

    /// The largest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|interval| interval.1)
    }

    /// Index of the first interval that ends at or after `number`.
    fn position(&self, number: u64) -> usize {
        match self.0.last() {
            // Numbers mostly arrive in order, behind everything held.
            Some((_, high)) if *high < number => self.0.len(),
            _ => self.0.partition_point(|(_, high)| *high < number),
        }
    }

    /// Adds `low..=high`. Does nothing if `low > high`.
    pub fn insert(&mut self, low: u64, high: u64) {
        if low > high {
            return;
        }
        let from = self.position(low.saturating_sub(1));
        let mut to = from;
        let (mut new_low, mut new_high) = (low, high);
        while let Some((l, h)) = self.0.get(to).copied().filter(|(l, _)| *l <= high.saturating_add(1)) {
            new_low = new_low.min(l);
            new_high = new_high.max(h);
            to += 1;
        }
        self.0.splice(from..to, [(new_low, new_high)]);
    }

    /// Adds every number of `other`.
    pub fn extend(&mut self, other: &Self) {
        /// Up to here, inserting one by one costs less than building anew; beyond, it could cost the product of both lengths.
        const FEW: usize = 8;
        if other.0.len() > FEW {
            *self = self.0.iter().chain(&other.0).copied().collect();
            return;
        }
        for (low, high) in &other.0 {
            self.insert(*low, *high);
        }
    }

    /// Takes `low..=high` out.
    pub fn remove(&mut self, low: u64, high: u64) {
        if low > high {
            return;
        }
        let from = self.position(low);
        let mut to = from;
        let mut left = Vec::new();
        while let Some((l, h)) = self.0.get(to).copied().filter(|(l, _)| *l <= high) {
            if l < low {
                left.push((l, low - 1));
            }
            if h > high {
                left.push((high + 1, h));
            }
            to += 1;
        }
        self.0.splice(from..to, left);
    }

    /// Whether the set holds `number`.
    pub fn contains(&self, number: u64) -> bool {
        self.covers(number, number)
    }

    /// Whether the set holds all of `low..=high`.
    pub fn covers(&self, low: u64, high: u64) -> bool {
        self.0.get(self.position(low)).is_some_and(|(l, h)| *l <= low && high <= *h)
    }

    /// Whether the set holds any of `low..=high`.
    pub fn overlaps(&self, low: u64, high: u64) -> bool {
        self.0.get(self.position(low)).is_some_and(|(l, _)| *l <= high)
    }

    /// The intervals within `low..=high` that the set does not hold.
    pub fn missing(&self, low: u64, high: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut next = low;
        for (l, h) in &self.0[self.position(low)..] {
            if *l > high || next > high {
                break;
            }
            if *l > next {
                missing.push((next, l - 1));
            }
            match h.checked_add(1) {
                Some(after) => next = after,
                None => return missing,
            }
        }
        if next <= high {
            missing.push((next, high));
        }
        missing
    }

    /// Writes the set: an array of the gaps and lengths, `[low - previous high, high - low, …]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_array(out, 2 * self.0.len() as u64);
        let mut previous = 0;
        for (low, high) in &self.0 {
            put_uint(out, low - previous);
            put_uint(out, high - low);
            previous = *high;
        }
    }

    /// Reads a set.
    ///
    /// # Errors
    /// [`Fault`] unless the intervals are sorted and apart from each other.
    pub fn decode(r: &mut Strict<'_>) -> Result<Self, Fault> {
        const RULE: Fault = Fault::Rule { field: "intervals", rule: "are not sorted and apart" };
        let items = r.array()?;
        if items % 2 != 0 {
            return Err(RULE);
        }
        // What is announced counts only as far as bytes follow: an interval takes at least two.
        let mut set = Self(Vec::with_capacity((items / 2).min(r.rest().len() as u64 / 2) as usize));
        for index in 0..items / 2 {
            let (gap, length) = (r.uint()?, r.uint()?);
            let previous = set.last().unwrap_or(0);
            if index > 0 && gap < 2 {
                return Err(RULE);
            }
            let low = previous.checked_add(gap).ok_or(RULE)?;
            let high = low.checked_add(length).ok_or(RULE)?;
            set.0.push((low, high));
        }
        Ok(set)
    }
}

impl FromIterator<(u64, u64)> for Intervals {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(intervals: I) -> Self {
        // In order, each one is added at the end, whatever order they come in.
        let mut intervals: Vec<_> = intervals.into_iter().collect();
        intervals.sort();
        let mut set = Self::new();
        for (low, high) in intervals {
            set.insert(low, high);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_gaps_are_what_is_not_held() {
        let mut set: Intervals = [(1, 3), (7, 9), (5, 5)].into_iter().collect();
        assert_eq!(set.as_slice(), [(1, 3), (5, 5), (7, 9)]);
        assert_eq!(set.missing(1, 12), [(4, 4), (6, 6), (10, 12)]);
        assert_eq!(set.missing(2, 3), []);
        set.insert(4, 4);
        assert_eq!(set.as_slice(), [(1, 5), (7, 9)]);
        set.remove(3, 7);
        assert_eq!(set.as_slice(), [(1, 2), (8, 9)]);
        assert!(set.overlaps(3, 8) && !set.overlaps(3, 7) && set.covers(8, 9) && !set.covers(2, 3));
        let mut all = Intervals::of(0, u64::MAX);
        assert_eq!(all.missing(0, u64::MAX), []);
        all.insert(5, 6);
        assert_eq!(all.as_slice(), [(0, u64::MAX)]);
    }

    #[test]
    fn a_set_is_read_back_as_it_was_written() {
        for set in [Intervals::new(), Intervals::of(0, 0), [(1, 3), (5, 5), (700, u64::MAX)].into_iter().collect()] {
            let mut out = Vec::new();
            set.encode(&mut out);
            assert_eq!(Intervals::decode(&mut Strict::new(&out)), Ok(set));
        }
        assert!(Intervals::decode(&mut Strict::new(&[0x84, 1, 1, 1, 1])).is_err());
    }
}
