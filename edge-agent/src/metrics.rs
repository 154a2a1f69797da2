//! What the agents of a process count. Labels never name a sensor: agents that share a process share the counters.

use chassis::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::choice::{Probe, Why};

/// Why a line or message of an input did not become a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Skip {
    /// It can't be read.
    Malformed,
    /// The outbox was full and the input can't wait; it has a tombstone.
    Full,
}

/// What a relay said about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Answer {
    /// Acknowledged.
    Accepted,
    /// Refused for good.
    Rejected,
    /// Not now.
    Deferred,
    /// The connection ended before an answer.
    Lost,
}

/// What a relay said to the probes of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Probed {
    /// Acknowledged, all of them.
    Answered,
    /// The relay does not want us.
    Refused,
    /// No answer in time.
    Silent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    answer: Probed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabels {
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkipLabels {
    reason: Skip,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    answer: Answer,
}

/// The agents' metrics of one process; clones count into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    taken: Counter,
    skipped: Family<SkipLabels, Counter>,
    frames: Family<AnswerLabels, Counter>,
    records: Family<AnswerLabels, Counter>,
    send_seconds: Histogram,
    chunks_failed: Counter,
    probes: Family<ProbeLabels, Counter>,
    probe_seconds: Histogram,
    moves: Family<MoveLabels, Counter>,
    promises: Counter,
    results: Counter,
}

impl Metrics {
    /// Registers the metrics. Once a process, also with many agents.
    pub fn new(registry: &Registry) -> Self {
        let bounds = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Self {
            taken: registry.counter("agent_readings_taken", "Readings committed to the outbox"),
            skipped: registry.register(
                "agent_readings_skipped",
                "Lines and messages of inputs that did not become a record",
                Family::default(),
            ),
            frames: registry.register("agent_frames_answered", "Frames by what the relay said", Family::default()),
            records: registry.register("agent_records_answered", "Records by what the relay said", Family::default()),
            send_seconds: registry.histogram("agent_send_seconds", "Time from sending a frame to its PUBACK", bounds),
            chunks_failed: registry
                .counter("agent_chunk_passes_failed", "Passes that make chunks which failed and are tried again"),
            probes: registry.register("agent_relays_probed", "Relays probed in a round by what they said", Family::default()),
            probe_seconds: registry.histogram("agent_probe_seconds", "Median round-trip time of a relay in a round", bounds),
            promises: registry.counter("agent_demand_promises", "Demand-response events that were answered"),
            results: registry.counter("agent_demand_results", "Demand-response events whose result was reported"),
            moves: registry.register("agent_target_moves", "Changes of the target by their reason", Family::default()),
        }
    }

    pub(crate) fn took(&self, readings: usize) {
        self.taken.inc_by(readings as u64);
    }

    pub(crate) fn skipped(&self, reason: Skip, count: u64) {
        self.skipped.get_or_create(&SkipLabels { reason }).inc_by(count);
    }

    pub(crate) fn answered(&self, answer: Answer, records: u64) {
        self.frames.get_or_create(&AnswerLabels { answer }).inc();
        self.records.get_or_create(&AnswerLabels { answer }).inc_by(records);
    }

    pub(crate) fn sent_in(&self, seconds: f64) {
        self.send_seconds.observe(seconds);
    }

    pub(crate) fn probed(&self, probe: Probe) {
        let answer = match probe {
            Probe::Answered(rtt) => {
                self.probe_seconds.observe(rtt.as_secs_f64());
                Probed::Answered
            }
            Probe::Refused => Probed::Refused,
            Probe::Silent => Probed::Silent,
        };
        self.probes.get_or_create(&ProbeLabels { answer }).inc();
    }

    pub(crate) fn moved(&self, why: Why) {
        self.moves.get_or_create(&MoveLabels { why }).inc();
    }

    pub(crate) fn promised(&self) {
        self.promises.inc();
    }

    pub(crate) fn reported(&self) {
        self.results.inc();
    }

    pub(crate) fn chunk_pass_failed(&self) {
        self.chunks_failed.inc();
    }
}
