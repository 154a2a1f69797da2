//! What went wrong, counted by name.

use std::collections::BTreeMap;

/// Named counts; bounded in names, so that a broker that says something new each time can't fill the memory.
#[derive(Debug, Default)]
pub(crate) struct Faults(BTreeMap<String, u64>);

impl Faults {
    const NAMES_MAX: usize = 32;

    pub(crate) fn count(&mut self, name: impl Into<String>) {
        self.add(name.into(), 1);
    }

    fn add(&mut self, name: String, count: u64) {
        let room = self.0.len() < Self::NAMES_MAX || self.0.contains_key(&name);
        let name = if room { name } else { "others".to_owned() };
        *self.0.entry(name).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: Faults) {
        for (name, count) in other.0 {
            self.add(name, count);
        }
    }

    pub(crate) fn into_counts(self) -> BTreeMap<String, u64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_no_count_is_lost() {
        let mut faults = Faults::default();
        for number in 0..100 {
            faults.count(format!("fault {number}"));
            faults.count("fault 1");
        }
        let counts = faults.into_counts();
        assert_eq!(counts.len(), Faults::NAMES_MAX + 1);
        assert_eq!(counts["fault 1"], 101);
        assert_eq!(counts.values().sum::<u64>(), 200);
    }
}
