//! What can be set about access requests: who vouches for whom, and what is approved by rule.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chassis::Span;
use serde::Deserialize;
use wire::grants::{Action, Grants, GrantsFile};

use super::keys::Algorithm;
use super::want::{Bounds, NAMES_MAX};
use crate::config::ConfigError;

/// The name that the directory has as an authority.
pub(crate) const DIRECTORY: &str = "directory";

/// Who says who is whom. Without it nobody can ask for access, and grants come from the file alone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authority {
    /// Somebody who signs tokens.
    pub tokens: Option<Tokens>,
    /// A list of the users of the users file, with what is known about them.
    pub directory: Option<PathBuf>,
}

/// An issuer of tokens (OpenID Connect, or any other that signs JWTs).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// What its users are called by here: `{name}:{subject}`.
    pub name: String,
    /// The claim `iss`, to the letter.
    pub issuer: String,
    /// What the claim `aud` must name.
    pub audience: String,
    /// The issuer's public keys (JWKS): a file, an address `https://…`, or an address `http://…` of this machine.
    pub keys: String,
    /// File with the authorities (PEM) that alone vouch for the address; without it those of the machine do.
    #[serde(default)]
    pub keys_ca: Option<PathBuf>,
    /// Algorithms that are taken.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may differ.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// How often an address is asked for the keys. A file is read again when it changes.
    #[serde(default = "refresh")]
    pub refresh: Span,
}

fn algorithms() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

fn leeway() -> Span {
    Span::seconds(30)
}

fn refresh() -> Span {
    Span::seconds(300)
}

/// Limits of requests, and rules by which they are approved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// Requests of one user that may wait at once.
    pub waiting_max: u32,
    /// Requests that one user may make within 24 hours.
    pub day_max: u32,
    /// Requests that are kept, decided ones too; one more is refused.
    pub kept_max: u32,
    /// How long a grant may last from the request on, by whoever's decision.
    pub lasting_max: Span,
    /// What is approved without an operator.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

impl Default for Requests {
    fn default() -> Self {
        let lasting_max = Span::seconds(366 * 86_400);
        Self { waiting_max: 5, day_max: 50, kept_max: 100_000, lasting_max, rules: Vec::new() }
    }
}

/// Those whom `authority` knows with these claims get, within these bounds, what they ask for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the audit trail calls it.
    pub name: String,
    /// The name of the issuer, or `directory`.
    pub authority: String,
    /// Claims of the token, or attributes of the directory, that must have this value, or list it.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
    /// What may be done: `subscribe`, `query`.
    pub actions: Vec<Action>,
    /// Areas; all, if empty (then tags must be named).
    #[serde(default)]
    pub areas: Vec<String>,
    /// Tags that a request must name at least.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Streams; all, if empty.
    #[serde(default)]
    pub streams: Vec<String>,
    /// How long the grant lasts at most, from the request on.
    pub lasting: Span,
}

impl Rule {
    pub(crate) fn bounds(&self) -> Bounds {
        let Self { areas, tags, streams, actions, .. } = self.clone();
        Bounds { areas, tags, streams, actions }
    }
}

impl Authority {
    /// Checks what the types can't say. Opens nothing.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let fault = |field: &'static str, fix: &str| Err(ConfigError::Range { field, fix: fix.to_owned() });
        let Some(tokens) = &self.tokens else { return Ok(()) };
        if wire::topics::SegmentName::new(&tokens.name).is_err() || tokens.name == DIRECTORY {
            return fault("authority.tokens.name", "must be 1 to 64 characters of A-Z a-z 0-9 _ . -, and not \"directory\"");
        }
        for (field, value) in [
            ("authority.tokens.issuer", &tokens.issuer),
            ("authority.tokens.audience", &tokens.audience),
            ("authority.tokens.keys", &tokens.keys),
        ] {
            if value.is_empty() {
                return fault(field, "must not be empty: tokens of anybody, or for anything, would hold");
            }
        }
        if tokens.algorithms.is_empty() {
            return fault("authority.tokens.algorithms", "must name one of RS256, ES256, EdDSA at least");
        }
        if tokens.leeway.duration().as_secs() > 600 {
            return fault("authority.tokens.leeway", "must be at most 10m; set the clocks instead");
        }
        if tokens.refresh.duration().as_secs() < 10 {
            return fault("authority.tokens.refresh", "must be at least 10s");
        }
        super::source::Source::new(tokens).map(drop)
    }
}

impl Requests {
    /// Checks what the types can't say.
    ///
    /// # Errors
    /// The first fault; the name of the rule is in it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let fault = |field, fix: String| Err(ConfigError::Range { field, fix });
        for (field, value) in [
            ("requests.waiting_max", u64::from(self.waiting_max)),
            ("requests.day_max", u64::from(self.day_max)),
            ("requests.kept_max", u64::from(self.kept_max)),
            ("requests.lasting_max", self.lasting_max.duration().as_secs()),
        ] {
            if value == 0 {
                return fault(field, "must not be zero".to_owned());
            }
        }
        for rule in &self.rules {
            let name = &rule.name;
            if name.is_empty() || rule.authority.is_empty() {
                return fault("requests.rule", format!("{name:?}: name and authority must not be empty"));
            }
            if rule.actions.contains(&Action::Publish) {
                return fault("requests.rule", format!("{name:?}: actions: requests are for subscribe and query only"));
            }
            if [&rule.areas, &rule.tags, &rule.streams].iter().any(|names| names.len() > NAMES_MAX) {
                return fault("requests.rule", format!("{name:?}: at most {NAMES_MAX} areas, tags or streams"));
            }
            if rule.lasting.duration().is_zero() {
                return fault("requests.rule", format!("{name:?}: lasting must not be zero"));
            }
            let grants = vec![rule.bounds().grant("anybody", None, None)];
            if let Err(faults) = Grants::new(&GrantsFile { grants }) {
                return fault("requests.rule", format!("{name:?}: {faults}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/cloud.toml");

    #[test]
    fn a11_the_commented_sections_about_access_hold_too() {
        let text = std::fs::read_to_string(SHIPPED).unwrap();
        let plain: String = text.lines().map(|line| format!("{}\n", commented(line).unwrap_or(line))).collect();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud.toml");
        std::fs::write(&file, plain).unwrap();
        let mut config: Config = chassis::load_config(&file, "FOREBAY_CLOUD", []).unwrap();
        config.check().unwrap();
        let tokens = config.authority.tokens.clone().unwrap();
        assert_eq!((tokens.name.as_str(), config.requests.rules[0].name.as_str()), ("city", "research"));
        assert_eq!(config.requests.rules[0].claims["roles"], "researcher");
        assert_eq!(format!("{:?}", Config { anchor: None, ..config.clone() }.requests.rules[0].actions), "[Subscribe, Query]");
        for (change, field) in [
            ((|tokens| tokens.keys = "https://".into()) as fn(&mut Tokens), "keys"),
            (|tokens| tokens.keys_ca = Some("ca.pem".into()), "keys_ca"),
            (|tokens| tokens.keys = "http://id.example.net/keys".into(), "keys"),
            (|tokens| tokens.keys = "http://127.0.0.1.example.net/keys".into(), "keys"),
            (|tokens| tokens.keys = "file:///etc/passwd".into(), "keys"),
            (|tokens| tokens.audience.clear(), "audience"),
            (|tokens| tokens.issuer.clear(), "issuer"),
            (|tokens| tokens.name = "a:b".into(), "name"),
            (|tokens| tokens.name = "directory".into(), "name"),
            (|tokens| tokens.algorithms.clear(), "algorithms"),
            (|tokens| tokens.leeway = Span::seconds(3_600), "leeway"),
        ] {
            let mut changed = tokens.clone();
            change(&mut changed);
            config.authority.tokens = Some(changed);
            let fault = config.check().unwrap_err().to_string();
            assert!(fault.starts_with(&format!("authority.tokens.{field}")), "{fault}");
        }
        let there = Tokens { keys: "https://id.example.net/keys".into(), keys_ca: Some("ca.pem".into()), ..tokens.clone() };
        for good in [there, Tokens { keys: "http://[::1]:8080/keys".into(), ..tokens }] {
            config.authority.tokens = Some(good);
            config.check().unwrap();
        }
        config.requests.rules[0].areas = vec!["cityA/#".into()];
        assert!(config.check().unwrap_err().to_string().contains("research"));
    }

    /// The key or the table of a line that is commented out; a comment in words has a blank behind its sign.
    fn commented(line: &str) -> Option<&str> {
        line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']) && !rest.is_empty())
    }
}
