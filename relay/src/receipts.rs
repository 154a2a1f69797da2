//! Receipts on their way into the archive: one commit at a time, and again if it fails, because a frame that has its receipt is not
//! sent again and so would not get another.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use archive::{Archive, Fault};
use tokio::time::Instant;
use wire::Intervals;

/// Receipts wait so long for others: each commit of them holds up readings that wait for theirs. Until then the pages count as not
/// delivered, and a relay that dies sends them again.
const GATHERED: Duration = Duration::from_millis(20);
/// Pause after receipts could not be kept, for example because the disk is full.
const PAUSE: Duration = Duration::from_secs(1);

type Keeping = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// Receipts that the archive has not committed yet.
pub(crate) struct Receipts {
    archive: Archive,
    waiting: Intervals,
    keeping: Option<(Intervals, Keeping)>,
    /// When what waits is kept, after a pause or a while for company.
    due: Option<Instant>,
}

impl Receipts {
    /// No receipts yet.
    pub(crate) fn new(archive: Archive) -> Self {
        Self { archive, waiting: Intervals::new(), keeping: None, due: None }
    }

    /// The cloud holds these frames.
    pub(crate) fn add(&mut self, numbers: &Intervals) {
        if !numbers.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + GATHERED);
            self.waiting.extend(numbers);
        }
    }

    /// Keeps receipts for as long as it is polled; what comes during a commit goes into the next one. May be dropped at any moment.
    ///
    /// # Errors
    /// Resolves only when the archive takes nothing any more.
    pub(crate) async fn keep(&mut self) -> Fault {
        loop {
            if let Some((numbers, keeping)) = &mut self.keeping {
                let outcome = keeping.await;
                match outcome {
                    Ok(()) => {}
                    Err(fault @ (Fault::Stopped | Fault::Panicked(_))) => return fault,
                    Err(fault) => {
                        tracing::warn!(%fault, "receipts could not be kept; tried again");
                        self.waiting.extend(numbers);
                        self.due = Some(Instant::now() + PAUSE);
                    }
                }
                self.keeping = None;
            } else if self.waiting.is_empty() {
                std::future::pending::<()>().await;
            } else {
                if let Some(due) = self.due {
                    tokio::time::sleep_until(due).await;
                    self.due = None;
                }
                let numbers = std::mem::take(&mut self.waiting);
                match self.archive.delivered(&numbers) {
                    Ok(keeping) => self.keeping = Some((numbers, Box::pin(keeping))),
                    Err(fault) => return fault,
                }
            }
        }
    }
}
