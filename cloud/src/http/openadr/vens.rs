//! VENs: each client sees and changes its own.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use wire::openadr::{Ven, VenRequest};

use super::super::Api;
use super::{Client, Listing, service};
use crate::demand::{Vens, VensFault};
use crate::problem::Problem;

fn not_found() -> Problem {
    Problem::not_found("there is no such VEN, or it is another client's")
}

/// Asks the database on a thread that may block.
async fn ask<T: Send + 'static>(
    api: &Api,
    client: &Client,
    ask: impl FnOnce(&Vens, &str) -> Result<T, VensFault> + Send + 'static,
) -> Result<T, Problem> {
    let (vens, user) = (service(api)?.vens.clone(), client.name().to_owned());
    match tokio::task::spawn_blocking(move || ask(&vens, &user)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(fault @ (VensFault::Taken | VensFault::TooMany))) => Err(Problem::conflict(fault.to_string())),
        Ok(Err(fault)) => {
            tracing::error!(%fault, "the VENs can't be read or written");
            Err(Problem::unavailable())
        }
        Err(fault) => {
            tracing::error!(%fault, "a question about VENs ended without an answer");
            Err(Problem::unavailable())
        }
    }
}

fn wanted(request: Result<Json<VenRequest>, JsonRejection>) -> Result<VenRequest, Problem> {
    let Json(request) = request.map_err(|fault| Problem::malformed(fault.body_text()))?;
    if !(1..=128).contains(&request.ven_name.len()) {
        return Err(Problem::field("venName", "is not 1 to 128 characters"));
    }
    Ok(request)
}

/// Lists the client's VENs.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Ven>>, Problem> {
    let listing = Listing(pairs);
    let vens = ask(&api, &client, |vens, user| vens.of(user)).await?;
    listing.page(vens.into_iter().filter(|ven| listing.of("venName").is_none_or(|name| name == ven.ven_name))).map(Json)
}

/// Makes one.
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    client: Client,
    request: Result<Json<VenRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Ven>), Problem> {
    let (wanted, now) = (wanted(request)?, api.clock.now());
    let made = ask(&api, &client, move |vens, user| vens.add(user, &wanted, now)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Shows one.
pub(super) async fn one(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Ven>, Problem> {
    let vens = ask(&api, &client, |vens, user| vens.of(user)).await?;
    vens.into_iter().find(|ven| ven.id == id).map(Json).ok_or_else(not_found)
}

/// Changes one.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    request: Result<Json<VenRequest>, JsonRejection>,
) -> Result<Json<Ven>, Problem> {
    let (wanted, now) = (wanted(request)?, api.clock.now());
    let changed = ask(&api, &client, move |vens, user| vens.change(user, &id, &wanted, now)).await?;
    changed.map(Json).ok_or_else(not_found)
}

/// Removes one.
pub(super) async fn remove(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Ven>, Problem> {
    ask(&api, &client, move |vens, user| vens.remove(user, &id)).await?.map(Json).ok_or_else(not_found)
}
