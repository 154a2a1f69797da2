//! What is sent and what is received.

use bytes::Bytes;

/// One publish at QoS 1 with everything MQTT 5 lets it carry; `Message::new(topic, payload)` for the common case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Topic name, without wildcards.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// Retain flag.
    pub retain: bool,
    /// Where the answer shall go.
    pub response_topic: Option<String>,
    /// What the answer shall carry back.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs, kept in order.
    pub user_properties: Vec<(String, String)>,
}

impl Message {
    /// A plain message.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), ..Self::default() }
    }

    /// Asks for an answer at `topic`, marked with `correlation`.
    #[must_use]
    pub fn asking(mut self, topic: impl Into<String>, correlation: impl Into<Bytes>) -> Self {
        self.response_topic = Some(topic.into());
        self.correlation_data = Some(correlation.into());
        self
    }

    /// Adds one user property.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.user_properties.push((name.into(), value.into()));
        self
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.response_topic.is_none() && self.correlation_data.is_none() && self.user_properties.is_empty()
    }
}

/// One message that the peer sent us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Topic name.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// Retain flag as delivered.
    pub retain: bool,
    /// Where the sender wants the answer.
    pub response_topic: Option<String>,
    /// What the answer shall carry back.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs, in order.
    pub user_properties: Vec<(String, String)>,
}

/// The QoS a subscription asks for; exactly-once is not offered, because records are de-duplicated by their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Qos {
    /// At most once.
    Zero,
    /// At least once.
    One,
}
