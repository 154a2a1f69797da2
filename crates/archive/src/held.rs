//! Which sequence numbers of each series and epoch were given out or received.

use wire::Intervals;

/// One series in one epoch.
#[derive(Debug)]
struct State {
    epoch: u64,
    held: Intervals,
    /// Changed since it was last handed to a save.
    dirty: bool,
}

/// Names a state: series, and its place among the epochs of that series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateId {
    pub(crate) series: u32,
    place: u32,
}

/// All states. Owned by the writer thread.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// By series number.
    states: Vec<Vec<State>>,
    dirty: Vec<StateId>,
    /// What the current group added; taking exactly that out again is a rollback, because it was not held before.
    added: Vec<(StateId, u64, u64)>,
}

impl Held {
    /// The state of a series and epoch, made if it is not there.
    pub(crate) fn id(&mut self, series: u32, epoch: u64) -> StateId {
        let index = series as usize;
        if self.states.len() <= index {
            self.states.resize_with(index + 1, Vec::new);
        }
        let epochs = &mut self.states[index];
        let place = epochs.iter().position(|state| state.epoch == epoch).unwrap_or_else(|| {
            epochs.push(State { epoch, held: Intervals::new(), dirty: false });
            epochs.len() - 1
        });
        StateId { series, place: place as u32 }
    }

    pub(crate) fn of(&self, id: StateId) -> &Intervals {
        &self.states[id.series as usize][id.place as usize].held
    }

    pub(crate) fn epoch(&self, id: StateId) -> u64 {
        self.states[id.series as usize][id.place as usize].epoch
    }

    /// Every epoch of a series with what is held of it.
    pub(crate) fn of_series(&self, series: u32) -> impl Iterator<Item = (u64, &Intervals)> {
        self.states
            .get(series as usize)
            .into_iter()
            .flatten()
            .map(|state| (state.epoch, &state.held))
            .filter(|(_, held)| !held.is_empty())
    }

    /// Adds numbers that are not held.
    pub(crate) fn add(&mut self, id: StateId, low: u64, high: u64) {
        self.added.push((id, low, high));
        self.insert(id, low, high);
    }

    /// Adds numbers that may be held in part.
    pub(crate) fn add_missing(&mut self, id: StateId, low: u64, high: u64) {
        if !self.of(id).overlaps(low, high) {
            return self.add(id, low, high);
        }
        for (low, high) in self.of(id).missing(low, high) {
            self.add(id, low, high);
        }
    }

    fn insert(&mut self, id: StateId, low: u64, high: u64) {
        let state = &mut self.states[id.series as usize][id.place as usize];
        state.held.insert(low, high);
        if !state.dirty {
            state.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Sets what a snapshot says; not dirty.
    pub(crate) fn restore(&mut self, series: u32, epoch: u64, held: Intervals) {
        let id = self.id(series, epoch);
        self.states[id.series as usize][id.place as usize].held = held;
    }

    pub(crate) fn begin(&mut self) {
        self.added.clear();
    }

    pub(crate) fn roll_back(&mut self) {
        for (id, low, high) in self.added.drain(..).rev() {
            self.states[id.series as usize][id.place as usize].held.remove(low, high);
        }
    }

    /// What changed since the last call. It must be saved, or put back with [`Held::put_back`].
    pub(crate) fn take_dirty(&mut self) -> Vec<StateId> {
        for id in &self.dirty {
            self.states[id.series as usize][id.place as usize].dirty = false;
        }
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn put_back(&mut self, ids: Vec<StateId>) {
        for id in ids {
            let state = &mut self.states[id.series as usize][id.place as usize];
            if !state.dirty {
                state.dirty = true;
                self.dirty.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_rollback_leaves_what_was_held_before(groups in prop::collection::vec((any::<bool>(), prop::collection::vec((1u64..60, 0u64..12), 1..8)), 1..20)) {
            let mut held = Held::default();
            let mut model = BTreeSet::new();
            for (commits, adds) in groups {
                held.begin();
                let mut next = model.clone();
                for (low, more) in adds {
                    let id = held.id(3, 7);
                    held.add_missing(id, low, low + more);
                    next.extend(low..=low + more);
                }
                if commits { model = next } else { held.roll_back() }
                let id = held.id(3, 7);
                let found: BTreeSet<u64> = held.of(id).as_slice().iter().flat_map(|(low, high)| *low..=*high).collect();
                prop_assert_eq!(&found, &model);
            }
        }
    }
}
