//! Receipts: the cloud's word to a relay that frames are committed here, batched per relay.
//!
//! [`Batcher`] decides when a receipt is due and does nothing else. A receipt may be lost on its way, or dropped here when too
//! many wait: then the relay sends the frame again, and the cloud, which finds it held, receipts it again.

use std::time::{Duration, Instant};

use broker::{Hub, Message};
use chassis::Stop;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use wire::topics::Down;
use wire::{Epoch, Intervals, Receipt, RelayId, Topic};

use crate::metrics::Metrics;

/// Committed frames that may wait to be receipted; one more is not receipted until its relay sends it again.
pub(crate) const COMMITTED_MAX: usize = 16_384;
/// Committed frames taken from the queue at once.
const TAKEN_MAX: usize = 1_024;

/// A frame that is committed, and so can be receipted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The relay that sent it.
    pub relay: RelayId,
    /// The relay's database that numbered it.
    pub relay_epoch: Epoch,
    /// Its number.
    pub number: u64,
    /// Whether it was held before: the relay has missed a receipt, so this one does not wait.
    pub again: bool,
}

/// Collects committed frames per relay until enough are together or the first has waited long enough.
#[derive(Debug)]
pub struct Batcher {
    wait: Duration,
    frames_max: u64,
    waiting: FxHashMap<(RelayId, Epoch), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    numbers: Intervals,
    frames: u64,
    due: Instant,
}

impl Batcher {
    /// A batcher that lets a frame wait at most `wait` and puts at most `frames_max` into a receipt.
    pub fn new(wait: Duration, frames_max: u64) -> Self {
        Self { wait, frames_max, waiting: FxHashMap::default() }
    }

    /// Takes a committed frame; gives the receipt if that makes one due.
    pub fn add(&mut self, frame: Committed, now: Instant) -> Option<(RelayId, Receipt)> {
        let place = (frame.relay, frame.relay_epoch);
        let due = now + self.wait;
        let waiting = self.waiting.entry(place.clone()).or_insert_with(|| Waiting { numbers: Intervals::new(), frames: 0, due });
        waiting.numbers.insert(frame.number, frame.number);
        waiting.frames += 1;
        if frame.again || waiting.frames >= self.frames_max { self.take(place) } else { None }
    }

    /// The receipts whose first frame has waited long enough.
    pub fn due(&mut self, now: Instant) -> Vec<(RelayId, Receipt)> {
        let due: Vec<_> = self.waiting.iter().filter(|(_, waiting)| waiting.due <= now).map(|(place, _)| place.clone()).collect();
        due.into_iter().filter_map(|place| self.take(place)).collect()
    }

    /// When [`Batcher::due`] will next give something.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }

    /// All receipts, due or not: for the end.
    pub fn drain(&mut self) -> Vec<(RelayId, Receipt)> {
        let places: Vec<_> = self.waiting.keys().cloned().collect();
        places.into_iter().filter_map(|place| self.take(place)).collect()
    }

    fn take(&mut self, place: (RelayId, Epoch)) -> Option<(RelayId, Receipt)> {
        let waiting = self.waiting.remove(&place)?;
        let (relay, relay_epoch) = place;
        Some((relay, Receipt { relay_epoch, numbers: waiting.numbers }))
    }
}

/// Sends receipts for what is committed until told to stop; those that still wait are sent then.
pub(crate) async fn send(mut committed: mpsc::Receiver<Committed>, mut batcher: Batcher, hub: Hub, metrics: Metrics, stop: Stop) {
    let mut taken = Vec::with_capacity(TAKEN_MAX);
    loop {
        let due = batcher.next_due();
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.stopped() => break,
            count = committed.recv_many(&mut taken, TAKEN_MAX) => if count == 0 { break },
            () = wait => {}
        }
        let now = Instant::now();
        let mut ready: Vec<_> = taken.drain(..).filter_map(|frame| batcher.add(frame, now)).collect();
        ready.extend(batcher.due(now));
        publish(ready, &hub, &metrics).await;
    }
    while let Ok(frame) = committed.try_recv() {
        taken.push(frame);
    }
    let now = Instant::now();
    let mut ready: Vec<_> = taken.drain(..).filter_map(|frame| batcher.add(frame, now)).collect();
    ready.extend(batcher.drain());
    publish(ready, &hub, &metrics).await;
}

async fn publish(ready: Vec<(RelayId, Receipt)>, hub: &Hub, metrics: &Metrics) {
    if ready.is_empty() {
        return;
    }
    metrics.receipts_sent.inc_by(ready.len() as u64);
    let message = |(relay, receipt): (RelayId, Receipt)| {
        let topic = Topic::Down { relay: (&relay).into(), kind: Down::Receipts };
        Message::new(topic.to_string(), receipt.encode())
    };
    hub.publish_all(ready.into_iter().map(message).collect()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(relay: &str, epoch: u64, number: u64) -> Committed {
        Committed { relay: relay.parse().unwrap(), relay_epoch: Epoch(epoch), number, again: false }
    }

    fn numbers(receipt: &Receipt) -> Vec<(u64, u64)> {
        receipt.numbers.as_slice().to_vec()
    }

    #[test]
    fn b8_a_receipt_waits_shortly_for_its_neighbours_and_never_mixes_relays_or_epochs() {
        let start = Instant::now();
        let wait = Duration::from_millis(2);
        let mut batcher = Batcher::new(wait, 100);
        assert_eq!(batcher.next_due(), None);
        for one in [frame("r1", 1, 4), frame("r1", 1, 5), frame("r1", 2, 1), frame("r2", 1, 9), frame("r1", 1, 9)] {
            assert_eq!(batcher.add(one, start), None);
        }
        assert_eq!(batcher.next_due(), Some(start + wait));
        assert!(batcher.due(start + wait / 2).is_empty());
        let mut due = batcher.due(start + wait);
        due.sort_by_key(|(relay, receipt)| (relay.clone(), receipt.relay_epoch));
        let seen: Vec<_> = due.iter().map(|(relay, receipt)| (relay.as_str(), receipt.relay_epoch.0, numbers(receipt))).collect();
        assert_eq!(seen, [("r1", 1, vec![(4, 5), (9, 9)]), ("r1", 2, vec![(1, 1)]), ("r2", 1, vec![(9, 9)])]);
        assert_eq!(batcher.next_due(), None);
    }

    #[test]
    fn b8_enough_frames_or_a_repeated_one_make_the_receipt_due_at_once() {
        let now = Instant::now();
        let mut batcher = Batcher::new(Duration::from_secs(1), 3);
        assert_eq!(batcher.add(frame("r", 1, 1), now), None);
        assert_eq!(batcher.add(frame("r", 1, 2), now), None);
        let (_, receipt) = batcher.add(frame("r", 1, 3), now).unwrap();
        assert_eq!(numbers(&receipt), [(1, 3)]);
        assert_eq!(batcher.add(frame("r", 1, 4), now), None);
        let (_, receipt) = batcher.add(Committed { again: true, ..frame("r", 1, 2) }, now).unwrap();
        assert_eq!(numbers(&receipt), [(2, 2), (4, 4)]);
        assert_eq!(batcher.next_due(), None);
        assert_eq!(batcher.add(frame("r", 1, 5), now), None);
        assert_eq!(numbers(&batcher.drain()[0].1), [(5, 5)]);
        assert!(batcher.drain().is_empty());
    }
}
