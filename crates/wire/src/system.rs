//! Streams under `forebay/`: what an agent says about itself, as records like any other.
//!
//! They are durable, de-duplicated and anchored as readings are, and nobody else may publish there: inputs of agents and raw readings
//! of relays are refused. Payloads are JSON with the members in the order of the fields here and no white space.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, RelayId, Series};
use crate::record::At;

/// The first level of the reserved streams.
pub const PREFIX: &str = "forebay";
/// Stream of [`TargetReport`]s.
pub const TARGETS: &str = "forebay/targets";
/// Stream of [`TombstoneReport`]s.
pub const TOMBSTONES: &str = "forebay/tombstones";

/// First levels of the streams of demand response: the program follows. The cloud writes events and settlements there, terminals promises
/// and results.
pub const DEMAND: &str = "forebay/demand";

/// The stream of a demand-response program.
#[must_use]
pub fn demand_stream(program: &str) -> String {
    format!("{DEMAND}/{program}")
}

/// Longest reason that is reported; what is longer is cut.
pub const REASON_CHARS_MAX: usize = 256;

/// Whether a stream is kept for Forebay itself.
#[must_use]
pub fn is_reserved(stream: &str) -> bool {
    stream.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Which relay an agent sends to (A1): at each change, at the agent's start, and at a slow period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// The target.
    pub relay: RelayId,
    /// Its round-trip time in the last round of probes, nanoseconds; `null` if it was not measured.
    pub rtt_ns: Option<u64>,
    /// When it became the target, nanoseconds since 1970.
    pub since_ns: At,
    /// Why: only, first, unprobed, faster, gone or refused.
    pub why: String,
    /// The target before.
    pub from: Option<RelayId>,
}

/// Where a record was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// At the agent: it had no room to take it.
    Agent,
    /// At a relay, which refused it for good.
    Relay,
}

impl Place {
    /// The word in JSON and in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Relay => "relay",
        }
    }
}

/// Records that were given up on purpose (C3): consecutive sequence numbers of one series that nobody will ever see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneReport {
    /// Their series, of the same sensor as the report's.
    pub series: Series,
    /// Their epoch, as in a record key.
    #[serde(with = "epoch_text")]
    pub epoch: Epoch,
    /// The first sequence number.
    pub from_seq: u64,
    /// The last one.
    pub to_seq: u64,
    /// Why.
    pub reason: String,
    /// Where.
    pub place: Place,
    /// When the first of them was given up, nanoseconds since 1970.
    pub at_ns: At,
}

macro_rules! json_payload {
    ($name:ident) => {
        impl $name {
            /// The payload of a record.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                // Structs of text and numbers have a JSON form always.
                serde_json::to_vec(self).unwrap_or_default()
            }

            /// Reads a payload; `None` if it is none. Members that are not known are ignored: later versions may say more.
            #[must_use]
            pub fn parse(payload: &[u8]) -> Option<Self> {
                serde_json::from_slice(payload).ok()
            }
        }
    };
}

json_payload!(TargetReport);
json_payload!(TombstoneReport);

mod epoch_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::Epoch;

    pub(super) fn serialize<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(epoch)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Epoch).map_err(|_| D::Error::custom("epoch is not hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_c3_what_an_agent_says_about_itself_has_the_documented_form() {
        let target = TargetReport {
            relay: "relay-2".parse().unwrap(),
            rtt_ns: Some(5_000_000),
            since_ns: 7,
            why: "gone".to_owned(),
            from: None,
        };
        assert_eq!(
            String::from_utf8(target.encode()).unwrap(),
            r#"{"relay":"relay-2","rtt_ns":5000000,"since_ns":7,"why":"gone","from":null}"#
        );
        assert_eq!(TargetReport::parse(&target.encode()), Some(target));
        let tombstone = TombstoneReport {
            series: "a/b/c".parse().unwrap(),
            epoch: Epoch(0x9f3c),
            from_seq: 4,
            to_seq: 6,
            reason: "outbox full".to_owned(),
            place: Place::Agent,
            at_ns: 9,
        };
        assert_eq!(
            String::from_utf8(tombstone.encode()).unwrap(),
            r#"{"series":"a/b/c","epoch":"9f3c","from_seq":4,"to_seq":6,"reason":"outbox full","place":"agent","at_ns":9}"#
        );
        assert_eq!(TombstoneReport::parse(&tombstone.encode()), Some(tombstone));
        assert_eq!(TombstoneReport::parse(b"{}"), None);
    }

    #[test]
    fn reserved_is_the_first_level_and_nothing_like_it() {
        for stream in ["forebay", "forebay/targets", "forebay/x/y"] {
            assert!(is_reserved(stream), "{stream}");
        }
        for stream in ["forebays/x", "power/forebay", "Forebay/x"] {
            assert!(!is_reserved(stream), "{stream}");
        }
    }
}
