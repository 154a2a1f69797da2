//! Catch-up subscriptions (C7): `$from/{time}/data/…` gives what is held since a time and then what comes, each record once.
//!
//! A feed reads the archive and never the router. Of each series and epoch it keeps which numbers it has sent; what is held and
//! was not sent is due. So a hole that is filled later is delivered when it is filled, nothing is delivered twice, and nothing that
//! is not durable is delivered at all. What relays keep of a series is brought before the series is sent, as for a question. A reader that is slow is fed slowly, and no faster than it acknowledges.

mod feed;
mod plan;
mod scribe;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use broker::{Client, FeedRefusal, Feeds, Policy};
use chassis::Clock;
use tokio::sync::{Semaphore, mpsc};

use crate::config;
use crate::history::{History, Viewer};
use crate::metrics::Metrics;
use crate::moment;
use feed::{Feed, Shared};

/// Batches that wait for the session; one more is in the task's hands, and one in the session's.
const BATCHES_MAX: usize = 1;

/// Opens feeds over one archive.
pub(crate) struct CatchUp(Arc<Shared>);

impl CatchUp {
    pub(crate) fn new(history: History, policy: Policy, clock: Arc<dyn Clock>, metrics: Metrics, limits: &config::Feeds) -> Self {
        let memory_max = usize::try_from(limits.memory.bytes()).unwrap_or(usize::MAX);
        let archive = history.archive().clone();
        Self(Arc::new(Shared { archive, history, policy, clock, metrics, readers: Semaphore::new(limits.readers), memory_max }))
    }
}

impl Feeds for CatchUp {
    fn open(&self, client: &Client, since: &str, filter: &str) -> Result<broker::Feed, FeedRefusal> {
        let from = moment::parse(since).map_err(|_| FeedRefusal::FilterInvalid)?;
        if !filter.starts_with("data/") {
            return Err(FeedRefusal::FilterInvalid);
        }
        let viewer = Viewer::client(client);
        if !Feed::is_covered(&self.0, &viewer, filter) {
            return Err(FeedRefusal::NotAuthorized);
        }
        let (out, batches) = mpsc::channel(BATCHES_MAX);
        // Ends when the session drops its end of the channel.
        tokio::spawn(Feed::new(self.0.clone(), viewer, filter.to_owned(), from).run(out));
        Ok(batches)
    }
}
