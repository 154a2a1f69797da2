//! What the broker writes.

use super::property;

/// CONNACK of success: what this broker can do, and what it changed of the client's wishes.
pub(crate) struct Welcome<'a> {
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) assigned_client_id: Option<&'a str>,
    pub(crate) server_keep_alive: Option<u16>,
    /// The client asked for a session that outlives the connection and does not get it.
    pub(crate) session_expiry_refused: bool,
}

/// A CONNACK that lets the client in.
pub(crate) fn welcome(out: &mut Vec<u8>, v5: bool, welcome: &Welcome<'_>) {
    if !v5 {
        out.extend_from_slice(&[0x20, 2, 0, 0]);
        return;
    }
    let mut properties = Vec::with_capacity(64);
    property::put_two(&mut properties, property::RECEIVE_MAXIMUM, welcome.receive_maximum);
    property::put_four(&mut properties, property::MAXIMUM_PACKET_SIZE, welcome.maximum_packet_size);
    property::put_byte(&mut properties, property::RETAIN_AVAILABLE, 0);
    property::put_byte(&mut properties, property::SHARED_AVAILABLE, 0);
    property::put_byte(&mut properties, property::WILDCARDS_AVAILABLE, 1);
    if welcome.session_expiry_refused {
        property::put_four(&mut properties, property::SESSION_EXPIRY, 0);
    }
    if let Some(seconds) = welcome.server_keep_alive {
        property::put_two(&mut properties, property::SERVER_KEEP_ALIVE, seconds);
    }
    if let Some(id) = welcome.assigned_client_id {
        property::put_binary(&mut properties, property::ASSIGNED_CLIENT_ID, id.as_bytes());
    }
    out.push(0x20);
    put_length(out, 2 + property::variable_len(properties.len()) + properties.len());
    out.extend_from_slice(&[0, 0]);
    put_length(out, properties.len());
    out.extend_from_slice(&properties);
}

/// A CONNACK that does not.
pub(crate) fn turned_away(out: &mut Vec<u8>, v5: bool, code: u8) {
    if v5 {
        out.extend_from_slice(&[0x20, 3, 0, code, 0]);
    } else {
        out.extend_from_slice(&[0x20, 2, 0, code]);
    }
}

/// PUBACK (`first` 0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70). A reason other than 0 is for MQTT 5 only.
#[inline]
pub(crate) fn ack(out: &mut Vec<u8>, first: u8, packet_id: u16, reason: u8) {
    let [high, low] = packet_id.to_be_bytes();
    if reason == 0 {
        out.extend_from_slice(&[first, 2, high, low]);
    } else {
        out.extend_from_slice(&[first, 3, high, low, reason]);
    }
}

/// SUBACK (`first` 0x90) or UNSUBACK (0xB0) with one code a filter; an UNSUBACK of 3.1.1 has none.
pub(crate) fn codes(out: &mut Vec<u8>, v5: bool, first: u8, packet_id: u16, codes: &[u8]) {
    let codes = if !v5 && first == 0xB0 { &[] } else { codes };
    out.push(first);
    put_length(out, 2 + usize::from(v5) + codes.len());
    out.extend_from_slice(&packet_id.to_be_bytes());
    if v5 {
        out.push(0);
    }
    out.extend_from_slice(codes);
}

/// PINGRESP.
pub(crate) fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// DISCONNECT; MQTT 5 only.
pub(crate) fn disconnect(out: &mut Vec<u8>, reason: u8) {
    out.extend_from_slice(&[0xE0, 1, reason]);
}

/// A PUBLISH on its way to a subscriber.
pub(crate) struct Delivery<'a> {
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) packet_id: u16,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    /// As on the wire, without length and message expiry; ignored for 3.1.1.
    pub(crate) properties: &'a [u8],
    pub(crate) expiry: Option<u32>,
    pub(crate) identifier: Option<u32>,
}

impl Delivery<'_> {
    fn properties_len(&self) -> usize {
        self.properties.len()
            + if self.expiry.is_some() { 5 } else { 0 }
            + self.identifier.map_or(0, |id| 1 + property::variable_len(id as usize))
    }

    /// What follows the length.
    fn body_len(&self, v5: bool) -> usize {
        let packet_id = if self.qos == 0 { 0 } else { 2 };
        let properties = if v5 { property::variable_len(self.properties_len()) + self.properties_len() } else { 0 };
        2 + self.topic.len() + packet_id + properties + self.payload.len()
    }

    /// Size of the packet as a whole.
    pub(crate) fn size(&self, v5: bool) -> usize {
        let body = self.body_len(v5);
        1 + property::variable_len(body) + body
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>, v5: bool) {
        out.reserve(self.size(v5));
        out.push(0x30 | (self.qos << 1) | u8::from(self.retain));
        put_length(out, self.body_len(v5));
        property::put_prefixed(out, self.topic.as_bytes());
        if self.qos > 0 {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if v5 {
            put_length(out, self.properties_len());
            if let Some(seconds) = self.expiry {
                property::put_four(out, property::MESSAGE_EXPIRY, seconds);
            }
            if let Some(id) = self.identifier {
                out.push(property::SUBSCRIPTION_ID);
                property::put_variable(out, id);
            }
            out.extend_from_slice(self.properties);
        }
        out.extend_from_slice(self.payload);
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    property::put_variable(out, u32::try_from(length).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::super::{Framed, frame, publish::Publish};
    use super::*;

    #[test]
    fn a_delivery_reads_back() {
        for v5 in [false, true] {
            for size in [0, 100, 200, 20_000] {
                let payload = vec![7; size];
                let delivery = Delivery {
                    qos: 1,
                    retain: false,
                    packet_id: 300,
                    topic: "a/b",
                    payload: &payload,
                    properties: &[],
                    expiry: Some(5),
                    identifier: Some(200),
                };
                let mut out = vec![];
                delivery.write(&mut out, v5);
                assert_eq!(out.len(), delivery.size(v5));
                let Ok(Framed::Whole { first, body, size }) = frame(&out, 100_000) else { panic!("not whole") };
                assert_eq!(size, out.len());
                let publish = Publish::parse(first, body, v5).unwrap();
                assert_eq!((publish.topic, publish.packet_id, publish.payload), (&b"a/b"[..], 300, &payload[..]));
            }
        }
    }
}
