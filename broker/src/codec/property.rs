//! MQTT 5 properties: writing them, and reading them strictly.

use super::read::{Fault, Reader};

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const WILDCARDS_AVAILABLE: u8 = 0x28;
pub(crate) const SHARED_AVAILABLE: u8 = 0x2A;

/// The value of one property, borrowed from the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Reads the properties of one packet: each identifier must be among `allowed`, and none but the user property (and, where
/// it is allowed, the subscription identifier of a delivery) may come twice.
pub(crate) struct Properties<'a> {
    reader: Reader<'a>,
    allowed: &'static [u8],
    seen: u64,
}

impl<'a> Properties<'a> {
    /// Takes the length and that many bytes off `reader`.
    pub(crate) fn take(reader: &mut Reader<'a>, allowed: &'static [u8]) -> Result<Properties<'a>, Fault> {
        let length = reader.variable()? as usize;
        Ok(Properties::of(reader.bytes(length)?, allowed))
    }

    /// Over properties whose length has been taken off already.
    pub(crate) fn of(raw: &'a [u8], allowed: &'static [u8]) -> Properties<'a> {
        Properties { reader: Reader::new(raw), allowed, seen: 0 }
    }

    /// The bytes not yet read.
    pub(crate) fn raw(&self) -> &'a [u8] {
        self.reader.rest()
    }

    /// The next property, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u8, Value<'a>)>, Fault> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.byte()?;
        if !self.allowed.contains(&id) {
            return Err(Fault::Malformed("property not allowed here"));
        }
        if id != USER_PROPERTY {
            // Every allowed identifier is below 64.
            let bit = 1u64 << (id & 63);
            if self.seen & bit != 0 {
                return Err(Fault::Protocol("property given twice"));
            }
            self.seen |= bit;
        }
        let reader = &mut self.reader;
        let value = match id {
            PAYLOAD_FORMAT | REQUEST_PROBLEM_INFORMATION | REQUEST_RESPONSE_INFORMATION => {
                let value = reader.byte()?;
                if value > 1 {
                    return Err(Fault::Protocol("property must be 0 or 1"));
                }
                Value::Byte(value)
            }
            SERVER_KEEP_ALIVE | TOPIC_ALIAS_MAXIMUM => Value::Two(reader.two()?),
            RECEIVE_MAXIMUM | TOPIC_ALIAS => {
                let value = reader.two()?;
                if value == 0 {
                    return Err(Fault::Protocol("property must not be 0"));
                }
                Value::Two(value)
            }
            MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY => Value::Four(reader.four()?),
            MAXIMUM_PACKET_SIZE => {
                let value = reader.four()?;
                if value == 0 {
                    return Err(Fault::Protocol("property must not be 0"));
                }
                Value::Four(value)
            }
            SUBSCRIPTION_ID => {
                let value = reader.variable()?;
                if value == 0 {
                    return Err(Fault::Protocol("subscription identifier must not be 0"));
                }
                Value::Variable(value)
            }
            CONTENT_TYPE | RESPONSE_TOPIC | ASSIGNED_CLIENT_ID | AUTHENTICATION_METHOD | SERVER_REFERENCE | REASON_STRING => {
                Value::Text(reader.text()?)
            }
            CORRELATION_DATA | AUTHENTICATION_DATA => Value::Binary(reader.binary()?),
            USER_PROPERTY => Value::Pair(reader.text()?, reader.text()?),
            _ => return Err(Fault::Malformed("unknown property")),
        };
        Ok(Some((id, value)))
    }

    /// Checks all that is left.
    pub(crate) fn check(mut self) -> Result<(), Fault> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

pub(crate) fn put_variable(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// How many bytes [`put_variable`] writes.
pub(crate) fn variable_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// A string or binary value with its length. The caller has checked that it fits.
pub(crate) fn put_prefixed(out: &mut Vec<u8>, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&data[..usize::from(length)]);
}

pub(crate) fn put_byte(out: &mut Vec<u8>, id: u8, value: u8) {
    out.extend_from_slice(&[id, value]);
}

pub(crate) fn put_two(out: &mut Vec<u8>, id: u8, value: u16) {
    out.push(id);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_four(out: &mut Vec<u8>, id: u8, value: u32) {
    out.push(id);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_binary(out: &mut Vec<u8>, id: u8, data: &[u8]) {
    out.push(id);
    put_prefixed(out, data);
}

pub(crate) fn put_pair(out: &mut Vec<u8>, id: u8, name: &str, value: &str) {
    out.push(id);
    put_prefixed(out, name.as_bytes());
    put_prefixed(out, value.as_bytes());
}
