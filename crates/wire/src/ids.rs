//! Names, validated once: sensors, series, relays, epochs and record keys.
//!
//! A segment is 1 to 64 characters of `A-Z a-z 0-9 _ . -`. It can hold no `/`, `+`, `#` or `$`, so a name can never widen a topic
//! filter, and it needs no escaping in a file name, a URL or a log line.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest segment of a name, in bytes.
pub const SEGMENT_BYTES_MAX: usize = 64;
/// Longest series name, in bytes, slashes included.
pub const SERIES_BYTES_MAX: usize = 256;
/// Most segments that the stream part of a series may have.
pub const STREAM_SEGMENTS_MAX: usize = 8;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// A segment is empty, too long or holds a character outside the allowed set.
    #[error("segment {segment:?} is not 1 to 64 characters of A-Z a-z 0-9 _ . -")]
    Segment {
        /// The segment as it was given, cut to a printable length.
        segment: String,
    },
    /// The number of segments does not fit the kind of name.
    #[error("{text:?} is not of the form {form}")]
    Form {
        /// The name as it was given, cut to a printable length.
        text: String,
        /// What it should look like.
        form: &'static str,
    },
    /// The whole name is too long.
    #[error("name of {bytes} bytes is longer than {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
}

/// Cuts foreign text for an error message, at a character boundary.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

const fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// The same, by table.
const ALLOWED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = allowed(byte as u8);
        byte += 1;
    }
    table
};

pub(crate) fn check_segment(segment: &str) -> Result<(), IdFault> {
    if segment.is_empty() || segment.len() > SEGMENT_BYTES_MAX || !segment.bytes().all(allowed) {
        return Err(IdFault::Segment { segment: excerpt(segment) });
    }
    Ok(())
}

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A sensor: `area/sensor`, for example `cityA/meter-0017`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SensorId(Arc<str>);
text_id!(SensorId);

impl SensorId {
    /// Joins an area and a sensor name.
    ///
    /// # Errors
    /// [`IdFault::Segment`] names the part that is not a valid segment.
    pub fn new(area: &str, sensor: &str) -> Result<Self, IdFault> {
        check_segment(area)?;
        check_segment(sensor)?;
        Ok(Self(format!("{area}/{sensor}").into()))
    }

    /// The area, for example `cityA`.
    pub fn area(&self) -> &str {
        split(&self.0).0
    }

    /// The sensor's name within its area, for example `meter-0017`.
    pub fn sensor(&self) -> &str {
        split(&self.0).1
    }

    /// Whether `series` belongs to this sensor.
    pub fn owns(&self, series: &str) -> bool {
        series.strip_prefix(&*self.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

// Equality and hash are those of the text.
impl std::borrow::Borrow<str> for SensorId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Splits a validated name at its first slash.
fn split(text: &str) -> (&str, &str) {
    text.split_once('/').expect("a validated name has a slash")
}

impl FromStr for SensorId {
    type Err = IdFault;

    fn from_str(text: &str) -> Result<Self, IdFault> {
        match text.split_once('/') {
            Some((area, sensor)) => Self::new(area, sensor),
            None => Err(IdFault::Form { text: excerpt(text), form: "area/sensor" }),
        }
    }
}

/// One sequence of readings: `area/sensor/stream`, for example `cityA/meter-0017/power/active`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series(Arc<str>);
text_id!(Series);

impl Series {
    /// The series of `sensor` named `stream` (one to eight segments).
    ///
    /// # Errors
    /// [`IdFault`] says which part of the name is wrong.
    pub fn new(sensor: &SensorId, stream: &str) -> Result<Self, IdFault> {
        format!("{sensor}/{stream}").parse()
    }

    /// Checks a series name without keeping it.
    ///
    /// # Errors
    /// [`IdFault`] says which part of the name is wrong.
    pub fn check(text: &str) -> Result<(), IdFault> {
        if text.len() > SERIES_BYTES_MAX {
            return Err(IdFault::TooLong { bytes: text.len(), max: SERIES_BYTES_MAX });
        }
        // One pass, without splitting: every run of a frame and every publish comes through here.
        let (mut segments, mut start) = (1, 0);
        for (index, byte) in text.bytes().enumerate() {
            if byte == b'/' {
                if index == start || index - start > SEGMENT_BYTES_MAX {
                    return check_segment(&text[start..index]);
                }
                segments += 1;
                start = index + 1;
            } else if !ALLOWED[usize::from(byte)] {
                return text.split('/').try_for_each(check_segment);
            }
        }
        check_segment(&text[start..])?;
        if !(3..=2 + STREAM_SEGMENTS_MAX).contains(&segments) {
            return Err(IdFault::Form { text: excerpt(text), form: "area/sensor/stream with 1 to 8 stream segments" });
        }
        Ok(())
    }

    /// The sensor that this series belongs to.
    pub fn sensor_id(&self) -> SensorId {
        let (area, rest) = split(&self.0);
        let (sensor, _) = split(rest);
        SensorId(self.0[..area.len() + 1 + sensor.len()].into())
    }

    /// The area, for example `cityA`.
    pub fn area(&self) -> &str {
        split(&self.0).0
    }

    /// The sensor's name within its area.
    pub fn sensor(&self) -> &str {
        split(split(&self.0).1).0
    }

    /// The stream, for example `power/active`.
    pub fn stream(&self) -> &str {
        split(split(&self.0).1).1
    }
}

impl FromStr for Series {
    type Err = IdFault;

    fn from_str(text: &str) -> Result<Self, IdFault> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

/// A relay: one segment, for example `relay-1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(Arc<str>);
text_id!(RelayId);

impl FromStr for RelayId {
    type Err = IdFault;

    fn from_str(text: &str) -> Result<Self, IdFault> {
        check_segment(text)?;
        Ok(Self(text.into()))
    }
}

/// The 64-bit id of the database in which a record was given its sequence number. Printed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The unique identifier of a record (B8): series, epoch and a sequence number that has no gaps within them, from 1.
///
/// Printed `cityA/meter-0017/power/active@9f3c.1029`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// The series.
    pub series: Series,
    /// The origin's database.
    pub epoch: Epoch,
    /// Position in the series within the epoch, from 1.
    pub seq: u64,
}

const KEY_FORM: &str = "area/sensor/stream@epoch.seq";

impl FromStr for RecordKey {
    type Err = IdFault;

    fn from_str(text: &str) -> Result<Self, IdFault> {
        let fault = || IdFault::Form { text: excerpt(text), form: KEY_FORM };
        let (series, place) = text.split_once('@').ok_or_else(fault)?;
        let (epoch, seq) = place.split_once('.').ok_or_else(fault)?;
        let key = Self {
            series: series.parse()?,
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| fault())?),
            seq: seq.parse().map_err(|_| fault())?,
        };
        // One key has one spelling: no leading zeros, plus signs or capitals.
        if key.seq == 0 || place != format!("{}.{}", key.epoch, key.seq) {
            return Err(fault());
        }
        Ok(key)
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}.{}", self.series, self.epoch, self.seq)
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RecordKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_a_key_has_exactly_one_spelling() {
        let key: RecordKey = "cityA/meter-0017/power/active@9f3c.1029".parse().unwrap();
        assert_eq!(key.series.area(), "cityA");
        assert_eq!(key.series.sensor(), "meter-0017");
        assert_eq!(key.series.stream(), "power/active");
        assert_eq!(key.series.sensor_id().as_str(), "cityA/meter-0017");
        assert_eq!(key.to_string(), "cityA/meter-0017/power/active@9f3c.1029");
        for other in
            ["a/b/c@09f3c.1", "a/b/c@9F3C.1", "a/b/c@9f3c.01", "a/b/c@9f3c.0", "a/b/c@9f3c.+1", "a/b/c@9f3c", "a/b@9f3c.1"]
        {
            assert!(other.parse::<RecordKey>().is_err(), "{other} was taken");
        }
    }

    #[test]
    fn names_cannot_widen_a_topic() {
        for text in ["a/+/c", "a/#", "a/b/#", "a//c", "/b/c", "a/b/", "é/b/c", "a/b/c d", "$SYS/b/c", "a/b", "a"] {
            assert!(text.parse::<Series>().is_err(), "{text} was taken");
        }
        assert!("a/b/1/2/3/4/5/6/7/8".parse::<Series>().is_ok());
        assert!("a/b/1/2/3/4/5/6/7/8/9".parse::<Series>().is_err());
        assert!(SensorId::new("a/b", "c").is_err());
        let sensor = SensorId::new("a", "b").unwrap();
        assert!(sensor.owns("a/b/c") && !sensor.owns("a/bc/d") && !sensor.owns("a/b"));
    }
}
