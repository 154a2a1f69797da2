//! `POST /api/v1/relays/{relay}/flush`: an order to hand over everything in the storage area; `POST /api/v1/relays/{relay}/give-up`: what
//! its older databases held is lost; `…/retire`: the relay is gone.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use wire::grants::Action;
use wire::topics::Down;
use wire::{Command, RelayId, Topic};

use super::Api;
use super::identity::Asker;
use crate::history::Viewer;
use crate::problem::Problem;

/// What was ordered. The answer of the relay is that the records come up as frames.
#[derive(Debug, Serialize)]
pub(super) struct Ordered {
    relay: RelayId,
    command: u64,
}

/// What was given up.
#[derive(Debug, Serialize)]
pub(super) struct GivenUp {
    relay: RelayId,
    chunks: u64,
}

/// Sends [`Command::Flush`]; needs a grant to publish on `down/{relay}/commands`.
pub(super) async fn flush(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(relay): Path<String>,
) -> Result<(StatusCode, Json<Ordered>), Problem> {
    let relay = permitted(&api, &viewer, &relay)?;
    let command = api.commands.next();
    if !api.commands.send(&relay, &Command::Flush { id: command }).await {
        return Err(Problem::conflict(format!("relay {relay} is not connected; try again when it is")));
    }
    tracing::info!(%relay, command, user = viewer.subject().user, "a flush was ordered");
    Ok((StatusCode::ACCEPTED, Json(Ordered { relay, command })))
}

/// Forgets the chunks that a relay had stated from databases that it does not have any more: answers call them missing no longer.
pub(super) async fn give_up(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(relay): Path<String>,
) -> Result<Json<GivenUp>, Problem> {
    let relay = permitted(&api, &viewer, &relay)?;
    forget(&api, &viewer, relay, false).await
}

/// Forgets a relay that will not come back, with all that it held: answers name it no longer. One that comes back is known again.
pub(super) async fn retire(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(relay): Path<String>,
) -> Result<Json<GivenUp>, Problem> {
    let relay = permitted(&api, &viewer, &relay)?;
    if api.commands.reaches(&relay) {
        return Err(Problem::conflict(format!("relay {relay} is connected; flush it and stop it before it is retired")));
    }
    forget(&api, &viewer, relay, true).await
}

async fn forget(api: &Api, viewer: &Viewer, relay: RelayId, whole: bool) -> Result<Json<GivenUp>, Problem> {
    let chunks = api.history.index().give_up(relay.clone(), whole).await.map_err(|fault| {
        tracing::error!(%relay, %fault, "chunks could not be given up");
        Problem::unavailable()
    })?;
    tracing::warn!(%relay, chunks, whole, user = viewer.subject().user, "chunks of databases of a relay were given up");
    Ok(Json(GivenUp { relay, chunks }))
}

/// The relay, if the viewer may give it orders.
fn permitted(api: &Api, viewer: &Viewer, relay: &str) -> Result<RelayId, Problem> {
    let relay: RelayId = relay.parse().map_err(|fault: wire::IdFault| Problem::field("relay", fault.to_string()))?;
    let topic = Topic::Down { relay: (&relay).into(), kind: Down::Commands }.to_string();
    if !api.policy.verdict(&viewer.subject(), Action::Publish, &topic, api.clock.now()).is_allowed() {
        return Err(Problem::forbidden());
    }
    Ok(relay)
}
