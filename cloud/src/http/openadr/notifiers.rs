//! How notifications can be had.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use wire::openadr::Notifiers;

use super::super::Api;
use super::{Client, service};
use crate::problem::Problem;

/// By callbacks.
pub(super) async fn show(State(api): State<Arc<Api>>, _: Client) -> Result<Json<Notifiers>, Problem> {
    service(&api)?;
    Ok(Json(Notifiers { webhook: true, mqtt: None }))
}
