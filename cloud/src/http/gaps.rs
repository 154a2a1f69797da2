//! `GET /api/v1/gaps?series=&limit=&cursor=`: what was received of each series and epoch, and what is missing.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::Api;
use super::identity::Asker;
use crate::gaps::{LedgerPage, LedgerQuery};
use crate::problem::Problem;

/// A page of the gap ledger.
pub(super) async fn page(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<LedgerPage>, Problem> {
    let Query(pairs) = pairs.map_err(|fault| Problem::malformed(fault.body_text()))?;
    api.history.ledger(&viewer, LedgerQuery::from_pairs(pairs)?).await.map(Json)
}
