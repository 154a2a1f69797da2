//! Grants as they are written in a file, and what can be wrong with them.

use std::fmt;

use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::pattern::Pattern;
use super::{Action, Rule};
use crate::filter::valid_filter;
use crate::ids::{STREAM_SEGMENTS_MAX, check_segment};
use crate::record::At;

/// The user name that stands for every verified user.
pub(super) const EVERYONE: &str = "*";

/// A file of grants: `[[grant]]` once for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantsFile {
    /// The grants.
    #[serde(rename = "grant", default, deserialize_with = "numbered")]
    pub grants: Vec<Grant>,
}

/// One grant: these users may do these actions on these topics, or on the data of these sensors, between these times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// Names of users, or `"*"` alone for every verified user.
    pub users: Vec<String>,
    /// `publish`, `subscribe`, `query`.
    pub actions: Vec<Action>,
    /// MQTT topic filters; `%u` stands for the user's name, `%c` for the client id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Areas whose data may be read: `cityA` is short for the topic filter `data/cityA/#`. Without areas, `tags` mean all areas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<String>,
    /// Only sensors that have all of these tags (see [`super::Sensors`]).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Only these streams of the sensors, as topic filters below `area/sensor`: `power/active`, `power/#`. All, if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// From when on the grant holds, in RFC 3339; always, if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// The time, in RFC 3339, at which the grant ends; never, if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// What is wrong with a grant, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("grant {grant}: {field}: {problem}")]
pub struct GrantFault {
    /// Number of the grant in the file, from 1.
    pub grant: usize,
    /// The field.
    pub field: &'static str,
    /// What is wrong, and the fix.
    pub problem: String,
}

/// Everything that is wrong with a file of grants, one fault a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFaults(pub Vec<GrantFault>);

impl std::error::Error for GrantFaults {}

impl fmt::Display for GrantFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Reads the list of grants; an error names the number of the grant that it is about.
fn numbered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Grant>, D::Error> {
    struct Numbered;
    impl<'de> Visitor<'de> for Numbered {
        type Value = Vec<Grant>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of grants, each beginning with [[grant]]")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Grant>, A::Error> {
            let mut grants = Vec::new();
            loop {
                let number = grants.len() + 1;
                match items.next_element().map_err(|error| A::Error::custom(format_args!("grant {number}: {error}")))? {
                    Some(grant) => grants.push(grant),
                    None => return Ok(grants),
                }
            }
        }
    }
    deserializer.deserialize_seq(Numbered)
}

/// Checks one grant; what is wrong with it goes to `faults`.
pub(super) fn compile(number: usize, grant: &Grant, faults: &mut Vec<GrantFault>) -> Option<Rule> {
    let before = faults.len();
    let mut fault = |field, problem: String| faults.push(GrantFault { grant: number, field, problem });

    if grant.users.is_empty() {
        fault("users", "is empty; name users, or \"*\" for every verified user".into());
    }
    for user in &grant.users {
        if user == EVERYONE && grant.users.len() > 1 {
            fault("users", "\"*\" stands beside names; leave out one or the other".into());
        } else if user.is_empty() || (user != EVERYONE && user.contains('*')) {
            fault("users", format!("{user:?} is not a user name; write whole names, or \"*\" alone for every verified user"));
        }
    }
    if grant.actions.is_empty() {
        fault("actions", "is empty; name publish, subscribe or query".into());
    }
    let picks = !grant.tags.is_empty() || !grant.streams.is_empty();
    if grant.topics.is_empty() && grant.areas.is_empty() && !picks {
        fault("topics", "is empty; name topic filters here, or areas in `areas`, or tags in `tags`".into());
    }
    if picks && !grant.topics.is_empty() {
        fault("topics", "stands beside tags or streams, which do not narrow it; write it in a grant of its own".into());
    }
    if !grant.streams.is_empty() && grant.areas.is_empty() && grant.tags.is_empty() {
        fault("streams", "says nothing of which sensors; name areas or tags beside, or write topics = [\"data/+/+/…\"]".into());
    }
    let mut patterns = Vec::with_capacity(grant.topics.len() + grant.areas.len().max(1) * grant.streams.len().max(1));
    for topic in &grant.topics {
        match Pattern::parse(topic) {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => fault("topics", format!("{topic:?}: {problem}")),
        }
    }
    let reads = [("areas", &grant.areas), ("tags", &grant.tags), ("streams", &grant.streams)];
    if let Some((field, _)) = reads.into_iter().find(|(_, names)| !names.is_empty())
        && grant.actions.contains(&Action::Publish)
    {
        fault(field, "names what may be read; write what may be published to in `topics`, in a grant of its own".into());
    }
    for (field, names, noun) in [("areas", &grant.areas, "an area"), ("tags", &grant.tags, "a tag")] {
        for name in names.iter().filter(|name| check_segment(name).is_err()) {
            fault(field, format!("{name:?} is not {noun}; write its name alone, 1 to 64 of A-Z a-z 0-9 _ . -"));
        }
    }
    for stream in grant.streams.iter().filter(|stream| !valid_stream(stream)) {
        fault(
            "streams",
            format!("{stream:?} is not a filter of streams; write it like \"power/active\", \"power/#\" or \"+/active\""),
        );
    }
    // What is wrong with the names was told above.
    for bound in bounds(grant) {
        patterns.extend(Pattern::parse(&bound).ok());
    }
    let mut time = |field, written: &Option<String>, missing: At| match written.as_deref().map(nanoseconds) {
        None => missing,
        Some(Ok(at)) => at,
        Some(Err(problem)) => {
            fault(field, problem);
            missing
        }
    };
    let not_before = time("not_before", &grant.not_before, At::MIN);
    let until = time("until", &grant.until, At::MAX);
    if until <= not_before {
        fault("until", "is not after not_before, so the grant would never hold; give a later time".into());
    }
    let tags = grant.tags.iter().map(|tag| tag.as_str().into()).collect();
    (faults.len() == before).then(|| Rule { actions: grant.actions.clone(), patterns, tags, not_before, until })
}

/// The topic filters that areas, tags and streams stay within.
fn bounds(grant: &Grant) -> Vec<String> {
    if grant.areas.is_empty() && grant.tags.is_empty() {
        return Vec::new();
    }
    let all = ["+".to_owned()];
    let areas = if grant.areas.is_empty() { &all[..] } else { &grant.areas };
    let below = |area: &String| match (grant.streams.as_slice(), area.as_str()) {
        ([], "+") => vec!["data/#".to_owned()],
        ([], area) => vec![format!("data/{area}/#")],
        (streams, area) => streams.iter().map(|stream| format!("data/{area}/+/{stream}")).collect(),
    };
    areas.iter().flat_map(below).collect()
}

/// Whether `stream` is a filter of the levels that a stream has.
pub(super) fn valid_stream(stream: &str) -> bool {
    let levels = stream.split('/').count();
    valid_filter(stream)
        && levels <= STREAM_SEGMENTS_MAX
        && stream.split('/').all(|level| matches!(level, "+" | "#") || check_segment(level).is_ok())
}

fn nanoseconds(text: &str) -> Result<At, String> {
    let time: Timestamp = text
        .parse()
        .map_err(|_| format!("{text:?} is not a time; write it like \"2026-01-31T18:00:00Z\" (RFC 3339, with its offset)"))?;
    At::try_from(time.as_nanosecond())
        .map_err(|_| format!("{text:?} is out of range; use a year from 1678 to 2261, or leave it out"))
}
