//! Subscriptions that somebody in the process feeds, message by message, instead of the router: `$from/{since}/{filter}`.
//!
//! The session takes from a feed only what the client has room for, so a client that reads slowly slows its own feed and nothing
//! else, and loses nothing by it. What the hook's side keeps ready is bounded by the channel that it makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::intake::Client;
use crate::message::Message;
use crate::metrics::{Metrics, Reason};

/// What the filters of fed subscriptions begin with.
pub(crate) const PREFIX: &str = "$from/";

/// Opens feeds.
pub trait Feeds: Send + Sync + 'static {
    /// Opens a feed of what matches `filter`, a valid filter that the client is granted to subscribe to, since the moment that the
    /// text `since` stands for. Must not block.
    ///
    /// # Errors
    /// Why not; the client is told in the SUBACK.
    fn open(&self, client: &Client, since: &str, filter: &str) -> Result<Feed, FeedRefusal>;
}

/// Messages in the order in which the client gets them. Whoever makes them learns that nobody wants more when the channel closes.
/// A feed that can't go on says why as the last thing: the connection is closed with it, because MQTT has no other way to tell a
/// client that a subscription has ended.
pub type Feed = mpsc::Receiver<Result<Vec<Message>, FeedEnd>>;

/// Why a feed is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedRefusal {
    /// The text is no moment, or nothing can be fed under this filter.
    #[error("topic filter invalid")]
    FilterInvalid,
    /// The client may not see this.
    #[error("not authorised")]
    NotAuthorized,
    /// A budget is used up; later it may work.
    #[error("quota exceeded")]
    QuotaExceeded,
}

impl FeedRefusal {
    pub(crate) fn answer(self) -> (u8, Reason) {
        match self {
            FeedRefusal::FilterInvalid => (0x8F, Reason::Content),
            FeedRefusal::NotAuthorized => (0x87, Reason::NotAuthorized),
            FeedRefusal::QuotaExceeded => (0x97, Reason::Quota),
        }
    }
}

/// Why a feed does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedEnd {
    /// The client may not see this any more.
    #[error("not authorised any more")]
    NotAuthorized,
    /// It needs more memory than a feed may have.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// What it is made of can't be read now.
    #[error("unavailable")]
    Unavailable,
}

impl FeedEnd {
    /// The code of the DISCONNECT.
    pub(crate) fn answer(self) -> (u8, Reason) {
        match self {
            FeedEnd::NotAuthorized => (0x87, Reason::NotAuthorized),
            FeedEnd::QuotaExceeded => (0x97, Reason::Quota),
            // There is no better one: "implementation specific error".
            FeedEnd::Unavailable => (0x83, Reason::Unavailable),
        }
    }
}

/// Feeds open in the whole broker.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

/// One of them; given back when it is dropped.
pub(crate) struct Seat {
    count: Arc<Count>,
    metrics: Metrics,
}

impl Seat {
    /// `None`: all are taken.
    pub(crate) fn take(count: &Arc<Count>, max: usize, metrics: &Metrics) -> Option<Seat> {
        let one_more = |open: usize| (open < max).then_some(open + 1);
        count.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        metrics.fed(1);
        Some(Seat { count: count.clone(), metrics: metrics.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.count.0.fetch_sub(1, Ordering::AcqRel);
        self.metrics.fed(-1);
    }
}
