//! As much of MQTT 3.1.1 and 5.0 as a scripted peer needs: it reads what a client says and writes what a server answers.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT.
    Connect(Connect),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK for something the peer sent.
    PubAck {
        /// Packet id.
        pkid: u16,
        /// Reason code, 0 at 3.1.1.
        code: u8,
    },
    /// SUBSCRIBE.
    Subscribe {
        /// Packet id.
        pkid: u16,
        /// Filters with their option byte.
        filters: Vec<(String, u8)>,
    },
    /// UNSUBSCRIBE.
    Unsubscribe {
        /// Packet id.
        pkid: u16,
        /// Filters.
        filters: Vec<String>,
    },
    /// PINGREQ.
    PingReq,
    /// DISCONNECT.
    Disconnect,
    /// Anything else, by its type number.
    Other(u8),
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// 4 is 3.1.1, 5 is 5.0.
    pub level: u8,
    /// Client id.
    pub client_id: String,
    /// Clean session, clean start.
    pub clean: bool,
    /// Seconds.
    pub keep_alive: u16,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
}

/// PUBLISH, in either direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Packet id; 0 at QoS 0.
    pub pkid: u16,
    /// Sent before.
    pub dup: bool,
    /// Retain flag.
    pub retain: bool,
    /// Response topic (5.0).
    pub response_topic: Option<String>,
    /// Correlation data (5.0).
    pub correlation_data: Option<Bytes>,
    /// User properties (5.0).
    pub user_properties: Vec<(String, String)>,
}

/// The bytes are not MQTT as far as this module knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {0}")]
pub struct Malformed(&'static str);

const RESPONSE_TOPIC: u8 = 8;
const CORRELATION_DATA: u8 = 9;
const USER_PROPERTY: u8 = 38;

/// Takes one whole packet off the front; `None` while it is incomplete. `level` is that of the CONNECT before.
pub fn take(buffer: &mut BytesMut, level: u8) -> Result<Option<Packet>, Malformed> {
    let Some((header, length)) = frame(buffer)? else {
        return Ok(None);
    };
    let first = buffer[0];
    let mut body = buffer.split_to(header + length).freeze();
    body.advance(header);
    let v5 = level == 5;
    Ok(Some(match first >> 4 {
        1 => Packet::Connect(connect(&mut body)?),
        3 => Packet::Publish(publish(first, &mut body, v5)?),
        4 => Packet::PubAck { pkid: u16_of(&mut body)?, code: if body.has_remaining() { body.get_u8() } else { 0 } },
        8 => {
            let pkid = u16_of(&mut body)?;
            skip_properties(&mut body, v5)?;
            let mut filters = Vec::new();
            while body.has_remaining() {
                let filter = text(&mut body)?;
                filters.push((filter, u8_of(&mut body)?));
            }
            Packet::Subscribe { pkid, filters }
        }
        10 => {
            let pkid = u16_of(&mut body)?;
            skip_properties(&mut body, v5)?;
            let mut filters = Vec::new();
            while body.has_remaining() {
                filters.push(text(&mut body)?);
            }
            Packet::Unsubscribe { pkid, filters }
        }
        12 => Packet::PingReq,
        14 => Packet::Disconnect,
        other => Packet::Other(other),
    }))
}

/// Length of the fixed header and of the rest, once both are known and the whole is there.
fn frame(buffer: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0usize;
    for place in 0..4 {
        let Some(byte) = buffer.get(1 + place) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let header = 2 + place;
            return Ok((buffer.len() >= header + length).then_some((header, length)));
        }
    }
    Err(Malformed("remaining length"))
}

fn connect(body: &mut Bytes) -> Result<Connect, Malformed> {
    if text(body)? != "MQTT" {
        return Err(Malformed("protocol name"));
    }
    let level = u8_of(body)?;
    let flags = u8_of(body)?;
    let keep_alive = u16_of(body)?;
    let v5 = level == 5;
    skip_properties(body, v5)?;
    let client_id = text(body)?;
    if flags & 0x04 != 0 {
        skip_properties(body, v5)?;
        text(body)?;
        binary(body)?;
    }
    let user = (flags & 0x80 != 0).then(|| text(body)).transpose()?;
    let password = (flags & 0x40 != 0).then(|| binary(body)).transpose()?;
    Ok(Connect { level, client_id, clean: flags & 0x02 != 0, keep_alive, user, password })
}

fn publish(first: u8, body: &mut Bytes, v5: bool) -> Result<Publish, Malformed> {
    let qos = (first >> 1) & 3;
    let mut packet = Publish { topic: text(body)?, qos, dup: first & 0x08 != 0, retain: first & 0x01 != 0, ..Publish::default() };
    if qos > 0 {
        packet.pkid = u16_of(body)?;
    }
    if v5 {
        let mut properties = properties(body)?;
        while properties.has_remaining() {
            match u8_of(&mut properties)? {
                RESPONSE_TOPIC => packet.response_topic = Some(text(&mut properties)?),
                CORRELATION_DATA => packet.correlation_data = Some(binary(&mut properties)?),
                USER_PROPERTY => {
                    let name = text(&mut properties)?;
                    packet.user_properties.push((name, text(&mut properties)?));
                }
                1 => drop(u8_of(&mut properties)?),
                2 => drop((u16_of(&mut properties)?, u16_of(&mut properties)?)),
                3 => drop(binary(&mut properties)?),
                35 => drop(u16_of(&mut properties)?),
                _ => return Err(Malformed("property of a PUBLISH")),
            }
        }
    }
    packet.payload = std::mem::take(body);
    Ok(packet)
}

fn u8_of(body: &mut Bytes) -> Result<u8, Malformed> {
    body.try_get_u8().map_err(|_| Malformed("too short"))
}

fn u16_of(body: &mut Bytes) -> Result<u16, Malformed> {
    body.try_get_u16().map_err(|_| Malformed("too short"))
}

fn binary(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = usize::from(u16_of(body)?);
    if body.remaining() < length {
        return Err(Malformed("too short"));
    }
    Ok(body.split_to(length))
}

fn text(body: &mut Bytes) -> Result<String, Malformed> {
    String::from_utf8(binary(body)?.into()).map_err(|_| Malformed("not UTF-8"))
}

fn properties(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let mut length = 0usize;
    for place in 0..4 {
        let byte = u8_of(body)?;
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            if body.remaining() < length {
                return Err(Malformed("too short"));
            }
            return Ok(body.split_to(length));
        }
    }
    Err(Malformed("property length"))
}

fn skip_properties(body: &mut Bytes, v5: bool) -> Result<(), Malformed> {
    if v5 {
        properties(body)?;
    }
    Ok(())
}

/// What a CONNACK says besides its code.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Receive maximum (5.0).
    pub receive_max: Option<u16>,
    /// Maximum packet size (5.0).
    pub packet_bytes_max: Option<u32>,
    /// Server keep alive in seconds (5.0).
    pub keep_alive: Option<u16>,
}

/// Writes a CONNACK.
pub fn connack(out: &mut BytesMut, level: u8, code: u8, limits: Limits) {
    let mut properties = BytesMut::new();
    if let Some(n) = limits.receive_max {
        properties.put_u8(33);
        properties.put_u16(n);
    }
    if let Some(n) = limits.packet_bytes_max {
        properties.put_u8(39);
        properties.put_u32(n);
    }
    if let Some(n) = limits.keep_alive {
        properties.put_u8(19);
        properties.put_u16(n);
    }
    let mut body = BytesMut::new();
    body.put_slice(&[0, code]);
    if level == 5 {
        put_length(&mut body, properties.len());
        body.put_slice(&properties);
    }
    whole(out, 0x20, &body);
}

/// Writes a PUBACK; 3.1.1 has no room for the code.
pub fn puback(out: &mut BytesMut, level: u8, pkid: u16, code: u8) {
    if level == 5 && code != 0 {
        out.put_slice(&[0x40, 3]);
        out.put_u16(pkid);
        out.put_u8(code);
    } else {
        out.put_slice(&[0x40, 2]);
        out.put_u16(pkid);
    }
}

/// Writes a SUBACK (or, with `unsub`, an UNSUBACK) with one code for each filter.
pub fn suback(out: &mut BytesMut, level: u8, pkid: u16, codes: &[u8], unsub: bool) {
    let mut body = BytesMut::new();
    body.put_u16(pkid);
    if level == 5 {
        body.put_u8(0);
    }
    if level == 5 || !unsub {
        body.put_slice(codes);
    }
    whole(out, if unsub { 0xb0 } else { 0x90 }, &body);
}

/// Writes a PINGRESP.
pub fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// Writes a DISCONNECT with a reason code (5.0).
pub fn disconnect(out: &mut BytesMut, code: u8) {
    out.put_slice(&[0xe0, 2, code, 0]);
}

/// Writes a PUBLISH.
pub fn put_publish(out: &mut BytesMut, level: u8, packet: &Publish) {
    let mut body = BytesMut::new();
    put_binary(&mut body, packet.topic.as_bytes());
    if packet.qos > 0 {
        body.put_u16(packet.pkid);
    }
    if level == 5 {
        let mut properties = BytesMut::new();
        if let Some(topic) = &packet.response_topic {
            properties.put_u8(RESPONSE_TOPIC);
            put_binary(&mut properties, topic.as_bytes());
        }
        if let Some(data) = &packet.correlation_data {
            properties.put_u8(CORRELATION_DATA);
            put_binary(&mut properties, data);
        }
        for (name, value) in &packet.user_properties {
            properties.put_u8(USER_PROPERTY);
            put_binary(&mut properties, name.as_bytes());
            put_binary(&mut properties, value.as_bytes());
        }
        put_length(&mut body, properties.len());
        body.put_slice(&properties);
    }
    body.put_slice(&packet.payload);
    let flags = u8::from(packet.dup) << 3 | packet.qos << 1 | u8::from(packet.retain);
    whole(out, 0x30 | flags, &body);
}

fn whole(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    put_length(out, body.len());
    out.put_slice(body);
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

/// # Panics
/// When `bytes` is longer than MQTT allows.
fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("an MQTT string has at most 65535 bytes");
    out.put_u16(length);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_publish_it_writes_at_both_levels_and_in_pieces() {
        let packet = Publish {
            topic: "up/relay-1/frames".to_owned(),
            payload: Bytes::from(vec![7; 300]),
            qos: 1,
            pkid: 513,
            dup: true,
            retain: true,
            response_topic: Some("answers/1".to_owned()),
            correlation_data: Some(Bytes::from_static(b"\x00\xff")),
            user_properties: vec![("key".to_owned(), "value".to_owned())],
        };
        for level in [4, 5] {
            let mut bytes = BytesMut::new();
            put_publish(&mut bytes, level, &packet);
            let mut expected = packet.clone();
            if level == 4 {
                expected.response_topic = None;
                expected.correlation_data = None;
                expected.user_properties.clear();
            }
            for split in 0..bytes.len() {
                let mut part = BytesMut::from(&bytes[..split]);
                assert_eq!(take(&mut part, level), Ok(None));
                part.extend_from_slice(&bytes[split..]);
                let read = take(&mut part, level).unwrap();
                assert_eq!(read, Some(Packet::Publish(expected.clone())));
                assert!(part.is_empty());
            }
        }
    }

    #[test]
    fn reads_a_connect_with_credentials() {
        let mut bytes = BytesMut::from(&b"\x10\x1a\x00\x04MQTT\x05\xc2\x00\x14\x00\x00\x02id\x00\x02me\x00\x05s3cre"[..]);
        bytes[1] = (bytes.len() - 2) as u8;
        let Ok(Some(Packet::Connect(connect))) = take(&mut bytes, 0) else {
            panic!("not a CONNECT");
        };
        assert_eq!((connect.level, connect.clean, connect.keep_alive), (5, true, 20));
        assert_eq!(connect.user.as_deref(), Some("me"));
        assert_eq!(connect.password.as_deref(), Some(&b"s3cre"[..]));
    }

    #[test]
    fn endless_lengths_are_malformed() {
        let mut bytes = BytesMut::from(&b"\x30\xff\xff\xff\xff"[..]);
        assert_eq!(take(&mut bytes, 5), Err(Malformed("remaining length")));
    }
}
