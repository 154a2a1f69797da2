//! What the demonstration says at its end.

use std::fmt;

use cloud::EventView;
use serde::Serialize;

use super::batches::Batches;
use crate::cost;

/// The final result. `--json` prints it as one object.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    /// Readings that agents committed to their outboxes.
    pub taken: u64,
    /// Readings whose commit a relay acknowledged.
    pub relay_durable: u64,
    /// Readings that the cloud's archive gave back, compared with the data set value by value.
    pub cloud_durable: u64,
    /// Readings of the data set that the cloud does not have.
    pub lost: u64,
    /// Keys that the cloud gave more than once, or values that came twice.
    pub duplicated: u64,
    /// Readings that the live subscriber of city A received.
    pub live_received: u64,
    /// Readings whose digest is final on chain, written by the meters.
    pub anchored_terminal: u64,
    /// Readings whose digest is final on chain, written by the cloud.
    pub anchored_cloud: u64,
    /// Records that the cloud holds: those of the meters, of the homes, and what it says itself about demand response.
    pub held: u64,
    /// What anchoring took, by who wrote.
    pub batches: Vec<Batches>,
    /// The first event of demand response that was settled.
    pub demand: Option<EventView>,
    /// A record's proof was accepted.
    pub proof_verified: bool,
    /// The same proof with one changed digit was refused.
    pub tampered_proof_refused: bool,
    /// An analyst of city A got nothing of city B: not live, not from the past.
    pub foreign_read_refused: bool,
    /// How often a relay was killed and came back.
    pub relay_kills: u64,
    /// How long the group was without a proxy when the proxy was killed, in milliseconds.
    pub proxy_replaced_ms: u64,
    /// Terms of proxies that began.
    pub proxy_terms: u64,
    /// Relays that were proxy.
    pub proxies: u64,
    /// Times that a relay's storage area was short of room and went to the cloud.
    pub spills: u64,
    /// Records that a question brought from the relays.
    pub pulled: u64,
    /// How often a meter left its relay for another one.
    pub relay_moves: u64,
    /// What meters say about themselves, as records among those that they took.
    pub about_themselves: u64,
    /// Meters whose target the cloud mirrors.
    pub targets_mirrored: u64,
    /// An audit of a meter and the cloud found nothing.
    pub audit_clean: bool,
    /// The audit's first finding after a byte of the cloud's database was changed.
    pub audit_caught: Option<String>,
    /// How long everything took.
    pub seconds: f64,
    /// What went wrong, in words; empty when all is well.
    pub failures: Vec<String>,
}

impl Report {
    /// Whether everything that was promised held.
    pub(super) fn is_well(&self) -> bool {
        self.failures.is_empty()
    }

    /// Compares the numbers with each other; each difference becomes a failure.
    pub(super) fn judge(&mut self, expected: u64, live_expected: u64, meters: u64) {
        // Beside its readings a meter takes what it says about itself, and everything is kept and anchored alike.
        let all = expected + self.about_themselves;
        let counts = [
            ("taken", self.taken, all),
            ("relay_durable", self.relay_durable, all),
            ("cloud_durable", self.cloud_durable, expected),
            ("anchored_terminal", self.anchored_terminal, all),
            ("anchored_cloud", self.anchored_cloud, self.held),
            ("targets_mirrored", self.targets_mirrored, meters),
        ];
        let short = counts
            .into_iter()
            .filter(|(_, count, wanted)| count != wanted)
            .map(|(name, count, wanted)| format!("{name} is {count}, not {wanted}"));
        self.failures.extend(short);
        if self.demand.as_ref().is_none_or(|event| event.promised_kw <= 0.0 || event.measured_kw <= 0.0) {
            self.failures.push("demand response: nothing was promised, or nothing measured".to_owned());
        }
        for (name, count) in [("proxy_terms", self.proxy_terms), ("spills", self.spills), ("pulled", self.pulled)] {
            if count == 0 {
                self.failures.push(format!("{name} is 0"));
            }
        }
        if self.live_received != live_expected {
            self.failures.push(format!("live_received is {}, not {live_expected}", self.live_received));
        }
        for (name, count) in [("lost", self.lost), ("duplicated", self.duplicated)] {
            if count > 0 {
                self.failures.push(format!("{name} is {count}, not 0"));
            }
        }
        for (name, held) in [
            ("proof_verified", self.proof_verified),
            ("tampered_proof_refused", self.tampered_proof_refused),
            ("foreign_read_refused", self.foreign_read_refused),
            ("audit_clean", self.audit_clean),
            ("audit_caught", self.audit_caught.is_some()),
        ] {
            if !held {
                self.failures.push(format!("{name} is false"));
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |held| if held { "yes" } else { "NO" };
        let rows = [
            ("taken by the meters", self.taken.to_string()),
            ("durable at a relay", self.relay_durable.to_string()),
            ("durable at the cloud", self.cloud_durable.to_string()),
            ("lost", self.lost.to_string()),
            ("duplicated", self.duplicated.to_string()),
            ("received live, city A", self.live_received.to_string()),
            ("anchored by the meters", self.anchored_terminal.to_string()),
            ("anchored by the cloud", self.anchored_cloud.to_string()),
            ("said about themselves", self.about_themselves.to_string()),
            ("proxy killed and back", self.relay_kills.to_string()),
            ("replaced within, ms", self.proxy_replaced_ms.to_string()),
            ("terms of proxies", format!("{} by {}", self.proxy_terms, self.proxies)),
            ("meters changed relay", self.relay_moves.to_string()),
            ("targets at the cloud", self.targets_mirrored.to_string()),
            ("storage areas spilled", self.spills.to_string()),
            ("pulled by a question", self.pulled.to_string()),
            ("proof verified", yes(self.proof_verified).to_owned()),
            ("tampered proof refused", yes(self.tampered_proof_refused).to_owned()),
            ("foreign read refused", yes(self.foreign_read_refused).to_owned()),
            ("audit clean", yes(self.audit_clean).to_owned()),
            ("changed byte found", yes(self.audit_caught.is_some()).to_owned()),
            ("seconds", format!("{:.1}", self.seconds)),
        ];
        writeln!(f, "+-------------------------+------------+")?;
        for (name, value) in rows {
            writeln!(f, "| {name:<23} | {value:>10} |")?;
        }
        writeln!(f, "+-------------------------+------------+")?;
        if let Some(event) = &self.demand {
            writeln!(f, "\ndemand response {:>16} {:>12} {:>12} {:>12}", "area before", "asked", "promised", "measured")?;
            let EventView { area_before_kw, asked_kw, promised_kw, measured_kw, .. } = event;
            writeln!(
                f,
                "{:<15} {area_before_kw:>13.1} kW {asked_kw:>9.1} kW {promised_kw:>9.1} kW {measured_kw:>9.1} kW",
                event.area
            )?;
        }
        writeln!(f, "\nanchored by     {:>16} {:>12} {:>12} {:>12}", "final batches", "records", "gas a batch", "gas a record")?;
        for Batches { by, cost } in &self.batches {
            let (batch, record) = (cost::shown(cost.steady_gas_a_batch(), 0), cost::shown(cost.gas_a_record(), 1));
            writeln!(f, "{by:<15} {:>16} {:>12} {batch:>12} {record:>12}", cost.batches, cost.records)?;
        }
        if let Some(finding) = &self.audit_caught {
            writeln!(f, "audit: {finding}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        Ok(())
    }
}
