//! Approval by rule: a pure function of who asks, what for, and when.

use serde_json::{Map, Value};
use wire::At;

use super::config::Rule;
use super::want::Want;

/// What a rule gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) rule: String,
    pub(crate) until: At,
}

/// The rule that gives the longest, or none: then an operator decides. All that was asked for must be within the rule; only the time
/// is cut to what the rule gives.
pub(crate) fn judge(rules: &[Rule], authority: &str, attributes: &Map<String, Value>, want: &Want, now: At) -> Option<Given> {
    let fits = |rule: &&Rule| {
        rule.authority == authority
            && rule.claims.iter().all(|(name, value)| attributes.get(name).is_some_and(|held| says(held, value)))
            && want.bounds.within(&rule.bounds())
    };
    let given = |rule: &Rule| {
        let lasting = At::try_from(rule.lasting.duration().as_nanos()).unwrap_or(At::MAX);
        Given { rule: rule.name.clone(), until: want.until.min(now.saturating_add(lasting)) }
    };
    let best = rules.iter().filter(fits).map(given).max_by_key(|given| given.until);
    best.filter(|given| given.until > want.from)
}

/// Whether a claim is `value`, or lists it.
fn says(held: &Value, value: &str) -> bool {
    held.as_str() == Some(value) || held.as_array().is_some_and(|all| all.iter().any(|one| one.as_str() == Some(value)))
}

#[cfg(test)]
mod tests {
    use chassis::Span;
    use serde_json::json;
    use wire::grants::Action;

    use super::*;
    use crate::access::want::Bounds;

    const HOUR: At = 3_600_000_000_000;

    #[test]
    fn a11_a_rule_approves_for_those_it_names_within_its_bounds_and_time() {
        let rule = |name: &str, hours: u64| Rule {
            name: name.into(),
            authority: "city".into(),
            claims: [("roles".to_owned(), "researcher".to_owned())].into(),
            actions: vec![Action::Query],
            areas: vec!["cityA".into()],
            tags: vec!["residential".into()],
            streams: vec!["power/#".into()],
            lasting: Span::seconds(hours * 3_600),
        };
        let rules = [rule("short", 1), rule("long", 5)];
        let want = |change: fn(&mut Bounds)| {
            let mut bounds = rule("", 1).bounds();
            change(&mut bounds);
            Want { bounds, from: 10 * HOUR, until: 13 * HOUR, purpose: "p".into() }
        };
        let who = json!({"roles": ["x", "researcher"], "name": "Ana"}).as_object().unwrap().clone();
        let judged = |want: &Want, now| judge(&rules, "city", &who, want, now);
        assert_eq!(judged(&want(|_| {}), 10 * HOUR), Some(Given { rule: "long".into(), until: 13 * HOUR }));
        let long = Want { until: 99 * HOUR, ..want(|_| {}) };
        assert_eq!(judged(&long, 10 * HOUR), Some(Given { rule: "long".into(), until: 15 * HOUR }), "cut to what the rule gives");
        assert_eq!(judged(&Want { from: 15 * HOUR, ..long }, 10 * HOUR), None, "it would end before it begins");
        for change in [
            (|bounds| bounds.areas.push("cityB".into())) as fn(&mut Bounds),
            |bounds| bounds.areas.clear(),
            |bounds| bounds.tags.clear(),
            |bounds| bounds.streams = vec!["#".into()],
            |bounds| bounds.streams.clear(),
            |bounds| bounds.actions.push(Action::Subscribe),
        ] {
            assert_eq!(judged(&want(change), 10 * HOUR), None, "{:?}", want(change));
        }
        assert!(judged(&want(|bounds| bounds.streams = vec!["power/active".into()]), 10 * HOUR).is_some());
        assert!(judged(&want(|bounds| bounds.tags.push("h0".into())), 10 * HOUR).is_some());
        for other in [json!({}), json!({"roles": "analyst"}), json!({"roles": 7}), json!({"role": "researcher"})] {
            assert_eq!(judge(&rules, "city", other.as_object().unwrap(), &want(|_| {}), 0), None, "{other}");
        }
        assert!(judge(&rules, "city", json!({"roles": "researcher"}).as_object().unwrap(), &want(|_| {}), 10 * HOUR).is_some());
        assert_eq!(judge(&rules, "directory", &who, &want(|_| {}), 10 * HOUR), None);
    }
}
