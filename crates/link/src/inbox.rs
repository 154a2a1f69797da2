//! What came in and was not read yet, bounded by count and by bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::Received;

/// The connection's end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    queue: mpsc::Sender<Entry>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

type Entry = (Received, OwnedSemaphorePermit);

/// There is no room, and there will be none.
pub(crate) struct Overfull;

/// What the peer sends us, in order. The queue is bounded by count and bytes; when it is full the connection waits up to
/// the keep-alive time for room and is then ended, because a reader that stands still would also hold up the
/// acknowledgements. Dropping this throws away what comes.
#[derive(Debug)]
pub struct Incoming {
    queue: mpsc::Receiver<Entry>,
}

pub(crate) fn inbox(count_max: usize, bytes_max: usize) -> (Inbox, Incoming) {
    let (sender, queue) = mpsc::channel(count_max.max(1));
    let bytes_max =
        u32::try_from(bytes_max).unwrap_or(u32::MAX).min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX)).max(1);
    let inbox = Inbox { queue: sender, bytes: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max };
    (inbox, Incoming { queue })
}

impl Inbox {
    /// Waits for room. A message larger than the whole budget waits for an empty queue.
    pub(crate) async fn put(&self, received: Received) -> Result<(), Overfull> {
        let bytes = u32::try_from(received.payload.len()).unwrap_or(u32::MAX).min(self.bytes_max);
        let room = self.bytes.clone().acquire_many_owned(bytes).await;
        let room = room.map_err(|_| Overfull)?;
        // An owner that dropped its end does not want any.
        let _ = self.queue.send((received, room)).await;
        Ok(())
    }
}

impl Incoming {
    /// The next message; `None` when the link was closed.
    pub async fn next(&mut self) -> Option<Received> {
        self.queue.recv().await.map(|(received, _)| received)
    }
}
