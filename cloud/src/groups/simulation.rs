//! Thousands of terms: relays that die, come back, and go deaf, at random moments of a made-up time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use testkit::Seed;
use wire::RelayId;
use wire::group::Heartbeat;

use super::lease::{Change, Group, Now, Reason};
use super::scenarios::{SECOND, beat, relay, settings};
use super::settings::Term;

const STEP: Duration = Duration::from_millis(50);
const INTERVAL: Duration = Duration::from_millis(350);
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

struct Relay {
    name: RelayId,
    dead_until: Option<Instant>,
    /// Until then it hears nothing of the cloud.
    deaf_until: Instant,
    next_beat: Instant,
    beats: u64,
    /// The term that it holds, and until when by its own count.
    holds: Option<(u64, Instant)>,
    knows: u64,
    /// Bytes a second.
    load: u64,
    counts: BTreeMap<u64, u64>,
}

impl Relay {
    fn is_alive(&self, now: Instant) -> bool {
        self.dead_until.is_none_or(|until| now >= until)
    }

    fn holds(&self, now: Instant) -> Option<u64> {
        self.holds.filter(|(_, until)| now < *until).map(|(term, _)| term)
    }

    fn heartbeat(&mut self, now: Instant) -> Heartbeat {
        self.beats += 1;
        let is_holder = self.holds.is_some();
        let term = if is_holder { self.holds(now).unwrap_or(0) } else { self.knows };
        let collected = self.counts.iter().rev().take(4).map(|(number, bytes)| (*number, *bytes));
        let mut collected: Vec<_> = collected.collect();
        collected.reverse();
        Heartbeat { beat: self.beats, collected, ..beat(self.name.as_str(), term) }
    }
}

struct Simulation {
    group: Group,
    now: Now,
    relays: Vec<Relay>,
    random: StdRng,
    terms: Vec<(RelayId, Reason, u64)>,
    served: BTreeMap<u64, BTreeSet<RelayId>>,
}

fn chance(random: &mut StdRng, one_in: u32) -> bool {
    random.next_u32().is_multiple_of(one_in)
}

impl Simulation {
    fn new(seed: &Seed) -> Self {
        let now = Now { steady: Instant::now(), at: 1_700_000_000_000_000_000 };
        let term = Term { time: Some(chassis::Span(5 * SECOND)), ..Term::default() };
        let relays = NAMES.iter().enumerate().map(|(index, name)| Relay {
            name: relay(name),
            dead_until: None,
            deaf_until: now.steady,
            next_beat: now.steady + STEP * index as u32,
            beats: 0,
            holds: None,
            knows: 0,
            load: 1_000 * (index as u64 + 1),
            counts: BTreeMap::new(),
        });
        let group = Group::new(settings(&NAMES, term), None, now);
        let (terms, served) = (Vec::new(), BTreeMap::new());
        Self { group, now, relays: relays.collect(), random: seed.rng(), terms, served }
    }

    /// One step of time; `stormy`: relays die and go deaf in it.
    fn step(&mut self, stormy: bool) {
        self.now.steady += STEP;
        self.now.at += STEP.as_nanos() as i64;
        let now = self.now.steady;
        let period = self.now.at as u64 / SECOND.as_nanos() as u64;
        for index in 0..self.relays.len() {
            let relay = &mut self.relays[index];
            if stormy && relay.is_alive(now) && chance(&mut self.random, 400) {
                relay.dead_until = Some(now + Duration::from_millis(u64::from(self.random.next_u32() % 15_000)));
                // Half of them stand still and remember, the others start anew.
                if chance(&mut self.random, 2) {
                    (relay.holds, relay.knows) = (None, 0);
                    relay.counts.clear();
                }
            }
            if stormy && chance(&mut self.random, 800) {
                relay.deaf_until = now + Duration::from_millis(u64::from(self.random.next_u32() % 6_000));
            }
            if !relay.is_alive(now) {
                continue;
            }
            *relay.counts.entry(period).or_default() += relay.load * STEP.as_millis() as u64 / 1_000;
            if now >= relay.next_beat {
                relay.next_beat = now + INTERVAL;
                self.beat(index);
            }
        }
        self.decide();
    }

    fn beat(&mut self, index: usize) {
        let now = self.now.steady;
        let beat = self.relays[index].heartbeat(now);
        let name = self.relays[index].name.clone();
        let renewed = self.group.hear(&name, true, &beat, self.now);
        self.decide();
        let relay = &mut self.relays[index];
        if now < relay.deaf_until {
            return;
        }
        let lease = self.group.answer(&name, beat.beat, renewed, now);
        relay.knows = lease.term;
        relay.holds = lease.holder.filter(|holder| *holder == name).map(|_| (lease.term, now + lease.ttl));
    }

    fn decide(&mut self) {
        let random = self.random.next_u64();
        let Some(change) = self.group.due(self.now, random) else { return };
        self.check(&change);
        self.terms.push((change.holder.clone(), change.reason, change.round));
        self.served.entry(change.round).or_default().insert(change.holder.clone());
        self.group.apply(change, self.now);
        let (term, now) = (self.group.standing().0, self.now.steady);
        let valid = self.relays.iter().filter(|relay| relay.holds(now) == Some(term)).count();
        assert_eq!(valid, 0, "nobody holds a term before it was told");
    }

    /// What must hold for every new term.
    fn check(&self, change: &Change) {
        let now = self.now.steady;
        let (term, holder) = self.group.standing();
        let (round, served) = self.group.served();
        assert_eq!(change.term, term + 1, "terms grow by one");
        assert!(change.round == round || change.round == round + 1);
        // Whose way works hands over in one step of the cloud; whoever died believes in its lease no more when another gets it.
        if !matches!(change.reason, Reason::Time | Reason::Done) {
            let believes = self.relays.iter().find(|relay| relay.holds(now).is_some());
            assert!(believes.is_none(), "{change:?}");
        }
        let live: BTreeSet<&RelayId> =
            self.group.members().iter().filter(|(_, member)| self.group.is_live(member, now)).map(|(name, _)| name).collect();
        assert!(live.contains(&change.holder), "a dead relay was chosen");
        let alone = Some(&change.holder) == holder;
        if alone {
            assert!(live.len() == 1 && !matches!(change.reason, Reason::Time | Reason::Done), "{change:?}");
        } else if change.round == round {
            assert!(!served.contains(&change.holder), "twice in round {round}: {change:?}");
        } else {
            assert!(live.iter().all(|relay| served.contains(*relay)), "a round ended too early: {live:?} {served:?}");
        }
        let own = |scored: &&super::lease::Scored| scored.relay == change.holder;
        let least = change.scored.iter().filter_map(|scored| scored.score).min_by(f64::total_cmp);
        if !alone {
            assert_eq!(change.scored.iter().find(own).and_then(|scored| scored.score), least, "not the least loaded: {change:?}");
        }
    }
}

#[test]
fn a10_in_thousands_of_calm_terms_everybody_serves_once_a_round_the_least_loaded_first() {
    let mut simulation = Simulation::new(&Seed::new());
    while simulation.terms.len() < 2_001 {
        simulation.step(false);
    }
    let (first, others) = simulation.terms.split_first().unwrap();
    assert_eq!(first.1, Reason::First);
    assert!(others.iter().all(|(_, reason, _)| *reason == Reason::Time));
    for round in 1..simulation.terms.last().unwrap().2 {
        let of: Vec<&RelayId> = simulation.terms.iter().filter(|(.., of)| *of == round).map(|(holder, ..)| holder).collect();
        assert_eq!(of.len(), NAMES.len(), "round {round}: {of:?}");
        // Names rise with loads. The first of all is any, and who just served is not next even if a round begins.
        assert!(of[1..].windows(2).all(|pair| pair[0] < pair[1]), "round {round}: {of:?}");
        assert!(round == 1 || of[0].as_str() == "a", "round {round}: {of:?}");
    }
}

#[test]
fn c11_in_thousands_of_stormy_terms_there_is_one_holder_and_terms_and_rounds_keep_their_rules() {
    let mut simulation = Simulation::new(&Seed::new());
    let mut most = 0;
    while simulation.terms.len() < 3_000 {
        simulation.step(true);
        let now = simulation.now.steady;
        let (term, _) = simulation.group.standing();
        let valid = simulation.relays.iter().filter(|relay| relay.is_alive(now) && relay.holds(now) == Some(term)).count();
        assert!(valid <= 1, "two valid holders of term {term}");
        most = most.max(valid);
    }
    assert_eq!(most, 1);
    let reasons: BTreeSet<&str> = simulation.terms.iter().map(|(_, reason, _)| reason.as_str()).collect();
    assert!(["silent", "lost", "time"].iter().all(|reason| reasons.contains(reason)), "{reasons:?}");
    let rounds: Vec<&BTreeSet<RelayId>> = simulation.served.values().collect();
    assert!(rounds.len() > 300 && rounds.iter().filter(|served| served.len() == NAMES.len()).count() > 100, "{}", rounds.len());
}
