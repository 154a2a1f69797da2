//! OpenADR 3.1 under `/openadr3/3.1.0`: what a VEN and its operator need.
//!
//! Users and grants are those of everything else. A VEN may subscribe `demand/{program}/events`: it sees the program and its events. Who may
//! publish `demand/{program}/reports` may report, and who may query them sees everybody's. Who may publish `demand/{program}/events` makes,
//! changes and cancels events. [`CLIENTS`] is what operators need to see and write others' VENs, resources and subscriptions. Basic
//! credentials are taken, a token from `auth/token`, and a token of whom the policy trusts.

mod events;
mod notifiers;
mod posts;
mod reports;
mod resources;
mod subscriptions;
mod tokens;
mod vens;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::routing::{get, post};
use wire::grants::Action;

use super::Api;
use super::identity::Asker;
use crate::demand::{CLIENTS, Clients, ClientsFault, Program, Service};
use crate::history::Viewer;
use crate::problem::Problem;

pub(crate) use tokens::Tokens;

/// Objects of a page, at most and without a limit; the limit of the standard.
const PAGE_MAX: usize = 50;
/// Longest name and target.
const NAME_MAX: usize = 128;
/// Targets of an object.
const TARGETS_MAX: usize = 100;

/// The paths.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/auth/server", get(tokens::server))
        .route("/auth/token", post(tokens::issue))
        .route("/programs", get(events::programs).post(events::no_program))
        .route("/programs/{id}", get(events::program).put(events::no_program).delete(events::no_program))
        .route("/events", get(events::events).post(posts::add))
        .route("/events/{id}", get(events::event).put(posts::change).delete(posts::cancel))
        .route("/reports", get(reports::list).post(reports::add))
        .route("/reports/{id}", get(reports::one).put(reports::stays).delete(reports::stays))
        .route("/vens", get(vens::list).post(vens::add))
        .route("/vens/{id}", get(vens::one).put(vens::change).delete(vens::remove))
        .route("/resources", get(resources::list).post(resources::add))
        .route("/resources/{id}", get(resources::one).put(resources::change).delete(resources::remove))
        .route("/subscriptions", get(subscriptions::list).post(subscriptions::add))
        .route("/subscriptions/{id}", get(subscriptions::one).put(subscriptions::change).delete(subscriptions::remove))
        .route("/notifiers", get(notifiers::show))
}

/// A verified user of the OpenADR paths.
struct Client {
    viewer: Viewer,
}

impl FromRequestParts<Arc<Api>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let token = parts.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok()).and_then(bearer);
        let viewer = match token.and_then(|token| api.tokens.user_of(token, &api.policy)) {
            Some(user) => Viewer::user(user),
            // One that was not issued here may be of whom the policy trusts.
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

    /// Whether it may read, or write, VENs, resources and subscriptions of others.
    fn is_operator(&self, api: &Api, action: Action) -> bool {
        api.policy.verdict(&self.viewer.subject(), action, CLIENTS, api.clock.now()).is_allowed()
    }
}

fn service(api: &Api) -> Result<&Service, Problem> {
    api.demand.as_ref().ok_or_else(|| Problem::not_found("this cloud has no programs: it has no [demand] section"))
}

/// Asks the clients' database on a thread that may block.
async fn ask<T: Send + 'static>(
    api: &Api,
    ask: impl FnOnce(&Clients) -> Result<T, ClientsFault> + Send + 'static,
) -> Result<T, Problem> {
    let clients = service(api)?.clients.clone();
    match tokio::task::spawn_blocking(move || ask(&clients)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(fault @ (ClientsFault::Taken(_) | ClientsFault::TooMany(..)))) => Err(Problem::conflict(fault.to_string())),
        Ok(Err(fault)) => {
            tracing::error!(%fault, "the clients' database can't be read or written");
            Err(Problem::unavailable())
        }
        Err(fault) => {
            tracing::error!(%fault, "a question to the clients' database ended without an answer");
            Err(Problem::unavailable())
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    match name.chars().count() {
        1..=NAME_MAX => Ok(()),
        _ => Err(Problem::field(field, "is not 1 to 128 characters")),
    }
}

fn check_targets(targets: Option<&[String]>) -> Result<(), Problem> {
    let targets = targets.unwrap_or_default();
    if targets.len() > TARGETS_MAX {
        return Err(Problem::field("targets", "are more than 100"));
    }
    targets.iter().try_for_each(|target| check_name("targets", target))
}

/// `skip` and `limit` of a list, and the values of any other name. Names that are not known are left alone.
struct Listing(Vec<(String, String)>);

impl Listing {
    fn of(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name, if there are any.
    fn all(&self, name: &str) -> Option<Vec<&str>> {
        let all: Vec<&str> = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        (!all.is_empty()).then_some(all)
    }

    /// Whether an object with these targets is one of those asked for.
    fn targets(&self, of: &[String]) -> bool {
        self.all("targets").is_none_or(|asked| of.iter().any(|target| asked.contains(&target.as_str())))
    }

    fn page<T>(&self, all: impl Iterator<Item = T>) -> Result<Vec<T>, Problem> {
        let number = |name: &str, otherwise: usize| match self.of(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| Problem::field(name, "is not a whole number")),
        };
        Ok(all.skip(number("skip", 0)?).take(number("limit", PAGE_MAX)?.min(PAGE_MAX)).collect())
    }
}
