//! MQTT 3.1.1 and 5.0 on the wire, as a broker must read and write it: strict, without allocation on the hot path.
//!
//! See `docs/adr/0001-codec.md` for why it is our own.

pub(crate) mod connect;
pub(crate) mod packet;
pub(crate) mod property;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod subscribe;
pub(crate) mod write;

pub(crate) use read::Fault;

/// Packet types, as the high half of the first byte.
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const UNSUBSCRIBE: u8 = 10;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const DISCONNECT: u8 = 14;
}

/// What stands at the start of the bytes read so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framed<'a> {
    /// Not a whole packet yet; it has at least this many bytes.
    Partial(usize),
    /// One packet: its first byte, what follows the length, and its size as a whole.
    Whole { first: u8, body: &'a [u8], size: usize },
}

/// Finds the first packet of `bytes`. `max` bounds the whole packet.
#[inline]
pub(crate) fn frame(bytes: &[u8], max: usize) -> Result<Framed<'_>, Fault> {
    let [first, rest @ ..] = bytes else { return Ok(Framed::Partial(2)) };
    let mut length = 0;
    for (place, &byte) in rest.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            if byte == 0 && place > 0 {
                return Err(Fault::Malformed("length not in its shortest form"));
            }
            let head = 2 + place;
            let size = head + length;
            if size > max {
                return Err(Fault::TooLarge);
            }
            return Ok(match bytes.get(head..size) {
                Some(body) => Framed::Whole { first: *first, body, size },
                None => Framed::Partial(size),
            });
        }
    }
    if rest.len() >= 4 { Err(Fault::Malformed("length of more than four bytes")) } else { Ok(Framed::Partial(bytes.len() + 1)) }
}

/// Checks the reserved flags in the low half of the first byte. PUBLISH has flags of its own.
pub(crate) fn check_flags(first: u8) -> Result<(), Fault> {
    let wanted = match first >> 4 {
        kind::PUBLISH => return Ok(()),
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => 0b0010,
        _ => 0,
    };
    if first & 0x0F == wanted { Ok(()) } else { Err(Fault::Malformed("reserved flags of the packet type")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_at_any_cut() {
        let packet = [0x30, 5, 0, 1, b'a', 1, 2, 0xC0, 0];
        for cut in 0..7 {
            assert!(matches!(frame(&packet[..cut], 100), Ok(Framed::Partial(_))));
        }
        assert_eq!(frame(&packet, 100), Ok(Framed::Whole { first: 0x30, body: &packet[2..7], size: 7 }));
    }

    #[test]
    fn lengths_are_strict() {
        assert_eq!(frame(&[0x30, 0x80, 0x80, 0x80, 0x80, 1], 100), Err(Fault::Malformed("length of more than four bytes")));
        assert_eq!(frame(&[0x30, 0x80, 0], 100), Err(Fault::Malformed("length not in its shortest form")));
        assert_eq!(frame(&[0x30, 0xFF, 0x7F], 100), Err(Fault::TooLarge));
    }

    #[test]
    fn flags_are_strict() {
        assert!(check_flags(0x82).is_ok());
        assert!(check_flags(0x80).is_err());
        assert!(check_flags(0x62).is_ok());
        assert!(check_flags(0xC1).is_err());
    }
}
