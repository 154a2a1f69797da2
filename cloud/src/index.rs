//! The index: which chunks relays keep in their storage areas (A5) — the second storage module.
//!
//! Relays state their chunks in pages, each of which replaces all of its stretch in one transaction and is acknowledged after that commit. An
//! entry that its relay states no more is not forgotten at once: its records are on their way, by a spill or a pull. It is forgotten when
//! they are in the archive and gave the root that was announced (A13, C5); if they gave another one, that is an alarm, and kept. So at any
//! moment each record that some relay has stated is in the archive, or the index says where it should be.
//!
//! A damaged index is put aside and a fresh one started: relays send sums after each connection, and state again what differs.

mod compare;
mod read;
mod statements;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use broker::Refusal;
use parking_lot::Mutex;
use store::{Busy, Readers, Step, Ticket, Writer};
use wire::frame::SEQ_MAX;
use wire::index::{IndexEntry, Stretch};
use wire::{At, Command, Digest, Epoch, Intervals, RelayId, Series};

use crate::commands::Commands;
use crate::metrics::Metrics;
pub(crate) use compare::{compare, compare_left};
pub(crate) use read::{Database, Known, Mismatch, ReadError, Standing};
pub(crate) use statements::Statements;
use work::{Done, Job, Keeper};

/// Migrations; released ones are never edited.
const STEPS: &[Step] = &[
    Step { name: "index", sql: include_str!("index/sql/001_index.sql") },
    Step { name: "statements", sql: include_str!("index/sql/002_statements.sql") },
    Step { name: "heard", sql: include_str!("index/sql/003_heard.sql") },
];
pub(crate) const DATABASE: &str = "index.sqlite";
/// Bytes of pages that may wait for the writer; a page above it is refused with "quota exceeded", and its relay sends it again.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// Why the index can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// A damaged one can't be put aside, or no thread can be had.
    #[error("can't use the folder of the index")]
    Io(#[from] std::io::Error),
    /// What was stated before can't be read.
    #[error("what relays have stated can't be read: {0}")]
    Stated(String),
}

/// How large the index may be, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// Entries at most.
    pub(crate) entries_max: u64,
    /// How many may read at the same time.
    pub(crate) readers: usize,
    /// Whether what relays state is anchored.
    pub(crate) is_anchored: bool,
}

/// Why archive and index together can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookFault {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::ReadError),
    /// The index.
    #[error(transparent)]
    Index(#[from] ReadError),
    /// The index's writer.
    #[error(transparent)]
    Writer(#[from] store::Fault),
}

/// The numbers of `set` that `other` does not hold.
pub(crate) fn without(set: &Intervals, other: &Intervals) -> Intervals {
    set.as_slice().iter().flat_map(|(low, high)| other.missing(*low, *high)).collect()
}

/// The index. Clones share it. Methods that read block on the disk.
#[derive(Clone)]
pub(crate) struct Index(Arc<Inner>);

struct Inner {
    epoch: Epoch,
    writer: Writer<Keeper>,
    readers: Readers,
    commands: Commands,
    metrics: Metrics,
    /// Of each relay how often it has said sums, and how many of these are not compared yet.
    sums: Mutex<HashMap<RelayId, (u64, u64)>>,
}

/// What a relay has said, on its way into the index.
pub(crate) struct Noting {
    index: Index,
    relay: RelayId,
    epoch: Epoch,
    ticket: Ticket<Done>,
    sums: Vec<(Stretch, u64, Digest)>,
    comparing: Option<Comparing>,
}

/// Sums that are not compared with the index yet.
struct Comparing(Index, RelayId);

impl Comparing {
    fn begin(index: &Index, relay: &RelayId) -> Self {
        let mut sums = index.0.sums.lock();
        let (times, open) = sums.entry(relay.clone()).or_default();
        *times += 1;
        *open += 1;
        Self(index.clone(), relay.clone())
    }
}

impl Drop for Comparing {
    fn drop(&mut self) {
        if let Some((_, open)) = self.0.0.sums.lock().get_mut(&self.1) {
            *open -= 1;
        }
    }
}

impl Index {
    /// Opens the index in `folder`, made by then.
    pub(crate) fn open(
        folder: &Path,
        now: archive::Now,
        Scope { entries_max, readers, is_anchored }: Scope,
        commands: Commands,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let path = folder.join(DATABASE);
        let options = store::Options::default();
        let mut connection = match store::open(&path, STEPS, &options) {
            Err(error @ store::OpenError::Corrupt { .. }) => {
                let aside = store::quarantine(&path)?;
                tracing::error!(%error, aside = %aside.display(), "ALARM: the index was damaged; it was put aside, and relays will state theirs again");
                store::open(&path, STEPS, &options)?
            }
            other => other?,
        };
        let count = connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).map_err(store::OpenError::from)?;
        if is_anchored {
            let made_up =
                statements::catch_up(&mut connection, now().max(0)).map_err(|error| OpenError::Stated(error.to_string()))?;
            if made_up > 0 {
                tracing::info!(chunks = made_up, "chunks that relays stated before are anchored from now on");
            }
        }
        let (epoch, waiting) = statements::standing(&connection).map_err(store::OpenError::from)?;
        let limits = store::Limits { queue_bytes_max: QUEUE_BYTES_MAX, ..store::Limits::default() };
        let keeper = Keeper::new(now, entries_max, count, is_anchored.then_some(waiting));
        let writer = Writer::spawn("index", connection, keeper, limits)?;
        let readers = Readers::new(path, options, readers);
        Ok(Self(Arc::new(Inner { epoch, writer, readers, commands, metrics, sums: Mutex::default() })))
    }

    /// What the database is called as a source of batches.
    pub(crate) fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// Takes what a relay says about its chunks. It is kept when [`Noting::settle`] says so.
    pub(crate) fn note(&self, relay: &RelayId, payload: &[u8]) -> Result<Noting, Refusal> {
        let said = wire::index::Index::parse(payload).map_err(|fault| {
            tracing::debug!(%relay, error = %fault, "an index page was refused");
            Refusal::PayloadFormatInvalid
        })?;
        let comparing = matches!(said, wire::index::Index::Sums { .. }).then(|| Comparing::begin(self, relay));
        let (epoch, sums, job) = match said {
            wire::index::Index::Page { relay_epoch, stretch, entries } => {
                if entries.iter().any(|entry| !is_sound(entry)) {
                    return Err(Refusal::PayloadFormatInvalid);
                }
                (relay_epoch, Vec::new(), Job::Page { relay: relay.clone(), epoch: relay_epoch, stretch, entries })
            }
            wire::index::Index::Sums { relay_epoch, stretches } => {
                (relay_epoch, stretches, Job::Current { relay: relay.clone(), epoch: relay_epoch })
            }
        };
        let ticket = self.0.writer.try_submit(job).map_err(|busy| match busy {
            Busy::Full(_) => Refusal::QuotaExceeded,
            Busy::Down(fault, _) => unavailable(relay, &fault),
        })?;
        Ok(Noting { index: self.clone(), relay: relay.clone(), epoch, ticket, sums, comparing })
    }

    /// Chunks of a series that may hold records of `from..to`: those that relays state, then those that have left, then those lost.
    pub(crate) fn of_series(&self, series: &Series, range: (At, At)) -> Result<Vec<Known>, ReadError> {
        self.0.readers.read(|tx| read::of_series(tx, series, range))
    }

    /// Mismatches of a series that touch `from..to`.
    pub(crate) fn mismatches(&self, series: &Series, range: (At, At)) -> Result<Vec<Mismatch>, ReadError> {
        self.0.readers.read(|tx| read::mismatches(tx, series, range))
    }

    /// Names of series that relays have stated, as far as they pass; sorted.
    pub(crate) fn series(&self, pass: impl Fn(&str) -> bool) -> Result<BTreeSet<Series>, ReadError> {
        self.0.readers.read(|tx| read::series(tx, pass))
    }

    /// How often a relay has said sums, if all of them are compared with the index and what differs is asked for.
    pub(crate) fn compared(&self, relay: &RelayId) -> Option<u64> {
        let (times, open) = self.0.sums.lock().get(relay).copied().unwrap_or_default();
        (open == 0).then_some(times)
    }

    /// The databases of relays.
    pub(crate) fn databases(&self) -> Result<Vec<Database>, ReadError> {
        self.0.readers.read(read::databases)
    }

    /// A database of a relay was heard whole. It is kept some time later; that it was is not waited for, because an older time only says less.
    pub(crate) fn heard(&self, relay: RelayId, epoch: Epoch, at: At) {
        if let Err(fault) = self.0.writer.submit_ahead(Job::Heard { relay, epoch, at }) {
            tracing::warn!(%fault, "when a relay was heard is not kept");
        }
    }

    /// Chunks behind row `after` that no relay states any more, and whose records were not found yet.
    pub(crate) fn left_after(&self, after: i64, limit: usize) -> Result<Vec<Known>, ReadError> {
        self.0.readers.read(|tx| read::left(tx, after, limit))
    }

    /// The records of an entry are in the archive and give the root `found`: says whether it is the one that was announced.
    ///
    /// # Errors
    /// The writer failed.
    pub(crate) fn compare(&self, known: &Known, found: Digest) -> Result<bool, store::Fault> {
        match self.0.writer.submit_ahead(Job::Checked { row: known.row, found })?.wait()? {
            Done::Compared { same } => {
                self.0.metrics.chunks_compared.inc();
                if !same {
                    self.0.metrics.chunks_mismatched.inc();
                    tracing::error!(
                        relay = %known.relay, chunk = known.chunk, series = %known.series, epoch = %known.epoch,
                        "ALARM: the records of a chunk came with another content than its relay had announced"
                    );
                }
                Ok(same)
            }
            other => Err(unexpected(other)),
        }
    }

    /// The operator knows that what older databases of a relay held is lost; or, if `whole`, that the relay is gone with all that it held.
    /// Gives how many chunks that were.
    ///
    /// # Errors
    /// The writer failed.
    pub(crate) async fn give_up(&self, relay: RelayId, whole: bool) -> Result<u64, store::Fault> {
        match self.0.writer.submit_ahead(Job::GiveUp { relay, whole })?.await? {
            Done::GivenUp(entries) => Ok(entries),
            other => Err(unexpected(other)),
        }
    }

    /// Commits what is queued and closes the database. Blocks.
    pub(crate) fn stop(&self) {
        self.0.writer.stop();
    }

    /// Resolves when the writer thread has died.
    pub(crate) fn failed(&self) -> impl Future<Output = store::Fault> + Send + 'static + use<> {
        self.0.writer.failed()
    }
}

impl Noting {
    /// Waits for the commit. After sums, what differs is asked for.
    pub(crate) async fn settle(self) -> Result<(), Refusal> {
        let Self { index, relay, epoch, ticket, sums, comparing } = self;
        match ticket.await {
            Ok(Done::Kept { lost }) => {
                index.0.metrics.index_messages.inc();
                if lost > 0 {
                    tracing::error!(
                        %relay, chunks = lost,
                        "ALARM: the relay has a fresh database; what the one before kept is lost unless it comes another way"
                    );
                }
            }
            Ok(Done::Full) => {
                tracing::error!(%relay, "the index, or what waits to be anchored of it, is full: raise history.index_entries_max");
                return Err(Refusal::QuotaExceeded);
            }
            Ok(other) => return Err(unavailable(&relay, &unexpected(other))),
            Err(fault) => return Err(unavailable(&relay, &fault)),
        }
        if !sums.is_empty() {
            // Beside the acknowledgement: an order that does not reach the relay is repeated after its next connection.
            tokio::spawn(async move {
                reconcile(index, relay, epoch, sums).await;
                drop(comparing);
            });
        }
        Ok(())
    }
}

/// Compares sums with the index and has the relay state again what differs.
async fn reconcile(index: Index, relay: RelayId, epoch: Epoch, sums: Vec<(Stretch, u64, Digest)>) {
    let looked = tokio::task::spawn_blocking({
        let (index, relay) = (index.clone(), relay.clone());
        move || index.0.readers.read(|tx| read::differing(tx, &relay, epoch, &sums))
    });
    let stretches = match looked.await {
        Ok(Ok(stretches)) => stretches,
        Ok(Err(error)) => return tracing::error!(%relay, %error, "the sums of a relay can't be compared"),
        Err(error) => return tracing::error!(%relay, %error, "the sums of a relay can't be compared"),
    };
    for piece in stretches.chunks(wire::index::STRETCHES_MAX) {
        index.0.metrics.index_stretches_asked.inc_by(piece.len() as u64);
        tracing::info!(%relay, stretches = piece.len(), "the index differs from the relay's, which is asked to state it again");
        let id = index.0.commands.next();
        index.0.commands.send(&relay, &Command::Index { id, stretches: piece.to_vec() }).await;
    }
}

/// Numbers that a record can have; the wire format allows more.
fn is_sound(entry: &IndexEntry) -> bool {
    entry.at_min >= 0
        && entry.seqs.first().is_some_and(|first| first > 0)
        && entry.seqs.last().is_some_and(|last| last <= SEQ_MAX)
}

fn unavailable(relay: &RelayId, fault: &store::Fault) -> Refusal {
    tracing::error!(%relay, %fault, "an index page could not be kept");
    Refusal::Unavailable
}

fn unexpected(done: Done) -> store::Fault {
    store::Fault::Work(format!("the index answered {done:?} to another question").into())
}
