//! `GET /api/v1/status`: what the cloud holds and how anchoring is doing. Needs a grant to query the topic `status`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use wire::grants::Action;
use wire::topics::Down;
use wire::{RelayId, Topic};

use super::Api;
use super::identity::Asker;
use crate::problem::Problem;

/// The topic that a grant to query names.
pub(super) const TOPIC: &str = "status";

/// The counters.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    records: Records,
    relays: Vec<Relay>,
    batches: Option<Batches>,
}

/// A relay that has sent frames since the start of the process.
#[derive(Debug, Serialize)]
struct Relay {
    relay: RelayId,
    frames: u64,
    /// Whether its commands are listened for now.
    connected: bool,
}

/// Records held, and verdicts since the start of the process.
#[derive(Debug, Serialize)]
struct Records {
    held: u64,
    ingested: u64,
    duplicate: u64,
    conflict: u64,
}

/// Batches by state, and the chunks in them.
#[derive(Debug, Serialize)]
struct Batches {
    batched: u64,
    signed: u64,
    sent: u64,
    mined: u64,
    #[serde(rename = "final")]
    fin: u64,
    failed: u64,
    chunks_final: u64,
    chunks_open: u64,
    records_final: u64,
}

/// Shows the counters.
pub(super) async fn show(State(api): State<Arc<Api>>, Asker(viewer): Asker) -> Result<Json<Status>, Problem> {
    if !api.policy.verdict(&viewer.subject(), Action::Query, TOPIC, api.clock.now()).is_allowed() {
        return Err(Problem::forbidden());
    }
    let anchored = api.anchored.clone();
    let stats = api.history.archive().stats();
    let relays = api.seen.list().into_iter().map(|(relay, frames)| {
        let commands = Topic::Down { relay: (&relay).into(), kind: Down::Commands };
        Relay { connected: api.hub.wanted(&commands.to_string()), relay, frames }
    });
    let relays = relays.collect();
    let batches = match anchored {
        None => None,
        Some(anchored) => {
            let standing = super::places::on_ledger(move || anchored.standing()).await?;
            let counts = standing.counts;
            Some(Batches {
                batched: counts.batched,
                signed: counts.signed,
                sent: counts.sent,
                mined: counts.mined,
                fin: counts.fin,
                failed: counts.failed,
                chunks_final: standing.chunks_final,
                chunks_open: standing.chunks_open,
                records_final: standing.records_final,
            })
        }
    };
    let metrics = &api.metrics;
    let records = Records {
        held: stats.buffer.records + stats.chunks.records,
        ingested: metrics.records_ingested.get(),
        duplicate: metrics.records_duplicate.get(),
        conflict: metrics.records_conflict.get(),
    };
    Ok(Json(Status { records, relays, batches }))
}
