//! PUBLISH, borrowed from the read buffer: the one packet that must be cheap.

use super::property::{self, Properties, Value};
use super::read::{Fault, Reader};

/// A PUBLISH as it lies in the buffer. The topic is not checked yet: whoever has seen the same bytes before need not do it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// 0 with QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) topic: &'a [u8],
    /// MQTT 5 properties without their length; not checked yet, see [`Extras::read`].
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

const ALLOWED: &[u8] = &[
    property::PAYLOAD_FORMAT,
    property::MESSAGE_EXPIRY,
    property::CONTENT_TYPE,
    property::RESPONSE_TOPIC,
    property::CORRELATION_DATA,
    property::USER_PROPERTY,
    property::TOPIC_ALIAS,
];

impl<'a> Publish<'a> {
    #[inline]
    pub(crate) fn parse(first: u8, body: &'a [u8], v5: bool) -> Result<Publish<'a>, Fault> {
        let (dup, qos, retain) = (first & 0b1000 != 0, (first >> 1) & 0b11, first & 1 != 0);
        if qos == 3 {
            return Err(Fault::Malformed("QoS 3"));
        }
        if dup && qos == 0 {
            return Err(Fault::Malformed("DUP with QoS 0"));
        }
        let mut reader = Reader::new(body);
        let topic = reader.binary()?;
        let packet_id = if qos == 0 { 0 } else { reader.packet_id()? };
        let properties = if v5 {
            let length = reader.variable()? as usize;
            reader.bytes(length)?
        } else {
            &[]
        };
        Ok(Publish { dup, qos, retain, packet_id, topic, properties, payload: reader.rest() })
    }
}

/// Checks the bytes of a topic: UTF-8, at least one character, no wildcard, no U+0000.
pub(crate) fn topic(bytes: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::Malformed("topic is not UTF-8"))?;
    if bytes.contains(&0) {
        return Err(Fault::Malformed("topic holds U+0000"));
    }
    Ok(text)
}

/// What the properties of a PUBLISH say, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras<'a> {
    pub(crate) expiry: Option<u32>,
    pub(crate) alias: Option<u16>,
    pub(crate) response_topic: Option<&'a str>,
    pub(crate) correlation_data: Option<&'a [u8]>,
    pub(crate) user_properties: Vec<(String, String)>,
}

impl<'a> Extras<'a> {
    pub(crate) fn read(raw: &'a [u8]) -> Result<Extras<'a>, Fault> {
        let mut extras = Extras::default();
        let mut properties = Properties::of(raw, ALLOWED);
        while let Some((id, value)) = properties.next()? {
            match (id, value) {
                (property::MESSAGE_EXPIRY, Value::Four(seconds)) => extras.expiry = Some(seconds),
                (property::TOPIC_ALIAS, Value::Two(alias)) => extras.alias = Some(alias),
                (property::RESPONSE_TOPIC, Value::Text(topic)) => {
                    if !wire::filter::valid_topic(topic) {
                        return Err(Fault::Protocol("response topic is not a topic name"));
                    }
                    extras.response_topic = Some(topic);
                }
                (property::CORRELATION_DATA, Value::Binary(data)) => extras.correlation_data = Some(data),
                (_, Value::Pair(name, value)) => extras.user_properties.push((name.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        Ok(extras)
    }
}

/// Copies the properties that subscribers get: all but the message expiry, which is written anew at delivery. `raw` was
/// checked by [`Extras::read`].
pub(crate) fn copy_without_expiry(raw: &[u8], out: &mut Vec<u8>) {
    let mut properties = Properties::of(raw, ALLOWED);
    let mut before = properties.raw();
    while let Ok(Some((id, _))) = properties.next() {
        let after = properties.raw();
        if id != property::MESSAGE_EXPIRY {
            out.extend_from_slice(&before[..before.len() - after.len()]);
        }
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_in_place() {
        let body = [0, 3, b't', b'/', b'1', 0, 7, 0, b'x'];
        let publish = Publish::parse(0x3B, &body, true).unwrap();
        assert_eq!((publish.dup, publish.qos, publish.retain, publish.packet_id), (true, 1, true, 7));
        assert_eq!((publish.topic, publish.payload), (&b"t/1"[..], &b"x"[..]));
        assert_eq!(Publish::parse(0x32, &body[..6], true), Err(Fault::Malformed("packet ends too early")));
        assert_eq!(Publish::parse(0x38, &body, true), Err(Fault::Malformed("DUP with QoS 0")));
        assert!(Publish::parse(0x36, &body, true).is_err());
    }

    #[test]
    fn the_expiry_is_taken_out_and_the_rest_is_kept() {
        let mut raw = vec![];
        property::put_pair(&mut raw, property::USER_PROPERTY, "a", "b");
        let kept_first = raw.clone();
        property::put_four(&mut raw, property::MESSAGE_EXPIRY, 9);
        property::put_binary(&mut raw, property::CORRELATION_DATA, b"id");
        assert_eq!(Extras::read(&raw).unwrap().expiry, Some(9));
        let mut copy = vec![];
        copy_without_expiry(&raw, &mut copy);
        assert!(copy.starts_with(&kept_first));
        assert_eq!(copy.len(), raw.len() - 5);
    }

    #[test]
    fn properties_are_strict() {
        let mut twice = vec![];
        property::put_four(&mut twice, property::MESSAGE_EXPIRY, 9);
        property::put_four(&mut twice, property::MESSAGE_EXPIRY, 9);
        assert_eq!(Extras::read(&twice), Err(Fault::Protocol("property given twice")));
        assert!(Extras::read(&[property::SUBSCRIPTION_ID, 1]).is_err());
        assert!(Extras::read(&[property::PAYLOAD_FORMAT, 2]).is_err());
    }
}
