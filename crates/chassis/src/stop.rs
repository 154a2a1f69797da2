//! The word to stop, as a value.

use std::sync::Arc;

use tokio::sync::watch;

/// Told to everything that runs: finish the work in hand and return.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// The other end of a [`Stop`]. Dropping the last clone does not stop anything.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// A stopper that has not stopped anything yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// A token that hears this stopper.
    pub fn token(&self) -> Stop {
        Stop(self.0.subscribe())
    }

    /// Says stop; saying it again changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Whether stop was said.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}

impl Default for Stopper {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// A token that is never told to stop.
    pub fn never() -> Self {
        Stopper::new().token()
    }

    /// Whether stop was said.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when stop is said; at once if it was. Never resolves when the stopper is gone without having said it.
    pub async fn stopped(&self) {
        let mut heard = self.0.clone();
        if heard.wait_for(|stopped| *stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn is_heard_by_early_and_late_listeners() {
        let stopper = Stopper::new();
        let early = stopper.token();
        let waiting = tokio::spawn({
            let early = early.clone();
            async move { early.stopped().await }
        });
        assert!(!early.is_stopped());
        stopper.stop();
        stopper.stop();
        waiting.await.unwrap();
        stopper.token().stopped().await;
        assert!(early.is_stopped());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopper_that_goes_away_stops_nothing() {
        let stop = Stop::never();
        let waited = tokio::time::timeout(Duration::from_secs(60), stop.stopped()).await;
        assert!(waited.is_err());
        assert!(!stop.is_stopped());
    }
}
