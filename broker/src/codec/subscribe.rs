//! SUBSCRIBE and UNSUBSCRIBE.

use super::property::{self, Properties, Value};
use super::read::{Fault, Reader};

/// One filter of a SUBSCRIBE with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
}

/// A SUBSCRIBE, checked save for its filters' own rules, which are answered one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) packet_id: u16,
    pub(crate) identifier: Option<u32>,
    pub(crate) wishes: Vec<Wish>,
}

impl Subscribe {
    pub(crate) fn parse(body: &[u8], v5: bool) -> Result<Subscribe, Fault> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut identifier = None;
        if v5 {
            let mut properties = Properties::take(&mut reader, &[property::SUBSCRIPTION_ID, property::USER_PROPERTY])?;
            while let Some((_, value)) = properties.next()? {
                if let Value::Variable(id) = value {
                    identifier = Some(id);
                }
            }
        }
        let mut wishes = Vec::new();
        while !reader.is_empty() {
            let filter = reader.text()?.to_owned();
            let options = reader.byte()?;
            let reserved = if v5 { 0b1100_0000 } else { 0b1111_1100 };
            if options & reserved != 0 || options & 0b11 == 3 {
                return Err(Fault::Malformed("subscription options"));
            }
            if (options >> 4) & 0b11 == 3 {
                return Err(Fault::Protocol("retain handling 3"));
            }
            let no_local = options & 0b100 != 0;
            if no_local && filter.starts_with("$share/") {
                return Err(Fault::Protocol("no local on a shared subscription"));
            }
            wishes.push(Wish { filter, qos: options & 0b11, no_local, retain_as_published: options & 0b1000 != 0 });
        }
        if wishes.is_empty() {
            return Err(Fault::Protocol("no filter"));
        }
        Ok(Subscribe { packet_id, identifier, wishes })
    }
}

/// An UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<String>,
}

impl Unsubscribe {
    pub(crate) fn parse(body: &[u8], v5: bool) -> Result<Unsubscribe, Fault> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        if v5 {
            Properties::take(&mut reader, &[property::USER_PROPERTY])?.check()?;
        }
        let mut filters = Vec::new();
        while !reader.is_empty() {
            filters.push(reader.text()?.to_owned());
        }
        if filters.is_empty() {
            return Err(Fault::Protocol("no filter"));
        }
        Ok(Unsubscribe { packet_id, filters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_strict() {
        assert_eq!(Subscribe::parse(b"\0\x01\0\x01a\x01", false).unwrap().wishes[0].qos, 1);
        assert!(Subscribe::parse(b"\0\x01\0\x01a\x03", false).is_err());
        assert!(Subscribe::parse(b"\0\x01\0\x01a\x04", false).is_err());
        assert!(Subscribe::parse(b"\0\x01\0\0\x01a\x2C", true).unwrap().wishes[0].no_local);
        assert!(Subscribe::parse(b"\0\x01\0\0\x01a\x30", true).is_err());
        assert!(Subscribe::parse(b"\0\0\0\x01a\x01", false).is_err());
        assert!(Subscribe::parse(b"\0\x01", false).is_err());
        assert!(Unsubscribe::parse(b"\0\x01", false).is_err());
    }
}
