//! Showing a record without handing it over: the record and its way to the root of its chunk, which the cloud has anchored (C5).

use archive::Showing;
use tokio::sync::mpsc;
use wire::RecordKey;
use wire::index::Outcome;

use super::Handover;

/// A record that the cloud wants to see.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: u64,
    pub(super) chunk: u64,
    pub(super) key: RecordKey,
}

impl Handover {
    /// Shows what is asked for, one after the other.
    pub(super) async fn show(&self, mut wanted: mpsc::Receiver<Wanted>) {
        while let Some(Wanted { id, chunk, key }) = wanted.recv().await {
            let archive = self.archive.clone();
            let (key, shown) = crate::blocking(move || {
                let shown = archive.show(chunk, &key);
                (key, shown)
            })
            .await;
            match shown {
                Ok(Showing::Shown(shown)) => self.reply(id, Outcome::Shown(shown)),
                Ok(Showing::Absent) => self.fail(id, &format!("chunk {chunk} with {key} is not in the storage area")),
                Ok(Showing::NoSecret) => self.fail(id, &format!("the secret of the epoch of {key} is not known")),
                Err(error) => {
                    tracing::error!(chunk, %key, %error, "ALARM: a chunk of the storage area can't be shown");
                    self.fail(id, &format!("chunk {chunk} can't be read: {error}"));
                }
            }
        }
    }
}
