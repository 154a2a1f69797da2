//! The link's task: one connection after the other, with pauses.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::LinkState;
use crate::connection::{self, Course, End};
use crate::inbox::Inbox;
use crate::settings::LinkConfig;
use crate::shared::{Closing, Shared};

pub(crate) async fn drive(config: LinkConfig, shared: Arc<Shared>, inbox: Inbox, mut closing: Closing) {
    let mut rng = StdRng::seed_from_u64(config.seed.unwrap_or_else(|| rand::rng().next_u64()));
    let mut backoff = config.backoff.clone();
    let config = Arc::new(config);
    loop {
        let started = Instant::now();
        let course = attempt(&config, &shared, &inbox, &closing).await;
        if course.useful || started.elapsed() >= backoff.max() {
            backoff.reset();
        }
        let pause = match course.end {
            End::Closed => break,
            End::Down(reason) => {
                let pause = backoff.pause(&mut rng);
                info!(peer = config.address(), reason, ?pause, "link is down");
                shared.state.send_replace(LinkState::Down { reason });
                pause
            }
            End::Refused(reason) => {
                let pause = backoff.jittered(config.refused_retry, &mut rng);
                warn!(peer = config.address(), client = config.client_id, reason, ?pause, "the peer refuses us");
                shared.state.send_replace(LinkState::Refused { reason });
                pause
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = closing.asked() => break,
        }
    }
    shared.state.send_replace(LinkState::Closed);
}

/// One connection in a task of its own, so that a panic of the MQTT client is an end like others.
async fn attempt(config: &Arc<LinkConfig>, shared: &Arc<Shared>, inbox: &Inbox, closing: &Closing) -> Course {
    let mut task = JoinSet::new();
    task.spawn(connection::run(config.clone(), shared.clone(), inbox.clone(), closing.clone()));
    match task.join_next().await {
        Some(Ok(course)) => course,
        None | Some(Err(_)) => Course { end: End::Down("the MQTT client panicked".to_owned()), useful: false },
    }
}
