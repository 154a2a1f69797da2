//! `/api/v1/access/…`: requests for access, decisions about them, and the audit trail.
//!
//! Whoever an authority vouches for asks, and sees his own requests. Reading all of them, and the trail, needs a grant to query the
//! topic `access`; deciding needs one to publish on it. Nobody decides about a request of his own, but everybody may take his back.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wire::grants::Action;

use super::Api;
use super::identity::Credentials;
use crate::access::audit::Entry;
use crate::access::{Ask, Bounds, Event, Identity, Narrowed, Request, State};
use crate::history::Viewer;
use crate::moment;
use crate::problem::Problem;

/// The topic that grants of operators name.
const TOPIC: &str = "access";
/// Requests or entries of a page, at most.
const PAGE_MAX: usize = 1_000;
const PAGE: usize = 100;

/// Who sends the request, and what his authority says about him.
pub(super) struct Person {
    viewer: Viewer,
    identity: Option<Identity>,
}

impl FromRequestParts<Arc<Api>> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let now = api.clock.now();
        let credentials = Credentials::of(&parts.headers)?;
        let user = api.identities.check(&credentials, now).await?;
        let authorities = api.registrar.authorities();
        let identity = match (&credentials, &user) {
            (Credentials::Token(token), _) => authorities.of_token(token, now),
            // A token may stand in the place of a password, here as over MQTT.
            (Credentials::Password { password, .. }, Some(user)) => {
                let by_token = authorities.of_token(password, now).filter(|identity| identity.user == *user);
                by_token.or_else(|| authorities.of_user(user, now))
            }
            _ => None,
        };
        Ok(Self { viewer: Viewer::user(user), identity })
    }
}

impl Person {
    fn may(&self, api: &Api, action: Action) -> bool {
        api.policy.verdict(&self.viewer.subject(), action, TOPIC, api.clock.now()).is_allowed()
    }

    fn name(&self) -> &str {
        self.viewer.subject().user.unwrap_or("anonymous")
    }

    fn is(&self, who: &Identity) -> bool {
        self.viewer.subject().user == Some(who.user.as_str())
    }
}

/// A request as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its number.
    pub id: u64,
    /// The name that grants know the user by.
    pub user: String,
    /// Who vouches for him.
    pub authority: String,
    /// What the authority says about him.
    pub attributes: Map<String, Value>,
    /// What he asked for.
    pub asked: Asked,
    /// RFC 3339.
    pub asked_at: String,
    /// Where it stands.
    pub state: State,
    /// By whom and why; none while it waits.
    pub decision: Option<Decision>,
    /// What is granted, while it is approved.
    pub granted: Option<Granted>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Which data.
    pub bounds: Bounds,
    /// RFC 3339.
    pub from: String,
    /// RFC 3339.
    pub until: String,
    /// What for.
    pub purpose: String,
}

/// The last decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// RFC 3339.
    pub at: String,
    /// The user, or `rule {name}`.
    pub by: String,
    /// In his words.
    pub reason: String,
}

/// What is granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// Which data.
    pub bounds: Bounds,
    /// RFC 3339.
    pub until: String,
    /// Whether the time is not over.
    pub holds: bool,
}

impl Shown {
    fn new(request: Request, now: wire::At) -> Self {
        let Request { id, who, want, asked_at, state, decided, granted } = request;
        let decision = decided.map(|decided| Decision { at: moment::format(decided.at), by: decided.by, reason: decided.reason });
        let granted = granted.map(|(bounds, until)| Granted { bounds, until: moment::format(until), holds: now < until });
        let asked = Asked {
            bounds: want.bounds,
            from: moment::format(want.from),
            until: moment::format(want.until),
            purpose: want.purpose,
        };
        let Identity { user, authority, attributes } = who;
        Self { id, user, authority, attributes, asked, asked_at: moment::format(asked_at), state, decision, granted }
    }
}

fn body<T>(json: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    json.map(|Json(body)| body).map_err(|fault| Problem::malformed(fault.body_text()))
}

/// `POST /api/v1/access/requests`.
pub(super) async fn ask(
    Shared(api): Shared<Arc<Api>>,
    person: Person,
    json: Result<Json<Ask>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let Some(identity) = person.identity else {
        return Err(Problem::refused(if api.registrar.authorities().is_empty() {
            "nobody vouches for anybody here: the operator has to configure [authority]"
        } else {
            "no authority vouches for you: come with a token of the issuer, or have yourself listed in the directory"
        }));
    };
    let request = api.registrar.ask(identity, &body(json)?).await?;
    Ok((StatusCode::CREATED, Json(Shown::new(request, api.clock.now()))))
}

/// A page of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// The newest first.
    pub requests: Vec<Shown>,
    /// Send it as `before` for those before; none when nothing is before.
    pub next_before: Option<u64>,
}

/// What a list is limited to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    state: Option<State>,
    before: Option<u64>,
    limit: Option<usize>,
}

/// `GET /api/v1/access/requests`.
pub(super) async fn list(
    Shared(api): Shared<Arc<Api>>,
    person: Person,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Requests>, Problem> {
    let Query(ListQuery { state, before, limit }) = query.map_err(|fault| Problem::malformed(fault.body_text()))?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let user = if person.may(&api, Action::Query) { None } else { Some(person.name().to_owned()) };
    let mut requests = api.registrar.list(user, state, before, limit + 1).await?;
    let more = requests.len() > limit;
    requests.truncate(limit);
    let next_before = requests.last().filter(|_| more).map(|last| last.id);
    let now = api.clock.now();
    Ok(Json(Requests { requests: requests.into_iter().map(|request| Shown::new(request, now)).collect(), next_before }))
}

/// One's own request, or any for an operator. To others it is not there.
async fn seen(api: &Api, person: &Person, id: u64, action: Action) -> Result<Request, Problem> {
    let request = api.registrar.get(id).await?;
    let request = request.filter(|request| person.is(&request.who) || person.may(api, action));
    request.ok_or_else(|| Problem::not_found(format!("there is no request {id} that you may see")))
}

/// `GET /api/v1/access/requests/{id}`.
pub(super) async fn one(Shared(api): Shared<Arc<Api>>, person: Person, Path(id): Path<u64>) -> Result<Json<Shown>, Problem> {
    let request = seen(&api, &person, id, Action::Query).await?;
    Ok(Json(Shown::new(request, api.clock.now())))
}

/// A decision: why, and for an approval what is given of what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// For whoever asked, and for the trail.
    pub reason: String,
    /// Less than was asked for; for approvals only.
    #[serde(default)]
    pub narrowed: Narrowed,
}

/// `POST /api/v1/access/requests/{id}/{approve|reject|revoke|withdraw}`.
pub(super) async fn decide(
    Shared(api): Shared<Arc<Api>>,
    person: Person,
    Path((id, what)): Path<(u64, String)>,
    json: Result<Json<Verdict>, JsonRejection>,
) -> Result<Json<Shown>, Problem> {
    let event = match what.as_str() {
        "approve" => Event::Approve,
        "reject" => Event::Reject,
        "revoke" => Event::Revoke,
        "withdraw" => Event::Withdraw,
        _ => return Err(Problem::not_found("there are approve, reject, revoke and withdraw")),
    };
    let Verdict { reason, narrowed } = body(json)?;
    let request = seen(&api, &person, id, Action::Publish).await?;
    let own = person.is(&request.who);
    match event {
        Event::Approve | Event::Reject if own => return Err(Problem::refused("nobody decides about a request of his own")),
        Event::Withdraw if !own => return Err(Problem::refused("only whoever made a request withdraws it; reject it")),
        _ => {}
    }
    let request = api.registrar.decide(id, event, person.name().to_owned(), &reason, narrowed).await?;
    Ok(Json(Shown::new(request, api.clock.now())))
}

/// A page of the trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trail {
    /// The oldest first.
    pub entries: Vec<Entry>,
    /// Send it as `after` for those behind; none when nothing is behind.
    pub next_after: Option<u64>,
}

/// Where a page of the trail begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrailQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

/// `GET /api/v1/access/log`.
pub(super) async fn log(
    Shared(api): Shared<Arc<Api>>,
    person: Person,
    query: Result<Query<TrailQuery>, QueryRejection>,
) -> Result<Json<Trail>, Problem> {
    let Query(TrailQuery { after, limit }) = query.map_err(|fault| Problem::malformed(fault.body_text()))?;
    if !person.may(&api, Action::Query) {
        return Err(Problem::forbidden());
    }
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let mut entries = api.registrar.log(after.unwrap_or(0), limit as u64 + 1).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_after = entries.last().filter(|_| more).map(|last| last.seq);
    Ok(Json(Trail { entries, next_after }))
}
