//! `GET /api/v1/groups?terms=`: leases, members, scores and the last terms of the groups. Needs a grant to query the topic `status`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use wire::grants::Action;

use super::Api;
use super::identity::Asker;
use super::status::TOPIC;
use crate::groups::view::{GroupsView, TERMS_MAX, TERMS_SHOWN};
use crate::problem::Problem;

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// How many of the last terms of each group are shown.
    terms: Option<usize>,
}

/// Shows all groups.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<GroupsView>, Problem> {
    if !api.policy.verdict(&viewer.subject(), Action::Query, TOPIC, api.clock.now()).is_allowed() {
        return Err(Problem::forbidden());
    }
    let Query(Asked { terms }) = asked.map_err(|fault| Problem::malformed(fault.body_text()))?;
    let terms = terms.unwrap_or(TERMS_SHOWN);
    if terms > TERMS_MAX {
        return Err(Problem::field("terms", format!("is above {TERMS_MAX}; no more are kept")));
    }
    let groups = api.groups.clone();
    let view = tokio::task::spawn_blocking(move || groups.view(terms)).await;
    match view {
        Ok(Ok(view)) => Ok(Json(view)),
        Ok(Err(error)) => {
            tracing::error!(%error, "the groups can't be shown");
            Err(Problem::unavailable())
        }
        Err(error) => {
            tracing::error!(%error, "the groups can't be shown");
            Err(Problem::unavailable())
        }
    }
}
