//! Which pulls are under way, who may start another, and when one has ended. Pure: time and replies come in as arguments.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use wire::index::{Outcome, Reply};
use wire::{At, Epoch, Intervals, RelayId, Series};

/// What one relay is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The relay.
    pub(crate) relay: RelayId,
    /// The series.
    pub(crate) series: Series,
    /// Earliest generation time.
    pub(crate) from: At,
    /// First generation time that is no longer wanted.
    pub(crate) to: At,
    /// Only an order with a number above this one brings it: one before may have been carried out before the relay was asked what it holds.
    pub(crate) since: u64,
}

impl Ask {
    /// Whether whoever asks this gets what `other` asks for as well.
    fn covers(&self, other: &Self) -> bool {
        self.relay == other.relay && self.series == other.series && self.from <= other.from && other.to <= self.to
    }
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The relay answered, and every frame that it named is committed.
    Arrived,
    /// The relay could not do it; what it has it keeps.
    Failed,
    /// The relay's answer, or a frame that it named, was not here in time.
    Late,
    /// Nobody listened for the order.
    Unheard,
}

/// What becomes of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A new pull of this number: send the order.
    Start,
    /// One that is under way brings it.
    Join(u64),
    /// The relay did not answer a moment ago.
    Silent,
    /// Too many are under way: ask again when one has ended.
    Full,
}

/// How many pulls may be under way, and how long one may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In total.
    pub(crate) all_max: usize,
    /// At one relay.
    pub(crate) relay_max: usize,
    /// How long an asker waits, and how long a relay that did not answer is left alone.
    pub(crate) wait: Duration,
}

/// The pulls under way, by the number of their orders.
#[derive(Debug)]
pub(crate) struct Machine {
    limits: Limits,
    running: BTreeMap<u64, Running>,
    silent: HashMap<RelayId, Instant>,
}

#[derive(Debug)]
struct Running {
    ask: Ask,
    due: Instant,
    frames: Option<Frames>,
}

/// Frames that a relay has named and that are not committed yet.
#[derive(Debug)]
struct Frames {
    relay_epoch: Epoch,
    awaited: Intervals,
}

impl Machine {
    /// Nothing under way.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, running: BTreeMap::new(), silent: HashMap::new() }
    }

    /// What becomes of an ask; if it starts a pull, that has the number `next`, and time until `due`.
    pub(crate) fn ask(&mut self, ask: &Ask, next: u64, (now, due): (Instant, Instant)) -> Verdict {
        if let Some((id, _)) = self.running.iter().find(|(id, running)| **id > ask.since && running.ask.covers(ask)) {
            return Verdict::Join(*id);
        }
        if let Some(until) = self.silent.get(&ask.relay) {
            if now < *until {
                return Verdict::Silent;
            }
            self.silent.remove(&ask.relay);
        }
        let at_relay = self.running.values().filter(|running| running.ask.relay == ask.relay).count();
        if self.running.len() >= self.limits.all_max || at_relay >= self.limits.relay_max {
            return Verdict::Full;
        }
        self.running.insert(next, Running { ask: ask.clone(), due, frames: None });
        Verdict::Start
    }

    /// A relay's reply. Gives the pull's number and how it ended, if it did; frames that it named may be here already: tell
    /// [`Machine::held`].
    pub(crate) fn replied(&mut self, relay: &RelayId, reply: &Reply) -> Option<(u64, Ending)> {
        self.heard(relay);
        let running = self.running.get_mut(&reply.command).filter(|running| running.ask.relay == *relay)?;
        match &reply.outcome {
            // Neither answers a pull.
            Outcome::Failed { .. } | Outcome::Shown(_) | Outcome::Unstated { .. } => self.end(reply.command, Ending::Failed),
            Outcome::Done { frames, .. } if frames.is_empty() => self.end(reply.command, Ending::Arrived),
            Outcome::Done { frames, .. } => {
                running.frames = Some(Frames { relay_epoch: reply.relay_epoch, awaited: frames.clone() });
                None
            }
        }
    }

    /// These frames of a relay are committed. Gives the pulls that ended by it.
    pub(crate) fn held(&mut self, relay: &RelayId, relay_epoch: Epoch, frames: &Intervals) -> Vec<(u64, Ending)> {
        let mut ended = Vec::new();
        for (id, running) in &mut self.running {
            let Some(waiting) = &mut running.frames else { continue };
            if running.ask.relay != *relay || waiting.relay_epoch != relay_epoch {
                continue;
            }
            for (low, high) in frames.as_slice() {
                waiting.awaited.remove(*low, *high);
            }
            if waiting.awaited.is_empty() {
                ended.push(*id);
            }
        }
        ended.into_iter().filter_map(|id| self.end(id, Ending::Arrived)).collect()
    }

    /// Whether somebody waits for frames.
    pub(crate) fn awaits_frames(&self) -> bool {
        self.running.values().any(|running| running.frames.is_some())
    }

    /// Gives up the pulls whose time is over. A relay that has not said a word is left alone for a while.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(u64, Ending)> {
        let due = self.running.iter().filter(|(_, running)| running.due <= now).map(|(id, _)| *id);
        let due: Vec<u64> = due.collect();
        let mut ended = Vec::new();
        for id in due {
            let Some(running) = self.running.remove(&id) else { continue };
            if running.frames.is_none() {
                self.silent.insert(running.ask.relay, now + self.limits.wait);
            }
            ended.push((id, Ending::Late));
        }
        ended
    }

    /// Nobody listens for the orders of a relay: the pull is over at once, and may be tried again at once.
    pub(crate) fn unheard(&mut self, id: u64) -> Option<(u64, Ending)> {
        self.end(id, Ending::Unheard)
    }

    /// A relay that was silent speaks.
    pub(crate) fn heard(&mut self, relay: &RelayId) {
        self.silent.remove(relay);
    }

    /// Whether a relay did not answer a moment ago.
    pub(crate) fn is_silent(&self, relay: &RelayId, now: Instant) -> bool {
        self.silent.get(relay).is_some_and(|until| now < *until)
    }

    fn end(&mut self, id: u64, ending: Ending) -> Option<(u64, Ending)> {
        self.running.remove(&id).map(|_| (id, ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn machine() -> Machine {
        Machine::new(Limits { all_max: 3, relay_max: 2, wait: WAIT })
    }

    fn ask(relay: &str, series: &str, from: At, to: At) -> Ask {
        Ask { relay: relay.parse().unwrap(), series: series.parse().unwrap(), from, to, since: 0 }
    }

    fn done(command: u64, frames: &[(u64, u64)]) -> Reply {
        let frames = frames.iter().copied().collect();
        Reply { relay_epoch: Epoch(1), command, outcome: Outcome::Done { frames, records: 1 } }
    }

    fn set(frames: &[(u64, u64)]) -> Intervals {
        frames.iter().copied().collect()
    }

    #[test]
    fn a12_equal_and_narrower_asks_join_the_pull_that_is_under_way() {
        let (mut machine, now) = (machine(), Instant::now());
        assert_eq!(machine.ask(&ask("r1", "a/b/c", 0, 9), 1, (now, now + WAIT)), Verdict::Start);
        for asker in 0..9 {
            assert_eq!(machine.ask(&ask("r1", "a/b/c", asker.min(3), 9), 2, (now, now + WAIT)), Verdict::Join(1));
        }
        assert_eq!(machine.ask(&ask("r1", "a/b/c", 0, 10), 2, (now, now + WAIT)), Verdict::Start);
        assert_eq!(machine.ask(&ask("r1", "a/b/d", 0, 9), 3, (now, now + WAIT)), Verdict::Full);
        assert_eq!(machine.ask(&ask("r2", "a/b/c", 0, 9), 3, (now, now + WAIT)), Verdict::Start);
        assert_eq!(machine.ask(&ask("r3", "a/b/c", 0, 9), 4, (now, now + WAIT)), Verdict::Full);
        machine.replied(&"r1".parse().unwrap(), &done(2, &[]));
        assert_eq!(machine.ask(&ask("r3", "a/b/c", 0, 9), 4, (now, now + WAIT)), Verdict::Start);
    }

    #[test]
    fn a12_a_pull_ends_when_every_frame_that_was_named_is_committed_in_whatever_order() {
        let (relay, now) = ("r1".parse().unwrap(), Instant::now());
        let mut machine = machine();
        machine.ask(&ask("r1", "a/b/c", 0, 9), 1, (now, now + WAIT));
        assert!(!machine.awaits_frames());
        assert_eq!(machine.replied(&relay, &done(1, &[(4, 6), (9, 9)])), None);
        assert!(machine.awaits_frames());
        assert_eq!(machine.held(&relay, Epoch(1), &set(&[(1, 4), (6, 8)])), []);
        assert_eq!(machine.held(&relay, Epoch(2), &set(&[(5, 9)])), []);
        assert_eq!(machine.held(&"r2".parse().unwrap(), Epoch(1), &set(&[(5, 9)])), []);
        assert_eq!(machine.held(&relay, Epoch(1), &set(&[(9, 9)])), []);
        assert_eq!(machine.held(&relay, Epoch(1), &set(&[(5, 5)])), [(1, Ending::Arrived)]);
        assert!(!machine.awaits_frames());
        assert_eq!(machine.expire(now + WAIT), []);
    }

    #[test]
    fn a12_a_relay_that_does_not_answer_is_left_alone_for_a_while_and_until_it_speaks() {
        let (relay, now): (RelayId, _) = ("r1".parse().unwrap(), Instant::now());
        let mut machine = machine();
        let wanted = ask("r1", "a/b/c", 0, 9);
        let at = |waits: u32| (now + waits * WAIT, now + (waits + 1) * WAIT);
        machine.ask(&wanted, 1, at(0));
        assert_eq!(machine.expire(now + WAIT / 2), []);
        assert_eq!(machine.expire(now + WAIT), [(1, Ending::Late)]);
        assert_eq!(machine.ask(&wanted, 2, at(1)), Verdict::Silent);
        assert!(machine.is_silent(&relay, now + WAIT) && !machine.is_silent(&relay, now + 2 * WAIT));
        assert_eq!(machine.ask(&wanted, 2, at(2)), Verdict::Start);
        assert_eq!(machine.expire(now + 3 * WAIT), [(2, Ending::Late)]);
        // A late answer is about nothing that waits, but it is an answer.
        assert_eq!(machine.replied(&relay, &done(2, &[(1, 1)])), None);
        assert_eq!(machine.ask(&wanted, 3, at(3)), Verdict::Start);
        // Nobody listens: that is known at once, and may be over at once.
        assert_eq!(machine.unheard(3), Some((3, Ending::Unheard)));
        assert_eq!(machine.ask(&wanted, 4, at(3)), Verdict::Start);
    }

    #[test]
    fn a12_replies_of_others_and_to_other_orders_end_nothing() {
        let (relay, now) = ("r1".parse().unwrap(), Instant::now());
        let mut machine = machine();
        machine.ask(&ask("r1", "a/b/c", 0, 9), 1, (now, now + WAIT));
        assert_eq!(machine.replied(&"r2".parse().unwrap(), &done(1, &[])), None);
        assert_eq!(machine.replied(&relay, &done(7, &[])), None);
        let failed = Reply { outcome: Outcome::Failed { reason: "disk".into() }, ..done(1, &[]) };
        assert_eq!(machine.replied(&relay, &failed), Some((1, Ending::Failed)));
        machine.ask(&ask("r1", "a/b/c", 0, 9), 2, (now, now + WAIT));
        machine.replied(&relay, &done(2, &[(1, 2)]));
        assert_eq!(machine.expire(now + WAIT), [(2, Ending::Late)]);
        assert!(!machine.is_silent(&relay, now + WAIT));
    }
}
