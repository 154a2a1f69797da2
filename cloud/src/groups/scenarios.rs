//! Tests of the lease: one case after the other.

use std::time::{Duration, Instant};

use wire::group::Heartbeat;
use wire::{Epoch, RelayId};

use super::lease::{Group, Kept, Now, Reason};
use super::settings::{Group as Settings, Term};

pub(super) const TTL: Duration = Duration::from_millis(1_500);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn relay(name: &str) -> RelayId {
    name.parse().unwrap()
}

pub(super) fn settings(members: &[&str], term: Term) -> Settings {
    let members = members.iter().map(|name| relay(name)).collect();
    Settings { name: relay("north"), members, ttl: chassis::Span(TTL), term }
}

pub(super) fn beat(name: &str, term: u64) -> Heartbeat {
    Heartbeat {
        group: relay("north"),
        relay_epoch: Epoch(1),
        beat: 1,
        term,
        address: format!("{name}:1883"),
        done: false,
        period: SECOND,
        collected: vec![],
    }
}

/// A group and its time.
struct Town {
    group: Group,
    now: Now,
}

impl Town {
    fn new(term: Term) -> Self {
        let now = Now { steady: Instant::now(), at: 1_000_000_000_000 };
        Self { group: Group::new(settings(&["a", "b", "c"], term), None, now), now }
    }

    /// One in which `a` serves term 1 and knows it, and all others were heard.
    fn served_by_a(term: Term) -> Self {
        let mut town = Self::new(term);
        assert_eq!(town.hear("a", 0), Some(("a".into(), 1, Reason::First)));
        for name in ["a", "b", "c"] {
            assert_eq!(town.hear(name, 1), None);
        }
        town
    }

    fn pass(&mut self, span: Duration) {
        self.now.steady += span;
        self.now.at += span.as_nanos() as i64;
    }

    fn decide(&mut self) -> Option<(String, u64, Reason)> {
        let change = self.group.due(self.now, 0)?;
        let seen = (change.holder.to_string(), change.term, change.reason);
        self.group.apply(change, self.now);
        Some(seen)
    }

    fn hear_beat(&mut self, name: &str, direct: bool, beat: &Heartbeat) -> Option<(String, u64, Reason)> {
        self.group.hear(&relay(name), direct, beat, self.now);
        self.decide()
    }

    fn hear(&mut self, name: &str, term: u64) -> Option<(String, u64, Reason)> {
        self.hear_beat(name, true, &beat(name, term))
    }

    fn holder(&self) -> Option<String> {
        self.group.lease(7, self.now.steady).holder.map(|holder| holder.to_string())
    }
}

#[test]
fn a7_any_live_member_with_an_address_is_the_first_proxy() {
    let mut town = Town::new(Term::default());
    assert_eq!((town.decide(), town.holder()), (None, None));
    assert_eq!(town.hear_beat("c", true, &Heartbeat { address: String::new(), ..beat("c", 0) }), None);
    assert_eq!(town.hear_beat("stranger", true, &beat("stranger", 0)), None);
    assert_eq!(town.hear("b", 0), Some(("b".into(), 1, Reason::First)));
    let lease = town.group.lease(7, town.now.steady);
    assert_eq!((lease.beat, lease.term, lease.address.as_str(), lease.ttl), (7, 1, "b:1883", TTL));
}

#[test]
fn a7_nothing_holds_before_it_was_kept() {
    let mut town = Town::new(Term::default());
    town.group.hear(&relay("a"), true, &beat("a", 0), town.now);
    let change = town.group.due(town.now, 0).unwrap();
    assert_eq!((town.holder(), town.group.standing()), (None, (0, None)));
    assert_eq!(town.group.due(town.now, 0), Some(change));
}

#[test]
fn a7_only_the_holders_own_word_with_its_term_renews_the_lease() {
    for renewed in [true, false] {
        let mut town = Town::served_by_a(Term::default());
        for _ in 0..10 {
            town.pass(TTL / 4);
            let lost = match renewed {
                true => town.hear("a", 1),
                // Through another member, it is no sign that the holder's own way works.
                false => town.hear_beat("a", false, &beat("a", 1)),
            };
            let other = town.hear("b", 1);
            if lost.is_some() || other.is_some() {
                assert!(!renewed);
                // b or c, whoever is heard: c has been silent for too long.
                assert_eq!(lost.or(other), Some(("b".into(), 2, Reason::Silent)));
                return;
            }
        }
        assert!(renewed, "a holder that is not heard was kept");
    }
}

#[test]
fn a7_a_holder_whose_heartbeats_wait_behind_frames_lives_and_so_do_its_members() {
    let mut town = Town::served_by_a(Term::default());
    for _ in 0..5 {
        town.pass(TTL / 2);
        town.group.carried(town.now.steady);
        assert_eq!((town.decide(), town.holder()), (None, Some("a".into())));
    }
    town.group.seen(&relay("c"), town.now.steady);
    town.group.seen(&relay("stranger"), town.now.steady);
    let done = Heartbeat { done: true, ..beat("a", 1) };
    assert_eq!(town.hear_beat("a", true, &done), Some(("c".into(), 2, Reason::Done)), "b was not seen");
    // What comes after the lease has run out does not bring it back.
    let mut town = Town::served_by_a(Term::default());
    town.pass(TTL);
    town.group.carried(town.now.steady);
    assert_eq!((town.decide(), town.holder()), (None, None));
}

#[test]
fn c11_a_dead_holder_is_no_proxy_any_more_whoever_speaks_next() {
    let mut town = Town::served_by_a(Term::default());
    town.pass(TTL);
    assert_eq!((town.decide(), town.holder()), (None, None), "nobody is heard");
    // What it sent long ago comes late: it gets a term like anybody else, never its old one again.
    assert_eq!(town.hear("a", 1), Some(("a".into(), 2, Reason::Silent)));
    let mut town = Town::served_by_a(Term::default());
    town.pass(TTL);
    assert_eq!(town.hear("c", 1), Some(("c".into(), 2, Reason::Silent)));
}

#[test]
fn c11_a_holder_that_lost_its_lease_is_replaced_at_once() {
    let mut town = Town::served_by_a(Term::default());
    town.pass(TTL / 3);
    assert!(matches!(town.hear("a", 0), Some((other, 2, Reason::Lost)) if other != "a"));
    // A new holder may speak once before it hears of its term; then it has the life of the lease to say that it knows.
    let mut town = Town::served_by_a(Term::default());
    town.group.hear(&relay("b"), true, &Heartbeat { address: "elsewhere:1".into(), ..beat("b", 1) }, town.now);
    town.pass(TTL / 3);
    let (next, ..) = town.hear("a", 0).unwrap();
    assert_eq!(town.hear(&next, 1), None);
    assert_eq!(town.holder(), Some(next.clone()));
    town.pass(TTL);
    assert!(matches!(town.hear("a", 1), Some((other, 3, Reason::Silent)) if other != next));
}

#[test]
fn a7_a_holder_without_an_address_or_place_is_replaced() {
    let mut town = Town::served_by_a(Term::default());
    let nowhere = Heartbeat { address: String::new(), ..beat("a", 1) };
    assert!(matches!(town.hear_beat("a", true, &nowhere), Some((_, 2, Reason::Unreachable))));
    let mut town = Town::served_by_a(Term::default());
    let moved = Heartbeat { address: "a:1884".into(), ..beat("a", 1) };
    assert_eq!(town.hear_beat("a", true, &moved), None);
    assert_eq!(town.group.lease(1, town.now.steady).address, "a:1884");
    let kept = Kept {
        term: 8,
        holder: relay("gone"),
        address: "gone:1".into(),
        since: town.now.at,
        round: 3,
        served: [relay("gone"), relay("b")].into(),
    };
    let mut town = Town { group: Group::new(settings(&["a", "b"], Term::default()), Some(kept), town.now), now: town.now };
    assert_eq!(town.holder(), None);
    assert_eq!(town.hear("b", 8), Some(("b".into(), 9, Reason::Removed)));
}

#[test]
fn a8_a_term_ends_when_the_holder_is_done_or_its_time_is_up_and_somebody_can_take_over() {
    let limit = Term { time: Some(chassis::Span(10 * SECOND)), ..Term::default() };
    let mut town = Town::served_by_a(Term::default());
    let done = Heartbeat { done: true, ..beat("a", 1) };
    assert_eq!(town.hear_beat("a", true, &Heartbeat { term: 0, ..done.clone() }).map(|seen| seen.2), Some(Reason::Lost));
    let mut town = Town::served_by_a(Term::default());
    assert!(matches!(town.hear_beat("a", true, &done), Some((next, 2, Reason::Done)) if next != "a"));

    let mut town = Town::served_by_a(limit);
    for _ in 0..9 {
        town.pass(SECOND);
        assert_eq!(town.hear("a", 1), None);
    }
    assert_eq!(town.hear("b", 1), None);
    town.pass(SECOND);
    assert_eq!(town.group.next_deadline(town.now.steady - SECOND / 2), Some(town.now.steady));
    assert_eq!(town.hear("a", 1), Some(("b".into(), 2, Reason::Time)));

    // Nobody else is there: it serves on, in the same term, until somebody is.
    let mut town = Town::served_by_a(Term::default());
    for _ in 0..2 {
        town.pass(SECOND);
        assert_eq!(town.hear("a", 1), None);
    }
    for _ in 0..5 {
        town.pass(SECOND);
        assert_eq!((town.hear_beat("a", true, &done), town.holder()), (None, Some("a".into())));
    }
    assert_eq!(town.hear("c", 1), Some(("c".into(), 2, Reason::Done)));
}

#[test]
fn a7_after_a_restart_the_lease_goes_on_if_its_holder_is_heard_and_no_term_comes_twice() {
    let kept = |now: Now| Kept {
        term: 41,
        holder: relay("a"),
        address: "a:1883".into(),
        since: now.at - 3_000_000_000,
        round: 5,
        served: [relay("a"), relay("b")].into(),
    };
    let limit = Term { time: Some(chassis::Span(4 * SECOND)), ..Term::default() };
    let now = Now { steady: Instant::now() + 100 * SECOND, at: 1_000_000_000_000 };
    let restarted = || Town { group: Group::new(settings(&["a", "b", "c"], limit), Some(kept(now)), now), now };
    let mut town = restarted();
    assert_eq!((town.holder(), town.group.standing()), (Some("a".into()), (41, Some(&relay("a")))));
    assert_eq!((town.hear("b", 41), town.hear("c", 41)), (None, None));
    // The holder's own lease may have run out meanwhile: it may take it up again.
    assert_eq!((town.hear("a", 0), town.hear("a", 41)), (None, None));
    town.pass(SECOND);
    assert_eq!(town.hear("a", 41), Some(("c".into(), 42, Reason::Time)), "three seconds were served before");

    let mut town = restarted();
    assert_eq!((town.hear("b", 41), town.hear("c", 41)), (None, None));
    town.pass(TTL);
    assert_eq!(town.hear("b", 41), Some(("b".into(), 42, Reason::Silent)), "c was heard a lease's life ago");
    assert_eq!(town.group.served(), (6, &[relay("b")].into()));
}

#[test]
fn c11_a_cloud_that_lost_its_book_gives_terms_above_those_that_members_know() {
    let mut town = Town::new(Term::default());
    assert_eq!(town.hear("b", 56), Some(("b".into(), 57, Reason::First)));
    assert_eq!(town.hear("b", 57), None);
    assert!(matches!(town.hear("c", 90), Some((_, 91, Reason::Forgotten))));
    assert!(town.hear("a", u64::MAX).is_none(), "nobody can use the numbers up");
}
