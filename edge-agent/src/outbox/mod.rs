//! The outbox: where a reading is *taken*, kept until a relay has it, and remembered until the chain does.
//!
//! A reading is taken when [`Outbox::take`] returns: it is committed with `synchronous=FULL`, under a key that nobody else ever gets,
//! with its leaf. From then on it is sent until a relay acknowledges or refuses it for good, over restarts and `kill -9`.
//! Everything is written by one thread, in groups, so a thousand readings at once cost one sync of the disk.

mod budget;
mod desk;
pub(crate) mod evidence;
mod following;
mod grouping;
pub(crate) mod reading_back;
mod reporting;
mod responses;
mod schema;
mod sending;
mod taking;
pub(crate) mod targets;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anchor::changes::{Change, LedgerId};
use chassis::Clock;
use store::rusqlite::{OptionalExtension, params};
use store::{Fault, Limits, Readers, Writer};
use tokio::sync::watch;
use wire::{At, RelayId, SensorId, Series};

pub(crate) use desk::{Done, Job};
pub(crate) use grouping::ChunkLimits;
pub(crate) use responses::Noted;
pub(crate) use schema::{Fresh, count, options, read_origin};
pub use schema::{Origin, OutboxError};
pub(crate) use sending::{Row, Verdict};

use self::budget::{Budget, Claim};
use self::desk::Desk;
use self::reading_back::{Chunk, ReadFault};
use self::targets::Entry;
use crate::demand::gauge::Gauge;
use crate::demand::policy::Response;
use crate::limits;
use crate::progress::Progress;
use crate::reading::{Position, Reading};

/// Why readings were not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TakeError {
    /// The byte budget is used up. Only [`Outbox::try_take`] says so; [`Outbox::take`] waits.
    #[error("the outbox is full")]
    Full,
    /// The commit failed. Nothing of the batch was taken.
    #[error("the outbox could not commit: {0}")]
    Commit(#[from] Fault),
}

/// A handle on the outbox; clones share it.
#[derive(Clone)]
pub struct Outbox {
    writer: Writer<Desk>,
    budget: Arc<Budget>,
    progress: watch::Receiver<Progress>,
    readers: Arc<Readers>,
    origin: Origin,
    last_target: Arc<Mutex<Option<RelayId>>>,
    /// Remembers what a user terminal takes.
    gauge: Option<Arc<Gauge>>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("epoch", &self.origin.epoch).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Opens the database at `path`, making it if need be.
    pub(crate) fn open(
        path: &Path,
        sensor: &SensorId,
        bytes_max: u64,
        fresh: &Fresh,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OutboxError> {
        let (connection, origin) = schema::open(path, sensor, fresh)?;
        let counted = schema::count(&connection)?;
        let leaf_bytes: i64 =
            connection.query_row("SELECT coalesce(sum(length(leaves)), 0) FROM chunks WHERE leaves IS NOT NULL", [], |row| {
                row.get(0)
            })?;
        let last_target = Arc::new(Mutex::new(targets::current(&connection)?));
        let budget = Arc::new(Budget::new(bytes_max, counted.open_bytes));
        let (shown, progress) = watch::channel(counted);
        let desk = Desk::new(origin.clone(), budget.clone(), shown, leaf_bytes.cast_unsigned(), clock);
        let limits = Limits {
            group_jobs_max: limits::GROUP_JOBS_MAX,
            group_bytes_max: limits::GROUP_BYTES_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            ..Limits::default()
        };
        let writer = Writer::spawn("outbox", connection, desk, limits).map_err(OutboxError::Thread)?;
        let readers = Arc::new(Readers::new(path.to_owned(), options(), 1));
        Ok(Self { writer, budget, progress, readers, origin, last_target, gauge: None })
    }

    /// Takes readings, in order, with one commit; waits while there is no room. When it returns, they are on disk.
    ///
    /// # Errors
    /// [`TakeError::Commit`]: nothing of the batch was taken, and its numbers go to whoever comes next.
    pub async fn take(&self, readings: Vec<Reading>, position: Option<Position>) -> Result<(), TakeError> {
        let claim = self.budget.claim(readings.iter().map(Reading::cost).sum()).await;
        self.commit(readings, position, claim).await
    }

    /// [`Outbox::take`] for those who can't wait for room.
    ///
    /// # Errors
    /// [`TakeError::Full`] at once when there is no room.
    pub async fn try_take(&self, readings: Vec<Reading>) -> Result<(), TakeError> {
        let cost = readings.iter().map(Reading::cost).sum();
        let claim = self.budget.try_claim(cost).ok_or(TakeError::Full)?;
        self.commit(readings, None, claim).await
    }

    async fn commit(&self, readings: Vec<Reading>, position: Option<Position>, claim: Claim) -> Result<(), TakeError> {
        let picked = self.gauge.as_ref().map(|gauge| gauge.pick(&readings));
        self.ask(Job::Take { readings, position, claim: Some(claim) }).await?;
        if let (Some(gauge), Some(picked)) = (&self.gauge, picked) {
            gauge.remember(picked);
        }
        Ok(())
    }

    /// From now on, this handle and its clones show what they take to `gauge`.
    pub(crate) fn with_gauge(mut self, gauge: Arc<Gauge>) -> Self {
        self.gauge = Some(gauge);
        self
    }

    /// Takes a record about a demand-response event and remembers what it says; false when that was remembered before, and nothing is taken.
    pub(crate) async fn respond(&self, reading: Reading, noted: Noted) -> Result<bool, TakeError> {
        let claim = self.budget.claim(reading.cost()).await;
        Ok(matches!(self.ask(Job::Respond { reading, noted, claim }).await?, Done::Written))
    }

    /// Responses whose result is still to come.
    pub(crate) fn open_responses(&self) -> Result<Vec<Response>, ReadFault> {
        self.readers.read(responses::open)
    }

    /// Gives numbers and tombstones to readings that can't be taken, so that the gap has a name.
    ///
    /// # Errors
    /// The commit failed; say it again.
    pub async fn drop_untaken(&self, counts: Vec<(Series, u64)>, reason: &'static str, now: At) -> Result<(), TakeError> {
        self.ask(Job::Drop { counts, reason, now }).await?;
        Ok(())
    }

    /// Every chunk after chunk `id`, oldest first.
    pub(crate) fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<Chunk>, ReadFault> {
        self.readers.read(|tx| reading_back::chunks_after(tx, self.origin.epoch, id, limit))
    }

    /// Which anchor ledger was followed, and up to which of its changes.
    pub(crate) fn followed(&self) -> Result<Option<(LedgerId, u64)>, ReadFault> {
        self.readers.read(following::followed)
    }

    /// How far `input` was read in `source`: 0 when it is new, `None` when its position counts in another source.
    pub(crate) fn position(&self, input: &str, source: &str) -> Result<Option<u64>, store::ReadError> {
        let found = self.readers.read(|tx| {
            tx.query_row("SELECT source, position FROM positions WHERE input = ?1", params![input], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()
            .map_err(store::ReadError::from)
        })?;
        Ok(match found {
            None => Some(0),
            Some((known, position)) => (known == source).then_some(position.cast_unsigned()),
        })
    }

    /// Where this database's records come from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The counts, now.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The counts, as they change.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Resolves when the writer thread has died: nothing can be taken any more.
    pub(crate) fn failed(&self) -> impl Future<Output = Fault> + Send + 'static {
        self.writer.failed()
    }

    pub(crate) async fn dispatch(&self, after: i64, records_max: u64, bytes_max: usize) -> Result<Vec<Row>, Fault> {
        match self.ask(Job::Dispatch { after, records_max, bytes_max }).await? {
            Done::Rows(rows) => Ok(rows),
            Done::Written | Done::More(_) | Done::Known => Ok(Vec::new()),
        }
    }

    /// Never waits behind readings: it is what makes room for them.
    pub(crate) async fn resolve(&self, rows: Vec<i64>, verdict: Verdict, now: At) -> Result<(), Fault> {
        self.writer.submit_ahead(Job::Resolve { rows, verdict, now })?.await?;
        Ok(())
    }

    pub(crate) async fn group(&self, limits: ChunkLimits, now: At) -> Result<bool, Fault> {
        Ok(matches!(self.ask(Job::Group { limits, now }).await?, Done::More(true)))
    }

    pub(crate) async fn follow(&self, ledger: LedgerId, changes: Vec<Change>) -> Result<(), Fault> {
        self.ask(Job::Follow { ledger, changes }).await?;
        Ok(())
    }

    /// Writes to the target registry. Never waits behind readings: when this returns it is in the writer's hands.
    pub(crate) fn register(&self, entry: Entry) -> impl Future<Output = Result<(), Fault>> + Send + 'static {
        if let Some(moved) = &entry.moved {
            *self.last_target.lock().unwrap_or_else(PoisonError::into_inner) = Some(moved.to.clone());
        }
        let submitted = self.writer.submit_ahead(Job::Register(entry));
        async move { submitted?.await.map(drop) }
    }

    /// Tells of new tombstones, and of the target too if `target`. False when the target found no room.
    pub(crate) async fn report(&self, sensor: SensorId, target: bool, now: At) -> Result<bool, Fault> {
        Ok(!matches!(self.ask(Job::Report { sensor, target, now }).await?, Done::More(true)))
    }

    /// The target of before, also of before a restart.
    pub(crate) fn last_target(&self) -> Option<RelayId> {
        self.last_target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Levers for tests and drills.
    #[doc(hidden)]
    pub fn faults(&self) -> &store::Faults {
        self.writer.faults()
    }

    async fn ask(&self, job: Job) -> Result<Done, Fault> {
        self.writer.submit(job).await?.await
    }
}
