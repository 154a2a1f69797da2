//! How far the cloud has taken what is said of the index.

use std::sync::Arc;

use tokio::sync::watch;

/// What was said on the connection in force and acknowledged: all changes up to a count, and all that was asked for up to a count. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<watch::Sender<Option<(u64, u64)>>>);

impl Progress {
    /// Another connection: nothing is said by it yet.
    pub(crate) fn start_over(&self) {
        self.0.send_replace(None);
    }

    /// The cloud has taken everything: changes up to [`archive::Archive::watch_index`]'s `changes`, and the first `asked` asks.
    pub(crate) fn said(&self, changes: u64, asked: u64) {
        self.0.send_replace(Some((changes, asked)));
    }

    /// Resolves when that is so.
    pub(crate) async fn reaches(&self, changes: u64, asked: u64) {
        let mut said = self.0.subscribe();
        let reached = |said: &Option<(u64, u64)>| said.is_some_and(|said| said.0 >= changes && said.1 >= asked);
        if said.wait_for(reached).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn c6_progress_is_that_of_the_connection_in_force() {
        let progress = Progress::default();
        let reaches = async |changes, asked| {
            tokio::time::timeout(Duration::from_millis(20), progress.reaches(changes, asked)).await.is_ok()
        };
        assert!(!reaches(0, 0).await, "nothing was said yet");
        progress.said(4, 1);
        assert!(reaches(4, 1).await && reaches(3, 0).await && !reaches(5, 1).await && !reaches(4, 2).await);
        progress.start_over();
        assert!(!reaches(3, 0).await);
    }
}
