use std::collections::BTreeSet;

use proptest::prelude::*;
use wire::Intervals;
use wire::cbor::Strict;

/// A set of small numbers, and the same shifted to the upper end of all numbers: both ends have their edge cases.
fn shift(number: u64, high: bool) -> u64 {
    if high { u64::MAX - 70 + number } else { number }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn c3_intervals_are_a_set_of_numbers(
        steps in prop::collection::vec((any::<bool>(), 0..=70u64, 0..12u64), 0..30), low in 0..=70u64, length in 0..=70u64, high_end: bool,
    ) {
        let (mut set, mut model) = (Intervals::new(), BTreeSet::new());
        for (add, from, length) in steps {
            let to = (from + length).min(70);
            if add {
                set.insert(shift(from, high_end), shift(to, high_end));
                model.extend(from..=to);
            } else {
                set.remove(shift(from, high_end), shift(to, high_end));
                model.retain(|number| !(from..=to).contains(number));
            }
        }
        let high = (low + length).min(70);
        let numbers: Vec<u64> = model.iter().map(|number| shift(*number, high_end)).collect();
        let inside = model.range(low..=high).count() as u64;
        prop_assert_eq!(set.as_slice().iter().flat_map(|(low, high)| *low..=*high).collect::<Vec<_>>(), numbers);
        prop_assert!(set.as_slice().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        prop_assert_eq!(set.count(), model.len() as u64);
        prop_assert_eq!((set.first(), set.last()), (model.first().map(|n| shift(*n, high_end)), model.last().map(|n| shift(*n, high_end))));
        let (from, to) = (shift(low, high_end), shift(high, high_end));
        prop_assert_eq!(set.covers(from, to), inside == high - low + 1);
        prop_assert_eq!(set.overlaps(from, to), inside > 0);
        prop_assert_eq!(set.contains(from), model.contains(&low));
        let missing: Vec<u64> = set.missing(from, to).into_iter().flat_map(|(low, high)| low..=high).collect();
        prop_assert_eq!(missing, (low..=high).filter(|n| !model.contains(n)).map(|n| shift(n, high_end)).collect::<Vec<_>>());
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        prop_assert_eq!(Intervals::decode(&mut Strict::new(&bytes)), Ok(set));
    }

    #[test]
    fn intervals_that_are_read_have_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut reader = Strict::new(&bytes);
        if let Ok(set) = Intervals::decode(&mut reader) {
            let mut again = Vec::new();
            set.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..reader.position()]);
            prop_assert!(set.count() > 0 || set.is_empty());
        }
    }

    #[test]
    fn the_order_in_which_intervals_come_changes_nothing(
        intervals in prop::collection::vec((0..200u64, 0..6u64), 0..40), more in prop::collection::vec((0..200u64, 0..6u64), 0..40),
    ) {
        let build = |pairs: &[(u64, u64)]| {
            let mut set = Intervals::new();
            pairs.iter().for_each(|(low, length)| set.insert(*low, low + length));
            set
        };
        let collected: Intervals = intervals.iter().map(|(low, length)| (*low, low + length)).collect();
        prop_assert_eq!(&collected, &build(&intervals));
        let mut extended = collected;
        extended.extend(&build(&more));
        prop_assert_eq!(extended, build(&[intervals, more].concat()));
    }
}

#[test]
fn all_numbers_together_can_be_counted() {
    let all = Intervals::of(0, u64::MAX);
    assert_eq!(all.count(), u64::MAX);
    assert_eq!(Intervals::of(1, u64::MAX).count(), u64::MAX);
}

/// A receipt of scattered numbers, as a hostile peer may send it, or a busy day make it: a slow way would take minutes here.
#[test]
fn c10_scattered_numbers_cost_no_more_than_sorting_them() {
    let scattered: Intervals = (0..300_000u64).rev().map(|number| (3 * number, 3 * number)).collect();
    assert_eq!(scattered.count(), 300_000);
    let mut between: Intervals = (0..300_000u64).rev().map(|number| (3 * number + 1, 3 * number + 1)).collect();
    between.extend(&scattered);
    assert_eq!(between.as_slice().len(), 300_000);
    assert_eq!(between.count(), 600_000);
}
