//! `GET /api/v1/records?series=&filter=&tags=&from=&to=&limit=&cursor=` and `GET /api/v1/records/{key}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use wire::RecordKey;

use super::Api;
use super::identity::Asker;
use crate::metrics::{Face, Outcome};
use crate::problem::Problem;
use crate::question::Ask;
use crate::reading::{Page, Reading};

/// A page of one series, or of many.
pub(super) async fn page(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let answer = async {
        let Query(pairs) = pairs.map_err(|fault| Problem::malformed(fault.body_text()))?;
        let query = api.history.check(&viewer, &Ask::from_pairs(pairs)?)?;
        api.history.page(&viewer, query).await
    };
    let answer = answer.await;
    api.metrics.asked(Face::Http, if answer.is_ok() { Outcome::Answered } else { Outcome::Refused });
    answer.map(Json)
}

/// One record.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(key): Path<String>,
) -> Result<Json<Reading>, Problem> {
    let key = read_key(&key)?;
    let reading = api.history.record(&viewer, key).await?;
    reading.map(Json).ok_or_else(|| Problem::not_found("neither the archive nor a relay that can be asked holds this record"))
}

/// The record key of a path.
pub(super) fn read_key(text: &str) -> Result<RecordKey, Problem> {
    text.parse().map_err(|fault: wire::IdFault| Problem::field("key", fault.to_string()))
}
