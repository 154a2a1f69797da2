//! `GET /api/v1/where/{key}` and `GET /api/v1/proofs/{key}`: how far a record has come, and the proof once it is on chain.

use std::sync::Arc;

use wire::RecordKey;

use anchor::{LedgerError, ProveError};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Api;
use super::identity::Asker;
use super::records::read_key;
use crate::anchoring::Evidence;
use crate::index::LookFault;
use crate::ladder::Whereabouts;
use crate::metrics::Showing;
use crate::problem::Problem;
use crate::proving::AtRelay;

/// Shows where a record is.
pub(super) async fn place(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(key): Path<String>,
) -> Result<Json<Whereabouts>, Problem> {
    let key = read_key(&key)?;
    api.history.permit(&viewer, &key.series)?;
    whereabouts(&api, key).await.map(Json)
}

/// How far a record has come. Whoever calls this has asked the grants.
pub(super) async fn whereabouts(api: &Api, key: RecordKey) -> Result<Whereabouts, Problem> {
    let index = api.history.index().clone();
    let found = api.history.read(move |archive| {
        let mut found = Whereabouts::in_archive(archive, key)?;
        found.look_in(&index)?;
        Ok::<_, LookFault>(found)
    });
    let mut found = found.await?;
    if let (Some(anchored), Some(chunk)) = (api.anchored.clone(), found.chunk)
        && let Some(place) = on_ledger(move || anchored.place(chunk)).await?
    {
        found.is_batched(&place);
    }
    Ok(found)
}

/// What the proof shall have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProofWanted {
    /// All later batches, so that it holds where logs are gone.
    #[serde(default)]
    up_to_head: bool,
}

/// What a proof is made from.
enum Held {
    /// The archive has the record.
    Here(Evidence),
    /// A relay has it.
    AtRelay(AtRelay),
}

/// Shows the proof of a record that is on chain, or whose relay's statement is.
pub(super) async fn proof(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(key): Path<String>,
    wanted: Result<Query<ProofWanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let key = read_key(&key)?;
    let Query(wanted) = wanted.map_err(|fault| Problem::malformed(fault.body_text()))?;
    api.history.permit(&viewer, &key.series)?;
    let Some(anchored) = api.anchored.clone() else {
        return Err(Problem::not_found("this cloud does not anchor: it has no [anchor] section"));
    };
    let wanted_key = key.clone();
    let evidence = match api.history.read(move |archive| Evidence::gather(archive, &wanted_key)).await? {
        Some(evidence) => Held::Here(evidence.map_err(|missing| Problem::conflict(missing.to_string()))?),
        None => Held::AtRelay(api.proving.show(&api.history, &anchored, &key).await?),
    };
    let metrics = api.metrics.clone();
    let prove = move || match &evidence {
        Held::Here(evidence) => anchored.prove(evidence, wanted.up_to_head),
        Held::AtRelay(at_relay) => {
            let proof = anchored.prove_stated(at_relay, wanted.up_to_head);
            metrics.relay_proof(if proof.is_ok() { Showing::Shown } else { Showing::Changed });
            proof
        }
    };
    let proof = match tokio::task::spawn_blocking(prove).await {
        Ok(Ok(proof)) => proof,
        Ok(Err(not_yet @ (ProveError::NotBatched(_) | ProveError::NotFinal { .. }))) => {
            return Err(Problem::conflict(format!("{not_yet}; ask again later")));
        }
        Ok(Err(fault)) => {
            tracing::error!(error = %fault, "ALARM: a record can't be proven");
            return Err(Problem::conflict(fault.to_string()));
        }
        Err(ended) => {
            tracing::error!(error = %ended, "a proof ended before it was made");
            return Err(Problem::unavailable());
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], proof.to_json()).into_response())
}

/// Reads the ledger on a thread that may block.
pub(crate) async fn on_ledger<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(fault)) => {
            tracing::error!(error = %fault, "the anchor ledger did not answer");
            Err(Problem::unavailable())
        }
        Err(fault) => {
            tracing::error!(error = %fault, "a look at the anchor ledger ended without an answer");
            Err(Problem::unavailable())
        }
    }
}
