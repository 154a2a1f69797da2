//! What goes in, and what is said about it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use store::{Fault, Ticket};
use wire::{Announcement, Epoch, RelayId, RunBuilder};

use crate::engine::Done;

/// Where records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// The storage area: kept here, becomes chunks, answers scans.
    Store,
    /// On its way to the cloud at once.
    Live,
    /// On its way to the cloud when there is room beside the live lane.
    Backlog,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Store, Self::Live, Self::Backlog];

    /// The word for metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Live => "live",
            Self::Backlog => "backlog",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A frame as its relay numbers it: its page there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FrameRef {
    /// The relay.
    pub relay: RelayId,
    /// The relay's database.
    pub relay_epoch: Epoch,
    /// The page's id.
    pub number: u64,
}

/// What is to be kept. One `Append` is durable as a whole or not at all.
#[derive(Debug)]
pub enum Append {
    /// Readings without a key: this database is their origin and gives epoch and sequence numbers, without gaps, at the commit.
    Raw {
        /// Where they go.
        lane: Lane,
        /// At least one run, none of them empty.
        runs: Vec<RunBuilder>,
    },
    /// Records whose origin is elsewhere; kept as they are, without a verdict. The relay's way for the frames of agents.
    Framed {
        /// Where they go.
        lane: Lane,
        /// Canonical runs, one behind the other.
        runs: Bytes,
        /// Secrets of their epochs that came with them.
        secrets: Vec<Announcement>,
    },
    /// A relay's frame, to be kept exactly once: the cloud's way. The verdicts are found and the frame's number is remembered in the
    /// transaction that keeps the records.
    Ingest {
        /// Which frame.
        from: FrameRef,
        /// Canonical runs, one behind the other.
        runs: Bytes,
        /// Secrets of their epochs that came with them.
        secrets: Vec<Announcement>,
    },
}

/// The verdicts on an append, in records. It is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appended {
    /// Kept now.
    pub new: u64,
    /// Held already, with the same content. Acknowledge them like the new ones.
    pub duplicate: u64,
    /// Held already, with other content: put aside with both digests. Alarm.
    pub conflict: u64,
    /// The whole frame had been received before; nothing in it was looked at again.
    pub repeated: bool,
}

/// Why an append was not kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The lane's budget is used up. Answer `QuotaExceeded`; it may be tried again when something was handed over or delivered.
    #[error("the {lane} lane is full: its budget is {budget} bytes")]
    Full {
        /// The lane.
        lane: Lane,
        /// Its budget, in bytes.
        budget: u64,
    },
    /// More is queued than the disk keeps up with. Wait, or refuse.
    #[error("the writer's queue is full")]
    Busy,
    /// The bytes are not what they should be. Refuse for good.
    #[error("not canonical runs: {0}")]
    Malformed(#[from] wire::Fault),
    /// The commit failed: nothing of it was kept.
    #[error(transparent)]
    NotKept(#[from] Fault),
}

/// The claim on an append: resolves after the commit. A future, or a blocking [`Appending::wait`].
#[derive(Debug)]
#[must_use = "an append is durable only when this says so"]
pub struct Appending(pub(crate) Ticket<Done>);

impl Appending {
    /// Blocks this thread until the commit.
    ///
    /// # Errors
    /// [`AppendError::NotKept`] if the commit failed.
    pub fn wait(self) -> Result<Appended, AppendError> {
        answer(self.0.wait())
    }
}

impl Future for Appending {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(answer)
    }
}

fn answer(done: Result<Done, Fault>) -> Result<Appended, AppendError> {
    match done? {
        Done::Appended(appended) => Ok(appended),
        other => Err(AppendError::NotKept(other.unexpected())),
    }
}
