//! Where a reader stopped.

use std::fmt;
use std::str::FromStr;

use wire::{At, Epoch, Record};

/// Place behind one record in the order of a scan: time, epoch, sequence number. As text it is opaque and needs no escaping in a URL. It
/// carries no right: whoever changes one only reads from another place of what he may read anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    pub(crate) at: At,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

impl Cursor {
    /// The place behind `record`.
    pub fn after(record: &Record) -> Self {
        Self { at: record.at, epoch: record.key.epoch.0, seq: record.key.seq }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1~{}~{}~{}", self.at, Epoch(self.epoch), self.seq)
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: use the next_cursor of an earlier answer as it is")]
pub struct CursorFault;

impl FromStr for Cursor {
    type Err = CursorFault;

    fn from_str(text: &str) -> Result<Self, CursorFault> {
        let mut parts = text.split('~');
        let mut next = || parts.next().ok_or(CursorFault);
        if next()? != "1" {
            return Err(CursorFault);
        }
        let cursor = Self {
            at: next()?.parse().map_err(|_| CursorFault)?,
            epoch: u64::from_str_radix(next()?, 16).map_err(|_| CursorFault)?,
            seq: next()?.parse().map_err(|_| CursorFault)?,
        };
        // One place has one spelling.
        if cursor.to_string() == text { Ok(cursor) } else { Err(CursorFault) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is_a_cursor() {
        let cursor = Cursor { at: 1_451_606_400_000_000_000, epoch: u64::MAX, seq: 7 };
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'~'), "{text}");
        for other in ["", "1", "1~2~3", "2~1~f~1", "1~1~F~1", "1~01~f~1", "1~1~f~1~", "1~1~f~-1", "1~+1~f~1", "1~1~0f~1"] {
            assert_eq!(other.parse::<Cursor>(), Err(CursorFault), "{other}");
        }
    }
}
