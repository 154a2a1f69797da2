//! The decision, step by step, through all short stories, and through thousands of random ones.

use testkit::Seed;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn name(text: &str) -> RelayId {
    text.parse().unwrap()
}

fn patience() -> Patience {
    Patience::of(500 * MS)
}

fn told(beat: u64, term: u64, holder: &str) -> Lease {
    Lease {
        group: name("north"),
        beat,
        term,
        holder: (!holder.is_empty()).then(|| name(holder)),
        address: if holder.is_empty() { String::new() } else { format!("{holder}:1883") },
        ttl: 2_000 * MS,
        until: TermLimits::default(),
    }
}

fn proxied(holder: &str, term: u64) -> Way {
    Way::Proxied { holder: name(holder), address: format!("{holder}:1883"), term }
}

fn try_it(holder: &str) -> Action {
    Action::Try { holder: name(holder), address: format!("{holder}:1883") }
}

/// A connected member with heartbeat 1 on its way.
fn member(now: Instant) -> Machine {
    let mut machine = Machine::new(name("me"), patience(), now);
    assert!(machine.connected(true, now).is_empty());
    machine.beat(1, now);
    machine
}

/// A member behind proxy `a` of term 1.
fn behind_a(now: Instant) -> Machine {
    let mut machine = member(now);
    assert_eq!(machine.lease(&told(1, 1, "a"), now), [try_it("a")]);
    assert_eq!(machine.tried(true, now), [Action::Go(proxied("a", 1), Why::Lease)]);
    machine
}

#[test]
fn a7_a_member_goes_through_the_proxy_when_it_stands_and_not_before() {
    let now = Instant::now();
    let mut machine = member(now);
    assert_eq!(machine.lease(&told(1, 1, "a"), now), [try_it("a")]);
    assert_eq!(machine.way(), &Way::Direct { term: 0 });
    assert!(machine.lease(&told(0, 1, "a"), now).is_empty(), "it is being tried");
    assert_eq!(machine.tried(true, now), [Action::Go(proxied("a", 1), Why::Lease)]);
    assert!(machine.tick(now + 60_000 * MS).is_empty(), "a lease that runs out ends no way");
}

#[test]
fn a7_the_holder_itself_goes_directly_with_its_term() {
    let now = Instant::now();
    let mut machine = member(now);
    assert_eq!(machine.lease(&told(1, 3, "me"), now), [Action::Go(Way::Direct { term: 3 }, Why::Lease)]);
    assert_eq!(machine.limits(), Some(TermLimits::default()));
    machine.beat(2, now);
    assert!(machine.lease(&told(2, 3, "me"), now).is_empty());
    // Another's lease: no more its own term, and then through the other.
    machine.beat(3, now);
    assert_eq!(machine.lease(&told(3, 4, "a"), now), [Action::Go(Way::Direct { term: 0 }, Why::Lease), try_it("a")]);
    assert_eq!(machine.limits(), None);
    assert_eq!(machine.tried(true, now), [Action::Go(proxied("a", 4), Why::Lease)]);
    machine.beat(4, now);
    assert_eq!(machine.lease(&told(4, 5, ""), now), [Action::Go(Way::Direct { term: 0 }, Why::Lease)]);
}

#[test]
fn c11_a_proxy_whose_link_fails_is_left_at_once() {
    let now = Instant::now();
    let mut machine = behind_a(now);
    assert_eq!(machine.connected(false, now), [Action::Go(Way::Direct { term: 0 }, Why::Lost)]);
}

#[test]
fn c11_a_proxy_that_is_silent_is_left_in_a_second_and_a_half() {
    let start = Instant::now();
    let mut machine = behind_a(start);
    machine.beat(2, start);
    machine.beat(3, start + 500 * MS);
    let end = start + 1_500 * MS;
    assert_eq!(machine.next_tick(start), Some(end));
    assert!(machine.tick(end - MS).is_empty());
    assert_eq!(machine.tick(end), [Action::Go(Way::Direct { term: 0 }, Why::Unanswered)]);
}

#[test]
fn c11_receipts_show_that_a_busy_way_lives() {
    let start = Instant::now();
    let mut machine = behind_a(start);
    machine.beat(2, start);
    machine.alive(start + 1_400 * MS);
    assert!(machine.tick(start + 2_800 * MS).is_empty());
    assert_eq!(machine.tick(start + 2_900 * MS).len(), 1);
}

#[test]
fn c11_a_direct_way_that_is_silent_is_dialled_anew_and_never_without_heartbeats() {
    let start = Instant::now();
    let mut machine = member(start);
    assert_eq!(machine.tick(start + 1_500 * MS), [Action::Redial]);
    assert_eq!(machine.tick(start + 90_000 * MS), [], "while there is no connection there is nothing to wait for");
    let mut quiet = Machine::new(name("me"), patience(), start);
    quiet.connected(true, start);
    assert_eq!((quiet.next_tick(start), quiet.tick(start + 90_000 * MS)), (None, vec![]));
}

#[test]
fn c11_a_refusal_holds_the_frames_until_another_lease_comes_or_for_a_moment() {
    let now = Instant::now();
    let mut machine = behind_a(now);
    assert_eq!(machine.refused(now), [Action::Hold, Action::Beat]);
    assert!(machine.refused(now).is_empty(), "one of a burst");
    machine.beat(2, now);
    assert_eq!(machine.lease(&told(2, 2, "b"), now), [try_it("b")]);
    assert_eq!(machine.tried(true, now), [Action::Go(proxied("b", 2), Why::Lease)]);
    // The moment.
    assert_eq!(machine.refused(now), [Action::Hold, Action::Beat]);
    assert_eq!(machine.next_tick(now), Some(now + 500 * MS));
    assert_eq!(machine.tick(now + 500 * MS), [Action::Go(Way::Direct { term: 0 }, Why::Refused)]);
    // A proxy that takes not even the heartbeat can't tell of another lease.
    let mut machine = behind_a(now);
    machine.refused(now);
    assert_eq!(machine.beat_refused(now), [Action::Go(Way::Direct { term: 0 }, Why::Refused)]);
    assert!(machine.beat_refused(now).is_empty() && machine.refused(now).is_empty(), "a direct way has no term to be over");
}

#[test]
fn c11_a_holder_whose_frames_are_refused_is_no_longer_one() {
    let now = Instant::now();
    let mut machine = member(now);
    machine.lease(&told(1, 3, "me"), now);
    assert_eq!(machine.refused(now), [Action::Go(Way::Direct { term: 0 }, Why::Refused), Action::Beat]);
    assert!(machine.tick(now + 500 * MS).is_empty(), "not by the lease that was refused");
    machine.beat(2, now);
    assert_eq!(machine.lease(&told(2, 4, "a"), now), [try_it("a")]);
}

#[test]
fn a7_a_proxy_that_failed_is_tried_again_after_a_pause_that_doubles_and_another_at_once() {
    let mut now = Instant::now();
    let mut machine = behind_a(now);
    machine.connected(false, now);
    for pause in [2, 4, 8, 16, 32, 60, 60] {
        let again = now + pause * 1_000 * MS;
        // The cloud goes on naming it.
        assert!(machine.lease(&told(0, 1, "a"), again - MS).is_empty(), "{pause}");
        assert_eq!(machine.next_tick(again - MS), Some(again));
        assert_eq!(machine.tick(again), [try_it("a")], "{pause}");
        assert_eq!(machine.tried(false, again), [Action::GiveUp]);
        now = again;
    }
    assert_eq!(machine.lease(&told(0, 2, "b"), now), [try_it("b")]);
    assert_eq!(machine.tick(now + 2_000 * MS), [Action::GiveUp], "it does not answer");
}

#[test]
fn a_lease_said_before_what_is_known_is_ignored_unless_it_answers() {
    let now = Instant::now();
    let mut machine = member(now);
    machine.lease(&told(0, 7, "a"), now);
    assert!(machine.lease(&told(0, 6, "b"), now).is_empty());
    assert_eq!(machine.term(), 7);
    // A cloud that has lost its terms begins anew.
    assert_eq!(machine.lease(&told(1, 1, "b"), now), [try_it("b")]);
}

/// What the uplink keeps beside the machine.
#[derive(Debug, Clone)]
struct Driver {
    way: Way,
    candidate: Option<(RelayId, String)>,
    holding: bool,
    failed: BTreeMap<RelayId, Instant>,
}

impl Driver {
    fn new() -> Self {
        Self { way: Way::Direct { term: 0 }, candidate: None, holding: false, failed: BTreeMap::new() }
    }

    /// Does what it is told and checks that it can be done.
    fn obey(&mut self, actions: &[Action], now: Instant, story: &dyn Fn() -> String) {
        for action in actions {
            match action {
                Action::Go(way, why) => {
                    if let Way::Proxied { holder, address, .. } = way {
                        let candidate = self.candidate.take();
                        assert_eq!(candidate, Some((holder.clone(), address.clone())), "{}", story());
                        assert_ne!(holder.as_str(), "me", "{}", story());
                        assert_eq!(*why, Why::Lease);
                    }
                    if let Way::Proxied { holder, .. } = &self.way
                        && *why != Why::Lease
                    {
                        self.failed.insert(holder.clone(), now);
                    }
                    assert_ne!(*way, self.way, "no change: {}", story());
                    self.way = way.clone();
                    self.holding = false;
                }
                Action::Try { holder, address } => {
                    if let Some(failed) = self.failed.get(holder) {
                        assert!(now >= *failed + patience().pause_min, "tried too early: {}", story());
                    }
                    self.candidate = Some((holder.clone(), address.clone()));
                }
                Action::GiveUp => assert!(self.candidate.take().is_some(), "{}", story()),
                Action::Redial => assert!(self.way.is_direct(), "{}", story()),
                Action::Hold => self.holding = true,
                Action::Beat => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Wait(u64),
    Beat,
    Answer(&'static str),
    Push(&'static str),
    Up,
    Down,
    Stands,
    Fails,
    Refused,
    BeatRefused,
    Alive,
}

const STEPS: [Step; 13] = [
    Step::Wait(400),
    Step::Wait(2_100),
    Step::Beat,
    Step::Answer("me"),
    Step::Answer("a"),
    Step::Answer("b"),
    Step::Answer(""),
    Step::Push("a"),
    Step::Up,
    Step::Down,
    Step::Stands,
    Step::Fails,
    Step::Refused,
];

/// A machine, its driver, and a cloud that counts terms.
struct Story {
    machine: Machine,
    driver: Driver,
    now: Instant,
    beat: u64,
    term: u64,
    holder: &'static str,
    own_terms: Vec<u64>,
    steps: Vec<Step>,
}

impl Story {
    fn new(start: Instant) -> Self {
        let machine = Machine::new(name("me"), patience(), start);
        let (driver, steps) = (Driver::new(), Vec::new());
        Self { machine, driver, now: start, beat: 0, term: 0, holder: "", own_terms: vec![0], steps }
    }

    fn grant(&mut self, holder: &'static str) {
        if holder != self.holder {
            self.term += 1;
            self.holder = holder;
            if holder == "me" {
                self.own_terms.push(self.term);
            }
        }
    }

    fn take(&mut self, step: Step) {
        self.steps.push(step);
        let actions = match step {
            Step::Wait(ms) => {
                self.now += ms as u32 * MS;
                self.machine.tick(self.now)
            }
            Step::Beat => {
                self.beat += 1;
                self.machine.beat(self.beat, self.now);
                Vec::new()
            }
            Step::Answer(holder) => {
                self.grant(holder);
                self.machine.lease(&told(self.beat, self.term, holder), self.now)
            }
            Step::Push(holder) => {
                self.grant(holder);
                self.machine.lease(&told(0, self.term, holder), self.now)
            }
            Step::Up => self.machine.connected(true, self.now),
            Step::Down => self.machine.connected(false, self.now),
            // What the driver has no candidate for does not happen.
            Step::Stands | Step::Fails if self.driver.candidate.is_none() => Vec::new(),
            Step::Stands => self.machine.tried(true, self.now),
            Step::Fails => self.machine.tried(false, self.now),
            Step::Refused => self.machine.refused(self.now),
            Step::BeatRefused => self.machine.beat_refused(self.now),
            Step::Alive => {
                self.machine.alive(self.now);
                Vec::new()
            }
        };
        let steps = &self.steps;
        let story = || format!("{steps:?} -> {actions:?}");
        self.driver.obey(&actions, self.now, &story);
        assert_eq!(self.machine.way(), &self.driver.way, "{}", story());
        assert_eq!(self.machine.trying.is_some(), self.driver.candidate.is_some(), "{}", story());
        assert_eq!(self.machine.held_since.is_some(), self.driver.holding, "{}", story());
        if let Way::Direct { term } = self.machine.way() {
            assert!(self.own_terms.contains(term), "a term that was never its own: {}", story());
        }
        if self.driver.holding {
            assert!(self.machine.next_tick(self.now).is_some(), "held for good: {}", story());
        }
        if let Some(next) = self.machine.next_tick(self.now)
            && next <= self.now
        {
            // A timer that is due does something, and is gone.
            let late = self.machine.tick(self.now);
            self.driver.obey(&late, self.now, &story);
            let next = self.machine.next_tick(self.now);
            assert!(next.is_none_or(|next| next > self.now), "{next:?} {:?}: {}", self.now, story());
        }
    }

    /// Whatever has happened: a cloud that answers, and a proxy that stands, are found.
    fn ends_well(&mut self) {
        self.grant("a");
        for _ in 0..400 {
            for step in [Step::Wait(400), Step::Up, Step::Beat, Step::Answer("a"), Step::Stands] {
                self.take(step);
            }
            if self.machine.way() == &proxied("a", self.term) && !self.driver.holding {
                return;
            }
        }
        panic!("never through the proxy: {:?} after {:?}", self.machine, self.steps);
    }
}

#[test]
fn c11_all_short_stories_keep_the_rules() {
    let start = Instant::now();
    let count = STEPS.len().pow(4);
    for number in 0..count {
        let mut story = Story::new(start);
        story.take(Step::Up);
        let mut rest = number;
        for _ in 0..4 {
            story.take(STEPS[rest % STEPS.len()]);
            rest /= STEPS.len();
        }
        story.ends_well();
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

#[test]
fn c11_thousands_of_random_steps_keep_the_rules() {
    let seed = Seed::new();
    let mut dice = Dice(seed.value());
    for _ in 0..200 {
        let mut story = Story::new(Instant::now());
        for _ in 0..200 {
            let step = match dice.below(STEPS.len() as u64 + 4) as usize {
                place if place < STEPS.len() => STEPS[place],
                place if place == STEPS.len() => Step::BeatRefused,
                place if place == STEPS.len() + 1 => Step::Alive,
                place if place == STEPS.len() + 2 => Step::Wait(1 + dice.below(5_000)),
                _ => Step::Stands,
            };
            story.take(step);
        }
        story.ends_well();
    }
}
