//! Which of the records on their way to live subscribers are late: a backlog, or a hand-over.
//!
//! The frame says so, but the archive shows new runs page by page, with those of several frames together. So each run of a historical frame is
//! remembered from before its append until after its commit.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use wire::{Epoch, RunView, Series, UpFrame};

type Place = (Series, Epoch);
type Ranges = FxHashMap<Place, Vec<(u64, u64)>>;

/// Sequence numbers of late records between append and live delivery, by series and epoch. Clones share the list.
#[derive(Clone, Default)]
pub(crate) struct Late(Arc<Mutex<Ranges>>);

/// The late runs of one frame.
pub(crate) struct LateRuns(Vec<(Place, (u64, u64))>);

impl Late {
    /// Remembers the runs of a frame, if it is historical.
    pub(crate) fn remember(&self, frame: &UpFrame<'_>) -> Option<LateRuns> {
        if !frame.historical {
            return None;
        }
        let mut list = self.0.lock();
        let remember = |run: RunView<'_>| {
            // A run's series was validated when the frame was parsed.
            let place = (run.series().parse().ok()?, run.epoch());
            let range = (run.first_seq(), run.last_seq());
            list.entry(place.clone()).or_default().push(range);
            Some((place, range))
        };
        Some(LateRuns(frame.runs().filter_map(remember).collect()))
    }

    /// Forgets them.
    pub(crate) fn forget(&self, runs: &LateRuns) {
        let mut list = self.0.lock();
        for (place, range) in &runs.0 {
            let Some(ranges) = list.get_mut(place) else { continue };
            if let Some(index) = ranges.iter().position(|other| other == range) {
                ranges.swap_remove(index);
            }
            if ranges.is_empty() {
                list.remove(place);
            }
        }
    }

    /// Whether a new run is late: it is one of those remembered, or a part of one.
    pub(crate) fn holds(&self, run: &RunView<'_>) -> bool {
        let list = self.0.lock();
        if list.is_empty() {
            return false;
        }
        let Ok(series) = run.series().parse() else { return false };
        let seq = run.first_seq();
        list.get(&(series, run.epoch())).is_some_and(|ranges| ranges.iter().any(|(low, high)| (*low..=*high).contains(&seq)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Operation, RunBuilder};

    fn run(first_seq: u64, count: u64) -> Vec<u8> {
        let mut builder = RunBuilder::new("a/b/c".parse().unwrap(), Operation::Store);
        (0..count).for_each(|_| builder.push(1, b"x").unwrap());
        let mut bytes = Vec::new();
        builder.write(Epoch(1), first_seq, &mut bytes);
        bytes
    }

    #[test]
    fn a_run_is_late_from_append_to_delivery() {
        let late = Late::default();
        let runs = run(5, 10);
        let mut frame =
            UpFrame { relay: "r", relay_epoch: Epoch(1), number: 1, term: 0, historical: false, secrets: vec![], runs: &runs };
        assert!(late.remember(&frame).is_none());
        frame.historical = true;
        let (first, again) = (late.remember(&frame).unwrap(), late.remember(&frame).unwrap());
        let holds = |first_seq| late.holds(&RunView::parse(&run(first_seq, 1)).unwrap().0);
        assert!(holds(5) && holds(14) && !holds(4) && !holds(15));
        late.forget(&first);
        assert!(holds(7));
        late.forget(&again);
        assert!(!holds(7) && late.0.lock().is_empty());
    }
}
