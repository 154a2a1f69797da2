//! What a relay says about the chunks in its storage area (A5): the entries of the cloud's index, the second storage module.
//!
//! ```text
//! up/{relay}/index   [1, relay epoch uint, 0, after uint, through uint, [entry, …]]
//!                    [1, relay epoch uint, 1, [[after uint, through uint, entries uint, sum bstr .size 32], …]]
//! entry              [chunk uint, series tstr, epoch uint, at_min int, at_max int, records uint, seqs intervals, root bstr .size 32]
//! up/{relay}/reply   [1, relay epoch uint, command uint, 0, frames intervals, records uint]
//!                    [1, relay epoch uint, command uint, 1, reason tstr]
//!                    [1, relay epoch uint, command uint, 2, shown]         see [`crate::statement`]
//!                    [1, relay epoch uint, command uint, 3, frames intervals, unstated], see [`crate::unstated`]
//! ```
//!
//! A page states *all* chunks whose numbers lie above `after` and not above `through`. So an addition, a deletion and a repetition are
//! the same message, and a lost one is healed by any later page over the same stretch. After each connection the relay sends sums of its
//! stretches; the cloud asks for those that differ ([`crate::Command::Index`]).

use sha2::{Digest as _, Sha256};

use crate::cbor::{Fault, Strict, put_array, put_bytes, put_int, put_text, put_uint};
use crate::digest::Digest;
use crate::frame::check_version;
use crate::ids::{Epoch, Series};
use crate::intervals::Intervals;
use crate::record::At;
use crate::statement::Shown;
use crate::unstated::Unstated;
use crate::uplink::NUMBER_MAX;

/// Entries of one page, at most.
pub const ENTRIES_MAX: usize = 4_096;
/// Stretches of one message of sums, at most.
pub const STRETCHES_MAX: usize = 4_096;
/// Longest reason of a reply, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// One chunk that a relay keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The chunk's number at the relay.
    pub chunk: u64,
    /// The series.
    pub series: Series,
    /// The epoch of its records.
    pub epoch: Epoch,
    /// Earliest generation time.
    pub at_min: At,
    /// Latest generation time.
    pub at_max: At,
    /// How many records it holds.
    pub records: u64,
    /// Their sequence numbers.
    pub seqs: Intervals,
    /// The chunk's Merkle root, which a later answer is checked against (C5).
    pub root: Digest,
}

/// A stretch of chunk numbers: above `after`, not above `through`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// The last number before it.
    pub after: u64,
    /// Its last number.
    pub through: u64,
}

/// What a relay says about its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// All chunks of a stretch, in order of their numbers.
    Page {
        /// The relay's database, whose numbers they are. A new one makes everything before void.
        relay_epoch: Epoch,
        /// The stretch.
        stretch: Stretch,
        /// Its chunks.
        entries: Vec<IndexEntry>,
    },
    /// Sums of stretches, from the first number to the last, without holes between them.
    Sums {
        /// The relay's database.
        relay_epoch: Epoch,
        /// Stretch, number of its chunks, and [`sum`] over them.
        stretches: Vec<(Stretch, u64, Digest)>,
    },
}

/// SHA-256 over the entries as they stand in a page.
#[must_use]
pub fn sum<'a>(entries: impl IntoIterator<Item = &'a IndexEntry>) -> Digest {
    let mut hasher = Sha256::new();
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.clear();
        entry.write(&mut bytes);
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

impl Stretch {
    /// Reads a stretch.
    ///
    /// # Errors
    /// [`Fault`] if it is empty, or ends above [`NUMBER_MAX`].
    pub fn read(r: &mut Strict<'_>) -> Result<Self, Fault> {
        let stretch = Self { after: r.uint()?, through: r.uint()? };
        if stretch.after >= stretch.through || stretch.through > NUMBER_MAX {
            return Err(Fault::Rule { field: "stretch", rule: "is empty or ends above 2^63 - 1" });
        }
        Ok(stretch)
    }

    /// Writes the two numbers.
    pub fn write(self, out: &mut Vec<u8>) {
        put_uint(out, self.after);
        put_uint(out, self.through);
    }

    /// Whether a number lies in it.
    #[must_use]
    pub fn holds(self, number: u64) -> bool {
        self.after < number && number <= self.through
    }
}

impl IndexEntry {
    fn read(r: &mut Strict<'_>) -> Result<Self, Fault> {
        r.array_of(8, "entry")?;
        let chunk = r.uint()?;
        let series =
            r.text()?.parse().map_err(|_| Fault::Rule { field: "series", rule: "is not a valid area/sensor/stream name" })?;
        let epoch = Epoch(r.uint()?);
        let (at_min, at_max) = (r.int()?, r.int()?);
        let records = r.uint()?;
        let seqs = Intervals::decode(r)?;
        if at_min > at_max || records == 0 || records != seqs.count() {
            return Err(Fault::Rule { field: "entry", rule: "has times or a count that contradict each other" });
        }
        Ok(Self { chunk, series, epoch, at_min, at_max, records, seqs, root: r.array_of_bytes("root")? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_array(out, 8);
        put_uint(out, self.chunk);
        put_text(out, self.series.as_str());
        put_uint(out, self.epoch.0);
        put_int(out, self.at_min);
        put_int(out, self.at_max);
        put_uint(out, self.records);
        self.seqs.encode(out);
        put_bytes(out, &self.root);
    }
}

impl Index {
    /// Reads what a relay says.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical message whose chunks rise and lie in the stretch, or whose stretches join.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        let items = r.array()?;
        check_version(r.uint()?)?;
        let relay_epoch = Epoch(r.uint()?);
        let index = match (r.uint()?, items) {
            (0, 6) => {
                let stretch = Stretch::read(&mut r)?;
                let count = limited(r.array()?, ENTRIES_MAX, "entries", "are more than 4096")?;
                let mut entries: Vec<IndexEntry> = Vec::with_capacity(count);
                for _ in 0..count {
                    let entry = IndexEntry::read(&mut r)?;
                    let rises = entries.last().is_none_or(|last| last.chunk < entry.chunk);
                    if !rises || !stretch.holds(entry.chunk) {
                        return Err(Fault::Rule { field: "chunk", rule: "numbers do not rise within the stretch" });
                    }
                    entries.push(entry);
                }
                Self::Page { relay_epoch, stretch, entries }
            }
            (1, 4) => {
                let count = limited(r.array()?, STRETCHES_MAX, "stretches", "are more than 4096")?;
                let mut stretches: Vec<(Stretch, u64, Digest)> = Vec::with_capacity(count);
                for _ in 0..count {
                    r.array_of(4, "stretch")?;
                    let stretch = Stretch::read(&mut r)?;
                    if stretch.after != stretches.last().map_or(0, |(last, ..)| last.through) {
                        return Err(Fault::Rule { field: "stretches", rule: "do not join from number 1 on" });
                    }
                    stretches.push((stretch, r.uint()?, r.array_of_bytes("sum")?));
                }
                Self::Sums { relay_epoch, stretches }
            }
            _ => return Err(Fault::Rule { field: "index", rule: "is of an unknown kind" }),
        };
        r.end()?;
        Ok(index)
    }

    /// Writes the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Page { relay_epoch, stretch, entries } => {
                put_array(&mut out, 6);
                put_uint(&mut out, 1);
                put_uint(&mut out, relay_epoch.0);
                put_uint(&mut out, 0);
                stretch.write(&mut out);
                put_array(&mut out, entries.len() as u64);
                for entry in entries {
                    entry.write(&mut out);
                }
            }
            Self::Sums { relay_epoch, stretches } => {
                put_array(&mut out, 4);
                put_uint(&mut out, 1);
                put_uint(&mut out, relay_epoch.0);
                put_uint(&mut out, 1);
                put_array(&mut out, stretches.len() as u64);
                for (stretch, entries, sum) in stretches {
                    put_array(&mut out, 4);
                    stretch.write(&mut out);
                    put_uint(&mut out, *entries);
                    put_bytes(&mut out, sum);
                }
            }
        }
        out
    }
}

/// How a command of the cloud went at the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The relay's database.
    pub relay_epoch: Epoch,
    /// The command that is answered.
    pub command: u64,
    /// How it went.
    pub outcome: Outcome,
}

/// See [`Reply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done: what was asked for is on its way up.
    Done {
        /// The frames that carry it; empty when there was nothing.
        frames: Intervals,
        /// How many records they carry.
        records: u64,
    },
    /// It could not be done; the records, if there are any, stay at the relay.
    Failed {
        /// Why, for the log and the asker.
        reason: String,
    },
    /// The record that was asked about, with its way to the chunk's root. The relay keeps it.
    Shown(Box<Shown>),
    /// What the relay holds, or has under way, and the index does not name.
    Unstated {
        /// Frames that had no receipt when the reply was made.
        frames: Intervals,
        /// The rest.
        unstated: Unstated,
    },
}

impl Reply {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical reply.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        let items = r.array()?;
        check_version(r.uint()?)?;
        let relay_epoch = Epoch(r.uint()?);
        let command = r.uint()?;
        let outcome = match (r.uint()?, items) {
            (0, 6) => Outcome::Done { frames: Intervals::decode(&mut r)?, records: r.uint()? },
            (1, 5) => {
                let reason = r.text()?;
                if reason.len() > REASON_BYTES_MAX {
                    return Err(Fault::Rule { field: "reason", rule: "is longer than 512 bytes" });
                }
                Outcome::Failed { reason: reason.to_owned() }
            }
            (2, 5) => Outcome::Shown(Box::new(Shown::read(&mut r)?)),
            (3, 6) => Outcome::Unstated { frames: Intervals::decode(&mut r)?, unstated: Unstated::read(&mut r)? },
            _ => return Err(Fault::Rule { field: "reply", rule: "is of an unknown kind" }),
        };
        r.end()?;
        Ok(Self { relay_epoch, command, outcome })
    }

    /// Writes the reply; a reason that is too long is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_array(&mut out, if matches!(self.outcome, Outcome::Done { .. } | Outcome::Unstated { .. }) { 6 } else { 5 });
        put_uint(&mut out, 1);
        put_uint(&mut out, self.relay_epoch.0);
        put_uint(&mut out, self.command);
        match &self.outcome {
            Outcome::Done { frames, records } => {
                put_uint(&mut out, 0);
                frames.encode(&mut out);
                put_uint(&mut out, *records);
            }
            Outcome::Failed { reason } => {
                put_uint(&mut out, 1);
                put_text(&mut out, &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]);
            }
            Outcome::Shown(shown) => {
                put_uint(&mut out, 2);
                shown.write(&mut out);
            }
            Outcome::Unstated { frames, unstated } => {
                put_uint(&mut out, 3);
                frames.encode(&mut out);
                unstated.write(&mut out);
            }
        }
        out
    }
}

fn limited(count: u64, max: usize, field: &'static str, rule: &'static str) -> Result<usize, Fault> {
    usize::try_from(count).ok().filter(|count| *count <= max).ok_or(Fault::Rule { field, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(chunk: u64) -> IndexEntry {
        IndexEntry {
            chunk,
            series: "cityA/meter-1/power".parse().unwrap(),
            epoch: Epoch(5),
            at_min: -4,
            at_max: 9,
            records: 12,
            seqs: [(1, 10), (15, 16)].into_iter().collect(),
            root: [chunk as u8; 32],
        }
    }

    fn page(after: u64, through: u64, entries: Vec<IndexEntry>) -> Index {
        Index::Page { relay_epoch: Epoch(3), stretch: Stretch { after, through }, entries }
    }

    #[test]
    fn a5_what_a_relay_says_of_its_chunks_is_read_back_as_it_was_written() {
        let first = Stretch { after: 0, through: 8 };
        let second = Stretch { after: 8, through: NUMBER_MAX };
        for index in [
            page(4, 9, vec![entry(5), entry(9)]),
            page(4, 9, vec![]),
            Index::Sums { relay_epoch: Epoch(3), stretches: vec![(first, 2, [1; 32]), (second, 0, [2; 32])] },
        ] {
            assert_eq!(Index::parse(&index.encode()), Ok(index));
        }
    }

    #[test]
    fn a5_a_page_states_rising_chunks_of_its_stretch_and_nothing_else() {
        let wrong_count = IndexEntry { records: 13, ..entry(5) };
        for broken in [
            page(4, 4, vec![]),
            page(4, 9, vec![entry(4)]),
            page(4, 9, vec![entry(10)]),
            page(4, 9, vec![entry(6), entry(5)]),
            page(4, 9, vec![wrong_count]),
        ] {
            assert!(matches!(Index::parse(&broken.encode()), Err(Fault::Rule { .. })), "{broken:?}");
        }
        let hole = vec![(Stretch { after: 0, through: 8 }, 1, [1; 32]), (Stretch { after: 9, through: 12 }, 1, [1; 32])];
        assert!(Index::parse(&Index::Sums { relay_epoch: Epoch(3), stretches: hole }.encode()).is_err());
    }

    #[test]
    fn a5_sums_are_equal_exactly_when_the_entries_are() {
        let (one, other) = (entry(1), IndexEntry { at_max: 10, ..entry(1) });
        assert_eq!(sum([&one, &entry(2)]), sum([&entry(1), &entry(2)]));
        assert_ne!(sum([&one]), sum([&other]));
        assert_ne!(sum([&one, &entry(2)]), sum([&entry(2), &one]));
    }

    #[test]
    fn a_reply_is_read_back_as_it_was_written_and_a_long_reason_is_cut() {
        let reply = |outcome| Reply { relay_epoch: Epoch(3), command: 8, outcome };
        for outcome in
            [Outcome::Done { frames: Intervals::of(4, 9), records: 7 }, Outcome::Failed { reason: "no such series".to_owned() }]
        {
            assert_eq!(Reply::parse(&reply(outcome.clone()).encode()), Ok(reply(outcome)));
        }
        let long = reply(Outcome::Failed { reason: "é".repeat(400) });
        assert!(matches!(Reply::parse(&long.encode()).unwrap().outcome, Outcome::Failed { reason } if reason.len() == 512));
    }
}
