//! Resources: what is behind a VEN. Each client sees and changes those of its own VENs, an operator all.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use wire::grants::Action;
use wire::openadr::clients::{RESOURCE_BY_BL, RESOURCE_BY_VEN};
use wire::openadr::{ObjectType, Operation, Resource, ResourceRequest};

use super::super::Api;
use super::{Client, Listing, ask, check_name, check_targets};
use crate::demand::{Clients, ClientsFault, Desk, Notice, Sees, Whose};
use crate::problem::Problem;

fn not_found() -> Problem {
    Problem::not_found("there is no such resource, or it is another client's, or of another VEN")
}

fn wanted(
    api: &Api,
    client: &Client,
    request: Result<Json<ResourceRequest>, JsonRejection>,
) -> Result<(ResourceRequest, bool), Problem> {
    let Json(request) = request.map_err(|fault| Problem::malformed(fault.body_text()))?;
    check_name("resourceName", &request.resource_name)?;
    check_targets(request.targets.as_deref())?;
    match request.object_type.as_str() {
        RESOURCE_BY_VEN if request.targets.is_some() => {
            Err(Problem::refused("targets are for an operator to write, with objectType BL_RESOURCE_REQUEST"))
        }
        RESOURCE_BY_VEN => Ok((request, false)),
        RESOURCE_BY_BL if !client.is_operator(api, Action::Publish) => {
            Err(Problem::refused("BL_RESOURCE_REQUEST needs a grant to publish demand/clients; a VEN sends VEN_RESOURCE_REQUEST"))
        }
        RESOURCE_BY_BL => Ok((request, true)),
        _ => Err(Problem::field("objectType", "is neither VEN_RESOURCE_REQUEST nor BL_RESOURCE_REQUEST")),
    }
}

fn tell(
    clients: &Clients,
    sees: &Sees,
    operation: Operation,
    work: impl FnOnce(&Desk<'_>) -> Result<Option<(Resource, String)>, ClientsFault>,
) -> Result<Option<Resource>, ClientsFault> {
    clients.write(|desk| {
        let Some((resource, user)) = work(desk)? else { return Ok(None) };
        let notice = Notice::owned(ObjectType::Resource, operation, user, resource.targets.clone(), &resource);
        sees.tell(desk, &notice)?;
        Ok(Some(resource))
    })
}

/// Lists resources.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Resource>>, Problem> {
    let listing = Listing(pairs);
    let (all, user) = (client.is_operator(&api, Action::Query), client.name().to_owned());
    let ven = listing.of("venID").map(str::to_owned);
    let resources = ask(&api, move |clients| clients.read(|desk| desk.resources(Whose::of(all, &user), ven.as_deref()))).await?;
    let named = |resource: &Resource| {
        listing.of("resourceName").is_none_or(|name| name == resource.resource_name) && listing.targets(&resource.targets)
    };
    listing.page(resources.into_iter().filter(named)).map(Json)
}

/// Makes one.
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    client: Client,
    request: Result<Json<ResourceRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Resource>), Problem> {
    let (wanted, by_operator) = wanted(&api, &client, request)?;
    let (now, sees, user) = (api.clock.now(), Sees::new(&api), client.name().to_owned());
    let made = ask(&api, move |clients| {
        let whose = Whose::of(by_operator, &user);
        tell(clients, &sees, Operation::Create, |desk| desk.add_resource(whose, &wanted, now))
    });
    let no_ven = || Problem::field("venID", "names no VEN of yours; make it first, with POST /vens");
    Ok((StatusCode::CREATED, Json(made.await?.ok_or_else(no_ven)?)))
}

/// Shows one.
pub(super) async fn one(State(api): State<Arc<Api>>, client: Client, Path(id): Path<String>) -> Result<Json<Resource>, Problem> {
    let (all, user) = (client.is_operator(&api, Action::Query), client.name().to_owned());
    let found = ask(&api, move |clients| clients.read(|desk| desk.resource(Whose::of(all, &user), &id))).await?;
    found.map(|(resource, _)| Json(resource)).ok_or_else(not_found)
}

/// Changes one. Its VEN does not change.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    request: Result<Json<ResourceRequest>, JsonRejection>,
) -> Result<Json<Resource>, Problem> {
    let (wanted, by_operator) = wanted(&api, &client, request)?;
    let (now, sees, user) = (api.clock.now(), Sees::new(&api), client.name().to_owned());
    let changed = ask(&api, move |clients| {
        let whose = Whose::of(by_operator, &user);
        tell(clients, &sees, Operation::Update, |desk| desk.change_resource(whose, &id, &wanted, now))
    });
    changed.await?.map(Json).ok_or_else(not_found)
}

/// Removes one.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<Resource>, Problem> {
    let (all, user, sees) = (client.is_operator(&api, Action::Publish), client.name().to_owned(), Sees::new(&api));
    let removed = ask(&api, move |clients| {
        tell(clients, &sees, Operation::Delete, |desk| desk.remove_resource(Whose::of(all, &user), &id))
    });
    removed.await?.map(Json).ok_or_else(not_found)
}
