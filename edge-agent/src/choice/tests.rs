use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const TUNING: Tuning = Tuning {
    distance: Duration::from_secs(10),
    gone_after: Duration::from_secs(1),
    tie: Duration::from_millis(1),
    refused_rest: Duration::from_secs(60),
    look_again: Duration::from_secs(120),
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn answers(rtts: &[u64]) -> Event {
    Event::Probed(rtts.iter().map(|rtt| if *rtt == 0 { Probe::Silent } else { Probe::Answered(ms(*rtt)) }).collect())
}

/// A choice with its clock.
struct Table {
    choice: Choice,
    now: Instant,
    rng: StdRng,
}

impl Table {
    fn new(relays: usize, known: Option<usize>) -> Self {
        Self { choice: Choice::new(TUNING, relays, known), now: Instant::now(), rng: StdRng::seed_from_u64(1) }
    }

    /// With a first round that was answered so.
    fn after_first(rtts: &[u64]) -> (Self, Move) {
        let mut table = Self::new(rtts.len(), None);
        assert_eq!(table.tell(0, Event::Tick), Some(Action::Probe));
        let Some(Action::Move(moved)) = table.tell(0, answers(rtts)) else { panic!("no target") };
        (table, moved)
    }

    fn tell(&mut self, after: u64, event: Event) -> Option<Action> {
        self.now += ms(after);
        self.choice.step(event, self.now, &mut self.rng)
    }

    fn told(&mut self, after: u64, event: Event) -> (usize, Why) {
        match self.tell(after, event) {
            Some(Action::Move(moved)) => (moved.to, moved.why),
            other => panic!("no move but {other:?}"),
        }
    }
}

#[test]
fn a1_smallest_round_trip_of_the_first_round_is_the_target() {
    let (table, moved) = Table::after_first(&[20, 5, 80]);
    assert_eq!(moved, Move { from: None, to: 1, why: Why::First, before: None, after: Some(ms(5)) });
    assert_eq!((table.choice.target(), table.choice.due()), (Some(1), None));
}

#[test]
fn a2_ties_are_broken_at_random_within_the_tolerance() {
    let mut counts = [0; 3];
    for seed in 0..300 {
        let mut choice = Choice::new(TUNING, 3, None);
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        assert_eq!(choice.step(Event::Tick, now, &mut rng), Some(Action::Probe));
        choice.step(answers(&[6, 5, 7]), now, &mut rng);
        counts[choice.target().unwrap()] += 1;
    }
    assert!(counts[0] > 100 && counts[1] > 100 && counts[2] == 0, "{counts:?}");
}

#[test]
fn one_relay_is_never_probed() {
    let mut table = Table::new(1, None);
    assert_eq!(table.told(0, Event::Tick), (0, Why::Only));
    for event in [Event::Slow, Event::Lost, Event::Tick, Event::Refused, Event::Connected] {
        assert_eq!(table.tell(60_000, event), None);
        assert_eq!(table.choice.due(), None);
    }
}

#[test]
fn a3_a_slow_send_asks_for_one_round_a_distance() {
    let (mut table, _) = Table::after_first(&[20, 50]);
    assert_eq!(table.tell(20_000, Event::Tick), None);
    assert_eq!(table.tell(0, Event::Slow), Some(Action::Probe));
    assert_eq!(table.tell(0, Event::Slow), None, "one round at a time");
    assert_eq!(table.tell(100, answers(&[20, 50])), None);
    assert_eq!(table.tell(1, Event::Slow), None, "too early");
    assert_eq!(table.choice.due(), Some(table.now + ms(9_999)));
    assert_eq!(table.tell(9_998, Event::Tick), None);
    assert_eq!(table.tell(1, Event::Tick), Some(Action::Probe));
}

#[test]
fn a3_moves_only_for_two_thirds_and_more_than_a_tie() {
    for (now, other, moves) in [(90, 61, false), (90, 60, true), (150, 101, false), (150, 100, true), (3, 1, true), (2, 1, false)]
    {
        let (mut table, _) = Table::after_first(&[1, 500]);
        assert_eq!(table.tell(20_000, Event::Slow), Some(Action::Probe));
        match table.tell(0, answers(&[now, other])) {
            Some(Action::Move(moved)) => {
                let wanted = Move { from: Some(0), to: 1, why: Why::Faster, before: Some(ms(now)), after: Some(ms(other)) };
                assert!(moves && moved == wanted, "{moved:?}");
            }
            action => assert!(!moves && action.is_none(), "{now} {other} {action:?}"),
        }
    }
}

#[test]
fn a_lost_target_is_left_within_one_round() {
    let (mut table, _) = Table::after_first(&[5, 20, 80]);
    assert_eq!(table.tell(2000, Event::Lost), None, "it may come back");
    assert_eq!(table.choice.due(), Some(table.now + ms(1000)));
    // Not the distance of slow sends.
    assert_eq!(table.tell(1000, Event::Tick), Some(Action::Probe));
    assert_eq!(table.told(5, answers(&[0, 20, 80])), (1, Why::Gone));
    // Its probes work and its connection doesn't.
    table.tell(2000, Event::Lost);
    assert_eq!(table.tell(1000, Event::Tick), Some(Action::Probe));
    assert_eq!(table.told(5, answers(&[0, 20, 80])), (2, Why::Gone));
    // Silent towards sends, and to probes.
    assert_eq!(table.tell(20_000, Event::Slow), Some(Action::Probe));
    assert_eq!(table.told(5, answers(&[30, 40, 0])), (0, Why::Gone));
}

#[test]
fn a_target_that_comes_back_in_time_is_kept() {
    let (mut table, _) = Table::after_first(&[5, 20]);
    table.tell(2000, Event::Lost);
    assert_eq!(table.tell(900, Event::Connected), None);
    assert_eq!(table.tell(60_000, Event::Tick), None);
    assert_eq!(table.choice.due(), None);
}

#[test]
fn when_nobody_answers_rounds_go_on_slowly_and_the_first_answer_wins() {
    let mut table = Table::new(2, None);
    assert_eq!(table.tell(0, Event::Tick), Some(Action::Probe));
    assert_eq!(table.told(0, answers(&[0, 0])), (0, Why::Unprobed));
    table.tell(0, Event::Lost);
    assert_eq!(table.tell(1000, Event::Tick), Some(Action::Probe));
    assert_eq!(table.tell(0, answers(&[0, 0])), None);
    for _ in 0..5 {
        assert_eq!(table.choice.due(), Some(table.now + ms(10_000)));
        assert_eq!(table.tell(9_999, Event::Tick), None);
        assert_eq!(table.tell(1, Event::Tick), Some(Action::Probe));
        assert_eq!(table.tell(0, answers(&[0, 0])), None);
    }
    assert_eq!(table.tell(10_000, Event::Tick), Some(Action::Probe));
    assert_eq!(table.told(0, answers(&[0, 7])), (1, Why::Gone));
}

#[test]
fn a_target_that_refuses_is_left_and_rests() {
    let (mut table, _) = Table::after_first(&[5, 20]);
    assert_eq!(table.tell(20_000, Event::Refused), Some(Action::Probe));
    assert_eq!(table.told(0, answers(&[5, 20])), (1, Why::Refused));
    assert_eq!(table.tell(20_000, Event::Slow), Some(Action::Probe));
    assert_eq!(table.tell(0, answers(&[5, 20])), None, "it rests");
    assert_eq!(table.tell(50_000, Event::Slow), Some(Action::Probe));
    assert_eq!(table.told(0, answers(&[5, 20])), (0, Why::Faster));
    // With nowhere else to go it stays.
    assert_eq!(table.tell(20_000, Event::Refused), Some(Action::Probe));
    assert_eq!(table.tell(0, answers(&[5, 0])), None);
}

#[test]
fn a2_the_target_of_the_last_run_is_looked_up_and_checked() {
    let mut table = Table::new(2, Some(1));
    assert_eq!(table.choice.target(), Some(1));
    assert_eq!(table.tell(0, Event::Tick), Some(Action::Probe));
    assert_eq!(table.tell(0, answers(&[19, 20])), None);
    assert_eq!(Table::new(2, Some(2)).choice.target(), None, "it is not configured any more");
}

/// Relays whose delays wander and that come and go: whatever happens, rounds keep their distance, no move is for less than it must
/// be, and the agent is never for long at a relay that is gone while another one is there.
#[test]
fn a3_thousands_of_steps_keep_the_rules() {
    for seed in 0..20 {
        let mut world = StdRng::seed_from_u64(seed);
        let mut table = Table::new(4, None);
        let mut rtts = [10_u64, 20, 40, 80];
        let (mut moves, mut rounds, mut last_end, mut dark) = (0, 0, None::<Instant>, ms(0));
        let mut action = table.tell(0, Event::Tick);
        for step in 0..5000 {
            while let Some(now) = action.take() {
                match now {
                    Action::Probe => {
                        rounds += 1;
                        let distance = last_end.map(|end| table.now - end);
                        assert!(
                            distance.is_none_or(|passed| passed >= TUNING.gone_after),
                            "seed {seed} step {step}: {distance:?}"
                        );
                        action = table.tell(30, answers(&rtts));
                        last_end = Some(table.now);
                    }
                    Action::Move(moved) => {
                        moves += 1;
                        if moved.why == Why::Faster {
                            assert!(moved.after.unwrap() * 3 <= moved.before.unwrap() * 2, "seed {seed}: {moved:?}");
                        }
                        assert_ne!(moved.from, Some(moved.to));
                    }
                }
            }
            // The world: a delay changes, or a relay goes, or it comes back.
            if world.random_range(0..20) == 0 {
                let relay = world.random_range(0..4);
                rtts[relay] = if rtts[relay] > 0 && world.random_range(0..4) == 0 { 0 } else { world.random_range(1..400) };
            }
            let target = table.choice.target().unwrap();
            let event = match rtts[target] {
                0 => Event::Lost,
                _ if table.choice.lost.is_some() => Event::Connected,
                rtt if rtt > 100 => Event::Slow,
                _ => Event::Tick,
            };
            action = table.tell(100, event);
            let dark_now = rtts[target] == 0 && rtts.iter().any(|rtt| *rtt > 0);
            dark = if dark_now { dark + ms(100) } else { ms(0) };
            assert!(dark < TUNING.distance + ms(2000), "seed {seed} step {step}: stayed at a relay that is gone for {dark:?}");
        }
        // 5000 steps of 0.1 s: 500 s, so at most 50 rounds at the distance, and those of lost targets.
        assert!(moves > 5 && rounds < 120, "seed {seed}: {moves} moves, {rounds} rounds");
    }
}

#[test]
fn a3_a_target_that_was_gone_is_looked_for_again_ever_more_rarely_and_taken_back_when_it_is_much_nearer() {
    let (mut table, _) = Table::after_first(&[5, 20, 80]);
    table.tell(20_000, Event::Lost);
    assert_eq!(table.tell(1_000, Event::Tick), Some(Action::Probe));
    assert_eq!(table.told(0, answers(&[0, 20, 80])), (1, Why::Gone));
    let (mut pause, mut looks) = (120_000, 0);
    while pause <= 120_000 * 16 {
        let due = table.choice.due().unwrap() - table.now;
        assert!((pause / 2..pause * 3 / 2).contains(&(due.as_millis() as u64)), "{due:?} after {looks} looks");
        assert_eq!(table.tell(due.as_millis() as u64 - 1, Event::Tick), None);
        assert_eq!(table.tell(2, Event::Tick), Some(Action::Probe));
        if looks == 6 {
            break;
        }
        assert_eq!(table.tell(0, answers(&[0, 20, 80])), None);
        pause = (pause * 2).min(120_000 * 16);
        looks += 1;
    }
    assert_eq!(table.told(0, answers(&[5, 20, 80])), (0, Why::Faster));
    // Everybody has answered: nothing is looked for any more.
    assert_eq!(table.choice.due(), None);
    assert_eq!(table.tell(3_600_000, Event::Tick), None);
}
