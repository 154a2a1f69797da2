//! `POST /api/v1/relays/{relay}/flush`: an order to hand over everything in the storage area.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use broker::Message;
use serde::Serialize;
use wire::grants::Action;
use wire::topics::Down;
use wire::{Command, RelayId, Topic};

use super::Api;
use super::identity::Asker;
use crate::problem::Problem;

/// What was ordered. The answer of the relay is that the records come up as frames.
#[derive(Debug, Serialize)]
pub(super) struct Ordered {
    relay: RelayId,
    command: u64,
}

/// Sends [`Command::Flush`]; needs a grant to publish on `down/{relay}/commands`.
pub(super) async fn flush(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(relay): Path<String>,
) -> Result<(StatusCode, Json<Ordered>), Problem> {
    let relay: RelayId = relay.parse().map_err(|fault: wire::IdFault| Problem::field("relay", fault.to_string()))?;
    let topic = Topic::Down { relay: (&relay).into(), kind: Down::Commands }.to_string();
    if !api.policy.verdict(&viewer.subject(), Action::Publish, &topic, api.clock.now()).is_allowed() {
        return Err(Problem::forbidden());
    }
    if !api.hub.wanted(&topic) {
        return Err(Problem::conflict(format!("relay {relay} is not connected; try again when it is")));
    }
    let command = api.command.fetch_add(1, Ordering::Relaxed) + 1;
    tracing::info!(%relay, command, user = viewer.subject().user, "a flush was ordered");
    api.hub.publish(Message::new(topic, Command::Flush { id: command }.encode())).await;
    Ok((StatusCode::ACCEPTED, Json(Ordered { relay, command })))
}
