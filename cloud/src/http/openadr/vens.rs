//! VENs: each client sees and changes its own, an operator all.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use wire::grants::Action;
use wire::openadr::clients::{VEN_BY_BL, VEN_BY_VEN};
use wire::openadr::{ObjectType, Operation, Ven, VenRequest};

use super::super::Api;
use super::{Client, Listing, ask, check_name, check_targets};
use crate::demand::{Clients, ClientsFault, Notice, Sees, Whose};
use crate::problem::Problem;

fn not_found() -> Problem {
    Problem::not_found("there is no such VEN, or it is another client's")
}

/// The request, and whether it is an operator's.
fn wanted(api: &Api, client: &Client, request: Result<Json<VenRequest>, JsonRejection>) -> Result<(VenRequest, bool), Problem> {
    let Json(request) = request.map_err(|fault| Problem::malformed(fault.body_text()))?;
    check_name("venName", &request.ven_name)?;
    check_targets(request.targets.as_deref())?;
    match request.object_type.as_str() {
        VEN_BY_VEN if request.targets.is_some() || request.client_id.is_some() => {
            Err(Problem::refused("targets and clientID are for an operator to write, with objectType BL_VEN_REQUEST"))
        }
        VEN_BY_VEN => Ok((request, false)),
        VEN_BY_BL if !client.is_operator(api, Action::Publish) => {
            Err(Problem::refused("BL_VEN_REQUEST needs a grant to publish demand/clients; a VEN sends VEN_VEN_REQUEST"))
        }
        VEN_BY_BL => {
            check_name("clientID", request.client_id.as_deref().unwrap_or_default())?;
            Ok((request, true))
        }
        _ => Err(Problem::field("objectType", "is neither VEN_VEN_REQUEST nor BL_VEN_REQUEST")),
    }
}

fn tell(
    clients: &Clients,
    sees: &Sees,
    operation: Operation,
    work: impl FnOnce(&crate::demand::Desk<'_>) -> Result<Option<(Ven, String)>, ClientsFault>,
) -> Result<Option<Ven>, ClientsFault> {
    clients.write(|desk| {
        let Some((ven, user)) = work(desk)? else { return Ok(None) };
        let notice = Notice::owned(ObjectType::Ven, operation, user, ven.targets.clone(), &ven);
        sees.tell(desk, &notice)?;
        Ok(Some(ven))
    })
}

/// Lists VENs.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Ven>>, Problem> {
    let listing = Listing(pairs);
    let (all, user) = (client.is_operator(&api, Action::Query), client.name().to_owned());
    let vens = ask(&api, move |clients| clients.read(|desk| desk.vens(Whose::of(all, &user)))).await?;
    let named = |ven: &Ven| listing.of("venName").is_none_or(|name| name == ven.ven_name) && listing.targets(&ven.targets);
    listing.page(vens.into_iter().filter(named)).map(Json)
}

/// Makes one.
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    client: Client,
    request: Result<Json<VenRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Ven>), Problem> {
    let (wanted, _) = wanted(&api, &client, request)?;
    let user = wanted.client_id.clone().unwrap_or_else(|| client.name().to_owned());
    let (now, sees) = (api.clock.now(), Sees::new(&api));
    let made = ask(&api, move |clients| {
        tell(clients, &sees, Operation::Create, |desk| Ok(Some((desk.add_ven(&user, &wanted, now)?, user))))
    });
    Ok((StatusCode::CREATED, Json(made.await?.ok_or_else(not_found)?)))
}

/// Shows one.
pub(super) async fn one(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Ven>, Problem> {
    let (all, user) = (client.is_operator(&api, Action::Query), client.name().to_owned());
    let found = ask(&api, move |clients| clients.read(|desk| desk.ven(Whose::of(all, &user), &id))).await?;
    found.map(|(ven, _)| Json(ven)).ok_or_else(not_found)
}

/// Changes one. Whose it is does not change.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    request: Result<Json<VenRequest>, JsonRejection>,
) -> Result<Json<Ven>, Problem> {
    let (wanted, by_operator) = wanted(&api, &client, request)?;
    let (now, sees, user) = (api.clock.now(), Sees::new(&api), client.name().to_owned());
    let changed = ask(&api, move |clients| {
        let whose = Whose::of(by_operator, &user);
        tell(clients, &sees, Operation::Update, |desk| desk.change_ven(whose, &id, &wanted, now))
    });
    changed.await?.map(Json).ok_or_else(not_found)
}

/// Removes one, with its resources.
pub(super) async fn remove(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Ven>, Problem> {
    let (all, user, sees) = (client.is_operator(&api, Action::Publish), client.name().to_owned(), Sees::new(&api));
    let removed =
        ask(&api, move |clients| tell(clients, &sees, Operation::Delete, |desk| desk.remove_ven(Whose::of(all, &user), &id)));
    removed.await?.map(Json).ok_or_else(not_found)
}
