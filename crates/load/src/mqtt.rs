//! The few MQTT packets that a load generator says and hears, by hand: built once, patched per message, parsed in place.

use thiserror::Error;

/// First byte of PUBACK.
pub(crate) const PUBACK: u8 = 0x40;
/// First byte of PINGRESP.
pub(crate) const PINGRESP: u8 = 0xd0;
/// First byte of a server's DISCONNECT (5.0 only).
pub(crate) const DISCONNECT: u8 = 0xe0;
/// PINGREQ, whole.
pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0x00];
/// A client's orderly DISCONNECT, whole, in either version.
pub(crate) const GOODBYE: [u8; 2] = [0xe0, 0x00];
const CONNACK: u8 = 0x20;
const SUBACK: u8 = 0x90;

/// The protocol version spoken to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1
    V3,
    /// MQTT 5.0
    V5,
}

/// Bytes that no conforming broker sends.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// One packet in the reader's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) first: u8,
    pub(crate) body: &'a [u8],
}

/// Takes the first whole packet off `bytes`; `None` when more bytes are needed. Also says how long it was.
pub(crate) fn split(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (length, digits) = match length(rest)? {
        Some(found) => found,
        None => return Ok(None),
    };
    let whole = 1 + digits + length;
    Ok(bytes.get(1 + digits..whole).map(|body| (Packet { first, body }, whole)))
}

fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (digit, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * digit);
        if byte & 0x80 == 0 {
            return Ok(Some((value, digit + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(Malformed("remaining length"));
    }
    Ok(None)
}

fn put_length(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A CONNECT with a clean session and no will. The keep-alive is in seconds.
pub(crate) fn connect(version: Version, client_id: &str, keep_alive: u16, login: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    put_text(&mut body, "MQTT");
    body.push(if version == Version::V5 { 5 } else { 4 });
    body.push(if login.is_some() { 0xc2 } else { 0x02 });
    body.extend_from_slice(&keep_alive.to_be_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    put_text(&mut body, client_id);
    if let Some((user, password)) = login {
        put_text(&mut body, user);
        put_text(&mut body, password);
    }
    seal(0x10, &body)
}

/// A SUBSCRIBE with packet id 1 and one filter.
pub(crate) fn subscribe(version: Version, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    put_text(&mut body, filter);
    body.push(qos);
    seal(0x82, &body)
}

fn seal(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    put_length(&mut packet, body.len());
    packet.extend_from_slice(body);
    packet
}

/// Everything of a PUBLISH before its payload, for one topic: only the packet id and the payload differ between messages.
pub(crate) struct Header {
    version: Version,
    topic: String,
    qos: u8,
}

impl Header {
    pub(crate) fn new(version: Version, topic: &str, qos: u8) -> Self {
        Self { version, topic: topic.to_owned(), qos }
    }

    /// Appends the header for a payload of that many bytes, with packet id 0, and says where in `out` the id belongs.
    pub(crate) fn put(&self, out: &mut Vec<u8>, payload_bytes: usize) -> Option<usize> {
        let id_bytes = if self.qos == 0 { 0 } else { 2 };
        let property_bytes = usize::from(self.version == Version::V5);
        out.push(0x30 | (self.qos << 1));
        put_length(out, 2 + self.topic.len() + id_bytes + property_bytes + payload_bytes);
        put_text(out, &self.topic);
        let id_at = (self.qos > 0).then_some(out.len());
        out.resize(out.len() + id_bytes + property_bytes, 0);
        id_at
    }
}

/// What a broker granted in its CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    /// How many messages above QoS 0 the broker takes in flight.
    pub(crate) receive_maximum: u16,
    /// The largest packet that the broker takes.
    pub(crate) packet_bytes_max: u32,
}

/// Reads a CONNACK; a refusal is `Ok(Err(reason code))`.
pub(crate) fn connack(version: Version, packet: Packet<'_>) -> Result<Result<Granted, u8>, Malformed> {
    const BAD: Malformed = Malformed("CONNACK");
    let mut granted = Granted { receive_maximum: u16::MAX, packet_bytes_max: u32::MAX };
    if packet.first != CONNACK {
        return Err(Malformed("answer to CONNECT"));
    }
    let [_, code, rest @ ..] = packet.body else {
        return Err(BAD);
    };
    if *code != 0 {
        return Ok(Err(*code));
    }
    if version == Version::V3 {
        return Ok(Ok(granted));
    }
    let (size, digits) = length(rest)?.ok_or(BAD)?;
    let mut properties = rest.get(digits..digits + size).ok_or(BAD)?;
    while let Some((&id, value)) = properties.split_first() {
        let long =
            |at: usize| -> Option<usize> { Some(2 + usize::from(u16::from_be_bytes([*value.get(at)?, *value.get(at + 1)?]))) };
        let size = match id {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => Some(1),
            0x13 | 0x21 | 0x22 => Some(2),
            0x11 | 0x27 => Some(4),
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => long(0),
            0x26 => long(0).and_then(|name| Some(name + long(name)?)),
            _ => None,
        };
        let (value, rest) = size.and_then(|size| value.split_at_checked(size)).ok_or(BAD)?;
        match (id, value) {
            (0x21, [high, low]) => granted.receive_maximum = u16::from_be_bytes([*high, *low]),
            (0x27, [a, b, c, d]) => {
                granted.packet_bytes_max = u32::from_be_bytes([*a, *b, *c, *d]);
            }
            _ => {}
        }
        properties = rest;
    }
    Ok(Ok(granted))
}

/// Reads the SUBACK of a one-filter SUBSCRIBE; a refusal is `Ok(Err(reason code))`.
pub(crate) fn suback(packet: Packet<'_>) -> Result<Result<(), u8>, Malformed> {
    if packet.first != SUBACK {
        return Err(Malformed("answer to SUBSCRIBE"));
    }
    match packet.body.last() {
        Some(code) if packet.body.len() >= 3 => Ok(if *code < 0x80 { Ok(()) } else { Err(*code) }),
        _ => Err(Malformed("SUBACK")),
    }
}

/// Reads a PUBACK: the packet id and the reason code (0 in 3.1.1).
pub(crate) fn puback(body: &[u8]) -> Result<(u16, u8), Malformed> {
    match body {
        [high, low] => Ok((u16::from_be_bytes([*high, *low]), 0)),
        [high, low, code, ..] => Ok((u16::from_be_bytes([*high, *low]), *code)),
        _ => Err(Malformed("PUBACK")),
    }
}

/// The parts of an incoming PUBLISH that a subscriber needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Incoming<'a> {
    /// Present above QoS 0: to be acknowledged.
    pub(crate) id: Option<u16>,
    pub(crate) payload: &'a [u8],
}

/// True when this first byte is that of a PUBLISH.
pub(crate) fn is_publish(first: u8) -> bool {
    first & 0xf0 == 0x30
}

/// Reads a PUBLISH.
pub(crate) fn incoming(version: Version, packet: Packet<'_>) -> Result<Incoming<'_>, Malformed> {
    const BAD: Malformed = Malformed("PUBLISH");
    let body = packet.body;
    let [high, low, ..] = body else {
        return Err(BAD);
    };
    let mut at = 2 + usize::from(u16::from_be_bytes([*high, *low]));
    let mut id = None;
    if packet.first & 0x06 != 0 {
        let bytes = body.get(at..at + 2).ok_or(BAD)?;
        id = Some(u16::from_be_bytes([bytes[0], bytes[1]]));
        at += 2;
    }
    if version == Version::V5 {
        let (size, digits) = length(body.get(at..).ok_or(BAD)?)?.ok_or(BAD)?;
        at += digits + size;
    }
    let payload = body.get(at..).ok_or(BAD)?;
    Ok(Incoming { id, payload })
}

/// Appends a PUBACK that says success.
pub(crate) fn put_puback(out: &mut Vec<u8>, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[PUBACK, 2, high, low]);
}

/// The name of a reason code, as the reports print it.
pub(crate) fn reason(version: Version, code: u8) -> &'static str {
    match (version, code) {
        (Version::V3, 1) => "unacceptable protocol version",
        (Version::V3, 2) => "identifier rejected",
        (Version::V3, 3) => "server unavailable",
        (Version::V3, 4) => "bad user name or password",
        (Version::V3, 5) => "not authorized",
        (_, 0x80) => "unspecified error",
        (_, 0x81) => "malformed packet",
        (_, 0x82) => "protocol error",
        (_, 0x83) => "implementation specific error",
        (_, 0x84) => "unsupported protocol version",
        (_, 0x85) => "client identifier not valid",
        (_, 0x86) => "bad user name or password",
        (_, 0x87) => "not authorized",
        (_, 0x88) => "server unavailable",
        (_, 0x89) => "server busy",
        (_, 0x8b) => "server shutting down",
        (_, 0x8d) => "keep alive timeout",
        (_, 0x8e) => "session taken over",
        (_, 0x8f) => "topic filter invalid",
        (_, 0x90) => "topic name invalid",
        (_, 0x93) => "receive maximum exceeded",
        (_, 0x95) => "packet too large",
        (_, 0x97) => "quota exceeded",
        (_, 0x99) => "payload format invalid",
        (_, 0x9b) => "QoS not supported",
        _ => "another reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_connect_is_byte_for_byte_what_the_standard_shows() {
        let v5 = connect(Version::V5, "ab", 60, None);
        assert_eq!(v5, b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02ab");
        let v3 = connect(Version::V3, "a", 60, Some(("u", "p")));
        assert_eq!(v3, b"\x10\x13\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01a\x00\x01u\x00\x01p");
    }

    #[test]
    fn a_subscribe_carries_one_filter() {
        assert_eq!(subscribe(Version::V5, "a/#", 1), b"\x82\x09\x00\x01\x00\x00\x03a/#\x01");
        assert_eq!(subscribe(Version::V3, "a/#", 0), b"\x82\x08\x00\x01\x00\x03a/#\x00");
    }

    proptest! {
        #[test]
        fn a_publish_is_read_back(topic in "[a-z/]{1,200}", size in 0usize..70_000, qos in 0u8..=1, v5: bool) {
            let version = if v5 { Version::V5 } else { Version::V3 };
            let mut bytes = Vec::new();
            let id_at = Header::new(version, &topic, qos).put(&mut bytes, size);
            if let Some(at) = id_at {
                bytes[at..at + 2].copy_from_slice(&0x1234u16.to_be_bytes());
            }
            bytes.resize(bytes.len() + size, 7);
            let (packet, whole) = split(&bytes).unwrap().unwrap();
            prop_assert_eq!(whole, bytes.len());
            prop_assert!(is_publish(packet.first));
            let read = incoming(version, packet).unwrap();
            prop_assert_eq!(read.id, (qos == 1).then_some(0x1234));
            prop_assert_eq!(read.payload, &bytes[bytes.len() - size..]);
            for cut in [0, 1, 2, whole / 2, whole - 1] {
                prop_assert_eq!(split(&bytes[..cut]).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_fifth_length_byte_is_malformed() {
        assert_eq!(split(&[0x30, 0x80, 0x80, 0x80, 0x80]), Err(Malformed("remaining length")));
    }

    #[test]
    fn the_window_of_a_connack_is_found_among_other_properties() {
        let body = [0, 0, 0, 0x12, 0, 2, b'i', b'd', 0x26, 0, 1, b'k', 0, 1, b'v', 0x21, 0, 20, 0x27, 0, 1, 0, 0];
        let mut body = body.to_vec();
        body[2] = (body.len() - 3) as u8;
        let packet = Packet { first: 0x20, body: &body };
        let granted = connack(Version::V5, packet).unwrap().unwrap();
        assert_eq!(granted.receive_maximum, 20);
        assert_eq!(granted.packet_bytes_max, 65_536);
        let refused = Packet { first: 0x20, body: &[0, 0x87, 0] };
        assert_eq!(connack(Version::V5, refused), Ok(Err(0x87)));
        let cut = Packet { first: 0x20, body: &[0, 0, 3, 0x21, 0] };
        assert_eq!(connack(Version::V5, cut), Err(Malformed("CONNACK")));
    }

    #[test]
    fn acknowledgements_of_every_length_are_read() {
        assert_eq!(puback(&[1, 2]), Ok((0x0102, 0)));
        assert_eq!(puback(&[1, 2, 0x97]), Ok((0x0102, 0x97)));
        assert_eq!(puback(&[1, 2, 0x10, 0]), Ok((0x0102, 0x10)));
        assert_eq!(puback(&[1]), Err(Malformed("PUBACK")));
        let refused = Packet { first: 0x90, body: &[0, 1, 0, 0x8f] };
        assert_eq!(suback(refused), Ok(Err(0x8f)));
    }
}
