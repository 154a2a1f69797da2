//! Programs and events: what the client's grants show of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use wire::grants::Action;
use wire::openadr::{self, Event, PayloadDescriptor, Program as ProgramObject, ValuesMap};

use super::super::Api;
use super::{Client, Listing, ask, service};
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
        targets: program.targets.clone(),
    }
}

/// What a client may see of objects with targets.
struct Targets {
    /// What it was granted, as far as it asked for it.
    granted: Vec<String>,
    /// Whether it asked for some.
    has_asked: bool,
}

impl Targets {
    async fn of(api: &Api, client: &Client, listing: &Listing) -> Result<Self, Problem> {
        let user = client.name().to_owned();
        let mut granted = ask(api, move |clients| clients.read(|desk| desk.granted(&user))).await?;
        let asked = listing.all("targets");
        if let Some(asked) = &asked {
            granted.retain(|target| asked.contains(&target.as_str()));
        }
        Ok(Self { granted, has_asked: asked.is_some() })
    }

    /// The targets that it is shown of an object; `None` if it does not see the object. Who may make events of the program sees all.
    fn shown(&self, api: &Api, client: &Client, program: &Program, listing: &Listing, of: &[String]) -> Option<Vec<String>> {
        if client.may(api, Action::Publish, program, "events") {
            return listing.targets(of).then(|| of.to_vec());
        }
        if of.is_empty() {
            return (!self.has_asked).then(Vec::new);
        }
        let shown: Vec<String> = of.iter().filter(|target| self.granted.contains(target)).cloned().collect();
        (!shown.is_empty()).then_some(shown)
    }
}

/// Programs are not made over HTTP.
pub(super) async fn no_program(_: Client) -> Problem {
    Problem::refused("programs are set by the cloud's operator, as demand.program in its configuration")
}

/// Lists programs.
pub(super) async fn programs(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<ProgramObject>>, Problem> {
    let listing = Listing(pairs);
    let targets = Targets::of(&api, &client, &listing).await?;
    let seen = service(&api)?.book.settings().programs.iter().filter(|program| client.sees(&api, program));
    let shown = seen.filter_map(|program| {
        let targets = targets.shown(&api, &client, program, &listing, &program.targets)?;
        Some(ProgramObject { targets, ..object(program) })
    });
    listing.page(shown).map(Json)
}

/// Shows a program.
pub(super) async fn program(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<ProgramObject>, Problem> {
    let listing = Listing(pairs);
    let targets = Targets::of(&api, &client, &listing).await?;
    let program = service(&api)?.book.program(&id).filter(|program| client.sees(&api, program));
    let shown = program.and_then(|program| {
        let targets = targets.shown(&api, &client, program, &listing, &program.targets)?;
        Some(Json(ProgramObject { targets, ..object(program) }))
    });
    shown.ok_or_else(|| Problem::not_found("there is no such program, or no grant shows it"))
}

/// Lists events, those with the smallest priority number first, then the newest. `active=true` leaves out those that are over.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Event>>, Problem> {
    let listing = Listing(pairs);
    let only_active = match listing.of("active") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::field("active", "is neither true nor false")),
    };
    let targets = Targets::of(&api, &client, &listing).await?;
    let (book, now) = (&service(&api)?.book, api.clock.now());
    let programs = book.settings().programs.iter().filter(|program| client.sees(&api, program));
    let programs = programs.filter(|program| listing.of("programID").is_none_or(|id| id == program.name));
    let mut shown = Vec::new();
    for program in programs {
        for made in book.events(&program.name) {
            if made.cancelled.is_some() || (only_active && made.ask.over() <= now) {
                continue;
            }
            let of = made.event.targets.as_deref().unwrap_or_default();
            if let Some(targets) = targets.shown(&api, &client, program, &listing, of) {
                shown.push((made.ask.window.from, Event { targets: Some(targets), ..made.event }));
            }
        }
    }
    shown.sort_by_key(|(from, event)| (event.priority.unwrap_or(u32::MAX), std::cmp::Reverse(*from)));
    listing.page(shown.into_iter().map(|(_, event)| event)).map(Json)
}

/// Shows an event.
pub(super) async fn event(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Event>, Problem> {
    let listing = Listing(pairs);
    let targets = Targets::of(&api, &client, &listing).await?;
    let found = service(&api)?.book.event(&id);
    let found = found.filter(|(program, made)| made.cancelled.is_none() && client.sees(&api, program));
    let shown = found.and_then(|(program, made)| {
        let of = made.event.targets.as_deref().unwrap_or_default();
        let targets = targets.shown(&api, &client, program, &listing, of)?;
        Some(Json(Event { targets: Some(targets), ..made.event }))
    });
    shown.ok_or_else(|| Problem::not_found("there is no such event, or no grant shows it"))
}
