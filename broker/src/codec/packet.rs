//! The small packets: acknowledgements and DISCONNECT.

use super::property::{self, Properties, Value};
use super::read::{Fault, Reader};

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) packet_id: u16,
    pub(crate) reason: u8,
}

impl Ack {
    pub(crate) fn parse(body: &[u8], v5: bool) -> Result<Ack, Fault> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut reason = 0;
        if v5 && !reader.is_empty() {
            reason = reader.byte()?;
            if !reader.is_empty() {
                Properties::take(&mut reader, &[property::REASON_STRING, property::USER_PROPERTY])?.check()?;
            }
        }
        reader.end()?;
        Ok(Ack { packet_id, reason })
    }
}

/// DISCONNECT from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub(crate) reason: u8,
    pub(crate) session_expiry: Option<u32>,
}

impl Disconnect {
    pub(crate) fn parse(body: &[u8], v5: bool) -> Result<Disconnect, Fault> {
        let mut reader = Reader::new(body);
        let mut disconnect = Disconnect { reason: 0, session_expiry: None };
        if v5 && !reader.is_empty() {
            disconnect.reason = reader.byte()?;
            if !reader.is_empty() {
                let allowed =
                    &[property::SESSION_EXPIRY, property::REASON_STRING, property::USER_PROPERTY, property::SERVER_REFERENCE];
                let mut properties = Properties::take(&mut reader, allowed)?;
                while let Some((_, value)) = properties.next()? {
                    if let Value::Four(seconds) = value {
                        disconnect.session_expiry = Some(seconds);
                    }
                }
            }
        }
        reader.end()?;
        Ok(disconnect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_forms() {
        assert_eq!(Ack::parse(&[0, 9], true), Ok(Ack { packet_id: 9, reason: 0 }));
        assert_eq!(Ack::parse(&[0, 9, 0x80], true), Ok(Ack { packet_id: 9, reason: 0x80 }));
        assert_eq!(Ack::parse(&[0, 9, 0x80, 0], true), Ok(Ack { packet_id: 9, reason: 0x80 }));
        assert!(Ack::parse(&[0, 9, 0], false).is_err());
        assert!(Ack::parse(&[0, 0], false).is_err());
        assert_eq!(Disconnect::parse(&[4], true), Ok(Disconnect { reason: 4, session_expiry: None }));
        assert!(Disconnect::parse(&[4], false).is_err());
        assert!(Disconnect::parse(&[0, 1], true).is_err());
    }
}
