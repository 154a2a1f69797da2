//! `GET /api/v1/demand?program=&limit=`: what was asked, promised and measured, each with its record and how far that has come (C13).
//! Needs a grant to query `demand/{program}/events`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use wire::grants::Action;
use wire::{RecordKey, SensorId};

use super::Api;
use super::identity::Asker;
use crate::demand::baseline::Baseline;
use crate::demand::sums::Coverage;
use crate::demand::{Made, Settlement};
use crate::ladder::Rung;
use crate::moment;
use crate::problem::Problem;

/// Events of a page, at most and without a limit.
const EVENTS_MAX: usize = 100;

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    program: Option<String>,
    limit: Option<usize>,
}

/// A record, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The record.
    pub key: RecordKey,
    /// The highest rung that it has reached at the cloud.
    pub rung: Rung,
}

/// A terminal's part in an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartView {
    /// The terminal.
    pub sensor: SensorId,
    /// What it promised, kilowatts.
    pub promised_kw: Option<f64>,
    /// Whether the user takes no part.
    #[serde(default)]
    pub opted_out: bool,
    /// What it would have taken without the event, and how that was found; until the event is settled the interval before it.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// Share of the event that its readings cover.
    #[serde(default)]
    pub covered: Option<f64>,
    /// The reduction that its meter shows.
    pub measured_kw: Option<f64>,
    /// What it says it took during the event.
    pub reported_kw: Option<f64>,
    /// The record that promises.
    pub promise: Option<Receipt>,
    /// The record that reports.
    pub result: Option<Receipt>,
}

/// How an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Published, not begun.
    Pending,
    /// Between start and end.
    Active,
    /// Ended; the settlement waits for late readings.
    Ended,
    /// What came of it is written.
    Settled,
    /// Withdrawn before its start.
    Cancelled,
}

/// An event with everything about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// The OpenADR id.
    pub event: String,
    /// The program.
    pub program: String,
    /// The area.
    pub area: String,
    /// How it stands.
    pub status: Status,
    /// Its start.
    pub start: String,
    /// Its end, without what terminals add by chance.
    pub end: String,
    /// Reduction that was asked for, kilowatts.
    pub asked_kw: f64,
    /// Sum of the promises.
    pub promised_kw: f64,
    /// Sum of the reductions that the meters of those who promised show; until the end, so far.
    pub measured_kw: f64,
    /// What the area took in the baseline.
    pub area_before_kw: f64,
    /// What it took during the event; until the end, so far.
    pub area_during_kw: f64,
    /// How many meters the first of them is made of.
    #[serde(default)]
    pub coverage_before: Coverage,
    /// How many meters the second is made of.
    #[serde(default)]
    pub coverage_during: Coverage,
    /// How good the sum during the event is: OK, ESTIMATED or MISSING, as DATA_QUALITY of the standard.
    #[serde(default)]
    pub quality: String,
    /// Meters that are estimated in it, the first hundred.
    #[serde(default)]
    pub estimated: Vec<SensorId>,
    /// Meters that are missing in it, the first hundred.
    #[serde(default)]
    pub missing: Vec<SensorId>,
    /// OpenADR priority: smaller goes first.
    #[serde(default)]
    pub priority: Option<u32>,
    /// The event's record.
    pub asked: Receipt,
    /// Its records before it was changed, the oldest first.
    #[serde(default)]
    pub earlier: Vec<Receipt>,
    /// The record that cancels it.
    #[serde(default)]
    pub cancelled: Option<Receipt>,
    /// The settlement's record.
    pub settled: Option<Receipt>,
    /// Who took part.
    pub parts: Vec<PartView>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DemandView {
    /// Events, the newest first.
    pub events: Vec<EventView>,
}

/// Shows the newest events.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<DemandView>, Problem> {
    let Query(Asked { program, limit }) = asked.map_err(|fault| Problem::malformed(fault.body_text()))?;
    let Some(service) = &api.demand else {
        return Err(Problem::not_found("this cloud has no programs: it has no [demand] section"));
    };
    let now = api.clock.now();
    let mut found = Vec::new();
    for of in &service.book.settings().programs {
        if program.as_ref().is_some_and(|name| *name != of.name) {
            continue;
        }
        if api.policy.verdict(&viewer.subject(), Action::Query, &format!("demand/{}/events", of.name), now).is_allowed() {
            found.extend(service.book.events(&of.name).into_iter().map(|made| (of.clone(), made)));
        } else if program.is_some() {
            return Err(Problem::forbidden());
        }
    }
    found.sort_by_key(|(_, made)| std::cmp::Reverse(made.ask.window.from));
    found.truncate(limit.unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX));
    let mut events = Vec::with_capacity(found.len());
    for (of, made) in found {
        let (book, event) = (service.book.clone(), made.clone());
        let standing = {
            let of = of.clone();
            api.history.read(move |_| book.standing(&of, &event, now)).await?
        };
        events.push(view(&api, of.area, made, standing, now).await?);
    }
    Ok(Json(DemandView { events }))
}

async fn view(api: &Api, area: String, made: Made, standing: Settlement, now: wire::At) -> Result<EventView, Problem> {
    let mut parts = Vec::with_capacity(standing.parts.len());
    for (sensor, part) in standing.parts {
        let measured_kw = part.measured_kw();
        parts.push(PartView {
            sensor,
            promised_kw: part.promised_kw,
            opted_out: part.opted_out,
            baseline: part.baseline,
            covered: part.covered,
            measured_kw,
            reported_kw: part.reported_kw,
            promise: receipt(api, part.promise).await?,
            result: receipt(api, part.result).await?,
        });
    }
    let status = match () {
        () if made.settled.is_some() => Status::Settled,
        () if made.is_void() => Status::Cancelled,
        () if now < made.ask.window.from => Status::Pending,
        () if now < made.ends() => Status::Active,
        () => Status::Ended,
    };
    let mut earlier = Vec::with_capacity(made.earlier.len());
    for key in made.earlier {
        earlier.extend(receipt(api, Some(key)).await?);
    }
    Ok(EventView {
        status,
        earlier,
        cancelled: receipt(api, made.cancelled.map(|(_, key)| key)).await?,
        area,
        program: made.event.program_id,
        start: moment::format(made.ask.window.from),
        end: moment::format(made.ask.window.to),
        asked_kw: standing.asked_kw,
        promised_kw: standing.promised_kw,
        measured_kw: standing.measured_kw,
        area_before_kw: standing.area_before_kw,
        area_during_kw: standing.area_during_kw,
        coverage_before: standing.coverage_before,
        coverage_during: standing.coverage_during,
        quality: standing.coverage_during.quality().to_owned(),
        estimated: standing.estimated,
        missing: standing.missing,
        priority: made.event.priority,
        asked: Receipt { rung: super::places::whereabouts(api, made.key.clone()).await?.rung, key: made.key },
        settled: receipt(api, made.settled.map(|(_, key)| key)).await?,
        event: made.event.id,
        parts,
    })
}

async fn receipt(api: &Api, key: Option<RecordKey>) -> Result<Option<Receipt>, Problem> {
    let Some(key) = key else { return Ok(None) };
    let rung = super::places::whereabouts(api, key.clone()).await?.rung;
    Ok(Some(Receipt { key, rung }))
}
