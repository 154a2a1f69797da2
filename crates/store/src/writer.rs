//! One thread owns the writing connection and commits in groups.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction};
use tokio::sync::watch;

use crate::faults::Faults;
use crate::open::is_damage;
use crate::queue::Queue;
use crate::ticket::{Ticket, block_on};
use crate::worker::Worker;

/// What a writer thread does with its jobs.
pub trait Work: Send + 'static {
    /// What is submitted.
    type Job: Send + 'static;
    /// What is answered once it is durable. A job that is refused without harm to the others says so in here.
    type Done: Send + 'static;

    /// Applies a group, or the next part of one that waits for company, within the group's one transaction and gives one answer a job, in
    /// order. `jobs` may be drained.
    ///
    /// # Errors
    /// Any error rolls the whole group back and is what every one of its jobs is answered with.
    fn apply(&mut self, tx: &Transaction<'_>, jobs: &mut Vec<Self::Job>) -> Result<Vec<Self::Done>, Fault>;

    /// The group has all its parts and is about to be committed.
    ///
    /// # Errors
    /// As [`Work::apply`].
    fn complete(&mut self, _tx: &Transaction<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether the commit of this job may wait for company, if [`Limits::group_wait`] lets it.
    fn is_patient(_job: &Self::Job) -> bool {
        true
    }

    /// The group is durable; called before anybody is told.
    fn committed(&mut self) {}

    /// The group is not in the database: whatever `apply` changed in memory is to be undone.
    fn rolled_back(&mut self) {}

    /// The thread ends because it was told to; everything that it was given has been answered.
    fn ended(&mut self, _connection: &Connection) {}

    /// About how many bytes a job holds, for the limits.
    fn weigh(job: &Self::Job) -> usize;
}

/// Limits of a writer's queue and groups.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most jobs in one commit.
    pub group_jobs_max: usize,
    /// A commit takes no further job above this: bounds how long the first one in it waits for the last.
    pub group_bytes_max: usize,
    /// How long a commit waits for company while all its jobs are patient. Zero: a group is whatever was queued while the commit before it
    /// ran. Jobs are applied when they come and not at the end of the wait.
    pub group_wait: Duration,
    /// Most bytes submitted and not yet committed. What comes then waits ([`Writer::submit`]) or is refused ([`Writer::try_submit`]).
    pub queue_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { group_jobs_max: 16_384, group_bytes_max: 8 << 20, group_wait: Duration::ZERO, queue_bytes_max: 128 << 20 }
    }
}

/// Why a job was not committed. Cheap to clone: a whole group shares one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The disk, or the size allowed to the database, is used up. Retry when there is room.
    #[error("the disk is full")]
    Full,
    /// The database is damaged.
    #[error("the database is damaged: {0}")]
    Corrupt(Arc<str>),
    /// SQLite failed for another reason.
    #[error("sqlite: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The work itself refused the group.
    #[error("{0}")]
    Work(Arc<str>),
    /// The writer thread panicked and is gone.
    #[error("the writer thread panicked: {0}")]
    Panicked(Arc<str>),
    /// The writer was stopped.
    #[error("the writer was stopped")]
    Stopped,
}

impl Fault {
    /// Whether the thread can't go on. After a failed sync the kernel may call a page clean that never reached the disk.
    pub(crate) fn is_fatal(&self) -> bool {
        match self {
            Self::Panicked(_) => true,
            Self::Sqlite(error) => {
                error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_FSYNC)
            }
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ if is_damage(&error) => Self::Corrupt(error.to_string().into()),
            _ => Self::Sqlite(Arc::new(error)),
        }
    }
}

/// Why a job was not taken; it comes back.
#[derive(thiserror::Error)]
pub enum Busy<J> {
    /// The queue is full.
    #[error("the writer's queue is full")]
    Full(J),
    /// The writer is stopped or has failed.
    #[error("{0}")]
    Down(Fault, J),
}

impl<J> fmt::Debug for Busy<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Running totals of a writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Groups committed.
    pub groups: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Groups that failed.
    pub failed_groups: u64,
    /// Time from the start of a group to its commit without the wait for company, all groups together.
    pub busy: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    groups: AtomicU64,
    jobs: AtomicU64,
    failed: AtomicU64,
    busy_ns: AtomicU64,
}

impl Tally {
    pub(crate) fn committed(&self, jobs: usize, took: Duration) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.jobs.fetch_add(jobs as u64, Ordering::Relaxed);
        self.busy_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handle on the writer thread. Clones share it; when the last one goes, the queue is drained and the thread ends.
pub struct Writer<W: Work> {
    handle: Arc<Handle<W>>,
}

struct Handle<W: Work> {
    queue: Arc<Queue<W::Job, W::Done>>,
    tally: Arc<Tally>,
    faults: Arc<Faults>,
    failed: watch::Receiver<Option<Fault>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<W: Work> Clone for Writer<W> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone() }
    }
}

impl<W: Work> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl<W: Work> Writer<W> {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn(name: &str, connection: Connection, work: W, limits: Limits) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new(limits));
        let tally = Arc::new(Tally::default());
        let faults = Arc::new(Faults::default());
        let (sender, failed) = watch::channel(None);
        let worker =
            Worker { connection, work, queue: queue.clone(), tally: tally.clone(), faults: faults.clone(), failed: sender };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?;
        Ok(Self { handle: Arc::new(Handle { queue, tally, faults, failed, thread: Mutex::new(Some(thread)) }) })
    }

    /// Submits a job; waits, in turn, while the queue is full.
    ///
    /// # Errors
    /// The writer is stopped or has failed.
    pub async fn submit(&self, job: W::Job) -> Result<Ticket<W::Done>, Fault> {
        let bytes = W::weigh(&job);
        self.handle.queue.push_waiting(job, bytes).await
    }

    /// Submits a job; blocks this thread while the queue is full.
    ///
    /// # Errors
    /// The writer is stopped or has failed.
    pub fn submit_blocking(&self, job: W::Job) -> Result<Ticket<W::Done>, Fault> {
        match self.try_submit(job) {
            Ok(ticket) => Ok(ticket),
            Err(Busy::Full(job)) => block_on(self.submit(job)),
            Err(Busy::Down(fault, _)) => Err(fault),
        }
    }

    /// Submits a job; a full queue refuses it at once.
    ///
    /// # Errors
    /// [`Busy`] gives the job back.
    pub fn try_submit(&self, job: W::Job) -> Result<Ticket<W::Done>, Busy<W::Job>> {
        let bytes = W::weigh(&job);
        self.handle.queue.try_push(job, bytes)
    }

    /// Submits a job that no limit holds up: for the few that make room and must get through when everything is full.
    ///
    /// # Errors
    /// The writer is stopped or has failed.
    pub fn submit_ahead(&self, job: W::Job) -> Result<Ticket<W::Done>, Fault> {
        self.handle.queue.push_ahead(job).map_err(|busy| match busy {
            Busy::Down(fault, _) => fault,
            Busy::Full(_) => Fault::Stopped,
        })
    }

    /// Bytes that may be submitted now before the queue is full. Others submit too: a hint, not a promise.
    pub fn room(&self) -> usize {
        self.handle.queue.room()
    }

    /// Resolves when the thread has died of a panic or of a sync that failed. Never resolves for an ordered stop.
    pub fn failed(&self) -> impl Future<Output = Fault> + Send + 'static + use<W> {
        let mut failed = self.handle.failed.clone();
        async move {
            // The borrow may not live across the next await.
            let found = failed.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone());
            match found {
                Some(fault) => fault,
                None => std::future::pending().await,
            }
        }
    }

    /// Running totals.
    pub fn counters(&self) -> Counters {
        let tally = &self.handle.tally;
        Counters {
            groups: tally.groups.load(Ordering::Relaxed),
            jobs: tally.jobs.load(Ordering::Relaxed),
            failed_groups: tally.failed.load(Ordering::Relaxed),
            busy: Duration::from_nanos(tally.busy_ns.load(Ordering::Relaxed)),
        }
    }

    /// Takes no new job, commits what is queued, closes the connection and waits for that. Blocks.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// Levers for tests and drills.
    #[doc(hidden)]
    pub fn faults(&self) -> &Faults {
        &self.handle.faults
    }
}

impl<W: Work> Handle<W> {
    fn stop(&self) {
        self.queue.drain();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback on the writer thread itself, which can't wait for its own end.
        if let Some(thread) = thread.filter(|handle| handle.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the writer thread panicked outside a group");
        }
    }
}

impl<W: Work> Drop for Handle<W> {
    fn drop(&mut self) {
        self.stop();
    }
}
