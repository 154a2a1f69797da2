//! What the anchor ledger says of its batches, taken over: how far the records have come, and what they can be looked up by.

use anchor::changes::{Change, LedgerId};
use store::Fault;
use store::rusqlite::{OptionalExtension, Transaction, params};

use super::desk::Desk;
use super::reading_back::ReadFault;
use super::sending::stored_state;
use crate::state::State;

/// Which ledger was followed, and up to which of its changes.
pub(crate) fn followed(tx: &Transaction<'_>) -> Result<Option<(LedgerId, u64)>, ReadFault> {
    let mut select = tx.prepare_cached("SELECT ledger, change FROM followed")?;
    Ok(select.query_row([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))).optional()?)
}

/// Takes changes over, in their order. The last of them is remembered by the same commit.
pub(crate) fn follow(desk: &mut Desk, tx: &Transaction<'_>, ledger: &LedgerId, changes: &[Change]) -> Result<(), Fault> {
    let Some(last) = changes.last() else { return Ok(()) };
    let known = tx.prepare_cached("SELECT ledger FROM followed")?.query_row([], |row| row.get::<_, LedgerId>(0)).optional()?;
    if known.as_ref() != Some(ledger) {
        // Another ledger in its place numbers batches anew.
        tx.execute("UPDATE chunks SET batch = NULL WHERE batch IS NOT NULL", [])?;
        tx.execute("DELETE FROM batches", [])?;
    }
    let mut keep = tx.prepare_cached(
        "INSERT INTO batches (number, detail, failure, tx) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (number) DO UPDATE SET detail = excluded.detail, failure = excluded.failure, tx = excluded.tx",
    )?;
    for change in changes {
        keep.execute(params![
            change.batch.cast_signed(),
            change.detail.as_str(),
            change.failure.map(anchor::machine::Failure::as_str),
            change.tx
        ])?;
        move_chunks(desk, tx, change)?;
    }
    tx.prepare_cached(
        "INSERT INTO followed (one, ledger, change) VALUES (1, ?1, ?2)
         ON CONFLICT (one) DO UPDATE SET ledger = excluded.ledger, change = excluded.change",
    )?
    .execute(params![ledger, last.number.cast_signed()])?;
    Ok(())
}

/// A step that the machine does not know changes nothing.
fn move_chunks(desk: &mut Desk, tx: &Transaction<'_>, change: &Change) -> Result<(), Fault> {
    let batch = change.batch.cast_signed();
    let mut select =
        tx.prepare_cached("SELECT id, state, batch, seq_last - seq_first + 1 FROM chunks WHERE id BETWEEN ?1 AND ?2")?;
    let chunks = select
        .query_map([change.chunks.0, change.chunks.1], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned()))
        })?
        .collect::<Result<Vec<(i64, i64, Option<i64>, u64)>, _>>()?;
    let mut name = tx.prepare_cached("UPDATE chunks SET batch = ?2 WHERE id = ?1")?;
    let mut update = tx.prepare_cached("UPDATE chunks SET state = ?2, since = ?3 WHERE id = ?1")?;
    for (chunk, state, in_batch, count) in chunks {
        if in_batch != Some(batch) {
            name.execute([chunk, batch])?;
        }
        let state = stored_state(state)?;
        let Some(event) = state.anchored().and_then(|anchored| anchored.event_to(change.record)) else { continue };
        let next = match state.after(event.into()) {
            Ok(next) => next,
            Err(impossible) => {
                tracing::error!(chunk, batch, %impossible, "what the ledger says does not fit, and is not written");
                continue;
            }
        };
        update.execute(params![chunk, next.code(), change.since])?;
        match (state, next) {
            (_, State::OnChain) => desk.progress().anchored += count,
            (State::OnChain, _) => desk.progress().anchored -= count,
            _ => {}
        }
    }
    Ok(())
}
