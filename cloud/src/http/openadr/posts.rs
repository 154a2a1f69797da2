//! Events that an operator makes, changes and cancels: who may publish `demand/{program}/events`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use wire::grants::Action;
use wire::openadr::{Event, EventRequest};

use super::super::Api;
use super::{Client, check_targets, service};
use crate::demand::{PostFault, Program, RequestFault};
use crate::problem::Problem;

fn no_event() -> Problem {
    Problem::not_found("there is no such event, or no grant shows it")
}

fn wanted(request: Result<Json<EventRequest>, JsonRejection>) -> Result<EventRequest, Problem> {
    let Json(request) = request.map_err(|fault| Problem::malformed(fault.body_text()))?;
    check_targets(request.targets.as_deref())?;
    let whole = serde_json::to_vec(&request).map_or(usize::MAX, |bytes| bytes.len());
    // The record has the times, the id and the exact numbers, too.
    if whole > wire::frame::PAYLOAD_BYTES_MAX / 2 {
        return Err(Problem::malformed("the event is too large"));
    }
    Ok(request)
}

/// An event that exists and may be written by the client.
fn writable<'a>(api: &'a Api, client: &Client, id: &str) -> Result<&'a Program, Problem> {
    let (program, _) = service(api)?.book.event(id).ok_or_else(no_event)?;
    match () {
        () if client.may(api, Action::Publish, program, "events") => Ok(program),
        () if client.sees(api, program) => Err(Problem::refused("a grant to publish demand/{program}/events is missing")),
        () => Err(no_event()),
    }
}

fn problem(fault: PostFault) -> Problem {
    match fault {
        PostFault::Request(RequestFault { field, why }) => Problem::field(field, why),
        PostFault::NoEvent => no_event(),
        PostFault::Over => Problem::conflict(fault.to_string()),
        PostFault::Write(fault) => {
            tracing::error!(%fault, "an event could not be kept");
            Problem::unavailable()
        }
    }
}

/// Makes an event. Answered when its record is durable.
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    client: Client,
    request: Result<Json<EventRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Event>), Problem> {
    let request = wanted(request)?;
    let book = &service(&api)?.book;
    let program = book.program(&request.program_id);
    let may = |program: &&Program| client.may(&api, Action::Publish, program, "events");
    let Some(program) = program.filter(may) else {
        return match program.filter(|program| client.sees(&api, program)) {
            Some(_) => Err(Problem::refused("a grant to publish demand/{program}/events is missing")),
            None => Err(Problem::field("programID", "names no program that a grant shows")),
        };
    };
    let now = api.clock.now();
    let (of, reader) = (program.clone(), book.clone());
    let (baseline, area) = api.history.read(move |_| reader.before(&of, now)).await?;
    let made = book.post(program, request, (baseline, &area), now).await.map_err(problem)?;
    api.metrics.demand_events.inc();
    tracing::info!(event = made.event.id, asked = made.ask.asked_kw, by = client.name(), "an operator asks for less");
    Ok((StatusCode::CREATED, Json(made.event)))
}

/// Changes an event that is not over. Terminals answer it again.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    request: Result<Json<EventRequest>, JsonRejection>,
) -> Result<Json<Event>, Problem> {
    let request = wanted(request)?;
    writable(&api, &client, &id)?;
    let made = service(&api)?.book.change(&id, request, api.clock.now()).await.map_err(problem)?;
    tracing::info!(event = id, asked = made.ask.asked_kw, by = client.name(), "an operator has changed an event");
    Ok(Json(made.event))
}

/// Cancels an event that is not over.
pub(super) async fn cancel(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Event>, Problem> {
    writable(&api, &client, &id)?;
    let made = service(&api)?.book.cancel(&id, api.clock.now()).await.map_err(problem)?;
    tracing::info!(event = id, by = client.name(), "an operator has cancelled an event");
    Ok(Json(made.event))
}
