//! Whether the router still lives: its thread is rumqttd's own, and when it panics nothing else would tell.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::broker::Failure;
use crate::index::slot_name;
use crate::router::{Arrival, Router, RouterFault, publish};

/// The slot that no filter gets.
const PROBE_SLOT: u32 = 0;

/// Sends a probe through the router every `interval`. Returns when one has not come back within `deadline`.
pub(crate) async fn watch(router: Arc<Router>, interval: Duration, deadline: Duration) -> Failure {
    let fault = probe(&router, interval, deadline).await.err();
    tracing::error!(?fault, "the router is dead");
    Failure::RouterSilent(deadline)
}

async fn probe(router: &Arc<Router>, interval: Duration, deadline: Duration) -> Result<(), RouterFault> {
    let Ok(link) = tokio::time::timeout(deadline, router.attach()).await else { return Ok(()) };
    let mut link = link?;
    link.subscribe(PROBE_SLOT, Bytes::new())?;
    let mut sent = Instant::now();
    let mut number = 0_u64;
    let mut subscribed = false;
    let mut answered = false;
    loop {
        let wait = if answered { interval } else { deadline };
        let arrival = tokio::select! {
            arrival = link.next() => arrival?,
            () = tokio::time::sleep_until(sent + wait) => {
                if !answered {
                    return Ok(());
                }
                answered = false;
                sent = Instant::now();
                number += 1;
                send(router, number, deadline).await;
                continue;
            }
        };
        match arrival {
            Arrival::Subscribed if !subscribed => {
                subscribed = true;
                sent = Instant::now();
                send(router, number, deadline).await;
            }
            Arrival::Message(letter) if letter.envelope == number.to_be_bytes()[..] => answered = true,
            Arrival::Paused => link.wake().await?,
            _ => {}
        }
    }
}

/// A dead router's queue stays full, so giving up here must not last longer than the deadline.
async fn send(router: &Arc<Router>, number: u64, deadline: Duration) {
    let mut packets = vec![publish(Bytes::from(slot_name(PROBE_SLOT)), Bytes::copy_from_slice(&number.to_be_bytes()))];
    if tokio::time::timeout(deadline, router.feed(&mut packets)).await.is_err() {
        tracing::warn!("the router has had no room for a probe");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_router_is_noticed_and_a_living_one_is_left_alone() {
        let router = Router::start(10, 1 << 20).unwrap();
        let (interval, deadline) = (Duration::from_millis(10), Duration::from_secs(1));
        let watching = tokio::spawn(watch(router.clone(), interval, deadline));
        tokio::time::sleep(deadline + interval).await;
        assert!(!watching.is_finished(), "the router lives");
        router.attach().await.unwrap().kill_the_router().await;
        let failure = tokio::time::timeout(deadline * 3, watching).await.unwrap().unwrap();
        assert_eq!(failure, Failure::RouterSilent(deadline));
    }
}
