//! `GET /api/v1/where/{key}` and `GET /api/v1/proofs/{key}`: how far a record has come, and the proof once it is on chain.

use std::sync::Arc;

use anchor::rows::Place;
use anchor::{LedgerError, ProveError};
use archive::ReadError;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use wire::RecordKey;
use wire::digest::to_hex;

use super::Api;
use super::identity::Asker;
use super::records::read_key;
use crate::anchoring::{Evidence, ServerState};
use crate::problem::Problem;

/// Where a record is, as far as the cloud knows.
#[derive(Debug, Serialize)]
pub(super) struct Whereabouts {
    key: RecordKey,
    /// Whether it is durable here.
    archived: bool,
    /// Its server state; `null` while it is not here.
    state: Option<ServerState>,
    /// Its chunk in the archive, once its segment is closed.
    chunk: Option<i64>,
    /// The batch that its chunk is anchored with.
    batch: Option<Batch>,
}

/// A batch on its way to the chain.
#[derive(Debug, Serialize)]
struct Batch {
    number: u64,
    detail: &'static str,
    /// Hash of its mined transaction, and the block that holds it.
    transaction: Option<String>,
    block: Option<u64>,
}

impl From<&Place> for Batch {
    fn from(place: &Place) -> Self {
        let progress = &place.batch.progress;
        let mined = progress.mined.as_ref();
        Self {
            number: place.batch.number,
            detail: progress.state.as_str(),
            transaction: mined.map(|mined| format!("0x{}", to_hex(&mined.tx))),
            block: mined.map(|mined| mined.block_number),
        }
    }
}

/// Shows where a record is.
pub(super) async fn place(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(key): Path<String>,
) -> Result<Json<Whereabouts>, Problem> {
    let key = read_key(&key)?;
    api.history.permit(&viewer, &key.series)?;
    let wanted = key.clone();
    let found = api.history.read(move |archive| {
        let archived = archive.get(&wanted)?.is_some();
        Ok::<_, ReadError>((archived, archive.chunk_of(&wanted)?.map(|(chunk, _)| chunk)))
    });
    let (archived, chunk) = found.await?;
    let place = match (api.anchored.clone(), chunk) {
        (Some(anchored), Some(chunk)) => on_ledger(move || anchored.place(chunk)).await?,
        _ => None,
    };
    let on_its_way = place.as_ref().map_or(ServerState::RequestCompleted, |place| place.batch.progress.state.into());
    Ok(Json(Whereabouts { key, archived, state: archived.then_some(on_its_way), chunk, batch: place.as_ref().map(Batch::from) }))
}

/// Shows the proof of a record that is on chain.
pub(super) async fn proof(
    State(api): State<Arc<Api>>,
    Asker(viewer): Asker,
    Path(key): Path<String>,
) -> Result<Response, Problem> {
    let key = read_key(&key)?;
    api.history.permit(&viewer, &key.series)?;
    let Some(anchored) = api.anchored.clone() else {
        return Err(Problem::not_found("this cloud does not anchor: it has no [anchor] section"));
    };
    let Some(evidence) = api.history.read(move |archive| Evidence::gather(archive, &key)).await? else {
        return Err(Problem::not_found("the archive does not hold this record"));
    };
    let evidence = evidence.map_err(|missing| Problem::conflict(missing.to_string()))?;
    let proof = match tokio::task::spawn_blocking(move || anchored.prove(&evidence)).await {
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
pub(super) async fn on_ledger<T: Send + 'static>(
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
