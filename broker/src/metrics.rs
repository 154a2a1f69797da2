//! The broker's metrics. Labels come from closed sets only.

use std::sync::Arc;

use chassis::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Why something was refused or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Reason {
    /// `connections_max` reached.
    ConnectionsMax,
    /// No complete CONNECT within the deadline.
    HandshakeDeadline,
    /// Wrong user or password.
    BadCredentials,
    /// Bytes that are not MQTT.
    Malformed,
    /// MQTT, but not allowed here.
    Protocol,
    /// A protocol level other than 3.1.1 and 5.
    ProtocolVersion,
    /// Something asked for that this broker does not do.
    Unsupported,
    /// No grant covers it.
    NotAuthorized,
    /// A quota.
    Quota,
    /// The intake refused the topic or the payload.
    Content,
    /// The intake's store can't take anything.
    Unavailable,
    /// Nothing heard for one and a half keep-alives.
    KeepAlive,
    /// The socket took nothing for too long.
    WriteStall,
    /// Another connection with the same client id.
    TakenOver,
    /// The broker stops.
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: Reason,
}

/// Counters and gauges of one broker. Register them once, in the registry of the process.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    connections: Gauge,
    connections_accepted: Counter,
    connections_refused: Family<ReasonLabel, Counter>,
    connections_closed: Family<ReasonLabel, Counter>,
    publishes_received: Counter,
    publishes_refused: Family<ReasonLabel, Counter>,
    acks_sent: Counter,
    messages_routed: Counter,
    messages_delivered: Counter,
    messages_lost: Counter,
    deliveries_withheld: Family<ReasonLabel, Counter>,
    subscriptions: Gauge,
    subscriptions_refused: Family<ReasonLabel, Counter>,
    feeds: Gauge,
}

impl Metrics {
    /// Makes the metrics and registers them as `broker_…`.
    pub(crate) fn register(registry: &Registry) -> Metrics {
        let metrics = Metrics::default();
        let own = &metrics.0;
        registry.register("broker_connections", "Connections open now", own.connections.clone());
        registry.register(
            "broker_connections_accepted",
            "Connections that got a CONNACK of success",
            own.connections_accepted.clone(),
        );
        registry.register(
            "broker_connections_refused",
            "Connections that were refused, by reason",
            own.connections_refused.clone(),
        );
        registry.register(
            "broker_connections_closed",
            "Connections that the broker closed, by reason",
            own.connections_closed.clone(),
        );
        registry.register("broker_publishes_received", "PUBLISH packets received", own.publishes_received.clone());
        registry.register("broker_publishes_refused", "PUBLISH packets refused, by reason", own.publishes_refused.clone());
        registry.register("broker_acks_sent", "PUBACK and PUBREC packets written", own.acks_sent.clone());
        registry.register(
            "broker_messages_routed",
            "Messages handed to the router, once for each filter",
            own.messages_routed.clone(),
        );
        registry.register("broker_messages_delivered", "PUBLISH packets written to subscribers", own.messages_delivered.clone());
        registry.register("broker_messages_lost", "Messages that a lagging subscriber will never see", own.messages_lost.clone());
        registry.register("broker_deliveries_withheld", "Messages not delivered, by reason", own.deliveries_withheld.clone());
        registry.register("broker_subscriptions", "Subscriptions of the clients now connected", own.subscriptions.clone());
        registry.register("broker_feeds", "Subscriptions among them that begin in the past", own.feeds.clone());
        registry.register(
            "broker_subscriptions_refused",
            "Filters refused in a SUBACK, by reason",
            own.subscriptions_refused.clone(),
        );
        metrics
    }

    /// Messages that lagging subscribers lost since the start.
    #[must_use]
    pub fn messages_lost(&self) -> u64 {
        self.0.messages_lost.get()
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.0.connections.get()
    }

    pub(crate) fn opened(&self) {
        self.0.connections.inc();
    }
    pub(crate) fn ended(&self) {
        self.0.connections.dec();
    }
    pub(crate) fn accepted(&self) {
        self.0.connections_accepted.inc();
    }
    pub(crate) fn refused(&self, reason: Reason) {
        self.0.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }
    pub(crate) fn closed(&self, reason: Reason) {
        self.0.connections_closed.get_or_create(&ReasonLabel { reason }).inc();
    }
    pub(crate) fn published(&self, count: u64) {
        self.0.publishes_received.inc_by(count);
    }
    pub(crate) fn publish_refused(&self, reason: Reason, count: u64) {
        self.0.publishes_refused.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }
    pub(crate) fn acknowledged(&self, count: u64) {
        self.0.acks_sent.inc_by(count);
    }
    pub(crate) fn routed(&self, count: u64) {
        self.0.messages_routed.inc_by(count);
    }
    pub(crate) fn delivered(&self, count: u64) {
        self.0.messages_delivered.inc_by(count);
    }
    pub(crate) fn lost(&self, count: u64) {
        self.0.messages_lost.inc_by(count);
    }
    pub(crate) fn withheld(&self, reason: Reason) {
        self.0.deliveries_withheld.get_or_create(&ReasonLabel { reason }).inc();
    }
    pub(crate) fn subscribed(&self, change: i64) {
        self.0.subscriptions.inc_by(change);
    }
    pub(crate) fn fed(&self, change: i64) {
        self.0.feeds.inc_by(change);
    }
    pub(crate) fn subscription_refused(&self, reason: Reason) {
        self.0.subscriptions_refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}
