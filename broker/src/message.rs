//! A message to subscribers from inside the process, and the envelope in which every message crosses the router.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::property;

/// What code in this process publishes through a [`crate::Hub`].
///
/// The topic is shared, so keep the `Arc<str>` per topic; properties are encoded as they are added, into one buffer.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) properties: Vec<u8>,
    pub(crate) expiry: Option<Duration>,
}

impl Message {
    /// A message of QoS 1 (subscribers get at most what they subscribed with) without properties.
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Message {
        Message { topic: topic.into(), payload: payload.into(), qos: 1, properties: Vec::new(), expiry: None }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sets the QoS; what is above 2 counts as 2.
    #[must_use]
    pub fn qos(mut self, qos: u8) -> Message {
        self.qos = qos.min(2);
        self
    }

    /// Adds an MQTT 5 user property. Text longer than an MQTT string (65,535 bytes) is left out as a whole.
    #[must_use]
    pub fn user_property(mut self, name: &str, value: &str) -> Message {
        if name.len() <= usize::from(u16::MAX) && value.len() <= usize::from(u16::MAX) {
            property::put_pair(&mut self.properties, property::USER_PROPERTY, name, value);
        }
        self
    }

    /// Sets the MQTT 5 correlation data. Call it once; data longer than 65,535 bytes is left out.
    #[must_use]
    pub fn correlation_data(mut self, data: &[u8]) -> Message {
        if data.len() <= usize::from(u16::MAX) {
            property::put_binary(&mut self.properties, property::CORRELATION_DATA, data);
        }
        self
    }

    /// Sets the MQTT 5 response topic. Call it once.
    #[must_use]
    pub fn response_topic(mut self, topic: &str) -> Message {
        if topic.len() <= usize::from(u16::MAX) {
            property::put_binary(&mut self.properties, property::RESPONSE_TOPIC, topic.as_bytes());
        }
        self
    }

    /// Sets the MQTT 5 content type. Call it once.
    #[must_use]
    pub fn content_type(mut self, kind: &str) -> Message {
        if kind.len() <= usize::from(u16::MAX) {
            property::put_binary(&mut self.properties, property::CONTENT_TYPE, kind.as_bytes());
        }
        self
    }

    /// Not to be delivered later than this from now.
    #[must_use]
    pub fn expires_in(mut self, time: Duration) -> Message {
        self.expiry = Some(time);
        self
    }
}

const QOS: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const EXPIRES: u8 = 0b0000_1000;

/// What travels through the router: the message with the facts that delivery needs. The router itself sees only the name of
/// a filter's slot and these opaque bytes, so nothing that a client wrote can confuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Number of the publishing connection, 0 for this process.
    pub(crate) publisher: u64,
    /// Seconds since the broker started, when the message has an expiry.
    pub(crate) expires_at: Option<u64>,
    pub(crate) topic: &'a str,
    /// MQTT 5 properties as on the wire, without length and message expiry interval.
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(crate) fn encoded_len(&self) -> usize {
        1 + 8
            + if self.expires_at.is_some() { 8 } else { 0 }
            + 2
            + self.topic.len()
            + 4
            + self.properties.len()
            + self.payload.len()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut flags = self.qos & QOS;
        if self.retain {
            flags |= RETAIN;
        }
        if self.expires_at.is_some() {
            flags |= EXPIRES;
        }
        out.put_u8(flags);
        out.put_u64(self.publisher);
        if let Some(at) = self.expires_at {
            out.put_u64(at);
        }
        // A topic of the wire is at most 65,535 bytes long; longer ones from inside are refused before they get here.
        out.put_u16(u16::try_from(self.topic.len()).unwrap_or(u16::MAX));
        out.put_slice(self.topic.as_bytes());
        out.put_u32(u32::try_from(self.properties.len()).unwrap_or(u32::MAX));
        out.put_slice(self.properties);
        out.put_slice(self.payload);
    }

    /// `None` for bytes that [`Envelope::encode`] did not write.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Envelope<'a>> {
        let (&flags, rest) = bytes.split_first()?;
        let (publisher, rest) = rest.split_first_chunk::<8>()?;
        let (expires_at, rest) = if flags & EXPIRES == 0 {
            (None, rest)
        } else {
            let (at, rest) = rest.split_first_chunk::<8>()?;
            (Some(u64::from_be_bytes(*at)), rest)
        };
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (properties, payload) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        Some(Envelope {
            qos: flags & QOS,
            retain: flags & RETAIN != 0,
            publisher: u64::from_be_bytes(*publisher),
            expires_at,
            topic: std::str::from_utf8(topic).ok()?,
            properties,
            payload,
        })
    }
}

/// Flags that no envelope has: what follows is no message, but the beginning of a subscription.
const MARKER: u8 = 0xFF;

/// What a subscriber puts into the log of a slot where its subscription begins.
pub(crate) fn marker() -> Bytes {
    Bytes::from_static(&[MARKER])
}

/// Whether bytes are a [`marker`], of whatever subscriber.
pub(crate) fn is_marker(bytes: &[u8]) -> bool {
    bytes == [MARKER]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_comes_back_as_it_was() {
        for expires_at in [None, Some(77)] {
            let envelope =
                Envelope { qos: 2, retain: true, publisher: 9, expires_at, topic: "é/x", properties: &[1, 1], payload: b"" };
            let mut out = BytesMut::new();
            envelope.encode(&mut out);
            assert_eq!(out.len(), envelope.encoded_len());
            assert_eq!(Envelope::decode(&out), Some(envelope));
            for cut in 0..out.len() {
                assert!(Envelope::decode(&out[..cut]).is_none() || cut == out.len());
            }
        }
    }
}
