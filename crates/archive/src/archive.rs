//! The handle on an archive.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use store::{Busy, Fault, Lock, Readers, Writer};
use tokio::sync::watch;
use wire::{At, Epoch, EpochSecret, Intervals, RelayId, RunBuilder, Runs};

use crate::append::{Append, AppendError, Appending, Lane};
use crate::close::{Closed, Closer, Upkeep};
use crate::engine::{Engine, Job, RunMeta};
use crate::error::{OpenError, ReadError};
use crate::lanes::Total;
use crate::options::Options;
use crate::recover::{Opened, Recovered, recover};
use crate::schema::STEPS;
use crate::shared::Shared;

/// Largest append, in bytes: an MQTT packet of 16 MiB fits.
pub const APPEND_BYTES_MAX: usize = 32 << 20;

pub(crate) const DATABASE: &str = "archive.sqlite";
const LOCK: &str = "archive.lock";

/// A relay's or the cloud's archive. Clones share it.
///
/// Methods that read block on the disk: call them from a thread that may block.
#[derive(Clone)]
pub struct Archive {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // First, so that the thread has drained its queue before the lock is released.
    pub(crate) writer: Writer<Engine>,
    pub(crate) readers: Readers,
    pub(crate) shared: Arc<Shared>,
    secret: EpochSecret,
    outgoing: watch::Receiver<u64>,
    visible: watch::Receiver<u64>,
    upkeep: Mutex<Upkeep>,
    /// How many wait for `upkeep`.
    upkeep_wanted: AtomicUsize,
    path: PathBuf,
    _lock: Lock,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("path", &self.inner.path).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Numbers for metrics and for deciding what goes where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open pages of the storage area.
    pub buffer: Total,
    /// Chunks of the storage area; bytes are compressed ones.
    pub chunks: Total,
    /// Pages of the live lane that are still in the file.
    pub live: Total,
    /// Pages of the backlog lane that are still in the file.
    pub backlog: Total,
    /// Outgoing pages, of both lanes, that the cloud has not confirmed.
    pub waiting_pages: u64,
    /// Conflicts since the start.
    pub conflicts: u64,
    /// Series with a number.
    pub series: u64,
    /// Running totals of the writer thread.
    pub writer: store::Counters,
}

impl Archive {
    /// Opens the archive in `folder`, making both if they are not there. A damaged database is put aside and a fresh one started.
    ///
    /// # Errors
    /// [`OpenError`] if the folder is in use, or can't be used.
    pub fn open(folder: &Path, options: Options) -> Result<(Self, Recovered), OpenError> {
        std::fs::create_dir_all(folder)?;
        let lock = Lock::take(&folder.join(LOCK))?;
        let path = folder.join(DATABASE);
        let (connection, opened) = match open_database(&path, &options) {
            Err(error) if is_damage(&error) => {
                tracing::error!(%error, path = %path.display(), "the archive is damaged");
                let aside = store::quarantine(&path)?;
                let (connection, mut opened) = open_database(&path, &options)?;
                opened.recovered.quarantined = Some(aside);
                (connection, opened)
            }
            other => other?,
        };
        let Opened { shared, start, secret, last_outgoing, recovered } = opened;
        let shared = Arc::new(shared);
        let (announce, outgoing) = watch::channel(last_outgoing);
        let (show, visible) = watch::channel(last_outgoing);
        let engine = Engine::new(shared.clone(), start, announce, show);
        let writer = Writer::spawn("archive", connection, engine, options.writer)?;
        let readers = Readers::new(path.clone(), options.database.clone(), options.readers_max);
        let inner = Inner {
            writer,
            readers,
            shared,
            secret,
            outgoing,
            visible,
            upkeep: Mutex::default(),
            upkeep_wanted: AtomicUsize::new(0),
            path,
            _lock: lock,
        };
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// This database's epoch.
    pub fn epoch(&self) -> Epoch {
        self.inner.shared.epoch
    }

    /// The epoch of raw readings: the database's, until pages of it were seen before a commit that did not come.
    pub fn origin(&self) -> Epoch {
        Epoch(self.inner.shared.origin.load(Ordering::Acquire))
    }

    /// The secret of an epoch in which this database has numbered raw readings; `None` if it has not.
    pub fn origin_secret(&self, epoch: Epoch) -> Option<Arc<EpochSecret>> {
        self.inner.shared.secrets.own(epoch)
    }

    /// The secret of this database's epoch.
    pub fn secret(&self) -> &EpochSecret {
        &self.inner.secret
    }

    /// Whose archive this is.
    pub fn name(&self) -> &RelayId {
        &self.inner.shared.options.name
    }

    /// Submits an append; it is durable when the returned [`Appending`] says so. Appends are committed in the order of these calls. Never
    /// blocks: a full queue refuses.
    ///
    /// # Errors
    /// [`AppendError`] says whether to wait, to refuse for now, or to refuse for good.
    pub fn append(&self, append: Append) -> Result<Appending, AppendError> {
        let job = self.prepare(append)?;
        match self.inner.writer.try_submit(job) {
            Ok(ticket) => Ok(Appending(ticket)),
            Err(Busy::Full(_)) => Err(AppendError::Busy),
            Err(Busy::Down(fault, _)) => Err(fault.into()),
        }
    }

    /// Bytes that may be appended now before the writer's queue is full. Others append too: a hint, not a promise.
    pub fn queue_room(&self) -> usize {
        self.inner.writer.room()
    }

    /// Submits an append; waits, in turn, while the queue is full.
    ///
    /// # Errors
    /// As [`Archive::append`], but never [`AppendError::Busy`].
    pub async fn append_waiting(&self, append: Append) -> Result<Appending, AppendError> {
        let job = self.prepare(append)?;
        Ok(Appending(self.inner.writer.submit(job).await?))
    }

    /// Submits an append; blocks this thread while the queue is full.
    ///
    /// # Errors
    /// As [`Archive::append`], but never [`AppendError::Busy`].
    pub fn append_blocking(&self, append: Append) -> Result<Appending, AppendError> {
        let job = self.prepare(append)?;
        Ok(Appending(self.inner.writer.submit_blocking(job)?))
    }

    /// Looks at an append on the caller's thread, so that the writer thread need not.
    fn prepare(&self, append: Append) -> Result<Job, AppendError> {
        let shared = &*self.inner.shared;
        match append {
            Append::Raw { lane, runs } => {
                self.has_room(lane)?;
                raw(shared, lane, runs)
            }
            Append::Framed { lane, runs: bytes, secrets } => {
                self.has_room(lane)?;
                let runs = look(shared, &bytes)?;
                Ok(Job::Framed { lane, bytes, runs, secrets })
            }
            Append::Ingest { from, runs: bytes, secrets } => {
                self.has_room(Lane::Store)?;
                let runs = look(shared, &bytes)?;
                let relay = shared.relays.number_one(from.relay.as_str());
                Ok(Job::Ingest { relay, epoch: from.relay_epoch.0, number: from.number, bytes, runs, secrets })
            }
        }
    }

    fn has_room(&self, lane: Lane) -> Result<(), AppendError> {
        let budgets = self.inner.shared.options.budgets;
        let budget = match lane {
            Lane::Store => budgets.store_bytes_max,
            Lane::Live | Lane::Backlog => budgets.outgoing_bytes_max,
        };
        match self.inner.shared.gauges.against_budget(lane) < budget {
            true => Ok(()),
            false => Err(AppendError::Full { lane, budget }),
        }
    }

    /// The id of the last committed outgoing page; changes with every commit that adds one.
    pub fn watch_outgoing(&self) -> watch::Receiver<u64> {
        self.inner.outgoing.clone()
    }

    /// The id of the last outgoing page that may be sent. With [`Options::ahead`] it is told before its commit, which may fail; then its id and
    /// the keys of raw readings in it are never given to anything else.
    pub fn watch_visible(&self) -> watch::Receiver<u64> {
        self.inner.visible.clone()
    }

    /// The cloud holds these pages: they are not handed out again, and deleted when their segment is closed. A number that no page has
    /// is ignored. Resolves when that is durable; it is safe not to wait, because a receipt that was lost comes again.
    ///
    /// # Errors
    /// The writer is stopped or has failed.
    pub fn delivered(&self, numbers: &Intervals) -> Result<impl Future<Output = Result<(), Fault>> + Send + use<>, Fault> {
        let ticket = self.inner.writer.submit_ahead(Job::Delivered(numbers.clone()))?;
        Ok(async move { ticket.await.map(|_| ()) })
    }

    /// Closes what is due: turns the open segment into chunks, saves counters, deletes what is no longer needed. Call it about every
    /// second from a thread that may block.
    ///
    /// # Errors
    /// The disk or the writer failed; nothing is lost, and the next call tries again.
    pub fn close_due(&self, now: At) -> Result<Closed, ReadError> {
        let last = *self.inner.outgoing.borrow();
        self.closer(|closer| {
            let due = closer.is_due(now);
            closer.tend(now, last, due)
        })
    }

    /// Whether the open segment is due to be closed: the time to look whether there is room for its chunks (A5, A6).
    pub fn is_due(&self, now: At) -> bool {
        // Never an error: only memory is looked at. Waits while a segment is being closed.
        self.closer(|closer| Ok(closer.is_due(now))).unwrap_or(false)
    }

    /// [`Archive::close_due`] for a caller that decides himself whether the open segment is closed.
    ///
    /// # Errors
    /// As [`Archive::close_due`].
    pub fn tend(&self, now: At, close: bool) -> Result<Closed, ReadError> {
        let last = *self.inner.outgoing.borrow();
        self.closer(|closer| closer.tend(now, last, close))
    }

    /// Closes the open segment now, due or not.
    ///
    /// # Errors
    /// As [`Archive::close_due`].
    pub fn close_now(&self) -> Result<Closed, ReadError> {
        self.closer(|closer| {
            let closed = closer.close_all()?;
            closer.purge()?;
            Ok(closed)
        })
    }

    pub(crate) fn closer<T>(&self, work: impl FnOnce(&mut Closer<'_>) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let inner = &*self.inner;
        inner.upkeep_wanted.fetch_add(1, Ordering::Relaxed);
        let mut upkeep = inner.upkeep.lock();
        inner.upkeep_wanted.fetch_sub(1, Ordering::Relaxed);
        work(&mut Closer {
            shared: &inner.shared,
            writer: &inner.writer,
            readers: &inner.readers,
            upkeep: &mut upkeep,
            wanted: &inner.upkeep_wanted,
        })
    }

    /// Totals.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        Stats {
            buffer: shared.gauges.total(Lane::Store),
            chunks: shared.gauges.chunks.total(),
            live: shared.gauges.total(Lane::Live),
            backlog: shared.gauges.total(Lane::Backlog),
            waiting_pages: shared.outgoing.waiting(),
            conflicts: shared.conflicts.load(Ordering::Relaxed),
            series: shared.series.len() as u64,
            writer: self.inner.writer.counters(),
        }
    }

    /// Resolves when the writer thread has died: what is acknowledged is safe, nothing more will be.
    pub fn failed(&self) -> impl Future<Output = Fault> + Send + 'static + use<> {
        self.inner.writer.failed()
    }

    /// Takes no new append, commits what is queued, and closes the database. Blocks.
    pub fn stop(&self) {
        self.inner.writer.stop();
    }

    /// Levers for tests and drills.
    #[doc(hidden)]
    pub fn faults(&self) -> &store::Faults {
        self.inner.writer.faults()
    }
}

fn open_database(path: &Path, options: &Options) -> Result<(Connection, Opened), OpenError> {
    let mut connection = store::open(path, STEPS, &options.database)?;
    let opened = recover(&mut connection, options.clone())?;
    Ok((connection, opened))
}

fn is_damage(error: &OpenError) -> bool {
    matches!(error, OpenError::Store(store::OpenError::Corrupt { .. }) | OpenError::Fault(Fault::Corrupt(_)))
}

fn raw(shared: &Shared, lane: Lane, runs: Vec<RunBuilder>) -> Result<Job, AppendError> {
    let weight: usize = runs.iter().map(RunBuilder::bytes).sum();
    if runs.is_empty() || runs.iter().any(RunBuilder::is_empty) {
        return Err(wire::Fault::Rule { field: "runs", rule: "are missing or empty" }.into());
    }
    check_size(weight)?;
    let ids = shared.series.number(runs.iter().map(|run| run.series().as_str()));
    Ok(Job::Raw { lane, runs: ids.into_iter().zip(runs).collect(), weight })
}

/// Validates runs and notes what the writer thread has to know of them.
fn look(shared: &Shared, bytes: &Bytes) -> Result<Vec<RunMeta>, AppendError> {
    check_size(bytes.len())?;
    let mut metas = Vec::new();
    let mut names = Vec::new();
    let mut start = 0;
    for run in Runs::new(bytes) {
        let run = run?;
        let end = start + run.raw().len() as u32;
        names.push(run.series());
        metas.push(RunMeta {
            series: 0,
            epoch: run.epoch().0,
            first_seq: run.first_seq(),
            count: run.count(),
            at_min: run.at_min(),
            at_max: run.at_max(),
            start,
            end,
        });
        start = end;
    }
    if metas.is_empty() {
        return Err(wire::Fault::Rule { field: "runs", rule: "are missing" }.into());
    }
    let ids = shared.series.number(names.into_iter());
    for (meta, id) in metas.iter_mut().zip(ids) {
        meta.series = id;
    }
    Ok(metas)
}

fn check_size(bytes: usize) -> Result<(), AppendError> {
    match bytes <= APPEND_BYTES_MAX {
        true => Ok(()),
        false => Err(wire::Fault::Rule { field: "runs", rule: "are larger than 32 MiB" }.into()),
    }
}
