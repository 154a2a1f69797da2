//! What relay and cloud say to each other: frames up, receipts and commands down.
//!
//! ```text
//! up/{relay}/frames       [1, relay tstr, relay epoch uint, number uint, term uint, historical bool,
//!                          [[epoch uint, scope tstr or "", secret bstr .size 32], …], bstr .cborseq run]
//! down/{relay}/receipts   [1, relay epoch uint, intervals]
//! down/{relay}/commands   [1, id uint, 0]  or  [1, id uint, 1, series tstr, from int, to int]
//!                         or  [1, id uint, 2, [[after uint, through uint], …]]
//!                         or  [1, id uint, 3, chunk uint, series tstr, epoch uint, seq uint]
//! ```
//!
//! A frame's number is the id of the page that holds its runs at the relay. It never changes, so a frame that is sent again
//! carries the same number and the same runs, and a receipt that names the number lets the relay forget the page.

use crate::cbor::{Fault, Strict, put_array, put_bool, put_bytes, put_int, put_text, put_uint};
use crate::digest::EpochSecret;
use crate::frame::{RunView, Runs, SECRETS_MAX, check_version, count_runs};
use crate::ids::{Epoch, RecordKey, RelayId, SensorId, Series};
use crate::index::{STRETCHES_MAX, Stretch};
use crate::intervals::Intervals;
use crate::record::At;
use crate::statement::{read_key, write_key};

/// Largest number of a frame: the id of a row, which is signed. Beyond, it would turn negative in the databases of both sides.
pub const NUMBER_MAX: u64 = i64::MAX as u64;
const NUMBER_RULE: Fault = Fault::Rule { field: "number", rule: "is above 2^63 - 1" };

/// An epoch's secret on its way from the origin to the cloud, sent until the cloud has confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The epoch.
    pub epoch: Epoch,
    /// Whose epoch it is: a sensor's, or (`None`) the relay's own, for raw readings.
    pub scope: Option<SensorId>,
    /// The secret that salts the epoch's digests.
    pub secret: EpochSecret,
}

/// A validated uplink frame.
#[derive(Debug, Clone)]
pub struct UpFrame<'a> {
    /// The relay that holds the records.
    pub relay: &'a str,
    /// The relay's database: frame numbers are its own.
    pub relay_epoch: Epoch,
    /// The page's id at the relay.
    pub number: u64,
    /// Term of the lease that the frame came through; 0 when the relay talks to the cloud directly.
    pub term: u64,
    /// Whether the records are late: a backlog or a hand-over, not live.
    pub historical: bool,
    /// Secrets of epochs that the cloud has not confirmed yet.
    pub secrets: Vec<Announcement>,
    /// The runs, one behind the other.
    pub runs: &'a [u8],
}

impl<'a> UpFrame<'a> {
    /// Reads a frame and validates its runs.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical frame with at least one run.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(8, "frame")?;
        check_version(r.uint()?)?;
        let relay = r.text()?;
        if relay.parse::<RelayId>().is_err() {
            return Err(Fault::Rule { field: "relay", rule: "is not a valid relay name" });
        }
        let relay_epoch = Epoch(r.uint()?);
        let number = r.uint()?;
        if number > NUMBER_MAX {
            return Err(NUMBER_RULE);
        }
        let term = r.uint()?;
        let historical = r.bool()?;
        let announced = r.array()?;
        if announced > SECRETS_MAX {
            return Err(Fault::Rule { field: "secrets", rule: "are more than 4096" });
        }
        let mut secrets = Vec::new();
        for _ in 0..announced {
            r.array_of(3, "secret")?;
            let epoch = Epoch(r.uint()?);
            let scope = match r.text()? {
                "" => None,
                text => Some(text.parse().map_err(|_| Fault::Rule { field: "scope", rule: "is not a valid area/sensor name" })?),
            };
            secrets.push(Announcement { epoch, scope, secret: EpochSecret::new(r.array_of_bytes("secret")?) });
        }
        let runs = r.bytes()?;
        r.end()?;
        count_runs(runs)?;
        Ok(Self { relay, relay_epoch, number, term, historical, secrets, runs })
    }

    /// The runs, one by one.
    pub fn runs(&self) -> impl Iterator<Item = RunView<'a>> + use<'a> {
        Runs::new(self.runs).map(|run| run.expect("a frame's runs were validated when it was parsed"))
    }

    /// Writes the frame behind what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.runs.len() + self.relay.len() + 48 + 96 * self.secrets.len());
        put_array(out, 8);
        put_uint(out, 1);
        put_text(out, self.relay);
        put_uint(out, self.relay_epoch.0);
        put_uint(out, self.number);
        put_uint(out, self.term);
        put_bool(out, self.historical);
        put_array(out, self.secrets.len() as u64);
        for announced in &self.secrets {
            put_array(out, 3);
            put_uint(out, announced.epoch.0);
            put_text(out, announced.scope.as_ref().map_or("", |sensor| sensor.as_str()));
            put_bytes(out, announced.secret.expose());
        }
        put_bytes(out, self.runs);
    }
}

/// The cloud's word that frames are committed there: custody has moved, the relay may delete them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The relay's database that numbered the frames.
    pub relay_epoch: Epoch,
    /// Numbers of the frames.
    pub numbers: Intervals,
}

impl Receipt {
    /// Reads a receipt.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical receipt.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(3, "receipt")?;
        check_version(r.uint()?)?;
        let receipt = Self { relay_epoch: Epoch(r.uint()?), numbers: Intervals::decode(&mut r)? };
        r.end()?;
        if receipt.numbers.last().is_some_and(|last| last > NUMBER_MAX) {
            return Err(NUMBER_RULE);
        }
        Ok(receipt)
    }

    /// Writes the receipt.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_array(&mut out, 3);
        put_uint(&mut out, 1);
        put_uint(&mut out, self.relay_epoch.0);
        self.numbers.encode(&mut out);
        out
    }
}

/// What the cloud asks of a relay. Records come up as frames, and a [`crate::Reply`] says which; index pages come up as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Hand over everything in the storage area.
    Flush {
        /// Number of the command; the reply repeats it.
        id: u64,
    },
    /// Hand over what the storage area holds of a series within a time range.
    Pull {
        /// Number of the command; the reply repeats it.
        id: u64,
        /// The series.
        series: Series,
        /// Earliest generation time.
        from: At,
        /// First generation time that is no longer wanted.
        to: At,
    },
    /// State the chunks of these stretches again: the cloud's index differs from the relay's.
    Index {
        /// Number of the command.
        id: u64,
        /// The stretches.
        stretches: Vec<Stretch>,
    },
    /// Show one record with its way to the root of its chunk, and keep it.
    Prove {
        /// Number of the command; the reply repeats it.
        id: u64,
        /// The chunk, by the relay's number.
        chunk: u64,
        /// The record.
        key: RecordKey,
    },
    /// Say what the storage area holds that the index does not name, see [`crate::unstated`].
    Unstated {
        /// Number of the command; the reply repeats it.
        id: u64,
        /// The relay's database as far as the cloud knows it.
        relay_epoch: Epoch,
        /// The open segment that the cloud knows something of.
        segment: u64,
        /// Series that came into it with pages up to this one are known.
        after: u64,
    },
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical command of a known kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        let items = r.array()?;
        check_version(r.uint()?)?;
        let id = r.uint()?;
        let command = match (r.uint()?, items) {
            (0, 3) => Self::Flush { id },
            (1, 6) => {
                let series = r
                    .text()?
                    .parse()
                    .map_err(|_| Fault::Rule { field: "series", rule: "is not a valid area/sensor/stream name" })?;
                Self::Pull { id, series, from: r.int()?, to: r.int()? }
            }
            (2, 4) => {
                let count = r.array()?;
                if count > STRETCHES_MAX as u64 {
                    return Err(Fault::Rule { field: "stretches", rule: "are more than 4096" });
                }
                let mut stretches = Vec::new();
                for _ in 0..count {
                    r.array_of(2, "stretch")?;
                    stretches.push(Stretch::read(&mut r)?);
                }
                Self::Index { id, stretches }
            }
            (3, 7) => Self::Prove { id, chunk: r.uint()?, key: read_key(&mut r)? },
            (4, 6) => Self::Unstated { id, relay_epoch: Epoch(r.uint()?), segment: r.uint()?, after: r.uint()? },
            _ => return Err(Fault::Rule { field: "command", rule: "is of an unknown kind" }),
        };
        r.end()?;
        Ok(command)
    }

    /// Writes the command.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Flush { id } => {
                put_array(&mut out, 3);
                put_uint(&mut out, 1);
                put_uint(&mut out, *id);
                put_uint(&mut out, 0);
            }
            Self::Pull { id, series, from, to } => {
                put_array(&mut out, 6);
                put_uint(&mut out, 1);
                put_uint(&mut out, *id);
                put_uint(&mut out, 1);
                put_text(&mut out, series.as_str());
                put_int(&mut out, *from);
                put_int(&mut out, *to);
            }
            Self::Index { id, stretches } => {
                put_array(&mut out, 4);
                put_uint(&mut out, 1);
                put_uint(&mut out, *id);
                put_uint(&mut out, 2);
                put_array(&mut out, stretches.len() as u64);
                for stretch in stretches {
                    put_array(&mut out, 2);
                    stretch.write(&mut out);
                }
            }
            Self::Prove { id, chunk, key } => {
                put_array(&mut out, 7);
                put_uint(&mut out, 1);
                put_uint(&mut out, *id);
                put_uint(&mut out, 3);
                put_uint(&mut out, *chunk);
                write_key(key, &mut out);
            }
            Self::Unstated { id, relay_epoch, segment, after } => {
                put_array(&mut out, 6);
                for number in [1, *id, 4, relay_epoch.0, *segment, *after] {
                    put_uint(&mut out, number);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::RunBuilder;
    use crate::record::Operation;

    #[test]
    fn an_uplink_frame_is_read_back_as_it_was_written() {
        let mut builder = RunBuilder::new("a/b/c".parse().unwrap(), Operation::Store);
        builder.push(1, b"x").unwrap();
        let mut runs = Vec::new();
        builder.write(Epoch(1), 1, &mut runs);
        let secrets = vec![
            Announcement { epoch: Epoch(1), scope: None, secret: EpochSecret::new([1; 32]) },
            Announcement { epoch: Epoch(2), scope: Some("a/b".parse().unwrap()), secret: EpochSecret::new([2; 32]) },
        ];
        let frame =
            UpFrame { relay: "relay-1", relay_epoch: Epoch(9), number: 77, term: 0, historical: true, secrets, runs: &runs };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let read = UpFrame::parse(&bytes).unwrap();
        assert_eq!((read.relay, read.relay_epoch, read.number, read.historical), ("relay-1", Epoch(9), 77, true));
        assert_eq!((&read.secrets, read.runs), (&frame.secrets, &runs[..]));
    }

    #[test]
    fn receipts_and_commands_are_read_back_as_they_were_written() {
        let receipt = Receipt { relay_epoch: Epoch(3), numbers: [(1, 4), (9, 9)].into_iter().collect() };
        assert_eq!(Receipt::parse(&receipt.encode()), Ok(receipt));
        let stretches = vec![Stretch { after: 0, through: 4 }, Stretch { after: 9, through: NUMBER_MAX }];
        for command in [
            Command::Flush { id: 4 },
            Command::Pull { id: 5, series: "a/b/c".parse().unwrap(), from: 0, to: 9 },
            Command::Index { id: 6, stretches },
            Command::Prove { id: 7, chunk: 12, key: "a/b/c@9f.3".parse().unwrap() },
            Command::Unstated { id: 7, relay_epoch: Epoch(3), segment: 4, after: 9 },
        ] {
            assert_eq!(Command::parse(&command.encode()), Ok(command));
        }
        assert!(Command::parse(&[0x83, 1, 1, 2]).is_err());
    }
}
