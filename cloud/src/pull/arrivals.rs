//! Who waits for frames that a relay has named.

use tokio::sync::oneshot;
use wire::{Epoch, Intervals, RelayId};

/// Frames that are waited for.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Vec<Awaited>);

#[derive(Debug)]
struct Awaited {
    relay: RelayId,
    relay_epoch: Epoch,
    frames: Intervals,
    told: oneshot::Sender<()>,
}

impl Arrivals {
    /// Resolves when all of these frames are committed.
    pub(super) fn wait(&mut self, relay: RelayId, relay_epoch: Epoch, frames: Intervals) -> oneshot::Receiver<()> {
        let (told, arrived) = oneshot::channel();
        self.0.push(Awaited { relay, relay_epoch, frames, told });
        arrived
    }

    /// These frames are committed.
    pub(super) fn held(&mut self, relay: &RelayId, relay_epoch: Epoch, frames: &Intervals) {
        for awaited in self.0.iter_mut().filter(|one| one.relay == *relay && one.relay_epoch == relay_epoch) {
            for (low, high) in frames.as_slice() {
                awaited.frames.remove(*low, *high);
            }
        }
        for arrived in self.0.extract_if(.., |awaited| awaited.frames.is_empty()) {
            // Whoever waited may have gone.
            let _ = arrived.told.send(());
        }
    }

    /// Forgets those for whom nobody waits any more.
    pub(super) fn forget_gone(&mut self) {
        self.0.retain(|awaited| !awaited.told.is_closed());
    }

    /// Whether anything is waited for.
    pub(super) fn awaits(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_whoever_waits_is_told_when_the_last_frame_of_that_database_is_here() {
        let relay: RelayId = "r1".parse().unwrap();
        let mut arrivals = Arrivals::default();
        let mut first = arrivals.wait(relay.clone(), Epoch(1), Intervals::of(3, 5));
        let second = arrivals.wait(relay.clone(), Epoch(1), Intervals::of(5, 6));
        arrivals.held(&relay, Epoch(2), &Intervals::of(1, 9));
        arrivals.held(&"r2".parse().unwrap(), Epoch(1), &Intervals::of(1, 9));
        arrivals.held(&relay, Epoch(1), &Intervals::of(4, 5));
        assert!(first.try_recv().is_err());
        arrivals.held(&relay, Epoch(1), &Intervals::of(1, 3));
        assert!(first.try_recv().is_ok() && arrivals.awaits());
        drop(second);
        arrivals.forget_gone();
        assert!(!arrivals.awaits());
    }
}
