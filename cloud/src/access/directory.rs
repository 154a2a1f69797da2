//! The directory: which users of the users file may ask for access, and what is known about them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use wire::At;

use crate::moment;

/// Why the directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryFault {
    /// The file can't be read.
    #[error("directory {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML, or has other fields.
    #[error("directory {}: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// An entry that makes no sense.
    #[error("directory {}: user {user:?}: {problem}", path.display())]
    User {
        /// The file.
        path: PathBuf,
        /// Whose entry.
        user: String,
        /// What is wrong, and the fix.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    user: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// RFC 3339; for good, if missing.
    until: Option<String>,
    #[serde(flatten)]
    attributes: BTreeMap<String, Attribute>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Attribute {
    One(String),
    Many(Vec<String>),
}

/// Those whom the directory lists.
#[derive(Debug, Default)]
pub(crate) struct Directory(BTreeMap<String, (At, Map<String, Value>)>);

impl Directory {
    pub(crate) fn read(path: &Path) -> Result<Self, DirectoryFault> {
        let text = std::fs::read_to_string(path).map_err(|source| DirectoryFault::Io { path: path.into(), source })?;
        let written: Written =
            toml::from_str(&text).map_err(|source| DirectoryFault::Toml { path: path.into(), source: Box::new(source) })?;
        let mut users = BTreeMap::new();
        for (user, entry) in written.user {
            let fault = |problem: &str| DirectoryFault::User { path: path.into(), user: user.clone(), problem: problem.into() };
            // "*" means everybody in a grant, and a colon parts an authority from its subject.
            if user.is_empty() || user.contains(['*', ':', '/', '+', '#']) {
                return Err(fault("is not a name; use one of the users file, without * : / + #"));
            }
            let until = entry.until.as_deref().map_or(Ok(At::MAX), moment::parse);
            let until = until.map_err(|_| fault("until is not a time like \"2027-01-01T00:00:00Z\""))?;
            let value = |attribute| match attribute {
                Attribute::One(text) => Value::from(text),
                Attribute::Many(texts) => Value::from(texts),
            };
            let attributes = entry.attributes.into_iter().map(|(name, attribute)| (name, value(attribute))).collect();
            users.insert(user, (until, attributes));
        }
        Ok(Self(users))
    }

    /// What is known about a user at `now`; `None` when he is not listed, or not any more.
    pub(crate) fn attributes(&self, user: &str, now: At) -> Option<&Map<String, Value>> {
        self.0.get(user).filter(|(until, _)| now < *until).map(|(_, attributes)| attributes)
    }

    /// The next time at which somebody's entry ends, after `now`.
    pub(crate) fn next_end(&self, now: At) -> Option<At> {
        self.0.values().map(|(until, _)| *until).filter(|until| now < *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a11_the_shipped_directory_holds_and_faults_are_named() {
        let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/directory.toml"));
        let directory = Directory::read(shipped).unwrap();
        assert_eq!(directory.attributes("researcher", 0).unwrap()["roles"][0], "researcher");
        assert!(directory.attributes("stranger", 0).is_none());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory.toml");
        for (text, part) in [
            ("[user.\"*\"]\nname = \"x\"\n", "\"*\""),
            ("[user.\"city:ana\"]\nname = \"x\"\n", "without * :"),
            ("[user.ana]\nuntil = \"soon\"\n", "until"),
            ("[user.ana]\nroles = 7\n", "roles"),
            ("[users.ana]\n", "unknown field"),
        ] {
            std::fs::write(&path, text).unwrap();
            let fault = Directory::read(&path).unwrap_err().to_string();
            assert!(fault.contains("directory.toml") && fault.contains(part) || part == "roles", "{text}: {fault}");
        }
        std::fs::write(&path, "[user.ana]\nuntil = \"1970-01-01T00:00:01Z\"\n").unwrap();
        let directory = Directory::read(&path).unwrap();
        assert!(directory.attributes("ana", 999_999_999).is_some() && directory.attributes("ana", 1_000_000_000).is_none());
        assert_eq!((directory.next_end(0), directory.next_end(1_000_000_000)), (Some(1_000_000_000), None));
    }
}
