//! Which relay is the target (A1 to A3): what happened goes in, what is to be done comes out.
//!
//! Pure: no socket, no clock, no randomness of its own. Relays are numbers here, in the order of the configuration.
//!
//! A round probes every relay; the smallest round-trip time wins, ties are broken at random. A round is due when a send took longer
//! than the limit, and when the target is gone or refuses us. Rounds keep a distance, so that a slow relay doesn't cause a storm of
//! probes. While a relay has not answered the last round, or was left because it refused us, all are looked at again, ever more rarely:
//! it may be back, and nearer than all others. A target that still answers is left only for one that needs at most 2/3 of its time.

use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelValue;
use rand::{Rng, RngExt};

use crate::limits::LOOK_AGAIN_STRETCH_MAX;

/// What makes a tie of "at most" and no tie of "more".
const TICK: Duration = Duration::from_nanos(1);

/// When to probe, and what counts as equal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// From the end of a round to the beginning of the next.
    pub(crate) distance: Duration,
    /// A target without a connection for so long is gone. The first round after that keeps only this distance.
    pub(crate) gone_after: Duration,
    /// Round-trip times that differ by no more are a tie.
    pub(crate) tie: Duration,
    /// How long a relay that refused our records is left alone while another one answers.
    pub(crate) refused_rest: Duration,
    /// About how long after a relay did not answer a round all relays are looked at again. Doubles with each look in vain.
    pub(crate) look_again: Duration,
}

/// What a relay said to the probes of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The median of the round-trip times.
    Answered(Duration),
    /// It is there and does not want us.
    Refused,
    /// Nothing, or not in time.
    Silent,
}

impl Probe {
    /// The round-trip time, if there is one.
    pub(crate) fn rtt(self) -> Option<Duration> {
        match self {
            Self::Answered(rtt) => Some(rtt),
            Self::Refused | Self::Silent => None,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Time has passed; [`Choice::due`] says when that is worth telling.
    Tick,
    /// The round that was asked for has ended: one answer a relay.
    Probed(Vec<Probe>),
    /// A send took longer than the limit, answered or not.
    Slow,
    /// The target refuses our records: not for what they are, but because they are ours.
    Refused,
    /// The connection to the target ended.
    Lost,
    /// There is a connection to the target.
    Connected,
}

/// Why there is a new target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Why {
    /// No other relay is configured.
    Only,
    /// The smallest round-trip time of the first round.
    First,
    /// Nobody has answered a probe yet: the first that is configured.
    Unprobed,
    /// At most 2/3 of the old target's round-trip time.
    Faster,
    /// The old target's connection is gone, or it does not answer probes.
    Gone,
    /// The old target refuses our records.
    Refused,
}

impl Why {
    /// Every reason.
    pub const ALL: [Self; 6] = [Self::Only, Self::First, Self::Unprobed, Self::Faster, Self::Gone, Self::Refused];

    /// The word in the registry and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::First => "first",
            Self::Unprobed => "unprobed",
            Self::Faster => "faster",
            Self::Gone => "gone",
            Self::Refused => "refused",
        }
    }
}

/// A change of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: Option<usize>,
    pub(crate) to: usize,
    pub(crate) why: Why,
    /// Round-trip time of the old target in the round that decided, if it answered.
    pub(crate) before: Option<Duration>,
    /// Round-trip time of the new target.
    pub(crate) after: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Probe every relay and tell [`Event::Probed`].
    Probe,
    /// Send to another relay from now on.
    Move(Move),
}

/// The state.
#[derive(Debug)]
pub(crate) struct Choice {
    tuning: Tuning,
    relays: usize,
    target: Option<usize>,
    probing: bool,
    /// A round is wanted and waits for its distance.
    wanted: bool,
    /// The end of the last round.
    last_round: Option<Instant>,
    /// Since when the target has no connection.
    lost: Option<Instant>,
    /// Whether a round has looked for another target since the connection was lost.
    searched: bool,
    /// When each relay last refused our records.
    refused: Vec<Option<Instant>>,
    /// A relay did not answer the last round, or was left because it refused us: when all are looked at again.
    look: Option<Look>,
}

/// A look that is to come.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// Before chance.
    pause: Duration,
}

impl Look {
    /// Half to one and a half of the pause, so that agents which lost a relay together don't come back together.
    fn after(pause: Duration, now: Instant, rng: &mut impl Rng) -> Self {
        Self { at: now + pause.mul_f64(rng.random_range(0.5..1.5)), pause }
    }
}

impl Choice {
    /// A choice among `relays`; `known` is the target of the last run. Begins with an [`Event::Tick`].
    pub(crate) fn new(tuning: Tuning, relays: usize, known: Option<usize>) -> Self {
        let target = known.filter(|target| *target < relays);
        Self {
            tuning,
            relays,
            target,
            probing: false,
            wanted: relays > 1,
            last_round: None,
            lost: None,
            searched: false,
            refused: vec![None; relays],
            look: None,
        }
    }

    /// The relay that the next send goes to.
    pub(crate) fn target(&self) -> Option<usize> {
        self.target
    }

    /// When an [`Event::Tick`] is worth telling.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.probing || self.relays < 2 {
            return None;
        }
        let not_before = |since: Instant| self.last_round.map_or(since, |end| end.max(since)) + self.tuning.gone_after;
        let lost = self.lost.filter(|_| !self.searched).map(not_before);
        let wanted = self.wanted.then(|| self.last_round.map(|end| end + self.tuning.distance)).flatten();
        let look = self.look.map(|look| self.last_round.map_or(look.at, |end| look.at.max(end + self.tuning.distance)));
        [lost, wanted, look].into_iter().flatten().min()
    }

    /// Takes one event. Events about the target are about the one of [`Choice::target`]: whoever tells them forgets the old ones' at a move.
    pub(crate) fn step(&mut self, event: Event, now: Instant, rng: &mut impl Rng) -> Option<Action> {
        match event {
            Event::Tick => {}
            Event::Slow => self.wanted = true,
            Event::Refused => {
                if let Some(target) = self.target {
                    self.refused[target] = Some(now);
                }
                self.wanted = true;
            }
            Event::Lost => {
                self.lost.get_or_insert(now);
            }
            Event::Connected => (self.lost, self.searched) = (None, false),
            Event::Probed(answers) if answers.len() == self.relays => {
                (self.probing, self.wanted, self.last_round) = (false, false, Some(now));
                let all_answered = answers.iter().all(|answer| answer.rtt().is_some());
                if let Some(moved) = self.decide(&answers, now, rng) {
                    let again = !all_answered || moved.why == Why::Refused;
                    self.look = again.then(|| Look::after(self.tuning.look_again, now, rng));
                    (self.target, self.lost, self.searched) = (Some(moved.to), None, false);
                    return Some(Action::Move(moved));
                }
                let most = self.tuning.look_again * LOOK_AGAIN_STRETCH_MAX;
                self.look = match self.look {
                    _ if all_answered => None,
                    None => Some(Look::after(self.tuning.look_again, now, rng)),
                    Some(look) if now >= look.at => Some(Look::after((look.pause * 2).min(most), now, rng)),
                    look => look,
                };
                // Nowhere to go: slowly on.
                self.searched = self.is_gone(now);
                self.wanted = self.searched || self.target.is_none_or(|target| answers[target].rtt().is_none());
            }
            Event::Probed(_) => self.probing = false,
        }
        self.begin(now)
    }

    fn begin(&mut self, now: Instant) -> Option<Action> {
        if self.relays == 1 && self.target.is_none() {
            self.target = Some(0);
            return Some(Action::Move(Move { from: None, to: 0, why: Why::Only, before: None, after: None }));
        }
        if self.probing || self.relays < 2 {
            return None;
        }
        let passed = |distance: Duration| self.last_round.is_none_or(|end| now.saturating_duration_since(end) >= distance);
        let searches = self.is_gone(now) && !self.searched && passed(self.tuning.gone_after);
        let looks = self.look.is_some_and(|look| now >= look.at);
        let begins = searches || ((self.wanted || looks) && passed(self.tuning.distance));
        self.probing = begins;
        begins.then_some(Action::Probe)
    }

    fn is_gone(&self, now: Instant) -> bool {
        self.lost.is_some_and(|since| now.saturating_duration_since(since) >= self.tuning.gone_after)
    }

    fn rests(&self, relay: usize, now: Instant) -> bool {
        self.refused[relay].is_some_and(|at| now.saturating_duration_since(at) < self.tuning.refused_rest)
    }

    fn decide(&self, answers: &[Probe], now: Instant, rng: &mut impl Rng) -> Option<Move> {
        let from = self.target;
        let rested = |relay: &usize| !self.rests(*relay, now);
        let Some(current) = from else {
            let to = self.fastest(answers, (0..self.relays).filter(rested), Duration::MAX, rng);
            let why = if to.is_some() { Why::First } else { Why::Unprobed };
            let to = to.unwrap_or(0);
            return Some(Move { from, to, why, before: None, after: answers[to].rtt() });
        };
        let before = answers[current].rtt();
        let others = (0..self.relays).filter(|relay| *relay != current).filter(rested);
        let refuses = self.rests(current, now);
        let (why, limit) = match before {
            _ if refuses => (Why::Refused, Duration::MAX),
            Some(_) if self.is_gone(now) => (Why::Gone, Duration::MAX),
            None => (Why::Gone, Duration::MAX),
            Some(rtt) => (Why::Faster, (rtt * 2 / 3).min(rtt.saturating_sub(self.tuning.tie + TICK))),
        };
        let to = self.fastest(answers, others, limit, rng)?;
        Some(Move { from, to, why, before, after: answers[to].rtt() })
    }

    /// One of those that are at most a tie slower than the fastest, none above `limit`.
    fn fastest(
        &self,
        answers: &[Probe],
        among: impl Iterator<Item = usize>,
        limit: Duration,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let times: Vec<_> =
            among.filter_map(|relay| Some((relay, answers[relay].rtt()?))).filter(|(_, rtt)| *rtt <= limit).collect();
        let best = times.iter().map(|(_, rtt)| *rtt).min()?;
        let ties: Vec<_> = times.into_iter().filter(|(_, rtt)| *rtt - best <= self.tuning.tie).collect();
        Some(ties[rng.random_range(0..ties.len())].0)
    }
}

#[cfg(test)]
mod tests;
