//! What somebody asks for, and whether one thing is within another.

use serde::{Deserialize, Serialize};
use wire::At;
use wire::grants::{Action, Grant, Grants, GrantsFile};

use crate::moment;
use crate::problem::Problem;

/// Areas, tags or streams of one request, at most.
pub(crate) const NAMES_MAX: usize = 32;
/// Characters of a purpose or a reason, at most.
pub(crate) const WORDS_MAX: usize = 500;

/// Which data, and what may be done with it: areas and streams bound by name, all of the tags must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Areas; all, if empty (then tags must be named).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<String>,
    /// Tags that a sensor must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Filters of streams; all, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// `subscribe`, `query`.
    #[serde(default)]
    pub actions: Vec<Action>,
}

impl Bounds {
    /// Whether whatever these allow is allowed by `wider`.
    #[must_use]
    pub fn within(&self, wider: &Self) -> bool {
        let areas =
            wider.areas.is_empty() || (!self.areas.is_empty() && self.areas.iter().all(|area| wider.areas.contains(area)));
        let covered = |stream: &String| wider.streams.iter().any(|wide| wire::filter::covers(wide, stream));
        let streams = wider.streams.is_empty() || (!self.streams.is_empty() && self.streams.iter().all(covered));
        areas
            && streams
            && wider.tags.iter().all(|tag| self.tags.contains(tag))
            && self.actions.iter().all(|action| wider.actions.contains(action))
    }

    /// The grant of these to one user.
    pub(crate) fn grant(&self, user: &str, from: Option<At>, until: Option<At>) -> Grant {
        let Self { areas, tags, streams, actions } = self.clone();
        let (not_before, until) = (from.map(moment::format), until.map(moment::format));
        Grant { users: vec![user.to_owned()], actions, topics: Vec::new(), areas, tags, streams, not_before, until }
    }

    /// # Errors
    /// The field that is wrong, and why.
    fn check(&self) -> Result<(), Problem> {
        for (field, names) in [("areas", &self.areas), ("tags", &self.tags), ("streams", &self.streams)] {
            if names.len() > NAMES_MAX {
                return Err(Problem::field(field, format!("at most {NAMES_MAX} may be named")));
            }
        }
        if self.actions.contains(&Action::Publish) {
            return Err(Problem::field("actions", "requests are for subscribe and query only"));
        }
        if self.areas.is_empty() && self.tags.is_empty() {
            return Err(Problem::field("areas", "is empty; name areas here, or tags in `tags`"));
        }
        let grants = vec![self.grant("anybody", None, None)];
        match Grants::new(&GrantsFile { grants }) {
            Ok(_) => Ok(()),
            Err(faults) => match faults.0.first() {
                Some(fault) => Err(Problem::field(fault.field, fault.problem.clone())),
                None => Err(Problem::malformed("the request makes no sense")),
            },
        }
    }
}

/// A request as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// See [`Bounds`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<String>,
    /// See [`Bounds`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// See [`Bounds`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// See [`Bounds`].
    #[serde(default)]
    pub actions: Vec<Action>,
    /// From when on, RFC 3339; at once, if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Until when, RFC 3339.
    pub until: String,
    /// What for.
    pub purpose: String,
}

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) bounds: Bounds,
    pub(crate) from: At,
    pub(crate) until: At,
    pub(crate) purpose: String,
}

impl Want {
    /// Checks a request that is made at `now`; `lasting_max` in nanoseconds.
    ///
    /// # Errors
    /// The field that is wrong, and what to do.
    pub(crate) fn new(ask: &Ask, now: At, lasting_max: At) -> Result<Self, Problem> {
        let Ask { areas, tags, streams, actions, .. } = ask.clone();
        let bounds = Bounds { areas, tags, streams, actions };
        bounds.check()?;
        let time = |field, text: &str| moment::parse(text).map_err(|fault| Problem::field(field, fault.to_string()));
        let from = ask.from.as_deref().map_or(Ok(now), |from| time("from", from))?.max(now);
        let until = time("until", &ask.until)?;
        if until <= from {
            return Err(Problem::field("until", "is over before it begins; give a later time"));
        }
        if until > now.saturating_add(lasting_max) {
            let latest = moment::format(now.saturating_add(lasting_max));
            return Err(Problem::field("until", format!("is too far away; {latest} is the latest, and you may ask again")));
        }
        Ok(Self { bounds, from, until, purpose: words("purpose", &ask.purpose)? })
    }
}

/// Words for people: trimmed, not empty, not long, on one line.
///
/// # Errors
/// Which of that does not hold.
pub(crate) fn words(field: &'static str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Problem::field(field, "is empty; say it in a sentence"));
    }
    if text.chars().count() > WORDS_MAX || text.contains(char::is_control) {
        return Err(Problem::field(field, format!("must be one line of at most {WORDS_MAX} characters")));
    }
    Ok(text.to_owned())
}

/// What an operator gives: what was asked for, or less.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Narrowed {
    /// Fewer areas.
    pub areas: Option<Vec<String>>,
    /// More tags.
    pub tags: Option<Vec<String>>,
    /// Fewer streams.
    pub streams: Option<Vec<String>>,
    /// Fewer actions.
    pub actions: Option<Vec<Action>>,
    /// An earlier end, RFC 3339.
    pub until: Option<String>,
}

impl Narrowed {
    /// What is given of `asked`.
    ///
    /// # Errors
    /// The field by which it would be more than was asked for, or makes no sense.
    pub(crate) fn of(&self, asked: &Bounds, until: At, now: At) -> Result<(Bounds, At), Problem> {
        let given = Bounds {
            areas: self.areas.clone().unwrap_or_else(|| asked.areas.clone()),
            tags: self.tags.clone().unwrap_or_else(|| asked.tags.clone()),
            streams: self.streams.clone().unwrap_or_else(|| asked.streams.clone()),
            actions: self.actions.clone().unwrap_or_else(|| asked.actions.clone()),
        };
        given.check()?;
        for (field, one) in [
            ("areas", Bounds { areas: given.areas.clone(), ..asked.clone() }),
            ("tags", Bounds { tags: given.tags.clone(), ..asked.clone() }),
            ("streams", Bounds { streams: given.streams.clone(), ..asked.clone() }),
            ("actions", Bounds { actions: given.actions.clone(), ..asked.clone() }),
        ] {
            if !one.within(asked) {
                return Err(Problem::field(field, "is more than was asked for; a grant can only be less"));
            }
        }
        let given_until = self.until.as_deref().map_or(Ok(until), moment::parse);
        let given_until = given_until.map_err(|fault| Problem::field("until", fault.to_string()))?;
        if given_until > until {
            return Err(Problem::field("until", "is later than was asked for; a grant can only be less"));
        }
        if given_until <= now {
            return Err(Problem::field("until", "is over; there is nothing left to grant"));
        }
        Ok((given, given_until))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::grants::Subject;

    use super::*;

    const DAY: At = 86_400_000_000_000;

    fn bounds(json: serde_json::Value) -> Bounds {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a11_a_request_names_what_is_wrong_with_it() {
        let good = serde_json::json!({"areas": ["cityA"], "tags": ["residential"], "actions": ["query"], "until": "1970-01-05T00:00:00Z", "purpose": " a study "});
        let want = Want::new(&serde_json::from_value(good.clone()).unwrap(), DAY, 9 * DAY).unwrap();
        assert_eq!((want.from, want.until, want.purpose.as_str()), (DAY, 4 * DAY, "a study"));
        for (field, value) in [
            ("areas", serde_json::json!(["../cityB"])),
            ("areas", serde_json::json!(["cityA/#"])),
            ("areas", serde_json::json!(["+"])),
            ("areas", serde_json::json!(["cityA/meter-1"])),
            ("areas", serde_json::json!(["%u"])),
            ("areas", serde_json::json!([""])),
            ("areas", serde_json::json!(vec!["a"; NAMES_MAX + 1])),
            ("tags", serde_json::json!(["#"])),
            ("streams", serde_json::json!(["/power"])),
            ("streams", serde_json::json!(["power/#/x"])),
            ("streams", serde_json::json!(["%u"])),
            ("actions", serde_json::json!([])),
            ("actions", serde_json::json!(["publish"])),
            ("until", serde_json::json!("1970-01-02T00:00:00Z")),
            ("until", serde_json::json!("1970-02-02T00:00:00Z")),
            ("until", serde_json::json!("never")),
            ("from", serde_json::json!("soon")),
            ("purpose", serde_json::json!(" ")),
            ("purpose", serde_json::json!("two\nlines")),
            ("purpose", serde_json::json!("x".repeat(WORDS_MAX + 1))),
        ] {
            let mut ask = good.clone();
            ask[field] = value;
            let problem = Want::new(&serde_json::from_value(ask.clone()).unwrap(), DAY, 9 * DAY).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (400, Some(field)), "{ask}");
        }
        let mut all = good;
        (all["areas"], all["tags"]) = (serde_json::json!([]), serde_json::json!([]));
        assert!(Want::new(&serde_json::from_value(all).unwrap(), DAY, 9 * DAY).is_err(), "everything can't be asked for");
    }

    #[test]
    fn a11_a_grant_is_what_was_asked_for_or_less() {
        let asked = bounds(
            serde_json::json!({"areas": ["cityA", "cityB"], "tags": ["home"], "streams": ["power/#"], "actions": ["query", "subscribe"]}),
        );
        let narrowed = |json: serde_json::Value| serde_json::from_value::<Narrowed>(json).unwrap().of(&asked, 9 * DAY, DAY);
        assert_eq!(narrowed(serde_json::json!({})).unwrap(), (asked.clone(), 9 * DAY));
        let less = serde_json::json!({"areas": ["cityB"], "tags": ["home", "h0"], "streams": ["power/active"], "actions": ["query"], "until": "1970-01-03T00:00:00Z"});
        assert_eq!(narrowed(less).unwrap().1, 2 * DAY);
        for (field, value) in [
            ("areas", serde_json::json!(["cityC"])),
            ("areas", serde_json::json!([])),
            ("areas", serde_json::json!(["cityA", "../cityC"])),
            ("tags", serde_json::json!([])),
            ("tags", serde_json::json!(["h0"])),
            ("streams", serde_json::json!([])),
            ("streams", serde_json::json!(["+/active"])),
            ("streams", serde_json::json!(["#"])),
            ("actions", serde_json::json!(["publish"])),
            ("until", serde_json::json!("1970-02-03T00:00:00Z")),
            ("until", serde_json::json!("1970-01-02T00:00:00Z")),
        ] {
            let problem = narrowed(serde_json::json!({ field: value })).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some(field), "{value}");
        }
    }

    fn any_bounds() -> impl Strategy<Value = Bounds> {
        let some = |names: &'static [&'static str]| proptest::sample::subsequence(names.to_vec(), 0..=names.len());
        let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        (some(&["a", "b"]), some(&["t", "u"]), some(&["p/x", "p/#", "+/x", "q"]), some(&["query", "subscribe"])).prop_map(
            move |(areas, tags, streams, actions)| Bounds {
                areas: own(areas),
                tags: own(tags),
                streams: own(streams),
                actions: actions.into_iter().map(|action| Action::try_from(action.to_owned()).unwrap()).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn a11_what_is_within_allows_nothing_that_the_wider_does_not(narrow in any_bounds(), wide in any_bounds()) {
            let sensors = serde_json::from_value(serde_json::json!({"sensors": {
                "a/0": [], "a/t": ["t"], "a/u": ["u"], "b/tu": ["t", "u"], "b/t": ["t"], "c/tu": ["t", "u"]}})).unwrap();
            let sensors = std::sync::Arc::new(wire::grants::Sensors::new(&sensors).unwrap());
            let compiled = |bounds: &Bounds| {
                bounds.check().ok()?;
                let grants = vec![bounds.grant("ana", None, None)];
                Some(Grants::new(&GrantsFile { grants }).unwrap().with_sensors(sensors.clone()))
            };
            let (Some(small), Some(large)) = (compiled(&narrow), compiled(&wide)) else { return Ok(()) };
            if !narrow.within(&wide) {
                return Ok(());
            }
            let ana = Subject { user: Some("ana"), client: "" };
            for sensor in ["a/0", "a/t", "a/u", "b/tu", "b/t", "c/tu", "a/new"] {
                for stream in ["p", "p/x", "p/y", "q", "q/x", "z/x"] {
                    let topic = format!("data/{sensor}/{stream}");
                    let query = |grants: &Grants| grants.verdict(&ana, Action::Query, &topic, 0).is_allowed();
                    prop_assert!(!query(&small) || query(&large), "{topic}");
                    prop_assert!(!small.delivers(&ana, &topic, 0) || large.delivers(&ana, &topic, 0), "{topic}");
                }
            }
        }
    }
}
