//! Reports on events. Each is a record: of a terminal, which its relay has brought, or of a client over HTTP, which the cloud has
//! written under the client's name.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use wire::grants::Action;
use wire::openadr::{Report, ReportRequest};

use super::super::Api;
use super::{Client, Listing, service};
use crate::demand::{ReportFault, report_object};
use crate::problem::Problem;

/// Resources and intervals of one report, and values of one interval.
const PARTS_MAX: usize = 100;
/// Under which name reports of nobody are kept, where nobody is let in.
const ANONYMOUS: &str = "anonymous";

/// All reports that the client may see: its own, and with a grant to query `demand/{program}/reports` everybody's.
async fn seen(api: &Api, client: &Client, event: Option<&str>, program: Option<&str>) -> Result<Vec<Report>, Problem> {
    let book = &service(api)?.book;
    let mut reports = Vec::new();
    for of in &book.settings().programs {
        let all = client.may(api, Action::Query, of, "reports");
        if program.is_some_and(|program| program != of.name) || !(all || client.sees(api, of)) {
            continue;
        }
        for made in book.events(&of.name) {
            if event.is_some_and(|event| event != made.event.id) {
                continue;
            }
            let (book, of) = (book.clone(), of.clone());
            let heard = api.history.read(move |_| book.heard(&of, &made)).await?;
            let name = if client.name().is_empty() { ANONYMOUS } else { client.name() };
            let heard = heard.into_iter().filter(|heard| all || heard.key.series.sensor() == name);
            reports.extend(heard.map(|heard| report_object(&heard.key, heard.at, heard.report)));
        }
    }
    Ok(reports)
}

/// Lists reports.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Report>>, Problem> {
    let listing = Listing(pairs);
    let reports = seen(&api, &client, listing.of("eventID"), listing.of("programID")).await?;
    let named = |report: &Report| listing.of("clientName").is_none_or(|name| name == report.content.client_name);
    listing.page(reports.into_iter().filter(named)).map(Json)
}

/// Shows a report.
pub(super) async fn one(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Report>, Problem> {
    let found = seen(&api, &client, None, None).await?.into_iter().find(|report| report.id == id);
    found.map(Json).ok_or_else(|| Problem::not_found("there is no such report, or it is another client's"))
}

/// Takes a report. Answered when its record is durable.
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    client: Client,
    report: Result<Json<ReportRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Report>), Problem> {
    let Json(report) = report.map_err(|fault| Problem::malformed(fault.body_text()))?;
    check(&report)?;
    let service = service(&api)?;
    let no_event = || Problem::field("eventID", "names no event that a grant shows");
    let (program, _) = service.book.event(&report.event_id).ok_or_else(no_event)?;
    if !client.sees(&api, program) {
        return Err(no_event());
    }
    if !client.may(&api, Action::Publish, program, "reports") {
        return Err(Problem::forbidden());
    }
    let name = if client.name().is_empty() { ANONYMOUS } else { client.name() };
    let now = api.clock.now();
    match service.book.report(name, &report, now).await {
        Ok(key) => {
            api.metrics.demand_reports.inc();
            Ok((StatusCode::CREATED, Json(report_object(&key, now, report))))
        }
        Err(ReportFault::NoEvent) => Err(no_event()),
        Err(fault @ (ReportFault::Name | ReportFault::TooMany)) => Err(Problem::conflict(fault.to_string())),
        Err(ReportFault::Write(fault)) => {
            tracing::error!(%fault, "a report could not be kept");
            Err(Problem::unavailable())
        }
    }
}

/// A report can be neither changed nor removed.
pub(super) async fn stays(_: Client) -> Problem {
    Problem::refused("a report is a record, which is never changed or removed; post another one: the last result counts")
}

fn check(report: &ReportRequest) -> Result<(), Problem> {
    if report.object_type != "REPORT" {
        return Err(Problem::field("objectType", "is not REPORT"));
    }
    if !(1..=128).contains(&report.client_name.len()) {
        return Err(Problem::field("clientName", "is not 1 to 128 characters"));
    }
    let intervals = report.resources.iter().map(|resource| resource.intervals.len()).sum::<usize>();
    if report.resources.len() > PARTS_MAX || intervals > PARTS_MAX {
        return Err(Problem::field("resources", "has more than 100 resources or intervals; send several reports"));
    }
    let whole = serde_json::to_vec(report).map_or(usize::MAX, |bytes| bytes.len());
    if whole > wire::frame::PAYLOAD_BYTES_MAX {
        return Err(Problem::field("resources", "is too large; send several reports"));
    }
    Ok(())
}
