//! Topic filters with `%u` (user) and `%c` (client id) in them, asked without building the filter that they stand for.

use super::Subject;
use crate::filter::{Level, levels_cover, levels_match, valid_filter};

/// A filter of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<PatternLevel>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternLevel {
    Any,
    Rest,
    Text(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    User,
    Client,
}

impl Pattern {
    /// Reads a filter. The error says what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let levels = text.split('/').map(PatternLevel::parse).collect::<Option<_>>();
        let levels = levels.ok_or("% stands only in %u (user) and %c (client id)")?;
        if !valid_filter(&text.replace("%u", "u").replace("%c", "c")) {
            return Err("it is not an MQTT topic filter: + and # stand alone between slashes, and # only at the end");
        }
        Ok(Self(levels))
    }

    pub(super) fn matches(&self, subject: &Subject<'_>, topic: &str) -> bool {
        levels_match(self.bound(subject), topic)
    }

    pub(super) fn covers(&self, subject: &Subject<'_>, filter: &str) -> bool {
        levels_cover(self.bound(subject), filter)
    }

    fn bound<'a>(&'a self, subject: &'a Subject<'_>) -> impl Iterator<Item = Bound<'a>> {
        self.0.iter().map(|level| Bound { level, subject })
    }
}

impl PatternLevel {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "+" => return Some(Self::Any),
            "#" => return Some(Self::Rest),
            _ => {}
        }
        let mut parts = text.split('%');
        let mut pieces: Vec<Piece> = parts.next().and_then(literal).into_iter().collect();
        for part in parts {
            let (piece, after) = match part.as_bytes().first()? {
                b'u' => (Piece::User, &part[1..]),
                b'c' => (Piece::Client, &part[1..]),
                _ => return None,
            };
            pieces.push(piece);
            pieces.extend(literal(after));
        }
        Some(Self::Text(pieces))
    }
}

fn literal(text: &str) -> Option<Piece> {
    (!text.is_empty()).then(|| Piece::Literal(text.into()))
}

/// A level and the subject whose names stand in it.
struct Bound<'a> {
    level: &'a PatternLevel,
    subject: &'a Subject<'a>,
}

impl Level for Bound<'_> {
    fn is_any(&self) -> bool {
        *self.level == PatternLevel::Any
    }

    fn is_rest(&self) -> bool {
        *self.level == PatternLevel::Rest
    }

    fn is(&self, text: &str) -> bool {
        let PatternLevel::Text(pieces) = self.level else { return false };
        let mut rest = text;
        for piece in pieces {
            let value = match piece {
                Piece::Literal(text) => Some(&**text),
                Piece::User => self.subject.user.filter(|name| may_stand(name)),
                Piece::Client => Some(self.subject.client).filter(|name| may_stand(name)),
            };
            let Some(after) = value.and_then(|value| rest.strip_prefix(value)) else { return false };
            rest = after;
        }
        rest.is_empty()
    }
}

/// Whether a name may stand for `%u` or `%c`. A client chooses its id, so a name that is empty, holds what means something in
/// a filter, or could lead into `$SYS`, stands for nothing at all.
fn may_stand(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('$') && !name.bytes().any(|byte| matches!(byte, b'/' | b'+' | b'#' | 0))
}
