//! Between our words and the MQTT client's.

use std::time::Duration;

use rumqttc::NetworkOptions;
use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason, Publish, PublishProperties, SubscribeReasonCode};

use crate::message::{Message, Qos, Received};
use crate::settings::{KEEP_ALIVE_MIN, LinkConfig};

/// An MQTT string or binary field has a 16-bit length; the client underneath would write a wrong one for more.
const FIELD_BYTES_MAX: usize = 65_535;

/// The largest packet that MQTT has a length for.
pub(crate) const PACKET_BYTES_MAX: usize = 5 + 268_435_455;

/// Packet ids that the client may use beyond our window, so that a SUBSCRIBE or DISCONNECT passes a full window and
/// acknowledgements out of order find their id free again.
const SPARE_IDS: u16 = 64;

pub(crate) fn options(config: &LinkConfig) -> MqttOptions {
    let host = config.host.trim_matches(['[', ']']);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut options = MqttOptions::new(&config.client_id, host, config.port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options
        .set_clean_start(true)
        .set_keep_alive(config.keep_alive.max(KEEP_ALIVE_MIN))
        .set_network_options(network)
        .set_max_packet_size(Some(config.packet_bytes_max))
        .set_outgoing_inflight_upper_limit(config.inflight_max.saturating_mul(2).saturating_add(SPARE_IDS))
        // Ours is the one that counts; this one only must not come first.
        .set_connection_timeout(config.connect_timeout.as_secs().saturating_add(2));
    if let Some(login) = &config.credentials {
        options.set_credentials(&login.user, &login.password);
    }
    options
}

/// Checks what the client underneath would write wrongly or choke on.
pub(crate) fn properties(message: &Message) -> Result<Option<PublishProperties>, &'static str> {
    if !wire::filter::valid_topic(&message.topic) {
        return Err("the topic is empty, too long or has a wildcard or U+0000");
    }
    if message.is_plain() {
        return Ok(None);
    }
    let response_topic = message.response_topic.as_deref();
    if response_topic.is_some_and(|topic| !wire::filter::valid_topic(topic)) {
        return Err("the response topic is empty, too long or has a wildcard or U+0000");
    }
    let correlation = message.correlation_data.as_ref();
    if correlation.is_some_and(|data| data.len() > FIELD_BYTES_MAX) {
        return Err("the correlation data has more than 65535 bytes");
    }
    let long = |text: &String| text.len() > FIELD_BYTES_MAX;
    if message.user_properties.iter().any(|(name, value)| long(name) || long(value)) {
        return Err("a user property has more than 65535 bytes");
    }
    Ok(Some(PublishProperties {
        response_topic: message.response_topic.clone(),
        correlation_data: message.correlation_data.clone(),
        user_properties: message.user_properties.clone(),
        ..PublishProperties::default()
    }))
}

/// Size of the whole PUBLISH, as the peer's maximum packet size counts it.
pub(crate) fn publish_bytes(message: &Message) -> usize {
    let field = |bytes: usize| 2 + bytes;
    let property = |bytes: usize| 1 + field(bytes);
    let response = message.response_topic.as_ref();
    let correlation = message.correlation_data.as_ref();
    let properties = response.map_or(0, |topic| property(topic.len()))
        + correlation.map_or(0, |data| property(data.len()))
        + message.user_properties.iter().map(|(name, value)| property(name.len()) + field(value.len())).sum::<usize>();
    let packet_id = 2;
    let body = field(message.topic.len()) + packet_id + length_bytes(properties) + properties + message.payload.len();
    1 + length_bytes(body) + body
}

/// Size of a variable byte integer.
fn length_bytes(length: usize) -> usize {
    match length {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub(crate) fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::Zero => QoS::AtMostOnce,
        Qos::One => QoS::AtLeastOnce,
    }
}

/// `None` when the topic is not text, which MQTT forbids.
pub(crate) fn received(publish: Publish) -> Option<Received> {
    let topic = String::from_utf8(publish.topic.into()).ok()?;
    let properties = publish.properties.unwrap_or_default();
    Some(Received {
        topic,
        payload: publish.payload,
        retain: publish.retain,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
    })
}

pub(crate) fn puback_code(reason: PubAckReason) -> u8 {
    match reason {
        PubAckReason::Success => 0x00,
        PubAckReason::NoMatchingSubscribers => 0x10,
        PubAckReason::UnspecifiedError => 0x80,
        PubAckReason::ImplementationSpecificError => 0x83,
        PubAckReason::NotAuthorized => 0x87,
        PubAckReason::TopicNameInvalid => 0x90,
        PubAckReason::PacketIdentifierInUse => 0x91,
        PubAckReason::QuotaExceeded => 0x97,
        PubAckReason::PayloadFormatInvalid => 0x99,
    }
}

pub(crate) fn suback_code(code: SubscribeReasonCode) -> u8 {
    match code {
        SubscribeReasonCode::Success(qos) => qos as u8,
        SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified => 0x80,
        SubscribeReasonCode::ImplementationSpecific => 0x83,
        SubscribeReasonCode::NotAuthorized => 0x87,
        SubscribeReasonCode::TopicFilterInvalid => 0x8F,
        SubscribeReasonCode::PkidInUse => 0x91,
        SubscribeReasonCode::QuotaExceeded => 0x97,
        SubscribeReasonCode::SharedSubscriptionsNotSupported => 0x9E,
        SubscribeReasonCode::SubscriptionIdNotSupported => 0xA1,
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => 0xA2,
    }
}

/// The CONNACK codes that say something about us, not about the peer's present load: they don't go away by trying again.
pub(crate) fn refusal(code: ConnectReturnCode) -> Option<u8> {
    Some(match code {
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => 0x84,
        ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => 0x85,
        ConnectReturnCode::BadUserNamePassword => 0x86,
        ConnectReturnCode::NotAuthorized => 0x87,
        ConnectReturnCode::Banned => 0x8A,
        ConnectReturnCode::BadAuthenticationMethod => 0x8C,
        _ => return None,
    })
}

/// The DISCONNECT codes of the same kind.
pub(crate) fn is_refusal(code: u8) -> bool {
    // Not authorized, banned, session taken over, administrative action.
    matches!(code, 0x87 | 0x8A | 0x8E | 0x98)
}

/// A peer silent for this long is dead.
pub(crate) fn dead_after(keep_alive: Duration) -> Duration {
    keep_alive + keep_alive / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn written(message: &Message) -> usize {
        let properties = properties(message).unwrap();
        let payload = message.payload.clone();
        let mut publish = Publish::new(&message.topic, QoS::AtLeastOnce, payload, properties);
        publish.pkid = 1;
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).unwrap();
        bytes.len()
    }

    #[test]
    fn the_size_is_what_the_client_writes() {
        for payload in [0, 1, 100, 121, 122, 127, 128, 16_370, 16_384, 2_097_152] {
            let plain = Message::new("a/b", vec![0; payload]);
            assert_eq!(publish_bytes(&plain), written(&plain), "{payload}");
            let rich = plain.asking("answers/me", vec![1; 16]).with_property("key", "value").with_property("", "x".repeat(200));
            assert_eq!(publish_bytes(&rich), written(&rich), "{payload}");
        }
    }

    #[test]
    fn what_the_client_would_write_wrongly_is_refused() {
        let long = "x".repeat(65_536);
        for topic in ["", "a/+", "#", "a\0b", &long] {
            assert!(properties(&Message::new(topic, "")).is_err(), "{topic:.10}");
        }
        let message = || Message::new("a", "");
        assert!(properties(&message().asking("a/#", "")).is_err());
        assert!(properties(&message().asking("a", vec![0; 65_536])).is_err());
        assert!(properties(&message().with_property(long.clone(), "")).is_err());
        assert!(properties(&message().with_property("", long.clone())).is_err());
        assert!(properties(&message().with_property("", "y")).is_ok());
    }

    #[test]
    fn an_ipv6_host_gets_its_brackets() {
        for host in ["::1", "[::1]"] {
            let options = options(&LinkConfig::new(host, 1883, "me"));
            assert_eq!(options.broker_address(), ("[::1]".to_owned(), 1883));
        }
    }
}
