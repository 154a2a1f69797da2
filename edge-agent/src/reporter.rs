//! Says what the agent knows about itself: the target at a slow period, and tombstones soon after they are made.

use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Stop};
use store::Fault;
use tokio::time::Instant;
use wire::SensorId;

use crate::outbox::Outbox;

/// How often it looks for tombstones, and tries again what found no room.
const LOOK: Duration = Duration::from_secs(1);

/// What reporting needs.
#[derive(Clone)]
pub(crate) struct Reporter {
    pub(crate) outbox: Outbox,
    pub(crate) sensor: SensorId,
    /// How often the target is told without a change.
    pub(crate) every: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Reporter {
    /// Works until stopped. A look that fails is repeated.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), Fault> {
        let mut told: Option<Instant> = None;
        loop {
            let due = told.is_none_or(|told| told.elapsed() >= self.every);
            match self.outbox.report(self.sensor.clone(), due, self.clock.now()).await {
                Ok(said) => told = if due && said { Some(Instant::now()) } else { told },
                Err(fault @ (Fault::Stopped | Fault::Panicked(_))) => return Err(fault),
                Err(fault) => tracing::warn!(sensor = %self.sensor, %fault, "a report was not written, it is tried again"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.stopped() => return Ok(()),
            }
        }
    }
}
