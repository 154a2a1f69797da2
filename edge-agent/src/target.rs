//! Which relay is the target. The one place that decides it: the choice, with its probes and its registry around it.

use std::sync::Arc;

use chassis::Clock;
use link::LinkConfig;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::{RelayId, SensorId};

use crate::choice::{Action, Choice, Event, Move, Probe, Tuning, Why};
use crate::config::{ProbeConfig, RelayConfig};
use crate::limits;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::outbox::targets::{Entry, Moved};
use crate::probing::Round;

/// What the choice works with.
pub(crate) struct Parts {
    pub(crate) sensor: SensorId,
    /// The relays to choose from, and how each is connected to for a round.
    pub(crate) relays: Vec<RelayConfig>,
    pub(crate) links: Vec<LinkConfig>,
    /// Where probes are published.
    pub(crate) topic: String,
    pub(crate) settings: ProbeConfig,
    /// Whether moves are told to the cloud.
    pub(crate) report: bool,
    pub(crate) outbox: Outbox,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    /// Breaks ties.
    pub(crate) rng: StdRng,
}

/// The target, and what may change it.
pub(crate) struct Target {
    parts: Parts,
    choice: Choice,
    /// The round that is under way.
    round: JoinSet<Vec<Probe>>,
    /// Writes to the registry that are under way.
    writes: JoinSet<()>,
    /// Why [`Target::relay`] would give another relay than the last time.
    moved: Option<Why>,
}

impl Target {
    /// The choice among the relays of `parts`; `known` was the target before.
    pub(crate) fn new(parts: Parts, known: Option<&RelayId>) -> Self {
        let settings = &parts.settings;
        let tuning = Tuning {
            distance: settings.distance.duration(),
            gone_after: settings.gone_after.duration(),
            tie: settings.tie.duration(),
            refused_rest: limits::REFUSED_REST,
            look_again: settings.look_again.duration(),
        };
        let known = known.and_then(|known| parts.relays.iter().position(|relay| relay.name == *known));
        let choice = Choice::new(tuning, parts.relays.len(), known);
        let mut target = Self { parts, choice, round: JoinSet::new(), writes: JoinSet::new(), moved: None };
        target.tell(Event::Tick);
        target
    }

    /// The relay that the next frame goes to; waits for the first round if nothing is known yet.
    pub(crate) async fn relay(&mut self) -> RelayConfig {
        loop {
            if let Some(target) = self.choice.target() {
                self.moved = None;
                return self.parts.relays[target].clone();
            }
            self.turn().await;
        }
    }

    /// Something happened at the target.
    pub(crate) fn tell(&mut self, event: Event) {
        let probes = match &event {
            Event::Probed(probes) => probes.clone(),
            _ => Vec::new(),
        };
        let action = self.choice.step(event, Instant::now().into_std(), &mut self.parts.rng);
        let moved = match action {
            Some(Action::Move(moved)) => Some(moved),
            Some(Action::Probe) => {
                self.begin();
                None
            }
            None => None,
        };
        if moved.is_some() || !probes.is_empty() {
            self.register(&probes, moved);
        }
    }

    /// Waits until there is another target, and tells why, until [`Target::relay`] is asked. Can be dropped and called again at any time.
    pub(crate) async fn turn(&mut self) -> Why {
        loop {
            if let Some(why) = self.moved {
                return why;
            }
            let due = self.choice.due().map(Instant::from_std);
            tokio::select! {
                Some(ended) = self.round.join_next() => {
                    let silent = vec![Probe::Silent; self.parts.relays.len()];
                    let answers = ended.unwrap_or_else(|failed| {
                        tracing::error!(sensor = %self.parts.sensor, %failed, "a round of probes failed");
                        silent
                    });
                    self.tell(Event::Probed(answers));
                }
                Some(_) = self.writes.join_next() => {}
                () = wait_until(due) => self.tell(Event::Tick),
            }
        }
    }

    fn begin(&mut self) {
        let Parts { links, topic, settings, .. } = &self.parts;
        let (count, timeout) = (settings.count, settings.timeout.duration());
        self.round.spawn(Round { relays: links.clone(), topic: topic.clone(), count, timeout }.run());
    }

    /// Hands a round and a move to the outbox's writer, ahead of what the sender asks for next.
    fn register(&mut self, probes: &[Probe], moved: Option<Move>) {
        let Parts { sensor, relays, outbox, metrics, clock, report, .. } = &self.parts;
        probes.iter().for_each(|probe| metrics.probed(*probe));
        let name = |relay: usize| relays[relay].name.clone();
        let at = clock.now();
        let moved = moved.map(|Move { from, to, why, before, after }| {
            metrics.moved(why);
            self.moved = Some(why);
            let (from, to) = (from.map(name), name(to));
            let was = from.as_ref().map_or("none", |from| from.as_str());
            tracing::info!(%sensor, from = was, %to, why = why.as_str(), ?before, ?after, "a new target");
            Moved { from, to, at, why, before, after }
        });
        let probes = relays.iter().zip(probes).map(|(relay, probe)| (relay.name.clone(), probe.rtt())).collect();
        let entry = Entry { sensor: sensor.clone(), probes, moved, at, report: *report };
        let written = outbox.register(entry);
        let sensor = sensor.clone();
        self.writes.spawn(async move {
            if let Err(fault) = written.await {
                tracing::warn!(%sensor, %fault, "the target registry could not be written");
            }
        });
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
