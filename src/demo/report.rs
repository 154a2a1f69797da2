//! What the demonstration says at its end.

use std::fmt;

use serde::Serialize;

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
    /// A record's proof was accepted.
    pub proof_verified: bool,
    /// The same proof with one changed digit was refused.
    pub tampered_proof_refused: bool,
    /// An analyst of city A got nothing of city B: not live, not from the past.
    pub foreign_read_refused: bool,
    /// How often a relay was killed and came back.
    pub relay_kills: u64,
    /// How often a meter left its relay for another one.
    pub relay_moves: u64,
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
    pub(super) fn judge(&mut self, expected: u64, live_expected: u64) {
        let counts = [
            ("taken", self.taken),
            ("relay_durable", self.relay_durable),
            ("cloud_durable", self.cloud_durable),
            ("anchored_terminal", self.anchored_terminal),
            ("anchored_cloud", self.anchored_cloud),
        ];
        let short = counts
            .into_iter()
            .filter(|(_, count)| *count != expected)
            .map(|(name, count)| format!("{name} is {count}, not {expected}"));
        self.failures.extend(short);
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
            ("relay killed and back", self.relay_kills.to_string()),
            ("meters changed relay", self.relay_moves.to_string()),
            ("proof verified", yes(self.proof_verified).to_owned()),
            ("tampered proof refused", yes(self.tampered_proof_refused).to_owned()),
            ("foreign read refused", yes(self.foreign_read_refused).to_owned()),
            ("seconds", format!("{:.1}", self.seconds)),
        ];
        writeln!(f, "+-------------------------+------------+")?;
        for (name, value) in rows {
            writeln!(f, "| {name:<23} | {value:>10} |")?;
        }
        writeln!(f, "+-------------------------+------------+")?;
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        Ok(())
    }
}
