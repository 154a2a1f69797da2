//! The account of a feed against a plain set, whatever comes in which order.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use archive::{Append, Archive, Lane, Options, SeriesId};
use proptest::prelude::*;
use wire::{Epoch, Intervals, Operation, RunBuilder};

use super::plan::Plan;

const EPOCH: Epoch = Epoch(7);

/// Numbers of two series, as an archive gives them out.
fn ids() -> &'static [SeriesId] {
    static IDS: OnceLock<Vec<SeriesId>> = OnceLock::new();
    IDS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (archive, _) = Archive::open(dir.path(), Options::new("cloud".parse().unwrap(), Arc::new(|| 1))).unwrap();
        for series in ["a/b/c", "a/b/d"] {
            let mut run = RunBuilder::new(series.parse().unwrap(), Operation::Store);
            run.push(1, b"x").unwrap();
            archive.append(Append::Raw { lane: Lane::Store, runs: vec![run] }).unwrap().wait().unwrap();
        }
        archive.series_ids("#")
    })
}

#[derive(Debug, Clone)]
enum Step {
    /// Numbers are committed, if they are new, and the batch has room or not.
    Commit { low: u64, more: u64, room: bool },
    /// The feed walks over what is due, up to so many records.
    Walk { records: usize },
    /// The feed fell behind and learns anew what is held.
    Behind,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = (1_u64..80, 0_u64..6, any::<bool>()).prop_map(|(low, more, room)| Step::Commit { low, more, room });
    let walk = (1_usize..20).prop_map(|records| Step::Walk { records });
    prop::collection::vec(prop_oneof![4 => commit, 3 => walk, 1 => Just(Step::Behind)], 1..80)
}

proptest! {
    #[test]
    fn c7_every_number_is_sent_once_and_in_order_unless_it_came_late(past in 0_u64..30, steps in steps()) {
        let ids = ids();
        let (id, topic): (_, Arc<str>) = (ids[0], "data/a/b/c".into());
        let mut plan = Plan::default();
        let mut held = Intervals::new();
        held.insert(1, past);
        plan.hold(id, &topic, &[(EPOCH, held.clone())], false);
        let mut sent: Vec<u64> = Vec::new();
        let walk = |plan: &mut Plan, held: &Intervals, sent: &mut Vec<u64>, records: usize| {
            let Some(due) = plan.next() else { return false };
            let numbers = due.wanted.as_slice().iter().flat_map(|(low, high)| *low..=*high);
            let piece: Vec<u64> = numbers.take(records).collect();
            for seq in &piece {
                assert!(held.contains(*seq), "{seq} is not held");
                let is_late = sent.iter().any(|other| other > seq);
                assert_eq!(plan.is_past(id, EPOCH, *seq), *seq <= past || is_late, "{seq}");
                sent.push(*seq);
            }
            plan.walked(&due, *piece.last().unwrap());
            true
        };
        for step in steps {
            match step {
                Step::Commit { low, more, room } => {
                    // The archive calls each number new once.
                    for (low, high) in held.missing(low, low + more) {
                        held.insert(low, high);
                        if plan.committed(id, EPOCH, (low, high), room) {
                            assert!(sent.iter().all(|other| *other < low), "{low} is not next");
                            sent.extend(low..=high);
                        }
                    }
                }
                Step::Walk { records } => drop(walk(&mut plan, &held, &mut sent, records)),
                Step::Behind => plan.hold(id, &topic, &[(EPOCH, held.clone())], false),
            }
        }
        while walk(&mut plan, &held, &mut sent, 7) {}
        let all: BTreeSet<u64> = sent.iter().copied().collect();
        prop_assert_eq!(all.len(), sent.len(), "something was sent twice");
        let expected: BTreeSet<u64> = held.as_slice().iter().flat_map(|(low, high)| *low..=*high).collect();
        prop_assert_eq!(all, expected);
        // What was known as the feed began goes again through the follower, and nowhere else.
        plan.committed(id, EPOCH, (1, 40), true);
        prop_assert!(plan.next().is_none_or(|due| due.wanted.as_slice().iter().all(|(low, high)| held.missing(*low, *high) == [(*low, *high)])));
    }
}

#[test]
fn c7_series_are_served_in_turns_and_epochs_in_their_order() {
    let ids = ids();
    let mut plan = Plan::default();
    for id in ids {
        let held = [(Epoch(9), Intervals::of(1, 4)), (Epoch(5), Intervals::of(1, 2))];
        plan.hold(*id, &"data/x".into(), &held, false);
    }
    let mut order = Vec::new();
    while let Some(due) = plan.next() {
        order.push((ids.iter().position(|id| *id == due.series).unwrap(), due.epoch.0));
        let first = due.wanted.first().unwrap();
        plan.walked(&due, first + 1);
    }
    assert_eq!(order, [(0, 9), (1, 9), (0, 9), (1, 9), (0, 5), (1, 5)]);
}

#[test]
fn c7_an_account_is_as_large_as_its_holes() {
    let ids = ids();
    let mut plan = Plan::default();
    let held: Intervals = (1..=1_000).map(|seq| (2 * seq, 2 * seq)).collect();
    plan.hold(ids[0], &"data/x".into(), &[(EPOCH, held)], false);
    let with_holes = plan.bytes();
    assert!(with_holes >= 16_000);
    plan.hold(ids[0], &"data/x".into(), &[(EPOCH, Intervals::of(1, 2_001))], false);
    while let Some(due) = plan.next() {
        plan.walked(&due, u64::MAX);
    }
    assert!(plan.bytes() < with_holes - 15_000);
    // What is none of the feed's business is not due.
    plan.hold(ids[1], &"data/y".into(), &[(EPOCH, Intervals::of(1, 9))], true);
    assert_eq!(plan.next(), None);
    assert!(plan.committed(ids[1], EPOCH, (10, 12), true));
}

#[test]
fn c7_a_series_that_is_held_back_gathers_and_is_of_the_past_when_it_is_let_go() {
    let ids = ids();
    let (mut plan, topic): (_, Arc<str>) = (Plan::default(), "data/x".into());
    plan.hold_back(ids[0], &topic);
    plan.hold(ids[0], &topic, &[(EPOCH, Intervals::of(5, 6))], false);
    assert!(!plan.committed(ids[0], EPOCH, (7, 8), true), "nothing overtakes what is awaited");
    assert!(!plan.committed(ids[0], EPOCH, (1, 4), true));
    assert_eq!(plan.next(), None);
    plan.release(ids[0]);
    let due = plan.next().unwrap();
    assert_eq!(due.wanted, Intervals::of(1, 8));
    assert!((1..=8).all(|seq| plan.is_past(ids[0], EPOCH, seq)) && !plan.is_past(ids[0], EPOCH, 9));
    plan.walked(&due, 8);
    plan.release(ids[0]);
    assert_eq!(plan.next(), None);
    assert!(plan.committed(ids[0], EPOCH, (9, 9), true));
}
