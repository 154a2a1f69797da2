//! Publishing to subscribers, from clients and from inside the process.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttd::protocol::Packet;
use tokio::time::Instant;

use crate::index::{Index, Route};
use crate::message::{Envelope, Message};
use crate::metrics::Metrics;
use crate::router::{Router, publish};

/// Messages handed to the router at once by `publish_all`.
const HAND_OVER_MAX: usize = 256;
/// Envelopes of one hand-over share buffers of about this size. The buffer lives as long as its last message, so it must not be large.
const ENVELOPE_BUFFER_BYTES: usize = 32 * 1024;

/// Publishes to the broker's subscribers from inside the process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Routing>);

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// What it takes to bring a message to subscribers.
pub(crate) struct Routing {
    pub(crate) index: Index,
    pub(crate) router: Arc<Router>,
    pub(crate) metrics: Metrics,
    pub(crate) started: Instant,
}

impl Routing {
    /// Seconds since the start, the time that message expiry is counted in.
    pub(crate) fn seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Puts one message into `buffer` and its packets, one a slot, into `packets`.
    pub(crate) fn pack(envelope: &Envelope<'_>, route: &Route, buffer: &mut BytesMut, packets: &mut Vec<Packet>) {
        buffer.reserve(envelope.encoded_len());
        envelope.encode(buffer);
        let sealed = buffer.split().freeze();
        packets.extend(route.iter().map(|slot| publish(slot.clone(), sealed.clone())));
    }
}

impl Hub {
    pub(crate) fn new(routing: Arc<Routing>) -> Hub {
        Hub(routing)
    }

    pub(crate) fn routing(&self) -> &Arc<Routing> {
        &self.0
    }

    /// Whether some subscription matches `topic`. Cheap and cached: ask before you build a message.
    #[must_use]
    pub fn wanted(&self, topic: &str) -> bool {
        !self.0.index.route(topic).is_empty()
    }

    /// Hands one message to the router; waits while the router has too much in hand.
    pub async fn publish(&self, message: Message) {
        self.publish_all(vec![message]).await;
    }

    /// Hands messages to the router, many at once, in order; waits while the router has too much in hand. What nobody
    /// subscribed to, and what has no valid topic, is dropped here.
    pub async fn publish_all(&self, messages: Vec<Message>) {
        let routing = &self.0;
        let mut packets = Vec::with_capacity(messages.len().min(HAND_OVER_MAX));
        let mut buffer = BytesMut::new();
        let mut last: Option<(Arc<str>, Route)> = None;
        for message in messages {
            let route = match &last {
                Some((topic, route)) if *topic == message.topic => route.clone(),
                _ => {
                    let route = routing.index.route(&message.topic);
                    last = Some((message.topic.clone(), route.clone()));
                    route
                }
            };
            if route.is_empty() || !wire::filter::valid_topic(&message.topic) {
                continue;
            }
            let envelope = Envelope {
                qos: message.qos,
                retain: false,
                publisher: 0,
                expires_at: message.expiry.map(|time| routing.seconds() + rounded_up(time)),
                topic: &message.topic,
                properties: &message.properties,
                payload: &message.payload,
            };
            if buffer.capacity() < envelope.encoded_len() {
                buffer = BytesMut::with_capacity(envelope.encoded_len().max(ENVELOPE_BUFFER_BYTES));
            }
            Routing::pack(&envelope, &route, &mut buffer, &mut packets);
            if packets.len() >= HAND_OVER_MAX {
                routing.metrics.routed(packets.len() as u64);
                routing.router.feed(&mut packets).await;
            }
        }
        routing.metrics.routed(packets.len() as u64);
        routing.router.feed(&mut packets).await;
    }
}

fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
