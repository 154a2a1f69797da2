//! Topic names and topic filters by the rules of MQTT (3.1.1 and 5.0, section 4.7).
//!
//! Levels are split at `/` and may be empty. `+` stands for one level, `#` (last) for the level above it and all below.
//! A wildcard at the first level never stands for a level that begins with `$`.
//!
//! [`matches`] and [`covers`] take valid names: check what comes from outside with [`valid_topic`] and [`valid_filter`]
//! first. On others they answer something, and never panic. `$share/{group}/` is the business of the MQTT face, which
//! takes it off before it asks here.

/// What an MQTT string holds at most, in bytes.
pub const NAME_BYTES_MAX: usize = 65_535;

/// Whether something may be published to `topic`.
#[must_use]
pub fn valid_topic(topic: &str) -> bool {
    valid_length(topic) && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0))
}

/// Whether `filter` may be subscribed to.
#[must_use]
pub fn valid_filter(filter: &str) -> bool {
    if !valid_length(filter) || filter.bytes().any(|byte| byte == 0) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let valid = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            text => !text.contains(['+', '#']),
        };
        if !valid {
            return false;
        }
    }
    true
}

fn valid_length(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

/// Whether a message to `topic` goes to those who subscribed to `filter`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    levels_match(filter.split('/'), topic)
}

/// Whether every topic that `narrower` matches is matched by `filter` as well.
#[must_use]
pub fn covers(filter: &str, narrower: &str) -> bool {
    levels_cover(filter.split('/'), narrower)
}

/// One level of a filter, as text or prepared (see [`crate::grants`]).
pub(crate) trait Level {
    /// `+`
    fn is_any(&self) -> bool;
    /// `#`
    fn is_rest(&self) -> bool;
    /// The very text of a level without wildcard.
    fn is(&self, text: &str) -> bool;
}

impl Level for &str {
    fn is_any(&self) -> bool {
        *self == "+"
    }
    fn is_rest(&self) -> bool {
        *self == "#"
    }
    fn is(&self, text: &str) -> bool {
        *self == text
    }
}

pub(crate) fn levels_match<L: Level>(filter: impl Iterator<Item = L>, topic: &str) -> bool {
    let mut names = topic.split('/');
    let mut hidden = topic.starts_with('$');
    for level in filter {
        if level.is_rest() {
            return !hidden;
        }
        let Some(name) = names.next() else { return false };
        if level.is_any() {
            if hidden {
                return false;
            }
        } else if !level.is(name) {
            return false;
        }
        hidden = false;
    }
    names.next().is_none()
}

pub(crate) fn levels_cover<L: Level>(filter: impl Iterator<Item = L>, narrower: &str) -> bool {
    // Every topic has a first level, so these two are the same.
    let narrower = if narrower == "#" { "+/#" } else { narrower };
    let mut names = narrower.split('/');
    let mut hidden = narrower.starts_with('$');
    for level in filter {
        if level.is_rest() {
            return !hidden;
        }
        let Some(name) = names.next() else { return false };
        let covered = match name {
            "#" => false,
            "+" => level.is_any(),
            _ if level.is_any() => !hidden,
            text => level.is(text),
        };
        if !covered {
            return false;
        }
        hidden = false;
    }
    names.next().is_none()
}
