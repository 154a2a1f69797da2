//! Logs go to stderr; results go to stdout, which is not ours.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The format is not one of ours.
    #[error("log format {0:?} is unknown; use \"text\" or \"json\"")]
    Format(String),
    /// The level can't be read.
    #[error("log level {level:?} can't be read ({why}); use error, warn, info, debug, trace or target=level,…")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        why: String,
    },
    /// A subscriber is already there.
    #[error("logging was already set up; only main may do it, and once")]
    Twice,
}

impl FromStr for Format {
    type Err = LogFault;

    fn from_str(text: &str) -> Result<Self, LogFault> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogFault::Format(other.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Installs the process-wide subscriber; only `main` calls it. `level` is `info` or a list like `info,broker=debug`.
pub fn init(format: Format, level: &str) -> Result<(), LogFault> {
    let filter = filter(level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogFault::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, LogFault> {
    EnvFilter::try_new(level).map_err(|why| LogFault::Level { level: level.to_owned(), why: why.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_is_allowed() {
        let unknown = "xml".parse::<Format>().unwrap_err().to_string();
        assert!(unknown.contains("\"xml\"") && unknown.contains("\"json\""), "{unknown}");
        let level = filter("broker=loud").unwrap_err().to_string();
        assert!(level.contains("broker=loud") && level.contains("debug"), "{level}");
        assert!(filter("info,broker=debug").is_ok());
    }

    #[test]
    fn formats_read_what_they_print() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
    }
}
