//! Programs and events: what the client's grants show of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use wire::openadr::{self, Event, PayloadDescriptor, Program as ProgramObject, ValuesMap};

use super::super::Api;
use super::{Client, Listing, service};
use crate::demand::Program;
use crate::problem::Problem;

fn object(program: &Program) -> ProgramObject {
    // Programs are configured, not made at a time.
    let since = openadr::time_text(0);
    let text = |kind: &str, value: &str| ValuesMap { kind: kind.to_owned(), values: vec![value.into()] };
    ProgramObject {
        id: program.name.clone(),
        created_date_time: since.clone(),
        modification_date_time: since,
        object_type: "PROGRAM".to_owned(),
        program_name: program.name.clone(),
        payload_descriptors: vec![
            PayloadDescriptor::of_event(openadr::DISPATCH_SETPOINT_RELATIVE, openadr::KW),
            PayloadDescriptor::of_report(openadr::LOAD_SHED_DELTA_AVAILABLE, openadr::KW),
            PayloadDescriptor::of_report(openadr::BASELINE, openadr::KW),
            PayloadDescriptor::of_report(openadr::DEMAND, openadr::KW),
            PayloadDescriptor::of_report(openadr::USAGE, openadr::KWH),
        ],
        attributes: vec![
            text("AREA", &program.area),
            text("FOREBAY_STREAM", &program.stream),
            ValuesMap::number(openadr::AREA_LIMIT, program.limit_kw),
        ],
        targets: Vec::new(),
    }
}

/// Lists programs.
pub(super) async fn programs(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<ProgramObject>>, Problem> {
    let programs = &service(&api)?.book.settings().programs;
    let seen = programs.iter().filter(|program| client.sees(&api, program));
    Listing(pairs).page(seen.map(object)).map(Json)
}

/// Shows a program.
pub(super) async fn program(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<ProgramObject>, Problem> {
    let program = service(&api)?.book.program(&id).filter(|program| client.sees(&api, program));
    program.map(object).map(Json).ok_or_else(|| Problem::not_found("there is no such program, or no grant shows it"))
}

/// Lists events, those with the smallest priority number first, then the newest.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Event>>, Problem> {
    let listing = Listing(pairs);
    let book = &service(&api)?.book;
    let programs = book.settings().programs.iter().filter(|program| client.sees(&api, program));
    let programs = programs.filter(|program| listing.of("programID").is_none_or(|id| id == program.name));
    let mut made: Vec<_> = programs.flat_map(|program| book.events(&program.name)).collect();
    made.sort_by_key(|made| (made.event.priority.unwrap_or(u32::MAX), std::cmp::Reverse(made.ask.window.from)));
    listing.page(made.into_iter().map(|made| made.event)).map(Json)
}

/// Shows an event.
pub(super) async fn event(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Event>, Problem> {
    let found = service(&api)?.book.event(&id).filter(|(program, _)| client.sees(&api, program));
    found.map(|(_, made)| Json(made.event)).ok_or_else(|| Problem::not_found("there is no such event, or no grant shows it"))
}
