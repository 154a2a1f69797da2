//! One reading and what is to be done with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cbor::Fault;
use crate::ids::{Epoch, RecordKey, Series};

/// Generation time of a record: nanoseconds since 1970-01-01T00:00:00Z, never negative.
pub type At = i64;

/// What the relay shall do with a record (A2, A4): every datum carries one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Keep it in the relay's storage area until somebody asks.
    Store,
    /// Send it to the cloud at once.
    Forward,
}

impl Operation {
    /// The word that stands in topics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Forward => "forward",
        }
    }

    /// The number that stands on the wire.
    pub const fn code(self) -> u64 {
        match self {
            Self::Store => 0,
            Self::Forward => 1,
        }
    }

    /// The operation with this number.
    ///
    /// # Errors
    /// [`Fault::Rule`] for any number but 0 and 1.
    pub const fn from_code(code: u64) -> Result<Self, Fault> {
        match code {
            0 => Ok(Self::Store),
            1 => Ok(Self::Forward),
            _ => Err(Fault::Rule { field: "operation", rule: "is neither 0 (store) nor 1 (forward)" }),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Operation {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        match text {
            "store" => Ok(Self::Store),
            "forward" => Ok(Self::Forward),
            _ => Err(Fault::Rule { field: "operation", rule: "is neither \"store\" nor \"forward\"" }),
        }
    }
}

/// One reading, as its origin made it. Nobody changes it afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its unique identifier.
    pub key: RecordKey,
    /// When it was generated.
    pub at: At,
    /// What the relay shall do with it.
    pub operation: Operation,
    /// The reading's bytes, opaque to the platform.
    pub payload: Vec<u8>,
}

impl Record {
    /// The same record, borrowed.
    pub fn view(&self) -> RecordView<'_> {
        RecordView {
            series: self.key.series.as_str(),
            epoch: self.key.epoch,
            seq: self.key.seq,
            at: self.at,
            operation: self.operation,
            payload: &self.payload,
        }
    }
}

/// A record borrowed from the run that carries it. Its series name was validated when the run was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The series, `area/sensor/stream`.
    pub series: &'a str,
    /// The origin's database.
    pub epoch: Epoch,
    /// Position in the series within the epoch, from 1.
    pub seq: u64,
    /// When it was generated.
    pub at: At,
    /// What the relay shall do with it.
    pub operation: Operation,
    /// The reading's bytes.
    pub payload: &'a [u8],
}

impl RecordView<'_> {
    /// A copy that owns its parts.
    pub fn to_record(&self) -> Record {
        let series: Series = self.series.parse().expect("a run's series was validated when it was parsed");
        Record {
            key: RecordKey { series, epoch: self.epoch, seq: self.seq },
            at: self.at,
            operation: self.operation,
            payload: self.payload.to_vec(),
        }
    }
}
