//! CONNECT.

use super::property::{self, Properties, Value};
use super::publish;
use super::read::{Fault, Reader};

/// Why a CONNECT is answered with a refusal before anybody looks at who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Not MQTT as it should be: MQTT 5 clients get the code, others are just closed.
    Fault(Fault),
    /// A protocol level that is not spoken here.
    Version(u8),
    /// MQTT 3.1.1 with an empty client id and a session to be kept.
    ClientId,
}

impl From<Fault> for Rejected {
    fn from(fault: Fault) -> Self {
        Rejected::Fault(fault)
    }
}

/// What a client leaves to be said when it is gone without a goodbye.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// As on the wire, without length, will delay and message expiry.
    pub(crate) properties: Vec<u8>,
    pub(crate) expiry: Option<u32>,
}

/// A CONNECT, checked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) v5: bool,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) client_id: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) will: Option<Will>,
    pub(crate) session_expiry: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: Option<u32>,
    pub(crate) authentication_method: bool,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("client_id", &self.client_id)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "(redacted)"))
            .field("v5", &self.v5)
            .finish_non_exhaustive()
    }
}

const ALLOWED: &[u8] = &[
    property::SESSION_EXPIRY,
    property::RECEIVE_MAXIMUM,
    property::MAXIMUM_PACKET_SIZE,
    property::TOPIC_ALIAS_MAXIMUM,
    property::REQUEST_RESPONSE_INFORMATION,
    property::REQUEST_PROBLEM_INFORMATION,
    property::USER_PROPERTY,
    property::AUTHENTICATION_METHOD,
    property::AUTHENTICATION_DATA,
];

const WILL_ALLOWED: &[u8] = &[
    property::WILL_DELAY,
    property::PAYLOAD_FORMAT,
    property::MESSAGE_EXPIRY,
    property::CONTENT_TYPE,
    property::RESPONSE_TOPIC,
    property::CORRELATION_DATA,
    property::USER_PROPERTY,
];

impl Connect {
    pub(crate) fn parse(body: &[u8]) -> Result<Connect, Rejected> {
        let mut reader = Reader::new(body);
        let name = reader.binary()?;
        let level = reader.byte()?;
        match (name, level) {
            (b"MQTT", 4 | 5) => {}
            (b"MQTT" | b"MQIsdp", level) => return Err(Rejected::Version(level)),
            _ => return Err(Fault::Malformed("protocol name").into()),
        }
        let v5 = level == 5;
        let flags = reader.byte()?;
        let (has_user, has_password) = (flags & 0x80 != 0, flags & 0x40 != 0);
        let (will_retain, will_qos, has_will) = (flags & 0x20 != 0, (flags >> 3) & 0b11, flags & 0x04 != 0);
        if flags & 1 != 0 {
            return Err(Fault::Malformed("reserved connect flag").into());
        }
        if will_qos == 3 || (!has_will && (will_qos != 0 || will_retain)) {
            return Err(Fault::Malformed("will flags").into());
        }
        if !v5 && has_password && !has_user {
            return Err(Fault::Malformed("password without user name").into());
        }
        let mut connect = Connect {
            v5,
            clean: flags & 0x02 != 0,
            keep_alive: reader.two()?,
            client_id: String::new(),
            user: None,
            password: None,
            will: None,
            session_expiry: 0,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            authentication_method: false,
        };
        if v5 {
            connect.properties(&mut reader)?;
        }
        connect.client_id = reader.text()?.to_owned();
        if connect.client_id.is_empty() && !v5 && !connect.clean {
            return Err(Rejected::ClientId);
        }
        if has_will {
            connect.will = Some(Will::parse(&mut reader, v5, will_qos, will_retain)?);
        }
        if has_user {
            connect.user = Some(reader.text()?.to_owned());
        }
        if has_password {
            connect.password = Some(reader.binary()?.to_vec());
        }
        reader.end()?;
        Ok(connect)
    }

    fn properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut properties = Properties::take(reader, ALLOWED)?;
        let mut data = false;
        while let Some((id, value)) = properties.next()? {
            match (id, value) {
                (property::SESSION_EXPIRY, Value::Four(seconds)) => self.session_expiry = seconds,
                (property::RECEIVE_MAXIMUM, Value::Two(count)) => self.receive_maximum = count,
                (property::MAXIMUM_PACKET_SIZE, Value::Four(size)) => self.maximum_packet_size = Some(size),
                (property::AUTHENTICATION_METHOD, _) => self.authentication_method = true,
                (property::AUTHENTICATION_DATA, _) => data = true,
                _ => {}
            }
        }
        if data && !self.authentication_method {
            return Err(Fault::Protocol("authentication data without method"));
        }
        Ok(())
    }
}

impl Will {
    fn parse(reader: &mut Reader<'_>, v5: bool, qos: u8, retain: bool) -> Result<Will, Fault> {
        let mut properties = Vec::new();
        let mut expiry = None;
        if v5 {
            let mut given = Properties::take(reader, WILL_ALLOWED)?;
            let mut before = given.raw();
            while let Some((id, value)) = given.next()? {
                let after = given.raw();
                match (id, value) {
                    // Sessions end with their connection, and a will is due when its session ends.
                    (property::WILL_DELAY, _) => {}
                    (property::MESSAGE_EXPIRY, Value::Four(seconds)) => expiry = Some(seconds),
                    _ => properties.extend_from_slice(&before[..before.len() - after.len()]),
                }
                before = after;
            }
        }
        let topic = publish::topic(reader.binary()?)?.to_owned();
        if !wire::filter::valid_topic(&topic) {
            return Err(Fault::Protocol("will topic is not a topic name"));
        }
        let payload = reader.binary()?.to_vec();
        Ok(Will { topic, payload, qos, retain, properties, expiry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend_from_slice(&[level, flags, 0, 30]);
        body.extend_from_slice(rest);
        body
    }

    #[test]
    fn both_versions_are_read() {
        let old = Connect::parse(&packet(4, 0xC2, b"\0\x03a+b\0\x01u\0\x02pw")).unwrap();
        assert_eq!((old.v5, old.client_id.as_str(), old.user.as_deref()), (false, "a+b", Some("u")));
        assert!(!format!("{old:?}").contains("pw"), "the password is redacted");
        let new = Connect::parse(&packet(5, 0x02, b"\x03\x21\0\x05\0\0")).unwrap();
        assert_eq!((new.v5, new.receive_maximum), (true, 5));
    }

    #[test]
    fn connect_is_strict() {
        assert_eq!(Connect::parse(&packet(3, 2, b"\0\x01a")), Err(Rejected::Version(3)));
        assert_eq!(Connect::parse(&packet(6, 2, b"\0\x01a")), Err(Rejected::Version(6)));
        assert_eq!(Connect::parse(&packet(4, 0, b"\0\0")), Err(Rejected::ClientId));
        for (level, flags, rest) in [
            (4, 0x03, &b"\0\x01a"[..]),
            (4, 0x42, b"\0\x01a\0\x01p"),
            (4, 0x0A, b"\0\x01a"),
            (4, 0x02, b"\0\x01a!"),
            (4, 0x02, b"\0\x02a\0"),
            (5, 0x02, b"\x03\x21\0\0\0\0"),
            (4, 0x06, b"\0\x01a\0\x01#\0\0"),
        ] {
            assert!(matches!(Connect::parse(&packet(level, flags, rest)), Err(Rejected::Fault(_))), "{level} {flags:x} {rest:?}");
        }
    }
}
