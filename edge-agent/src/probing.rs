//! A round of probes (A1): empty QoS 1 messages to every relay, timed to their acknowledgement.
//!
//! Each relay gets a connection for the round, which ends with it: a relay that is not the target must not cost a connection a sensor
//! all day. The target is measured the same way, so that it is not at a disadvantage behind the frames of its own connection.

use std::time::Duration;

use link::{Link, LinkConfig, LinkState, PublishError};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::choice::Probe;

/// How a round is made.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// The relays, in the order of the answers.
    pub(crate) relays: Vec<LinkConfig>,
    /// Where probes are published.
    pub(crate) topic: String,
    /// Probes a relay.
    pub(crate) count: u32,
    /// For the connection and all probes of a relay.
    pub(crate) timeout: Duration,
}

impl Round {
    /// Probes all relays at once. Ends when each has answered or its time is over.
    pub(crate) async fn run(self) -> Vec<Probe> {
        let mut answers = vec![Probe::Silent; self.relays.len()];
        let mut asked = JoinSet::new();
        for (index, relay) in self.relays.into_iter().enumerate() {
            let (topic, count, limit) = (self.topic.clone(), self.count, self.timeout);
            asked.spawn(async move { (index, probe(relay, topic, count, limit).await) });
        }
        while let Some(answered) = asked.join_next().await {
            match answered {
                Ok((index, answer)) => answers[index] = answer,
                Err(failed) => tracing::error!(%failed, "probing a relay failed"),
            }
        }
        answers
    }
}

async fn probe(relay: LinkConfig, topic: String, count: u32, limit: Duration) -> Probe {
    let address = relay.address();
    let (link, _incoming) = Link::start(relay);
    let answer = timeout(limit, measure(&link, &topic, count)).await.unwrap_or(Probe::Silent);
    link.close().await;
    tracing::debug!(relay = address, ?answer, "probed");
    answer
}

async fn measure(link: &Link, topic: &str, count: u32) -> Probe {
    let mut state = link.state();
    match state.wait_for(|state| *state != LinkState::Connecting).await.as_deref() {
        Ok(LinkState::Connected { .. }) => {}
        Ok(LinkState::Refused { .. }) => return Probe::Refused,
        _ => return Probe::Silent,
    }
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let started = Instant::now();
        match link.publish(topic, Vec::new()).await {
            Ok(()) => times.push(started.elapsed()),
            Err(PublishError::Refused { .. }) => return Probe::Refused,
            Err(_) => return Probe::Silent,
        }
    }
    times.sort_unstable();
    times.get(times.len() / 2).map_or(Probe::Silent, |median| Probe::Answered(*median))
}
