//! What a member of a group counts. `docs/metrics.md` lists it for operators.

use std::sync::Arc;

use chassis::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::way::{Way, Why};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Cause {
    Lease,
    Unanswered,
    Lost,
    Refused,
}

impl From<Why> for Cause {
    fn from(why: Why) -> Self {
        match why {
            Why::Lease => Self::Lease,
            Why::Unanswered => Self::Unanswered,
            Why::Lost => Self::Lost,
            Why::Refused => Self::Refused,
        }
    }
}

/// Why a proxy did not pass something on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum NotPassed {
    /// It is not the proxy, or has no connection to the cloud.
    NotProxy,
    /// A frame before it by the same connection did not get through.
    Over,
    /// Too much is in hand.
    Full,
    /// The member speaks as another, or says what no member says.
    Member,
    /// The cloud refused it.
    Cloud,
    /// The connection to the cloud was lost.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabels {
    why: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotPassedLabels {
    reason: NotPassed,
}

#[derive(Debug, Default)]
struct Families {
    way_changes: Family<WhyLabels, Counter>,
    way_proxied: Gauge,
    lease_term: Gauge,
    own_term: Gauge,
    redialled: Counter,
    heartbeats: Counter,
    unanswered: Gauge,
    members: Gauge,
    passed: Counter,
    passed_bytes: Counter,
    refused: Family<NotPassedLabels, Counter>,
    down: Counter,
    down_dropped: Counter,
}

/// The counts; clones share them.
#[derive(Debug, Clone, Default)]
pub struct GroupMetrics(Arc<Families>);

impl GroupMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let f = &metrics.0;
        registry.register("relay_way_changes", "Changes of the way to the cloud, by reason", f.way_changes.clone());
        registry.register("relay_way_proxied", "Whether frames go through a proxy", f.way_proxied.clone());
        registry.register("relay_way_redialled", "Direct connections given up for want of a sign of life", f.redialled.clone());
        registry.register("relay_lease_term", "Term of the newest lease known", f.lease_term.clone());
        registry.register("relay_heartbeats_sent", "Heartbeats sent", f.heartbeats.clone());
        registry.register("relay_heartbeats_unanswered", "Heartbeats on this connection without an answer", f.unanswered.clone());
        registry.register("relay_proxy_term", "Term by which this relay is the proxy; 0 if it is not", f.own_term.clone());
        registry.register("relay_proxy_members", "Connections of members that are served", f.members.clone());
        registry.register("relay_proxy_frames_passed", "Frames of members that the cloud acknowledged", f.passed.clone());
        registry.register("relay_proxy_bytes_passed", "Bytes of these frames", f.passed_bytes.clone());
        registry.register("relay_proxy_refused", "What members sent and was not passed on, by reason", f.refused.clone());
        registry.register("relay_proxy_messages_down", "Messages of the cloud handed to members", f.down.clone());
        registry.register(
            "relay_proxy_messages_dropped",
            "Messages of the cloud for members that too many waited before",
            f.down_dropped.clone(),
        );
        metrics
    }

    pub(crate) fn way(&self, way: &Way, why: Why) {
        self.0.way_changes.get_or_create(&WhyLabels { why: why.into() }).inc();
        self.0.way_proxied.set(i64::from(!way.is_direct()));
    }

    pub(crate) fn redialled(&self) {
        self.0.redialled.inc();
    }

    pub(crate) fn beat(&self) {
        self.0.heartbeats.inc();
    }

    pub(crate) fn lease(&self, term: u64, unanswered: usize) {
        self.0.lease_term.set(term.cast_signed());
        self.0.unanswered.set(unanswered as i64);
    }

    pub(crate) fn own_term(&self, term: u64) {
        self.0.own_term.set(term.cast_signed());
    }

    pub(crate) fn member(&self, change: i64) {
        self.0.members.inc_by(change);
    }

    pub(crate) fn passed(&self, bytes: u64) {
        self.0.passed.inc();
        self.0.passed_bytes.inc_by(bytes);
    }

    pub(crate) fn not_passed(&self, reason: NotPassed) {
        self.0.refused.get_or_create(&NotPassedLabels { reason }).inc();
    }

    pub(crate) fn down(&self, dropped: bool) {
        if dropped { &self.0.down_dropped } else { &self.0.down }.inc();
    }
}
