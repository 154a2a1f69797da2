//! A proxy that is tried beside the way in force.

use std::time::Duration;

use bytes::Bytes;
use link::{Link, LinkState, PublishError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::dial::Leg;

/// Pause before a proxy that does not pass anything on yet is asked again: it may hear of its lease after us.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to a proxy, and a heartbeat that is on its way through it.
pub(crate) struct Candidate {
    pub(crate) leg: Leg,
    /// Ends with this.
    asking: JoinSet<bool>,
}

impl Candidate {
    /// Asks, as soon as `leg` is connected, whether a heartbeat gets through.
    pub(crate) fn new(leg: Leg, topic: String, heartbeat: Bytes) -> Self {
        let mut asking = JoinSet::new();
        asking.spawn(gets_through(leg.link.clone(), leg.state.clone(), topic, heartbeat));
        Self { leg, asking }
    }
}

/// Whether the candidate passes on what it is told, as soon as that is known. Pending while there is none.
pub(crate) async fn stands(candidate: &mut Option<Candidate>) -> bool {
    match candidate {
        Some(candidate) => matches!(candidate.asking.join_next().await, Some(Ok(true))),
        None => std::future::pending().await,
    }
}

async fn gets_through(link: Link, mut state: watch::Receiver<LinkState>, topic: String, heartbeat: Bytes) -> bool {
    match state.wait_for(|state| *state != LinkState::Connecting).await.as_deref() {
        Ok(LinkState::Connected { refused_filters }) if refused_filters.is_empty() => {}
        Ok(LinkState::Connected { .. }) => {
            tracing::error!("the proxy refuses this relay's subscriptions; grant it down/{{relay}}/# there");
            return false;
        }
        state => {
            tracing::info!(?state, "the proxy can't be reached");
            return false;
        }
    }
    loop {
        match link.publish(topic.as_str(), heartbeat.clone()).await {
            Ok(()) => return true,
            Err(PublishError::Refused { reason_code: reason_code @ (0x87 | 0x90) }) => {
                tracing::error!(reason_code, "the proxy does not take this relay for a member; grant it up/{{relay}}/# there");
                return false;
            }
            Err(PublishError::Refused { .. }) => tokio::time::sleep(PAUSE).await,
            Err(_) => return false,
        }
    }
}
