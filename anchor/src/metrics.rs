//! What is counted.

use chassis::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use wire::At;

use crate::ledger::Standing;
use crate::machine::State;

/// The metrics of one worker.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    batches: Family<[(&'static str, &'static str); 1], Gauge>,
    oldest_open_seconds: Gauge,
    /// Chunks that were read from the source and are in no batch yet.
    pub chunks_waiting: Gauge,
    /// 1 while the chain does not answer.
    pub chain_away: Gauge,
    /// 1 while something needs a person: no funds, another chain, a foreign head.
    pub alarm: Gauge,
    /// Batches that were in a block that vanished.
    pub vanished: Counter,
    /// Nonces of the account that somebody else has used.
    pub foreign_nonces: Counter,
    /// Roots that the anchor service refused.
    pub refused_roots: Counter,
    /// Transactions handed to a node, again or for the first time.
    pub sent: Counter,
}

impl Metrics {
    /// `role` stands in front of every name: a process may anchor for itself and for others.
    pub fn new(registry: &Registry, role: &str) -> Self {
        let name = |rest: &str| format!("{role}_{rest}");
        Self {
            batches: registry.register(&name("batches"), "Batches by state", Family::default()),
            oldest_open_seconds: registry.gauge(&name("oldest_open_seconds"), "Age of the oldest batch that is not final"),
            chunks_waiting: registry.gauge(&name("chunks_waiting"), "Chunks read and not yet in a batch"),
            chain_away: registry.gauge(&name("chain_away"), "1 while the chain does not answer"),
            alarm: registry.gauge(&name("alarm"), "1 while anchoring needs a person"),
            vanished: registry.counter(&name("batches_vanished"), "Batches whose block was reorganised away"),
            foreign_nonces: registry
                .counter(&name("foreign_nonces"), "Nonces of the account that were used by somebody who has its key"),
            refused_roots: registry.counter(&name("roots_refused"), "Roots that the anchor service refused"),
            sent: registry.counter(&name("transactions_sent"), "Transactions handed to a node, repetitions included"),
        }
    }

    pub fn show(&self, standing: &Standing, now: At) {
        for state in State::ALL {
            let value = i64::try_from(standing.counts.of(state)).unwrap_or(i64::MAX);
            self.batches.get_or_create(&[("state", state.as_str())]).set(value);
        }
        let age = standing.oldest_open.map_or(0, |since| now.saturating_sub(since).max(0) / 1_000_000_000);
        self.oldest_open_seconds.set(age);
    }
}
