//! A record as the cloud's JSON interfaces show it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire::{Operation, Record, RecordKey, RelayId, Series};

use crate::completeness::Completeness;
use crate::moment;

/// One record: `{"key", "series", "at", "operation", "relay", "payload"}`.
///
/// `at` is RFC 3339 in UTC with nanoseconds; `relay` is the relay through which the record came; `payload` is described at
/// [`Payload`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Its unique identifier.
    pub key: RecordKey,
    /// The series; also the part of the key before the `@`.
    pub series: Series,
    /// When it was generated.
    pub at: String,
    /// What the relay was told to do with it.
    pub operation: Operation,
    /// The relay that brought it.
    pub relay: RelayId,
    /// The reading's bytes.
    pub payload: Payload,
}

impl Reading {
    /// The JSON form of a record that came through `relay`.
    pub fn new(record: Record, relay: RelayId) -> Self {
        Self {
            series: record.key.series.clone(),
            key: record.key,
            at: moment::format(record.at),
            operation: record.operation,
            relay,
            payload: Payload(record.payload),
        }
    }

    /// The record again.
    ///
    /// # Errors
    /// [`moment::MomentFault`] if `at` is no time.
    pub fn into_record(self) -> Result<Record, moment::MomentFault> {
        let at = moment::parse(&self.at)?;
        Ok(Record { key: self.key, at, operation: self.operation, payload: self.payload.0 })
    }
}

/// The bytes of a reading in JSON: a string if they are UTF-8 without control characters, otherwise `{"base64": "…"}`.
///
/// So text readings (`"230.1"`, or JSON as text) stay readable, anything else survives byte for byte, and the two can't be
/// taken for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PayloadForm<'a> {
    Text(Cow<'a, str>),
    Binary(Binary<'a>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Binary<'a> {
    base64: Cow<'a, str>,
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => PayloadForm::Text(text.into()),
            _ => PayloadForm::Binary(Binary { base64: BASE64.encode(&self.0).into() }),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match PayloadForm::deserialize(deserializer)? {
            PayloadForm::Text(text) => Ok(Self(text.into_owned().into_bytes())),
            PayloadForm::Binary(binary) => BASE64.decode(binary.base64.as_bytes()).map(Self).map_err(D::Error::custom),
        }
    }
}

/// A page of records, in order of time, then epoch, then sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The records.
    pub records: Vec<Reading>,
    /// What to send as `cursor` for the page after this one; `null` when nothing follows now.
    pub next_cursor: Option<String>,
    /// Whether the answer is complete; on the last page only, which is the one without `next_cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completeness: Option<Completeness>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_where_it_is_text_and_base64_elsewhere() {
        for (bytes, json) in [
            (&b"230.1"[..], "\"230.1\""),
            ("{\"µ\":1}".as_bytes(), "\"{\\\"µ\\\":1}\""),
            (b"", "\"\""),
            (b"a\nb", "{\"base64\":\"YQpi\"}"),
            (b"\xff\x00", "{\"base64\":\"/wA=\"}"),
            ("\u{85}".as_bytes(), "{\"base64\":\"woU=\"}"),
        ] {
            let payload = Payload(bytes.to_vec());
            assert_eq!(serde_json::to_string(&payload).unwrap(), json);
            assert_eq!(serde_json::from_str::<Payload>(json).unwrap(), payload);
        }
        assert!(serde_json::from_str::<Payload>("{\"base64\":\"?\"}").is_err());
        assert!(serde_json::from_str::<Payload>("7").is_err());
    }

    #[test]
    fn a_record_has_the_documented_form() {
        let record =
            Record { key: "a/b/c@9f.3".parse().unwrap(), at: 1_500_000_000, operation: Operation::Store, payload: b"1".to_vec() };
        let reading = Reading::new(record, "relay-1".parse().unwrap());
        let json = serde_json::to_string(&reading).unwrap();
        assert_eq!(
            json,
            r#"{"key":"a/b/c@9f.3","series":"a/b/c","at":"1970-01-01T00:00:01.500000000Z","operation":"store","relay":"relay-1","payload":"1"}"#
        );
        assert_eq!(serde_json::from_str::<Reading>(&json).unwrap(), reading);
    }
}
