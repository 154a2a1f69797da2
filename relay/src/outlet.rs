//! Saying something to the cloud beside the frames, by whatever way is in force.
//!
//! What is said here has no custody: nothing is kept, nothing is sent again. Who needs certainty looks at [`Outlet::connections`] and
//! says it anew on each connection.

use std::sync::Arc;

use bytes::Bytes;
use link::{Link, PublishError};
use tokio::sync::watch;
use wire::RelayId;
use wire::topics::{SegmentName, Topic, Up};

/// Publishes on `up/{relay}/…`. Clones share the way.
#[derive(Debug, Clone)]
pub struct Outlet {
    relay: RelayId,
    /// `None` while there is no connection.
    link: Arc<watch::Sender<Option<Link>>>,
    connections: Arc<watch::Sender<u64>>,
}

impl Outlet {
    /// An outlet without a connection. The uplink gives it one; in a relay without a cloud it never gets any.
    #[must_use]
    pub fn new(relay: RelayId) -> Self {
        Self { relay, link: Arc::new(watch::Sender::default()), connections: Arc::new(watch::Sender::default()) }
    }

    /// Publishes at QoS 1 and resolves at the acknowledgement of the cloud, which says that it was heard, not that it was kept. Waits
    /// for a connection. Drop it to give up.
    ///
    /// # Errors
    /// [`PublishError::Lost`] when the connection ended before the acknowledgement: it may have been heard or not.
    /// [`PublishError::Refused`] when the cloud does not take it.
    pub async fn publish(&self, kind: Up, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        let topic = Topic::Up { relay: SegmentName::from(&self.relay), kind }.to_string();
        let payload = payload.into();
        let mut current = self.link.subscribe();
        loop {
            let Ok(link) = current.wait_for(Option::is_some).await.map(|link| link.clone()) else {
                return Err(PublishError::Closed);
            };
            let Some(link) = link else { continue };
            match link.publish(topic.as_str(), payload.clone()).await {
                // The way was given up before anything was sent; the next one may have it. A link is withdrawn here before it is closed.
                Err(PublishError::Closed) => {}
                outcome => return outcome,
            }
        }
    }

    /// Number of the connection by which is spoken now: 0 before the first one, and another with each that comes, be it the same way
    /// again or another. That a connection was lost shows only when the next one is there.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// There is a connection.
    pub(crate) fn open(&self, link: &Link) {
        self.link.send_replace(Some(link.clone()));
        self.connections.send_modify(|number| *number += 1);
    }

    /// There is none.
    pub(crate) fn shut(&self) {
        self.link.send_replace(None);
    }
}
