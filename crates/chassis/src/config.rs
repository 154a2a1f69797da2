//! One TOML file a role, overridden by environment variables that `main` passes in.
//!
//! `FOREBAY_RELAY__UPLINK__ADDRESS` sets `uplink.address` when the prefix is `FOREBAY_RELAY`. A variable's value is read as
//! TOML where it is TOML (`1883`, `true`, `["a", "b"]`) and as plain text otherwise (`30s`, `127.0.0.1:1883`).

use std::io;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use serde::de::DeserializeOwned;

const SEPARATOR: &str = "__";

/// Why a configuration does not hold. Each text names the key and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// The file is not there.
    #[error("configuration file {} does not exist; give the right path with --config, or copy one from config/", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file can't be read.
    #[error("configuration file {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {} is not valid TOML: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected there.
        why: String,
    },
    /// A key is missing, unknown or has the wrong value.
    #[error("key `{key}` in {origin}: {problem}")]
    Key {
        /// Dotted path of the key.
        key: String,
        /// The file or the environment variable it comes from.
        origin: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

impl ConfigFault {
    /// A fault that an application found when it checked what `load_config` gave it: name the key and the fix.
    pub fn key(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Key { key: key.into(), origin: "the configuration".to_owned(), problem: problem.into() }
    }
}

/// Reads the file at `path`, lays the variables that start with `env_prefix` and `__` over it, and checks the whole
/// against `T` (use `#[serde(deny_unknown_fields)]`). `vars` is `std::env::vars()` in `main` and a list in tests.
pub fn load_config<T: DeserializeOwned>(
    path: &Path,
    env_prefix: &str,
    vars: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigFault> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ConfigFault::Missing { path: path.to_owned() },
        _ => ConfigFault::Unreadable { path: path.to_owned(), source },
    })?;
    // Parsed alone first, so that a syntax error is told as one.
    let file = Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .build()
        .map_err(|fault| ConfigFault::Syntax { path: path.to_owned(), why: syntax(fault) })?;
    let overrides = Overrides::read(env_prefix, vars);
    let place = Place { file: path.display().to_string(), overrides: &overrides };
    Config::builder()
        .add_source(file)
        .add_source(overrides.clone())
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|fault| place.fault(fault))
}

/// The variables, as a layer over the file.
#[derive(Debug, Clone)]
struct Overrides(Vec<Override>);

#[derive(Debug, Clone)]
struct Override {
    variable: String,
    key: String,
    value: ValueKind,
}

impl Overrides {
    fn read(prefix: &str, vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let start = format!("{prefix}{SEPARATOR}");
        let mut found: Vec<Override> = vars
            .into_iter()
            .filter_map(|(variable, text)| {
                let key = variable.strip_prefix(&start)?.to_lowercase().replace(SEPARATOR, ".");
                let value = toml_or_text(text);
                Some(Override { variable, key, value })
            })
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Self(found)
    }

    /// The variable that set `key`, or something below or above it.
    fn variable_of(&self, key: &str) -> Option<&str> {
        let related = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.0.iter().find(|o| related(key, &o.key)).map(|o| o.variable.as_str())
    }
}

impl Source for Overrides {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.iter().map(|o| (o.key.clone(), Value::new(Some(&o.variable), o.value.clone()))).collect())
    }
}

fn toml_or_text(text: String) -> ValueKind {
    Config::builder()
        .add_source(File::from_str(&format!("v = {text}"), FileFormat::Toml))
        .build()
        .and_then(|parsed| parsed.get::<Value>("v"))
        .map_or(ValueKind::String(text), |value| value.kind)
}

/// Knows where values come from, to say it in faults.
struct Place<'a> {
    file: String,
    overrides: &'a Overrides,
}

impl Place<'_> {
    fn fault(&self, fault: ConfigError) -> ConfigFault {
        let (key, problem) = key_and_problem(fault);
        let origin = match self.overrides.variable_of(&key) {
            Some(variable) => format!("environment variable {variable}"),
            None => self.file.clone(),
        };
        ConfigFault::Key { key, origin, problem }
    }
}

fn key_and_problem(fault: ConfigError) -> (String, String) {
    match fault {
        ConfigError::At { error, key, .. } => {
            let (inner, problem) = key_and_problem(*error);
            (join(key.unwrap_or_default(), inner), problem)
        }
        ConfigError::Type { unexpected, expected, key, .. } => {
            (key.unwrap_or_default(), format!("has {unexpected}, but must be {expected}"))
        }
        ConfigError::NotFound(key) => (key, "is missing; add it".to_owned()),
        ConfigError::Message(text) => said_by_serde(&text),
        other => (String::new(), other.to_string()),
    }
}

/// Serde tells the last part of the key only in its text.
fn said_by_serde(text: &str) -> (String, String) {
    let quoted = |start: &str| {
        let rest = text.strip_prefix(start)?;
        let (name, rest) = rest.split_once('`')?;
        Some((name.to_owned(), rest))
    };
    if let Some((name, rest)) = quoted("unknown field `") {
        let known = rest.trim_start_matches(", ");
        let problem = format!("is not a known key ({known}); correct its spelling or remove it");
        return (name, problem);
    }
    if let Some((name, _)) = quoted("missing field `") {
        return (name, "is missing; add it".to_owned());
    }
    (String::new(), text.to_owned())
}

fn join(outer: String, inner: String) -> String {
    match (outer.is_empty(), inner.is_empty()) {
        (_, true) => outer,
        (true, _) => inner,
        // The same name twice: once from the path, once from serde's text.
        _ if outer == inner || outer.ends_with(&format!(".{inner}")) => outer,
        _ => format!("{outer}.{inner}"),
    }
}

fn syntax(fault: ConfigError) -> String {
    match fault {
        ConfigError::FileParse { cause, .. } => cause.to_string().trim().to_owned(),
        other => other.to_string(),
    }
}
