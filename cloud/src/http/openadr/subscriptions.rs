//! Subscriptions: who is called when something changes. Each client sees and changes its own, an operator all.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use wire::grants::Action;
use wire::openadr::{ObjectType, Operation, Subscription, SubscriptionRequest};

use super::super::Api;
use super::{Client, Listing, ask, check_name, check_targets, service};
use crate::demand::{Book, Clients, ClientsFault, Desk, Notice, Sees, Whose};
use crate::problem::Problem;

/// Entries of `objectOperations`.
const OPERATIONS_MAX: usize = 15;
/// Longest token that is sent along.
const BEARER_MAX: usize = 4_096;

fn not_found() -> Problem {
    Problem::not_found("there is no such subscription, or it is another client's")
}

fn wanted(
    api: &Api,
    client: &Client,
    request: Result<Json<SubscriptionRequest>, JsonRejection>,
) -> Result<SubscriptionRequest, Problem> {
    let Json(request) = request.map_err(|fault| Problem::malformed(fault.body_text()))?;
    check_name("clientName", &request.client_name)?;
    check_targets(request.targets.as_deref())?;
    let book = &service(api)?.book;
    if let Some(id) = &request.program_id
        && book.program(id).is_none_or(|program| !client.sees(api, program))
    {
        return Err(Problem::field("programID", "names no program that a grant shows"));
    }
    if !(1..=OPERATIONS_MAX).contains(&request.object_operations.len()) {
        return Err(Problem::field("objectOperations", "has not 1 to 15 entries"));
    }
    for (index, operation) in request.object_operations.iter().enumerate() {
        let field = |name: &str| format!("objectOperations[{index}].{name}");
        if operation.objects.is_empty() {
            return Err(Problem::field(&field("objects"), "is empty"));
        }
        if operation.operations.is_empty() {
            return Err(Problem::field(&field("operations"), "is empty"));
        }
        let token = operation.bearer_token.as_deref().unwrap_or_default();
        if token.len() > BEARER_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Problem::field(&field("bearerToken"), "is not at most 4096 visible ASCII characters"));
        }
        let checked = book.settings().callbacks.check(&operation.callback_url);
        checked.map_err(|fault| Problem::field(&field("callbackUrl"), fault.to_string()))?;
    }
    Ok(request)
}

fn tell(
    (clients, book, sees): (&Clients, &Book, &Sees),
    operation: Operation,
    work: impl FnOnce(&Desk<'_>) -> Result<Option<(Subscription, String)>, ClientsFault>,
) -> Result<Option<Subscription>, ClientsFault> {
    clients.write(|desk| {
        let Some((subscription, user)) = work(desk)? else { return Ok(None) };
        for program in &book.settings().programs {
            desk.keep_up_with_reports(&program.name, || book.reports_held(program))?;
        }
        let mut shown = subscription.clone();
        // Somebody else's token is nobody's business.
        shown.content.object_operations.iter_mut().for_each(|operation| operation.bearer_token = None);
        sees.tell(desk, &Notice::owned(ObjectType::Subscription, operation, user, Vec::new(), &shown))?;
        Ok(Some(subscription))
    })
}

/// As it is shown to `client`: the tokens of others stay hidden, also from an operator.
fn shown(mut subscription: Subscription, user: &str, client: &str) -> Subscription {
    if user != client {
        subscription.content.object_operations.iter_mut().for_each(|operation| operation.bearer_token = None);
    }
    subscription
}

/// Lists subscriptions.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    client: Client,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Subscription>>, Problem> {
    let listing = Listing(pairs);
    let (all, user) = (client.is_operator(&api, Action::Query), client.name().to_owned());
    let found = ask(&api, move |clients| {
        clients.read(|desk| {
            let of = |(subscription, owner): (Subscription, String)| shown(subscription, &owner, &user);
            Ok(desk.subscriptions(Whose::of(all, &user))?.into_iter().map(of).collect::<Vec<_>>())
        })
    });
    let objects = listing.all("objects");
    let named = |subscription: &Subscription| {
        let content = &subscription.content;
        let mut kinds = content.object_operations.iter().flat_map(|operation| &operation.objects);
        let kind = |kind: &ObjectType| serde_json::to_value(kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
        listing.of("clientName").is_none_or(|name| name == content.client_name)
            && listing.of("programID").is_none_or(|id| Some(id) == content.program_id.as_deref())
            && objects.as_ref().is_none_or(|asked| kinds.any(|of| kind(of).is_some_and(|kind| asked.contains(&kind.as_str()))))
    };
    listing.page(found.await?.into_iter().filter(named)).map(Json)
}

/// Makes one.
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    client: Client,
    request: Result<Json<SubscriptionRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Subscription>), Problem> {
    let wanted = wanted(&api, &client, request)?;
    let (now, sees, user, book) = (api.clock.now(), Sees::new(&api), client.name().to_owned(), service(&api)?.book.clone());
    let made = ask(&api, move |clients| {
        let work = |desk: &Desk<'_>| Ok(Some((desk.subscribe(&user, &wanted, now)?, user.clone())));
        tell((clients, &book, &sees), Operation::Create, work)
    });
    Ok((StatusCode::CREATED, Json(made.await?.ok_or_else(not_found)?)))
}

/// Shows one.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<Subscription>, Problem> {
    let (all, user) = (client.is_operator(&api, Action::Query), client.name().to_owned());
    let found = ask(&api, move |clients| clients.read(|desk| desk.subscription(Whose::of(all, &user), &id))).await?;
    found.map(|(found, owner)| Json(shown(found, &owner, client.name()))).ok_or_else(not_found)
}

/// Changes one. Only its own client does: what is told is a matter of that client's grants.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
    request: Result<Json<SubscriptionRequest>, JsonRejection>,
) -> Result<Json<Subscription>, Problem> {
    let wanted = wanted(&api, &client, request)?;
    let (now, sees, user, book) = (api.clock.now(), Sees::new(&api), client.name().to_owned(), service(&api)?.book.clone());
    let changed = ask(&api, move |clients| {
        let work = |desk: &Desk<'_>| desk.resubscribe(Whose::User(&user), &id, &wanted, now);
        tell((clients, &book, &sees), Operation::Update, work)
    });
    changed.await?.map(Json).ok_or_else(not_found)
}

/// Removes one, with what waits to be told.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<Subscription>, Problem> {
    let (all, user) = (client.is_operator(&api, Action::Publish), client.name().to_owned());
    let (sees, book, of) = (Sees::new(&api), service(&api)?.book.clone(), user.clone());
    let removed = ask(&api, move |clients| {
        let mut owner = String::new();
        let work = |desk: &Desk<'_>| {
            let removed = desk.unsubscribe(Whose::of(all, &user), &id)?;
            owner = removed.as_ref().map(|(_, owner)| owner.clone()).unwrap_or_default();
            Ok(removed)
        };
        let removed = tell((clients, &book, &sees), Operation::Delete, work)?;
        Ok(removed.map(|removed| shown(removed, &owner, &of)))
    });
    removed.await?.map(Json).ok_or_else(not_found)
}
