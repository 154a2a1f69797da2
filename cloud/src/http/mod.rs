//! The HTTP interface: JSON under `/api/v1`, errors as problem details, the same users and tokens as MQTT.
//!
//! One file a resource. Every handler takes an [`identity::Asker`], so a request without a verified identity reaches none.

pub mod access;
mod demand;
mod gaps;
mod groups;
pub(crate) mod identity;
pub(crate) mod openadr;
mod places;
mod records;
mod relays;
mod serve;
mod status;
mod targets;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use broker::{Hub, Policy};
use chassis::Clock;

use crate::access::Registrar;
use crate::anchoring::Anchored;
use crate::commands::Commands;
use crate::demand::Service;
use crate::groups::Groups;
use crate::history::History;
use crate::ingest::Seen;
use crate::metrics::Metrics;
use crate::problem::{PROBLEM_TYPE, Problem};
use crate::proving::Proving;

pub use demand::{DemandView, EventView, PartView, Receipt, Status};
pub(crate) use places::on_ledger;
pub(crate) use serve::serve;

/// Bytes of a request for access, or of a decision, at most.
const ACCESS_BYTES_MAX: usize = 32 * 1024;

/// What the handlers share.
pub(crate) struct Api {
    pub(crate) history: History,
    pub(crate) policy: Policy,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) hub: Hub,
    pub(crate) seen: Seen,
    pub(crate) groups: Groups,
    pub(crate) metrics: Metrics,
    pub(crate) anchored: Option<Anchored>,
    pub(crate) identities: identity::Identities,
    pub(crate) commands: Commands,
    pub(crate) proving: Proving,
    pub(crate) demand: Option<Service>,
    pub(crate) tokens: openadr::Tokens,
    pub(crate) registrar: Registrar,
}

/// All paths.
pub(crate) fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/api/v1/records", get(records::page))
        .route("/api/v1/records/{*key}", get(records::one))
        .route("/api/v1/where/{*key}", get(places::place))
        .route("/api/v1/proofs/{*key}", get(places::proof))
        .route("/api/v1/gaps", get(gaps::page))
        .route("/api/v1/targets", get(targets::page))
        .route("/api/v1/groups", get(groups::show))
        .route("/api/v1/demand", get(demand::show))
        .nest("/openadr3/3.1.0", openadr::routes())
        .route("/api/v1/status", get(status::show))
        .route("/api/v1/access/requests", get(access::list).post(access::ask).layer(DefaultBodyLimit::max(ACCESS_BYTES_MAX)))
        .route("/api/v1/access/requests/{id}", get(access::one))
        .route("/api/v1/access/requests/{id}/{what}", post(access::decide).layer(DefaultBodyLimit::max(ACCESS_BYTES_MAX)))
        .route("/api/v1/access/log", get(access::log))
        .route("/api/v1/relays/{relay}/flush", post(relays::flush))
        .route("/api/v1/relays/{relay}/give-up", post(relays::give_up))
        .route("/api/v1/relays/{relay}/retire", post(relays::retire))
        .method_not_allowed_fallback(|| async { Problem::method() })
        .fallback(|| async {
            Problem::not_found("there is no such path; the interface is under /api/v1, OpenADR under /openadr3/3.1.0")
        })
        .with_state(api)
}

/// How one may say who he is.
const CHALLENGE: &str = "Basic realm=\"forebay\", charset=\"UTF-8\", Bearer realm=\"forebay\"";

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        response
    }
}
