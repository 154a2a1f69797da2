//! The tables, and the two numbers that SQLite can't hold as they are.

use rusqlite::Transaction;
use store::{Fault, Step};
use wire::Intervals;
use wire::cbor::Strict;

/// Migrations; released ones are never edited.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "archive", sql: include_str!("sql/001_archive.sql") },
    Step { name: "leaving", sql: include_str!("sql/002_leaving.sql") },
    Step { name: "ahead", sql: include_str!("sql/003_ahead.sql") },
    Step { name: "states", sql: include_str!("sql/004_states.sql") },
];

/// An epoch as SQLite keeps it: the same 64 bits, signed.
pub(crate) const fn to_sql(epoch: u64) -> i64 {
    epoch.cast_signed()
}

/// The epoch back.
pub(crate) const fn from_sql(epoch: i64) -> u64 {
    epoch.cast_unsigned()
}

pub(crate) fn encode(set: &Intervals) -> Vec<u8> {
    let mut out = Vec::new();
    set.encode(&mut out);
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Intervals, wire::Fault> {
    let mut strict = Strict::new(bytes);
    let set = Intervals::decode(&mut strict)?;
    strict.end()?;
    Ok(set)
}

/// Runs one cached statement.
pub(crate) fn execute(tx: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> Result<usize, Fault> {
    Ok(tx.prepare_cached(sql)?.execute(values)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_sound() {
        store::check_steps(STEPS).unwrap();
    }

    #[test]
    fn an_epoch_above_the_signed_range_is_kept() {
        for epoch in [0, 1, u64::MAX, 1 << 63] {
            assert_eq!(from_sql(to_sql(epoch)), epoch);
        }
    }
}
