//! The cloud's metrics. Labels come from closed sets only.

use broker::FeedEnd;
use chassis::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Why a publish to the cloud was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Reason {
    /// The topic is not taken here, or not from this publisher.
    Topic,
    /// The payload is not what the topic carries.
    Payload,
    /// A grant is missing.
    Grant,
    /// A budget is used up.
    Quota,
    /// The archive failed.
    Archive,
    /// It came with a stale term, or by a way that is not its relay's.
    Fence,
}

/// Over which face a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Face {
    /// MQTT request and response.
    Mqtt,
    /// HTTP.
    Http,
}

/// What became of a member's heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Beat {
    /// The proxy's: it renewed the lease.
    Renewed,
    /// Any other member's.
    Answered,
    /// Of a relay that the configuration has not in this group: told that there is no proxy.
    Stranger,
    /// It came through somebody who is not the proxy, or too many waited.
    Refused,
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// With an answer.
    Answered,
    /// With a problem.
    Refused,
}

/// How it went that a relay was asked to show a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Showing {
    /// It led to the root that the relay had stated.
    Shown,
    /// It did not: an alarm.
    Changed,
    /// The relay could not.
    Failed,
    /// The relay did not answer in time, or nobody listened for its orders.
    Unanswered,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shows {
    outcome: Showing,
}

/// Why a feed could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum FeedReason {
    /// The grant was taken away or has ended.
    Grant,
    /// It needed more memory than a feed may have.
    Quota,
    /// The archive failed.
    Archive,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FeedEnded {
    reason: FeedReason,
}

/// What happened to an access request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Step {
    /// It was made.
    Asked,
    /// By a rule or an operator.
    Approved,
    /// By an operator.
    Rejected,
    /// By whoever made it.
    Withdrawn,
    /// After it had been approved.
    Revoked,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Stepped {
    pub(crate) step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    pub(crate) face: Face,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Ended {
    pub(crate) reason: crate::groups::Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Beats {
    pub(crate) outcome: Beat,
}

/// Everything that the cloud counts itself; the broker and the archive count their own.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) frames_committed: Counter,
    pub(crate) records_ingested: Counter,
    pub(crate) records_duplicate: Counter,
    pub(crate) records_conflict: Counter,
    pub(crate) publishes_refused: Family<Refused, Counter>,
    pub(crate) receipts_sent: Counter,
    pub(crate) receipts_dropped: Counter,
    pub(crate) live_published: Counter,
    pub(crate) live_dropped: Counter,
    pub(crate) queries: Family<Asked, Counter>,
    pub(crate) demand_events: Counter,
    pub(crate) demand_settled: Counter,
    pub(crate) demand_reports: Counter,
    pub(crate) demand_failures: Counter,
    pub(crate) demand_calls: Counter,
    pub(crate) demand_calls_failed: Counter,
    pub(crate) demand_calls_dropped: Counter,
    pub(crate) demand_calls_waiting: Gauge,
    pub(crate) frames_fenced: Counter,
    pub(crate) group_terms: Family<Ended, Counter>,
    pub(crate) group_heartbeats: Family<Beats, Counter>,
    pub(crate) index_messages: Counter,
    pub(crate) index_stretches_asked: Counter,
    pub(crate) pulls_sent: Counter,
    pub(crate) pulls_answered: Counter,
    pub(crate) pulls_failed: Counter,
    pub(crate) pulls_unanswered: Counter,
    relays_asked: Counter,
    relays_unheard: Counter,
    pub(crate) chunks_compared: Counter,
    pub(crate) chunks_mismatched: Counter,
    relay_proofs: Family<Shows, Counter>,
    pub(crate) feed_records: Counter,
    pub(crate) feed_unreadable: Counter,
    feeds_ended: Family<FeedEnded, Counter>,
    pub(crate) access_requests: Family<Stepped, Counter>,
    pub(crate) access_tokens_refused: Counter,
    pub(crate) access_keys_failed: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            frames_committed: registry.counter("cloud_frames_committed", "Frames of relays that were committed"),
            records_ingested: registry.counter("cloud_records_ingested", "Records that were new and are committed"),
            records_duplicate: registry.counter("cloud_records_duplicate", "Records that were held already"),
            records_conflict: registry
                .counter("cloud_records_conflict", "Records whose key is held with another content, kept aside: an alarm"),
            publishes_refused: registry.register(
                "cloud_publishes_refused",
                "Publishes that were refused, by reason",
                Family::default(),
            ),
            receipts_sent: registry.counter("cloud_receipts_sent", "Receipts handed to the broker"),
            receipts_dropped: registry
                .counter("cloud_receipts_dropped", "Frames not receipted because too many waited; their relays send them again"),
            live_published: registry.counter("cloud_live_records_published", "New records handed to live subscribers"),
            live_dropped: registry.counter("cloud_live_records_dropped", "New records that live subscribers were too slow for"),
            feed_records: registry.counter("cloud_feed_records", "Records handed to catch-up subscriptions"),
            feed_unreadable: registry.counter(
                "cloud_feed_records_unreadable",
                "Records that catch-up subscriptions passed over because they can't be read",
            ),
            feeds_ended: registry.register(
                "cloud_feeds_ended",
                "Catch-up subscriptions that the cloud ended, by reason",
                Family::default(),
            ),
            demand_events: registry.counter("cloud_demand_events", "Demand-response events that were made"),
            demand_settled: registry.counter("cloud_demand_events_settled", "Demand-response events whose outcome was written"),
            demand_reports: registry.counter("cloud_demand_reports", "Reports that came over HTTP and became records"),
            demand_failures: registry.counter("cloud_demand_looks_failed", "Looks at a program that failed and are repeated"),
            demand_calls: registry.counter("cloud_demand_callbacks", "Notifications that a subscriber's callback has taken"),
            demand_calls_failed: registry.counter("cloud_demand_callbacks_failed", "Callbacks that failed"),
            demand_calls_dropped: registry
                .counter("cloud_demand_callbacks_dropped", "Notifications that found no room, or were given up"),
            demand_calls_waiting: registry.gauge("cloud_demand_callbacks_waiting", "Notifications that wait to be delivered"),
            queries: registry.register("cloud_queries", "Questions about the past, by face and outcome", Family::default()),
            frames_fenced: registry
                .counter("cloud_frames_fenced", "Frames refused because their term is stale or their way is not the proxy's"),
            group_terms: registry.register(
                "cloud_group_terms",
                "Terms of proxies that began, by why the one before ended",
                Family::default(),
            ),
            group_heartbeats: registry.register(
                "cloud_group_heartbeats",
                "Heartbeats of members of groups, by what became of them",
                Family::default(),
            ),
            index_messages: registry.counter("cloud_index_messages", "Pages and sums of relays' indexes that were committed"),
            index_stretches_asked: registry.counter(
                "cloud_index_stretches_asked",
                "Stretches of the index that differed from a relay's sums and were asked for",
            ),
            pulls_sent: registry.counter("cloud_pulls_sent", "Orders to relays to bring what they keep"),
            pulls_answered: registry.counter("cloud_pulls_answered", "Pulls whose records are committed"),
            pulls_failed: registry.counter("cloud_pulls_failed", "Pulls that the relay could not carry out"),
            pulls_unanswered: registry.counter("cloud_pulls_unanswered", "Pulls whose records did not come in time"),
            relays_asked: registry.counter("cloud_relays_asked", "Relays that were asked what the index does not name"),
            relays_unheard: registry.counter("cloud_relays_unheard", "Of these, those whose answer was not whole in time"),
            chunks_compared: registry.counter(
                "cloud_chunks_compared",
                "Chunks of relays whose records were compared with the root announced for them",
            ),
            chunks_mismatched: registry.counter(
                "cloud_chunks_mismatched",
                "Chunks of relays that came with another content than was announced: an alarm",
            ),
            relay_proofs: registry.register(
                "cloud_relay_proofs",
                "Records that relays were asked to show for a proof, by outcome; Changed is an alarm",
                Family::default(),
            ),
            access_requests: registry.register(
                "cloud_access_requests",
                "What happened to access requests, by step",
                Family::default(),
            ),
            access_tokens_refused: registry.counter("cloud_access_tokens_refused", "Tokens that did not hold"),
            access_keys_failed: registry
                .counter("cloud_access_keys_failed", "Times that the keys of the issuer of tokens could not be had"),
        };
        for state in crate::access::State::ALL {
            metrics.stepped(state);
        }
        for outcome in [Showing::Shown, Showing::Changed, Showing::Failed, Showing::Unanswered] {
            // Shown from the start, so that an alarm can be set on it.
            let _ = metrics.relay_proofs.get_or_create_owned(&Shows { outcome });
        }
        metrics
    }

    pub(crate) fn feed_ended(&self, end: FeedEnd) {
        let reason = match end {
            FeedEnd::NotAuthorized => FeedReason::Grant,
            FeedEnd::QuotaExceeded => FeedReason::Quota,
            FeedEnd::Unavailable => FeedReason::Archive,
        };
        self.feeds_ended.get_or_create(&FeedEnded { reason }).inc();
    }

    pub(crate) fn relay_proof(&self, outcome: Showing) {
        self.relay_proofs.get_or_create(&Shows { outcome }).inc();
    }

    pub(crate) fn refused(&self, reason: Reason) {
        self.publishes_refused.get_or_create(&Refused { reason }).inc();
    }

    pub(crate) fn term(&self, reason: crate::groups::Reason) {
        self.group_terms.get_or_create(&Ended { reason }).inc();
    }

    /// A relay was asked what the index does not name.
    pub(crate) fn relay_asked(&self, is_whole: bool) {
        self.relays_asked.inc();
        self.relays_unheard.inc_by(u64::from(!is_whole));
    }

    pub(crate) fn heartbeat(&self, outcome: Beat) {
        self.group_heartbeats.get_or_create(&Beats { outcome }).inc();
    }

    pub(crate) fn asked(&self, face: Face, outcome: Outcome) {
        self.queries.get_or_create(&Asked { face, outcome }).inc();
    }

    pub(crate) fn access(&self, state: crate::access::State) {
        self.stepped(state).inc();
    }

    fn stepped(&self, state: crate::access::State) -> Counter {
        use crate::access::State;
        let step = match state {
            State::Waiting => Step::Asked,
            State::Approved => Step::Approved,
            State::Rejected => Step::Rejected,
            State::Withdrawn => Step::Withdrawn,
            State::Revoked => Step::Revoked,
        };
        self.access_requests.get_or_create_owned(&Stepped { step })
    }
}
