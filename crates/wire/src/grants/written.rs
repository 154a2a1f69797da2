//! Grants as they are written in a file, and what can be wrong with them.

use std::fmt;

use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::pattern::Pattern;
use super::{Action, Rule};
use crate::ids::check_segment;
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

/// One grant: these users may do these actions on these topics, between these times.
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
    /// Areas whose data may be read: `cityA` is short for the topic filter `data/cityA/#`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<String>,
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
    if grant.topics.is_empty() && grant.areas.is_empty() {
        fault("topics", "is empty; name topic filters here, or areas in `areas`".into());
    }
    let mut patterns = Vec::with_capacity(grant.topics.len() + grant.areas.len());
    for topic in &grant.topics {
        match Pattern::parse(topic) {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => fault("topics", format!("{topic:?}: {problem}")),
        }
    }
    if !grant.areas.is_empty() && grant.actions.contains(&Action::Publish) {
        fault("areas", "names what may be read; write what may be published to in `topics`, in a grant of its own".into());
    }
    for area in &grant.areas {
        match check_segment(area).ok().and_then(|()| Pattern::parse(&format!("data/{area}/#")).ok()) {
            Some(pattern) => patterns.push(pattern),
            None => fault("areas", format!("{area:?} is not an area; write its name alone, 1 to 64 of A-Z a-z 0-9 _ . -")),
        }
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
    (faults.len() == before).then(|| Rule { actions: grant.actions.clone(), patterns, not_before, until })
}

fn nanoseconds(text: &str) -> Result<At, String> {
    let time: Timestamp = text
        .parse()
        .map_err(|_| format!("{text:?} is not a time; write it like \"2026-01-31T18:00:00Z\" (RFC 3339, with its offset)"))?;
    At::try_from(time.as_nanosecond())
        .map_err(|_| format!("{text:?} is out of range; use a year from 1678 to 2261, or leave it out"))
}
