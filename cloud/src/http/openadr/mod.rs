//! OpenADR 3.1 under `/openadr3/3.1.0`, as far as a VEN needs it: it reads programs and events, posts reports, and registers itself.
//!
//! Users and grants are those of everything else: who may subscribe `demand/{program}/events` sees the program and its events, who may
//! publish `demand/{program}/reports` may report. Both Basic credentials and a token from `auth/token` are taken. Notifications
//! are not sent: a VEN polls, or subscribes the topic over MQTT.

mod events;
mod reports;
mod tokens;
mod vens;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use wire::grants::Action;

use super::Api;
use super::identity::Asker;
use crate::demand::{Program, Service};
use crate::history::Viewer;
use crate::problem::Problem;

pub(crate) use tokens::Tokens;

/// Objects of a page, at most and without a limit; the limit of the standard.
const PAGE_MAX: usize = 50;

/// The paths.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/auth/token", post(tokens::issue))
        .route("/programs", get(events::programs))
        .route("/programs/{id}", get(events::program))
        .route("/events", get(events::events))
        .route("/events/{id}", get(events::event))
        .route("/reports", get(reports::list).post(reports::add))
        .route("/reports/{id}", get(reports::one))
        .route("/vens", get(vens::list).post(vens::add))
        .route("/vens/{id}", get(vens::one).put(vens::change).delete(vens::remove))
        .route("/subscriptions", get(subscriptions).post(subscribe))
        .route("/notifiers", get(notifiers))
}

/// A verified user of the OpenADR paths.
struct Client {
    viewer: Viewer,
}

impl FromRequestParts<Arc<Api>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let token = parts.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok()).and_then(bearer).map(str::to_owned);
        let viewer = match token {
            Some(token) => Viewer::user(api.tokens.user_of(&token, &api.policy)?),
            None => Asker::from_request_parts(parts, api).await?.0,
        };
        Ok(Self { viewer })
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Client {
    /// Its name; empty for nobody, where nobody is let in.
    fn name(&self) -> &str {
        self.viewer.subject().user.unwrap_or_default()
    }

    fn may(&self, api: &Api, action: Action, program: &Program, way: &str) -> bool {
        let topic = format!("demand/{}/{way}", program.name);
        api.policy.verdict(&self.viewer.subject(), action, &topic, api.clock.now()).is_allowed()
    }

    fn sees(&self, api: &Api, program: &Program) -> bool {
        self.may(api, Action::Subscribe, program, "events")
    }
}

fn service(api: &Api) -> Result<&Service, Problem> {
    api.demand.as_ref().ok_or_else(|| Problem::not_found("this cloud has no programs: it has no [demand] section"))
}

/// `skip` and `limit` of a list, and the first value of any other name. Names that are not known are left alone.
struct Listing(Vec<(String, String)>);

impl Listing {
    fn of(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn page<T>(&self, all: impl Iterator<Item = T>) -> Result<Vec<T>, Problem> {
        let number = |name: &str, otherwise: usize| match self.of(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| Problem::field(name, "is not a whole number")),
        };
        Ok(all.skip(number("skip", 0)?).take(number("limit", PAGE_MAX)?.min(PAGE_MAX)).collect())
    }
}

/// There are none: see [`subscribe`].
async fn subscriptions(_: Client) -> Json<Value> {
    Json(json!([]))
}

async fn subscribe(_: Client) -> Problem {
    Problem::not_implemented("no call-backs are made from here; poll /events, or subscribe demand/{program}/events over MQTT")
}

/// No notifier of the standard is offered.
async fn notifiers(_: Client) -> Json<Value> {
    Json(json!({"WEBSOCKET": false}))
}
