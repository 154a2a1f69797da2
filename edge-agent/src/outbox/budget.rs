//! The outbox's byte budget: claimed before a reading is submitted, given back when the relay has answered.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Counts bytes against a limit. A single claim above the limit is let in when nothing else is, or it would wait for ever.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: Mutex<u64>,
    freed: Notify,
}

/// Bytes that are claimed and not committed. Dropped, it gives them back: a batch that never got into the database, for whatever
/// reason, costs nothing.
#[derive(Debug)]
pub(crate) struct Claim {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64, used: u64) -> Self {
        Self { limit, used: Mutex::new(used), freed: Notify::new() }
    }

    /// Claims `bytes`, or says that there is no room.
    pub(crate) fn try_claim(self: &Arc<Self>, bytes: u64) -> Option<Claim> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if *used != 0 && used.saturating_add(bytes) > self.limit {
            return None;
        }
        *used += bytes;
        Some(Claim { budget: self.clone(), bytes })
    }

    /// Claims `bytes` as soon as there is room.
    pub(crate) async fn claim(self: &Arc<Self>, bytes: u64) -> Claim {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before the look, so that no release in between is missed.
            freed.as_mut().enable();
            if let Some(claim) = self.try_claim(bytes) {
                return claim;
            }
            freed.await;
        }
    }

    pub(crate) fn release(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(bytes);
        drop(used);
        self.freed.notify_waiters();
    }
}

impl Claim {
    /// The batch is committed: its bytes stay in use until [`Budget::release`].
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_finds_no_room_waits_for_a_release() {
        let budget = Arc::new(Budget::new(100, 0));
        budget.try_claim(90).unwrap().keep();
        assert!(budget.try_claim(11).is_none());
        let small = budget.try_claim(10).unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.claim(50).await.keep() }
        });
        tokio::task::yield_now().await;
        budget.release(40);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(small);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        assert!(budget.try_claim(1).is_none());
        budget.release(100);
        assert!(budget.try_claim(1000).is_some(), "a claim above the limit must not wait for ever");
    }
}
