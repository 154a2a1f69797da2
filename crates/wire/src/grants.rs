//! Who may publish, subscribe and query what, until when (A11, C9). One verdict serves every way in and out.
//!
//! Nothing is allowed that no grant names. There are no grants that deny, so the order of grants means nothing, and taking a
//! grant away can only take away.
//!
//! Areas and streams bound a grant by name, as topic filters do; tags pick sensors inside these bounds. A subscription is allowed
//! when one grant's bounds cover all of its filter, and each delivery is asked about the tags: `data/cityA/#` of somebody who is
//! granted the residential meters of city A brings these and no others. A filter that names one sensor is refused unless that
//! sensor has the tags.

mod pattern;
mod sensors;
mod written;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::filter::{valid_filter, valid_topic};
use crate::record::At;
use pattern::Pattern;
pub use sensors::{SensorFault, SensorFaults, Sensors, SensorsFile, TAGS_MAX};
pub use written::{Grant, GrantFault, GrantFaults, GrantsFile};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Action {
    /// Send to a topic.
    Publish,
    /// Receive what is sent to the topics of a filter.
    Subscribe,
    /// Ask for what was sent in the past; a series is asked for by its live topic, `data/{series}`.
    Query,
}

impl Action {
    /// The word that stands in a grant.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Query => "query",
        }
    }
}

impl TryFrom<String> for Action {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        [Self::Publish, Self::Subscribe, Self::Query]
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| format!("actions: {text:?} is unknown; use publish, subscribe or query"))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who wants to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The user that the broker or the HTTP face has verified. Without one nothing is allowed.
    pub user: Option<&'a str>,
    /// The MQTT client id, which the client chose itself; empty where there is none.
    pub client: &'a str,
}

/// Whether something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A grant names it.
    Allowed,
    /// No grant does.
    Denied(Denial),
}

impl Verdict {
    /// Whether it is allowed.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// Why something is not allowed. For the log and the operator: the asker learns no more than that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// The subject has no verified user.
    #[error("no verified user")]
    NoUser,
    /// What was asked for is not a valid topic, or filter.
    #[error("not a valid topic or filter")]
    InvalidName,
    /// No grant names it.
    #[error("no grant for this")]
    NoGrant,
    /// A grant names it, but does not hold yet, or no longer.
    #[error("the grant for this does not hold at this time")]
    OutOfTime,
}

/// One grant, ready to be asked.
#[derive(Debug, Clone)]
struct Rule {
    actions: Vec<Action>,
    patterns: Vec<Pattern>,
    /// All of them must be the sensor's; the patterns of a rule with tags begin with `data/`.
    tags: Box<[Box<str>]>,
    not_before: At,
    until: At,
}

impl Rule {
    fn holds(&self, now: At) -> bool {
        self.not_before <= now && now < self.until
    }

    fn names(&self, subject: &Subject<'_>, topic: &str, sensors: &Sensors) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(subject, topic))
            && (self.tags.is_empty() || sensor_of(topic).is_some_and(|sensor| sensors.has_all(sensor, &self.tags)))
    }

    fn covers(&self, subject: &Subject<'_>, filter: &str, sensors: &Sensors) -> bool {
        self.patterns.iter().any(|pattern| pattern.covers(subject, filter))
            && (self.tags.is_empty()
                || sensor_of(filter).is_none_or(|sensor| sensor.contains(['+', '#']) || sensors.has_all(sensor, &self.tags)))
    }
}

/// `area/sensor` of `data/{area}/{sensor}/…`, if these levels are there.
fn sensor_of(topic: &str) -> Option<&str> {
    let name = topic.strip_prefix("data/")?;
    let (area, rest) = name.split_once('/')?;
    let sensor = rest.split('/').next()?;
    Some(&name[..area.len() + 1 + sensor.len()])
}

/// All grants, ready to be asked. The default allows nothing.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    rules: Vec<Rule>,
    everyone: Vec<usize>,
    by_user: HashMap<String, Vec<usize>>,
    sensors: Arc<Sensors>,
}

impl Grants {
    /// Checks grants as they were written.
    ///
    /// # Errors
    /// Every fault of every grant: its number, the field, and what to do.
    pub fn new(file: &GrantsFile) -> Result<Self, GrantFaults> {
        let mut grants = Self::default();
        let mut faults = Vec::new();
        for (index, grant) in file.grants.iter().enumerate() {
            let Some(rule) = written::compile(index + 1, grant, &mut faults) else { continue };
            let place = grants.rules.len();
            grants.rules.push(rule);
            for user in &grant.users {
                let places = match user.as_str() {
                    written::EVERYONE => &mut grants.everyone,
                    name => grants.by_user.entry(name.to_owned()).or_default(),
                };
                places.push(place);
            }
        }
        if faults.is_empty() { Ok(grants) } else { Err(GrantFaults(faults)) }
    }

    /// The same grants, with these sensors to find tags in. Without it no sensor has any, and a grant with tags names nothing.
    #[must_use]
    pub fn with_sensors(self, sensors: Arc<Sensors>) -> Self {
        Self { sensors, ..self }
    }

    /// These grants and those of `other`, with the sensors of these.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let first = self.rules.len();
        self.rules.extend_from_slice(&other.rules);
        self.everyone.extend(other.everyone.iter().map(|place| first + place));
        for (user, places) in &other.by_user {
            self.by_user.entry(user.clone()).or_default().extend(places.iter().map(|place| first + place));
        }
        self
    }

    /// Tags that grants name and no sensor has: perhaps misspelt.
    #[must_use]
    pub fn unknown_tags(&self) -> Vec<&str> {
        let known: BTreeSet<&str> = self.sensors.tags().collect();
        let named: BTreeSet<&str> = self.rules.iter().flat_map(|rule| &rule.tags).map(|tag| &**tag).collect();
        named.difference(&known).copied().collect()
    }

    /// Whether `subject` may do `action` on `name` at `now`.
    ///
    /// For [`Action::Subscribe`] `name` is a filter (without `$share/{group}/`), and the bounds of one single grant must cover all
    /// of it, while its tags are asked at each delivery; for the others it is a topic.
    #[must_use]
    pub fn verdict(&self, subject: &Subject<'_>, action: Action, name: &str, now: At) -> Verdict {
        self.judge(subject, action, name, action == Action::Subscribe, now)
    }

    /// Whether `subject` may do `action` on everything that `filter` matches at `now`: the bounds of one single grant must cover
    /// all of it, while its tags are asked for each topic. For subscribing that is the verdict; a feed of the past asks it for
    /// [`Action::Query`] too.
    #[must_use]
    pub fn covers(&self, subject: &Subject<'_>, action: Action, filter: &str, now: At) -> bool {
        self.judge(subject, action, filter, true, now).is_allowed()
    }

    fn judge(&self, subject: &Subject<'_>, action: Action, name: &str, is_filter: bool, now: At) -> Verdict {
        let Some(user) = subject.user else { return Verdict::Denied(Denial::NoUser) };
        if !(if is_filter { valid_filter(name) } else { valid_topic(name) }) {
            return Verdict::Denied(Denial::InvalidName);
        }
        let mut denial = Denial::NoGrant;
        for rule in self.rules_of(user, action) {
            let sensors = &self.sensors;
            if if is_filter { rule.covers(subject, name, sensors) } else { rule.names(subject, name, sensors) } {
                if rule.holds(now) {
                    return Verdict::Allowed;
                }
                denial = Denial::OutOfTime;
            }
        }
        Verdict::Denied(denial)
    }

    /// Whether a message to `topic` may be handed to `subject` at `now`: asked at every delivery, so that a subscription
    /// does not outlive the grant that allowed it.
    #[must_use]
    pub fn delivers(&self, subject: &Subject<'_>, topic: &str, now: At) -> bool {
        subject.user.is_some_and(|user| {
            self.rules_of(user, Action::Subscribe).any(|rule| rule.holds(now) && rule.names(subject, topic, &self.sensors))
        })
    }

    fn rules_of(&self, user: &str, action: Action) -> impl Iterator<Item = &Rule> {
        let named = self.by_user.get(user).map_or(&[][..], Vec::as_slice);
        let rules = named.iter().chain(&self.everyone).map(|place| &self.rules[*place]);
        rules.filter(move |rule| rule.actions.contains(&action))
    }
}
