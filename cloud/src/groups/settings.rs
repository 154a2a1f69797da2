//! The `[[group]]` sections of the configuration.

use std::collections::BTreeMap;

use chassis::{Size, Span};
use serde::Deserialize;
use wire::RelayId;
use wire::group::TermLimits;

use crate::config::ConfigError;

/// The shortest life of a lease: a few heartbeats and the pauses of a busy machine must fit.
pub const TTL_MIN: Span = Span::millis(300);
/// The life of a lease unless configured otherwise: four heartbeats of a member with its default. With it a proxy that can be heard and hears
/// nothing, the slowest failure to find, is replaced within three seconds.
pub const TTL_DEFAULT: Span = Span::seconds(1);
/// The longest: for so long nobody would take over from a dead proxy.
pub const TTL_MAX: Span = Span::seconds(60);
/// Members of one group.
pub const MEMBERS_MAX: usize = 1_000;

/// Relays that share one way up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The group's name, the same in its relays' configurations.
    pub name: RelayId,
    /// The relays. Each logs in with its name as user.
    pub members: Vec<RelayId>,
    /// How long a proxy serves on without being heard.
    #[serde(default = "ttl")]
    pub ttl: Span,
    /// What ends a proxy's term; without any limit it serves until it dies.
    #[serde(default)]
    pub term: Term,
}

fn ttl() -> Span {
    TTL_DEFAULT
}

/// The preset condition that ends a term (A8): the limit that is reached first.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Term {
    /// Time served.
    pub time: Option<Span>,
    /// Bytes of frames that were passed on, the proxy's own included.
    pub bytes: Option<Size>,
    /// Frames that were passed on, the proxy's own included.
    pub frames: Option<u64>,
}

impl Term {
    /// As the members are told.
    pub(crate) fn limits(&self) -> TermLimits {
        TermLimits {
            time: self.time.map(Span::duration).unwrap_or_default(),
            bytes: self.bytes.map(Size::bytes).unwrap_or_default(),
            frames: self.frames.unwrap_or_default(),
        }
    }
}

/// Checks all groups together.
///
/// # Errors
/// The first fault, with the group and what to do.
pub(crate) fn check(groups: &[Group]) -> Result<(), ConfigError> {
    let mut home: BTreeMap<&RelayId, &RelayId> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        let name = &group.name;
        let range = |field, fix: String| Err(ConfigError::Range { field, fix: format!("of group {name} {fix}") });
        if groups.iter().take(index).any(|other| other.name == *name) {
            return range("group.name", "is there twice; give each group a name of its own".to_owned());
        }
        if group.members.is_empty() {
            return range("group.members", "is empty; name its relays, or leave the section out".to_owned());
        }
        if group.members.len() > MEMBERS_MAX {
            return range("group.members", format!("names more than {MEMBERS_MAX} relays; make several groups"));
        }
        for member in &group.members {
            if let Some(other) = home.insert(member, name) {
                return range(
                    "group.members",
                    format!("names {member}, which is in group {other} already; a relay has one way up"),
                );
            }
        }
        if !(TTL_MIN..=TTL_MAX).contains(&group.ttl) {
            return range("group.ttl", format!("must be {TTL_MIN} to {TTL_MAX}"));
        }
        let Term { time, bytes, frames } = group.term;
        if time.is_some_and(|time| time < group.ttl) {
            return range("group.term.time", format!("must be at least group.ttl ({}), or left out", group.ttl));
        }
        if bytes.is_some_and(|bytes| bytes.bytes() == 0) {
            return range("group.term.bytes", "must not be zero; leave it out for no limit".to_owned());
        }
        if frames == Some(0) {
            return range("group.term.frames", "must not be zero; leave it out for no limit".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        group: Vec<Group>,
    }

    fn checked(text: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groups.toml");
        std::fs::write(&path, text).unwrap();
        let file: File = chassis::load_config(&path, "FOREBAY_TEST", []).map_err(|fault| format!("{fault:?}"))?;
        check(&file.group).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a7_groups_are_read_and_each_fault_names_group_field_and_fix() {
        let good = "[[group]]\nname = \"north\"\nmembers = [\"r1\", \"r2\"]\nttl = \"2s\"\nterm = { time = \"1h\", bytes = \"1GiB\", frames = 9 }\n";
        assert_eq!(checked(good), Ok(()));
        let south = |members: &str| format!("{good}[[group]]\nname = \"south\"\nmembers = {members}\n");
        assert_eq!(checked(&south("[\"r3\"]")), Ok(()));
        for (text, words) in [
            (south("[\"r3\", \"r2\"]"), ["group.members", "south", "r2", "north"]),
            (south("[\"r3\", \"r3\"]"), ["group.members", "south", "r3", "already"]),
            (south("[]"), ["group.members", "south", "empty", "leave"]),
            (format!("{good}{good}"), ["group.name", "north", "twice", "own"]),
            (good.replace("2s", "10ms"), ["group.ttl", "north", "300ms", "1m"]),
            (good.replace("1h", "1s"), ["group.term.time", "north", "2s", "left out"]),
            (good.replace("1GiB", "0B"), ["group.term.bytes", "north", "zero", "leave"]),
            (good.replace("frames = 9", "frames = 0"), ["group.term.frames", "north", "zero", "leave"]),
            (good.replace("\"r1\"", "\"r/1\""), ["r/1", "", "", ""]),
            (good.replace("frames", "records"), ["records", "", "", ""]),
        ] {
            let fault = checked(&text).unwrap_err();
            assert!(words.iter().all(|word| fault.contains(word)), "{fault} lacks one of {words:?}");
        }
    }
}
