//! Handing over: stored records go up when the cloud asks for them, or when an operator flushes the relay.
//!
//! A hand-over moves records from the storage area to the backlog lane in transactions of the archive. From there they are
//! sent, receipted and deleted like everything else, so custody is in one place at every moment.

use archive::{Archive, Selection};
use wire::Command;

use crate::metrics::Metrics;

/// Carries out hand-overs, one at a time.
pub struct Handover {
    archive: Archive,
    metrics: Metrics,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Handover {
    /// Hand-overs from `archive`.
    pub fn new(archive: Archive, metrics: Metrics) -> Self {
        Self { archive, metrics, one_at_a_time: tokio::sync::Mutex::new(()) }
    }

    /// Moves what `selection` names to the backlog lane; gives the number of records.
    ///
    /// # Errors
    /// The archive's, when a transaction fails. What was moved before stays moved; nothing is lost.
    pub async fn hand_over(&self, selection: Selection) -> Result<u64, archive::ReadError> {
        let _turn = self.one_at_a_time.lock().await;
        let archive = self.archive.clone();
        let records = crate::blocking(move || archive.hand_over(&selection)).await?.moved;
        self.metrics.handed_over(records);
        Ok(records)
    }

    /// Carries out a command of the cloud and logs how it went.
    pub(crate) async fn carry_out(&self, command: Command) {
        let (id, selection) = match command {
            Command::Flush { id } => (id, Selection::All),
            Command::Pull { id, series, from, to } => (id, Selection::Range { series, from, to }),
            Command::Index { id, .. } => {
                tracing::warn!(command = id, "the cloud asks for the index, which this relay does not keep yet");
                return;
            }
        };
        match self.hand_over(selection).await {
            Ok(records) => tracing::info!(command = id, records, "handed over to the cloud"),
            Err(error) => tracing::error!(command = id, %error, "the hand-over failed; the records stay here"),
        }
    }
}
