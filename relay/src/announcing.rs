//! When to look for secrets of epochs that the cloud has not heard of.
//!
//! Secrets come with frames of agents, once in a long while; looking for them in the database before every uplink frame would cost more
//! than the frame. The intake counts what it submits and what is committed; the uplink looks only while the two differ from what it
//! saw. A page that is visible was committed together with its secrets, so the look before sending it finds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts commits with secrets, between the intake and the uplink. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Announcing(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    submitted: AtomicU64,
    settled: AtomicU64,
}

impl Announcing {
    /// Secrets are about to be submitted. Keep what is returned until their commit has succeeded or failed, or they are given up.
    pub(crate) fn submitted(&self) -> Unsettled {
        self.0.submitted.fetch_add(1, Ordering::SeqCst);
        Unsettled(self.clone())
    }

    /// How far commits have settled. Read it before looking.
    pub(crate) fn mark(&self) -> u64 {
        self.0.settled.load(Ordering::SeqCst)
    }

    /// Whether there may be something that a look at `mark` did not find.
    pub(crate) fn is_news(&self, mark: u64) -> bool {
        self.0.submitted.load(Ordering::SeqCst) != mark
    }
}

/// Secrets on their way into the database.
#[derive(Debug)]
pub(crate) struct Unsettled(Announcing);

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.0.settled.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_until_everything_submitted_had_settled_before_it() {
        let announcing = Announcing::default();
        assert!(!announcing.is_news(announcing.mark()));
        let unsettled = announcing.submitted();
        let during = announcing.mark();
        assert!(announcing.is_news(during));
        drop(unsettled);
        assert!(announcing.is_news(during), "the look was before the commit had settled");
        assert!(!announcing.is_news(announcing.mark()));
    }
}
