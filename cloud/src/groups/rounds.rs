//! Who is next (A9, A10): in a round everybody serves once, the one that collected least first.

use std::collections::BTreeSet;

use wire::RelayId;

/// A member that could serve.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) relay: RelayId,
    /// Area under its curve.
    pub(crate) score: f64,
}

/// The next proxy, and the round that its term belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) relay: RelayId,
    /// Whether a new round begins with it: all others have served in the one before.
    pub(crate) new_round: bool,
}

/// Chooses among `candidates`, the live members without the one whose term ends. Those in `served` are not scored until nobody else is
/// left; the smallest score is next, and `random` decides between equal ones. Members that are not live are skipped: they have not served.
///
/// `None`: there is no candidate.
pub(crate) fn choose(candidates: &[Candidate], served: &BTreeSet<RelayId>, random: u64) -> Option<Choice> {
    let fresh: Vec<&Candidate> = candidates.iter().filter(|candidate| !served.contains(&candidate.relay)).collect();
    let new_round = fresh.is_empty();
    let scored = if new_round { candidates.iter().collect() } else { fresh };
    let least = scored.iter().map(|candidate| candidate.score).min_by(f64::total_cmp)?;
    let ties: Vec<&&Candidate> = scored.iter().filter(|candidate| candidate.score.total_cmp(&least).is_eq()).collect();
    let chosen = ties.get((random % (ties.len() as u64).max(1)) as usize)?;
    Some(Choice { relay: chosen.relay.clone(), new_round })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str) -> RelayId {
        name.parse().unwrap()
    }

    fn candidates(scores: &[(&str, f64)]) -> Vec<Candidate> {
        scores.iter().map(|(name, score)| Candidate { relay: relay(name), score: *score }).collect()
    }

    #[test]
    fn a9_the_smallest_score_is_next_and_ties_are_random() {
        let all = candidates(&[("a", 5.0), ("b", 2.0), ("c", 2.0), ("d", 9.0)]);
        let served = BTreeSet::new();
        let chosen: BTreeSet<RelayId> = (0..10).map(|random| choose(&all, &served, random).unwrap().relay).collect();
        assert_eq!(chosen, [relay("b"), relay("c")].into());
        assert_eq!(choose(&[], &served, 1), None);
    }

    #[test]
    fn a10_who_has_served_is_not_scored_until_all_have() {
        let all = candidates(&[("a", 0.0), ("b", 2.0), ("c", 3.0)]);
        let served: BTreeSet<RelayId> = [relay("a")].into();
        assert_eq!(choose(&all, &served, 0), Some(Choice { relay: relay("b"), new_round: false }));
        let served: BTreeSet<RelayId> = ["a", "b", "c", "gone"].map(relay).into();
        assert_eq!(choose(&all, &served, 0), Some(Choice { relay: relay("a"), new_round: true }));
    }
}
