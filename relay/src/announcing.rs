//! When to look for secrets of epochs that the cloud has not heard of.
//!
//! Secrets come with frames of agents, once in a long while; looking for them in the database before every uplink frame would cost more
//! than the frame. The intake counts what it submits and what is committed; the uplink looks only while the two differ from what it
//! saw. A page that is visible was committed together with its secrets, so the look before sending it finds them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts commits with secrets, between the intake and the uplink.
#[derive(Debug, Default)]
pub struct Announcing {
    submitted: AtomicU64,
    settled: AtomicU64,
}

impl Announcing {
    /// Secrets are about to be submitted.
    pub(crate) fn submitted(&self) {
        self.submitted.fetch_add(1, Ordering::SeqCst);
    }

    /// Their commit has succeeded or failed.
    pub(crate) fn settled(&self) {
        self.settled.fetch_add(1, Ordering::SeqCst);
    }

    /// How far commits have settled. Read it before looking.
    pub(crate) fn mark(&self) -> u64 {
        self.settled.load(Ordering::SeqCst)
    }

    /// Whether there may be something that a look at `mark` did not find.
    pub(crate) fn is_news(&self, mark: u64) -> bool {
        self.submitted.load(Ordering::SeqCst) != mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_until_everything_submitted_had_settled_before_it() {
        let announcing = Announcing::default();
        assert!(!announcing.is_news(announcing.mark()));
        announcing.submitted();
        let during = announcing.mark();
        assert!(announcing.is_news(during));
        announcing.settled();
        assert!(announcing.is_news(during), "the look was before the commit had settled");
        assert!(!announcing.is_news(announcing.mark()));
    }
}
