//! Where readings come from.
//!
//! Every input promises the same at its end: what it took is committed. They differ in what happens before, and each says so.

pub(crate) mod csv;
pub(crate) mod lines;
pub(crate) mod mqtt;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Stop};
use store::Fault;
use wire::Series;

use crate::metrics::{Metrics, Skip};
use crate::outbox::{Outbox, TakeError};
use crate::reading::{Position, Reading};
use crate::rules::Rules;

/// Pause after a commit that failed; the same readings are then offered again.
const COMMIT_PAUSE: Duration = Duration::from_millis(500);

/// Why an input ended.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file can't be read.
    #[error("input {input}: can't read {}: {source}", path.display())]
    File {
        /// Name of the input.
        input: String,
        /// The file.
        path: PathBuf,
        /// What the system or the CSV reader said.
        source: ::csv::Error,
    },
    /// The file does not have a column that the configuration names.
    #[error("input {input}: {} has no column {column:?}; correct input.columns or input.time", path.display())]
    Column {
        /// Name of the input.
        input: String,
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// The position that was kept is one in another source.
    #[error("input {input}: was replaying other columns before; give the input a new name to start over")]
    Source {
        /// Name of the input.
        input: String,
    },
    /// The position can't be read.
    #[error("input {input}: can't read its position: {source}")]
    Position {
        /// Name of the input.
        input: String,
        /// What the store said.
        source: store::ReadError,
    },
    /// The local broker does not let us subscribe.
    #[error("input {input}: can't subscribe to {filter:?}: {source}")]
    Subscribe {
        /// Name of the input.
        input: String,
        /// The filter.
        filter: String,
        /// What the broker said.
        source: link::SubscribeError,
    },
    /// The outbox is gone.
    #[error("the outbox failed: {0}")]
    Outbox(#[from] Fault),
    /// A reader thread is gone.
    #[error("input {input}: its reader ended: {why}")]
    Reader {
        /// Name of the input.
        input: String,
        /// Why.
        why: String,
    },
}

/// What is wrong with one line, row or message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// Which field, by name or number.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) problem: String,
}

impl BadLine {
    pub(crate) fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// What every input works with.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) outbox: Outbox,
    pub(crate) rules: Rules,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
}

impl Desk {
    /// Takes readings, however long it takes: waits for room, and offers them again after a failed commit. False when it was stopped first.
    pub(crate) async fn take(&self, readings: Vec<Reading>, position: Option<Position>, stop: &Stop) -> Result<bool, Fault> {
        let count = readings.len();
        let taken = self.insist(stop, || self.outbox.take(readings.clone(), position.clone())).await?;
        if taken {
            self.metrics.took(count);
        }
        Ok(taken)
    }

    /// Gives readings that found no room numbers and tombstones. False when it was stopped first.
    pub(crate) async fn bury(&self, counts: Vec<(Series, u64)>, reason: &'static str, stop: &Stop) -> Result<bool, Fault> {
        self.insist(stop, || self.outbox.drop_untaken(counts.clone(), reason, self.clock.now())).await
    }

    /// Does it again until it is committed. False when it was stopped first.
    async fn insist<F>(&self, stop: &Stop, attempt: impl Fn() -> F) -> Result<bool, Fault>
    where
        F: Future<Output = Result<(), TakeError>>,
    {
        loop {
            let ended = tokio::select! {
                biased;
                ended = attempt() => ended,
                () = stop.stopped() => return Ok(false),
            };
            match ended {
                Ok(()) => return Ok(true),
                Err(TakeError::Full) => {}
                Err(TakeError::Commit(fault)) => self.after_fault(fault)?,
            }
            tokio::select! {
                () = tokio::time::sleep(COMMIT_PAUSE) => {}
                () = stop.stopped() => return Ok(false),
            }
        }
    }

    /// Whether it is worth trying again.
    pub(crate) fn after_fault(&self, fault: Fault) -> Result<(), Fault> {
        if matches!(fault, Fault::Stopped | Fault::Panicked(_)) {
            return Err(fault);
        }
        tracing::warn!(%fault, "readings could not be committed, they are offered again");
        Ok(())
    }

    /// Tells of a line that is left out.
    pub(crate) fn skip(&self, input: &str, line: u64, bad: &BadLine) {
        self.metrics.skipped(Skip::Malformed, 1);
        tracing::warn!(input, line, field = bad.field, problem = bad.problem, "bad line left out");
    }
}

/// An RFC 3339 time as nanoseconds since 1970.
pub(crate) fn parse_time(field: &str, text: &str) -> Result<i64, BadLine> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| BadLine::new(field, format_args!("{text:?} is not an RFC 3339 time like \"2016-01-01T00:15:00Z\"")))?;
    i64::try_from(time.as_nanosecond())
        .ok()
        .filter(|at| *at >= 0)
        .ok_or_else(|| BadLine::new(field, format_args!("{text:?} is before 1970 or after 2262")))
}
