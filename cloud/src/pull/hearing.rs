//! Asks relays what they hold that the index does not name (C6): open segments, chunks without a root, frames on their way.
//!
//! A relay is asked by one order at a time. Whoever comes while it is under way shares the next one, because what was acknowledged since it was
//! sent may be missing in its reply: so questions, however many, cost a relay one small message a round trip. Between questions each relay is
//! asked at a distance, so that one that goes has been heard a short while ago.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::{Clock, Stop};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use wire::index::Outcome;
use wire::{At, Command, Epoch, RelayId, Series, Unstated};

use super::Pulls;
use crate::completeness::Reason;
use crate::index::{Database, Index, ReadError};
use crate::moment;

/// A relay that nobody asked about is asked this often.
const EVERY: Duration = Duration::from_secs(10);
/// Frames on their way that are waited for. A relay that has more is draining what has gathered, and no answer waits for that.
const FRAMES_AWAITED_MAX: u64 = 256;
/// How often it is looked whether the index is compared.
const COMPARED_EVERY: Duration = Duration::from_millis(5);

/// What of a relay is unknown: it could not be asked, or it could and not all of it has come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unheard {
    /// The relay.
    pub relay: RelayId,
    /// `relay-unreachable`: it did not say what it holds; `relay-rebuilt`: nor will it, its database is gone; `on-the-way`: frames of it have
    /// not arrived; `at-relay`: it holds records of `series` that it did not bring in time.
    pub reason: Reason,
    /// The series, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// What it had taken until then was known. `null`: nothing ever was.
    pub since: Option<String>,
}

/// What relays hold and the index does not name, as of a moment after the question came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// Of whom that is not known.
    pub(crate) unheard: Vec<Unheard>,
    /// The others.
    pub(crate) open: Vec<Open>,
}

/// Series of which a relay holds what the index does not name.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) relay: RelayId,
    /// No record of them is older than the first or younger than the second.
    pub(crate) at: (At, At),
    /// The order that it was the reply to.
    pub(crate) order: u64,
    since: Option<At>,
    series: Arc<BTreeSet<Series>>,
    rootless: Arc<BTreeSet<Series>>,
}

impl Open {
    pub(crate) fn holds(&self, series: &Series) -> bool {
        self.series.contains(series) || self.rootless.contains(series)
    }

    fn names(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().chain(&*self.rootless)
    }

    /// That it did not bring what it holds of a series.
    pub(crate) fn not_brought(&self, series: &Series, is_reached: bool) -> Unheard {
        let reason = if is_reached { Reason::AtRelay } else { Reason::RelayUnreachable };
        let since = self.since.map(moment::format);
        Unheard { relay: self.relay.clone(), reason, series: Some(series.clone()), since }
    }
}

impl Heard {
    /// Names of series that the index may not know, as far as they pass.
    pub(crate) fn series(&self, pass: impl Fn(&str) -> bool) -> BTreeSet<Series> {
        let names = self.open.iter().flat_map(Open::names);
        names.filter(|name| pass(name.as_str())).cloned().collect()
    }
}

/// How a round of asking went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// The relay said what it holds, and what was on its way is here.
    Whole,
    /// It said what it holds; frames of it are on their way.
    Behind,
    /// It said nothing.
    Silent,
}

/// What is known of a relay.
#[derive(Debug, Default)]
struct Relay {
    /// Whoever shares the next round.
    waiting: Vec<oneshot::Sender<Round>>,
    is_asked: bool,
    /// It left an order unanswered; until then it is not asked again.
    silent_until: Option<Instant>,
    /// When it was last heard whole, and what of that the index has kept.
    heard_at: Option<At>,
    kept_at: Option<At>,
    epoch: Option<Epoch>,
    said: Said,
}

/// What it has said of one open segment.
#[derive(Debug, Clone, Default)]
struct Said {
    segment: u64,
    through: u64,
    at: Option<(At, At)>,
    series: Arc<BTreeSet<Series>>,
    rootless: Arc<BTreeSet<Series>>,
    order: u64,
}

impl Said {
    /// Learns from a reply. `false` if it does not join what is known.
    fn learn(&mut self, unstated: Unstated, order: u64) -> bool {
        if unstated.after == 0 {
            self.series = Arc::default();
        } else if (unstated.segment, unstated.after) != (self.segment, self.through) {
            return false;
        }
        if !unstated.series.is_empty() {
            Arc::make_mut(&mut self.series).extend(unstated.series);
        }
        self.segment = unstated.segment;
        self.through = unstated.through;
        self.at = unstated.at;
        self.rootless = Arc::new(unstated.rootless.into_iter().collect());
        self.order = order;
        true
    }
}

/// Asks relays. Clones share what is known.
#[derive(Clone)]
pub(crate) struct Hearing(Arc<Inner>);

struct Inner {
    pulls: Pulls,
    index: Index,
    clock: Arc<dyn Clock>,
    /// A reading reaches its relay, and the index, at most so long after its time.
    late_max: At,
    relays: Mutex<HashMap<RelayId, Relay>>,
}

impl Hearing {
    pub(crate) fn new(pulls: Pulls, index: Index, clock: Arc<dyn Clock>, late_max: Duration) -> Self {
        let late_max = At::try_from(late_max.as_nanos()).unwrap_or(At::MAX);
        Self(Arc::new(Inner { pulls, index, clock, late_max, relays: Mutex::default() }))
    }

    /// What relays hold of times in `from..to` beside what the index names. Waits until `deadline` at the latest. A relay whose last word is
    /// by more than `late_max` younger than all that is asked for is not asked.
    pub(crate) async fn hear(&self, (from, to): (At, At), deadline: Instant) -> Result<Heard, ReadError> {
        let inner = self.0.clone();
        let looked = tokio::task::spawn_blocking(move || inner.index.databases()).await;
        let databases = looked.unwrap_or_else(|_| Err(ReadError::Damaged("a look into the index ended early")))?;
        let mut heard = Heard::default();
        let mut asked = Vec::new();
        for database in databases {
            let since = self.heard_at(&database);
            let may_hold = since.is_none_or(|since| to.saturating_add(self.0.late_max) > since);
            match (database.is_current, may_hold) {
                (true, true) => {
                    let (hearing, told) = (self.clone(), self.ask(&database));
                    asked.push((tokio::spawn(async move { hearing.told(told, deadline).await }), database));
                }
                (true, false) => heard.open.extend(self.open(&database)),
                (false, true) => heard.unheard.push(unheard(&database.relay, Reason::RelayRebuilt, since)),
                (false, false) => {}
            }
        }
        for (round, database) in asked {
            let round = round.await.unwrap_or(Round::Silent);
            match round {
                Round::Whole => {}
                Round::Behind => {
                    let since = self.heard_at(&database);
                    heard.unheard.push(unheard(&database.relay, Reason::OnTheWay, since));
                }
                Round::Silent => {
                    let since = self.heard_at(&database);
                    heard.unheard.push(unheard(&database.relay, Reason::RelayUnreachable, since));
                }
            }
            heard.open.extend(self.open(&database));
        }
        heard.open.retain(|open| open.at.0 < to && from <= open.at.1);
        heard.unheard.sort();
        Ok(heard)
    }

    /// Asks all relays at a distance until told to stop.
    pub(crate) async fn run(self, stop: Stop) {
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let inner = self.0.clone();
            let databases = match tokio::task::spawn_blocking(move || inner.index.databases()).await {
                Ok(Ok(databases)) => databases,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the index does not say which relays there are");
                    continue;
                }
                Err(_) => return,
            };
            let old = self.0.clock.now().saturating_sub(At::try_from(EVERY.as_nanos()).unwrap_or(At::MAX));
            for database in databases.into_iter().filter(|database| database.is_current) {
                if self.heard_at(&database).is_none_or(|heard_at| heard_at <= old) {
                    drop(self.ask(&database));
                }
            }
        }
    }

    /// When this database of a relay was last heard whole.
    fn heard_at(&self, database: &Database) -> Option<At> {
        let relays = self.0.relays.lock();
        let known = relays.get(&database.relay).filter(|relay| relay.epoch == Some(database.epoch));
        known.and_then(|relay| relay.heard_at).max(database.heard_at)
    }

    fn open(&self, database: &Database) -> Option<Open> {
        let relays = self.0.relays.lock();
        let relay = relays.get(&database.relay).filter(|relay| relay.epoch == Some(database.epoch))?;
        let Said { at, series, rootless, order, .. } = relay.said.clone();
        let since = relay.heard_at.max(database.heard_at);
        Some(Open { relay: database.relay.clone(), at: at?, order, since, series, rootless })
    }

    /// Takes part in the next round of asking a relay.
    fn ask(&self, database: &Database) -> oneshot::Receiver<Round> {
        let (sender, receiver) = oneshot::channel();
        let mut relays = self.0.relays.lock();
        let relay = relays.entry(database.relay.clone()).or_default();
        let is_silent = relay.silent_until.is_some_and(|until| Instant::now() < until);
        if is_silent || !self.0.pulls.listens(&database.relay) {
            // Whoever asks is still here.
            let _ = sender.send(Round::Silent);
            return receiver;
        }
        relay.waiting.push(sender);
        if !std::mem::replace(&mut relay.is_asked, true) {
            tokio::spawn(self.clone().rounds(database.relay.clone(), database.epoch));
        }
        receiver
    }

    async fn told(&self, told: oneshot::Receiver<Round>, deadline: Instant) -> Round {
        match tokio::time::timeout_at(deadline.into(), told).await {
            Ok(Ok(round)) => round,
            _ => Round::Silent,
        }
    }

    /// Round after round, for as long as somebody waits for one.
    async fn rounds(self, name: RelayId, epoch: Epoch) {
        loop {
            let waiting = {
                let mut relays = self.0.relays.lock();
                let relay = relays.entry(name.clone()).or_default();
                let waiting = std::mem::take(&mut relay.waiting);
                if waiting.is_empty() {
                    relay.is_asked = false;
                    return;
                }
                waiting
            };
            let round = self.round(&name, epoch).await;
            self.0.pulls.0.metrics.relay_asked(round == Round::Whole);
            // Whoever waited may have gone.
            for waiting in waiting {
                let _ = waiting.send(round);
            }
        }
    }

    async fn round(&self, name: &RelayId, epoch: Epoch) -> Round {
        let wait = self.0.pulls.0.limits.wait;
        let deadline = Instant::now() + wait;
        let at = self.0.clock.now();
        let Some(round) = self.exchange(name, epoch, deadline).await else {
            let mut relays = self.0.relays.lock();
            relays.entry(name.clone()).or_default().silent_until = Some(Instant::now() + wait);
            return Round::Silent;
        };
        if round == Round::Whole {
            self.keep(name, epoch, at);
        }
        round
    }

    /// Asks until the relay has said everything. `None` if it does not.
    async fn exchange(&self, name: &RelayId, epoch: Epoch, deadline: Instant) -> Option<Round> {
        let (pulls, index) = (&self.0.pulls, &self.0.index);
        let mut order = None;
        loop {
            let compared = self.compared(name, deadline).await?;
            let (segment, after) = {
                let mut relays = self.0.relays.lock();
                let relay = relays.entry(name.clone()).or_default();
                if relay.epoch != Some(epoch) {
                    *relay = Relay {
                        epoch: Some(epoch),
                        is_asked: true,
                        waiting: std::mem::take(&mut relay.waiting),
                        ..Relay::default()
                    };
                }
                (relay.said.segment, relay.said.through)
            };
            let id = pulls.0.commands.next();
            let order = *order.get_or_insert(id);
            let command = Command::Unstated { id, relay_epoch: epoch, segment, after };
            let reply = pulls.order(name, &command, id, deadline).await?;
            let Outcome::Unstated { frames, unstated } = reply.outcome else { return None };
            if reply.relay_epoch != epoch {
                return None;
            }
            let more = unstated.more;
            let joins = {
                let mut relays = self.0.relays.lock();
                let relay = relays.entry(name.clone()).or_default();
                relay.silent_until = None;
                let joins = relay.said.learn(unstated, order);
                if !joins {
                    relay.said = Said::default();
                }
                joins
            };
            // What the relay has said of its index meanwhile may differ from what is known here.
            if more || !joins || index.compared(name) != Some(compared) {
                continue;
            }
            let is_near = frames.count() <= FRAMES_AWAITED_MAX;
            // While whoever asks still listens.
            let wait = deadline.saturating_duration_since(Instant::now()) * 3 / 4;
            let has_arrived = is_near && pulls.arrive(name, epoch, frames, Instant::now() + wait).await;
            return Some(if has_arrived { Round::Whole } else { Round::Behind });
        }
    }

    /// Waits until the sums that a relay has said are compared with the index.
    async fn compared(&self, name: &RelayId, deadline: Instant) -> Option<u64> {
        loop {
            if let Some(compared) = self.0.index.compared(name) {
                return Some(compared);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(COMPARED_EVERY).await;
        }
    }

    /// The relay was heard whole at `at`. Every now and then that is kept over restarts.
    fn keep(&self, name: &RelayId, epoch: Epoch, at: At) {
        let mut relays = self.0.relays.lock();
        let relay = relays.entry(name.clone()).or_default();
        relay.heard_at = relay.heard_at.max(Some(at));
        let every = At::try_from(EVERY.as_nanos()).unwrap_or(At::MAX);
        if relay.kept_at.is_none_or(|kept| kept.saturating_add(every) <= at) {
            relay.kept_at = Some(at);
            self.0.index.heard(name.clone(), epoch, at);
        }
    }
}

fn unheard(relay: &RelayId, reason: Reason, since: Option<At>) -> Unheard {
    Unheard { relay: relay.clone(), reason, series: None, since: since.map(moment::format) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unstated(segment: u64, after: u64, through: u64, series: &[&str]) -> Unstated {
        let series = series.iter().map(|name| name.parse().unwrap()).collect();
        Unstated { segment, after, through, at: Some((1, 9)), series, ..Unstated::default() }
    }

    #[test]
    fn c6_what_a_relay_says_adds_up_within_a_segment_and_begins_anew_with_the_next() {
        let mut said = Said::default();
        let names = |said: &Said| said.series.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(said.learn(unstated(0, 0, 4, &["a/b/c"]), 7));
        assert!(said.learn(unstated(0, 4, 9, &["a/b/d"]), 8));
        assert_eq!((names(&said), said.order), (vec!["a/b/c".to_owned(), "a/b/d".to_owned()], 8));
        // A reply to an order before the last one joins no more.
        assert!(!said.learn(unstated(0, 4, 6, &["a/b/e"]), 9));
        assert!(said.learn(unstated(12, 0, 15, &["a/b/f"]), 10));
        assert_eq!(names(&said), ["a/b/f"]);
    }
}
