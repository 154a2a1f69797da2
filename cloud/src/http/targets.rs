//! `GET /api/v1/targets?area=&limit=&cursor=`: which sensor uses which relay.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::Api;
use super::identity::Asker;
use crate::problem::Problem;
use crate::registry::{TargetsPage, TargetsQuery};

/// A page of the target registry.
pub(super) async fn page(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<TargetsPage>, Problem> {
    let Query(pairs) = pairs.map_err(|fault| Problem::malformed(fault.body_text()))?;
    api.history.targets(&viewer, TargetsQuery::from_pairs(pairs)?).await.map(Json)
}
