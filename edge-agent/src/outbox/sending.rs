//! Handing rows to the sender, and writing down what the relay said.

use store::Fault;
use store::rusqlite::{OptionalExtension, Transaction, params};
use wire::At;

use super::desk::Desk;
use crate::state::{Event, State};

/// A row on its way to the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: i64,
    /// Records in it.
    pub(crate) count: u64,
    /// The canonical run.
    pub(crate) run: Vec<u8>,
}

/// What the relay said about a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// Refused for good, and why.
    Rejected(String),
    /// Not now.
    Deferred,
}

/// Marks the open rows after row `after` as sent, until there are `records_max` records or `bytes_max` bytes, and gives them out.
/// The sender publishes them after the commit: first `SentToServer`, then sent (B1).
pub(crate) fn dispatch(
    desk: &mut Desk,
    tx: &Transaction<'_>,
    after: i64,
    records_max: u64,
    bytes_max: usize,
) -> Result<Vec<Row>, Fault> {
    let mut select = tx.prepare_cached(
        "SELECT b.id, o.seq_last - o.seq_first + 1, o.state, b.run
           FROM bodies b JOIN outbox o ON o.id = b.id WHERE b.id > ?1 ORDER BY b.id",
    )?;
    let mut mark = tx.prepare_cached("UPDATE outbox SET state = ?2, since = ?3 WHERE id = ?1")?;
    let mut found = select.query([after])?;
    let (mut rows, mut records, mut bytes) = (Vec::new(), 0, 0);
    let mut newly_sent = 0;
    while records < records_max && bytes < bytes_max {
        let Some(row) = found.next()? else { break };
        let (id, count, state) = (row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), stored_state(row.get(2)?)?);
        let next = state.after(Event::Sent).map_err(|fault| Fault::Work(fault.to_string().into()))?;
        if next != state {
            mark.execute(params![id, next.code(), desk.now])?;
            newly_sent += count;
        }
        let run: Vec<u8> = row.get(3)?;
        records += count;
        bytes += run.len();
        rows.push(Row { id, count, run });
    }
    if newly_sent > 0 {
        desk.progress().sent += newly_sent;
    }
    Ok(rows)
}

/// Writes a verdict down. Accepted and rejected rows lose their payload; key and leaves stay.
pub(crate) fn resolve(desk: &mut Desk, tx: &Transaction<'_>, rows: &[i64], verdict: &Verdict, now: At) -> Result<(), Fault> {
    let (event, reason) = match verdict {
        Verdict::Accepted => (Event::Accepted, None),
        Verdict::Rejected(reason) => (Event::Rejected, Some(reason.as_str())),
        Verdict::Deferred => (Event::Deferred, None),
    };
    let mut select = tx.prepare_cached("SELECT state, seq_last - seq_first + 1, cost FROM outbox WHERE id = ?1")?;
    let mut update =
        tx.prepare_cached("UPDATE outbox SET state = ?2, accepted_at = ?3, reason = ?4, since = ?5 WHERE id = ?1")?;
    let mut forget = tx.prepare_cached("DELETE FROM bodies WHERE id = ?1")?;
    for id in rows {
        let found = select.query_row([id], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))).optional()?;
        let Some((state, count, cost)) = found else {
            tracing::error!(row = id, "the relay answered for a row that is gone");
            continue;
        };
        let next = match stored_state(state)?.after(event) {
            Ok(next) => next,
            Err(impossible) => {
                tracing::error!(row = id, %impossible, "an answer that does not fit is not written");
                continue;
            }
        };
        let accepted_at = (next == State::ServerAccepted).then_some(now);
        update.execute(params![id, next.code(), accepted_at, reason, now])?;
        let count = count.cast_unsigned();
        if next.is_open() {
            desk.progress().sent -= count;
            continue;
        }
        forget.execute([id])?;
        desk.free(cost.cast_unsigned());
        match next {
            State::ServerRejected => desk.progress().rejected += count,
            _ => desk.progress().accepted += count,
        }
    }
    Ok(())
}

pub(crate) fn stored_state(code: i64) -> Result<State, Fault> {
    State::from_code(code).ok_or_else(|| Fault::Corrupt(format!("state {code} is unknown").into()))
}
