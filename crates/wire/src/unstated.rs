//! What a relay holds and the index does not name (C6): the open segment of its storage area, chunks whose epoch's secret it does not know, and
//! what is on its way.
//!
//! ```text
//! command    [1, id uint, 4, relay epoch uint, segment uint, after uint]
//! unstated   [segment uint, after uint, through uint, more bool, [] / [at min int, at max int], [series tstr, …], [series tstr, …]]
//! ```
//!
//! A segment is named by the last page that was closed before it. The first list names series by when they came into the segment: those
//! that came with pages above `after`, not above `through`. So whoever knows those up to `after` learns the rest, and a segment that was closed
//! meanwhile is begun anew, from page 0. Series are named once a segment, even if they left it by a pull. The second list is always whole.

use crate::cbor::{Fault, Strict, put_array, put_bool, put_int, put_text, put_uint};
use crate::ids::Series;
use crate::record::At;

/// Series of one list, at most.
pub const SERIES_MAX: usize = 262_144;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unstated {
    /// The last page that was closed before the open segment.
    pub segment: u64,
    /// Series that came with pages up to this one are known.
    pub after: u64,
    /// Those that came with pages up to this one are named.
    pub through: u64,
    /// Others came with later pages.
    pub more: bool,
    /// No record in the open segment, and in chunks without a root, is older or younger. `None`: there are none.
    pub at: Option<(At, At)>,
    /// Series in the open segment.
    pub series: Vec<Series>,
    /// Series with chunks that have no root.
    pub rootless: Vec<Series>,
}

impl Unstated {
    pub(crate) fn read(r: &mut Strict<'_>) -> Result<Self, Fault> {
        r.array_of(7, "unstated")?;
        let (segment, after, through, more) = (r.uint()?, r.uint()?, r.uint()?, r.bool()?);
        let at = match r.array()? {
            0 => None,
            2 => Some((r.int()?, r.int()?)),
            _ => return Err(Fault::Rule { field: "at", rule: "is neither empty nor two times" }),
        };
        if after > through || at.is_some_and(|(min, max)| min > max) {
            return Err(Fault::Rule { field: "unstated", rule: "has pages or times that contradict each other" });
        }
        Ok(Self { segment, after, through, more, at, series: names(r)?, rootless: names(r)? })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_array(out, 7);
        for number in [self.segment, self.after, self.through] {
            put_uint(out, number);
        }
        put_bool(out, self.more);
        put_array(out, if self.at.is_some() { 2 } else { 0 });
        if let Some((min, max)) = self.at {
            put_int(out, min);
            put_int(out, max);
        }
        for names in [&self.series, &self.rootless] {
            put_array(out, names.len() as u64);
            names.iter().for_each(|name| put_text(out, name.as_str()));
        }
    }
}

fn names(r: &mut Strict<'_>) -> Result<Vec<Series>, Fault> {
    let count = r.array()?;
    if count > SERIES_MAX as u64 {
        return Err(Fault::Rule { field: "series", rule: "are more than 262144" });
    }
    let name = |r: &mut Strict<'_>| {
        r.text()?.parse().map_err(|_| Fault::Rule { field: "series", rule: "is not a valid area/sensor/stream name" })
    };
    (0..count).map(|_| name(r)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::index::{Outcome, Reply};
    use crate::intervals::Intervals;

    fn reply(unstated: Unstated) -> Reply {
        let outcome = Outcome::Unstated { frames: Intervals::of(4, 9), unstated };
        Reply { relay_epoch: Epoch(3), command: 8, outcome }
    }

    #[test]
    fn c6_what_is_unstated_is_read_back_as_it_was_written_and_contradictions_are_refused() {
        let some = Unstated {
            segment: 4,
            after: 5,
            through: 9,
            more: true,
            at: Some((-3, 8)),
            series: vec!["a/b/c".parse().unwrap()],
            rootless: vec!["a/b/d".parse().unwrap(), "a/e/f".parse().unwrap()],
        };
        for unstated in [some.clone(), Unstated::default()] {
            assert_eq!(Reply::parse(&reply(unstated.clone()).encode()), Ok(reply(unstated)));
        }
        for broken in [Unstated { through: 4, ..some.clone() }, Unstated { at: Some((9, 8)), ..some }] {
            assert!(matches!(Reply::parse(&reply(broken).encode()), Err(Fault::Rule { .. })));
        }
    }
}
