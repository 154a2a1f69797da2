//! Responses to demand-response events: remembered by the commit that takes the record which says them.

use store::Fault;
use store::rusqlite::{Transaction, params};

use super::reading_back::ReadFault;
use crate::demand::policy::Response;
use crate::limits::RESPONSES_KEPT;

/// What a record about an event says.
#[derive(Debug, Clone)]
pub(crate) enum Noted {
    /// The event is answered.
    Promised(Response),
    /// It is over, and reported.
    Reported(String),
}

/// Remembers it; false when it was remembered before, so that the record must not be taken again.
pub(crate) fn note(tx: &Transaction<'_>, noted: &Noted) -> Result<bool, Fault> {
    match noted {
        Noted::Reported(event) => {
            let changed =
                tx.prepare_cached("UPDATE responses SET reported = 1 WHERE event = ?1 AND reported = 0")?.execute([event])?;
            Ok(changed > 0)
        }
        Noted::Promised(response) => {
            // Said again only of an event that has changed, or when something else is promised.
            let made = tx
                .prepare_cached(
                    "INSERT INTO responses (event, program, baseline_kw, promised_kw, begins, ends, priority, modified, asked_kw, opted_out)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT (event) DO UPDATE SET baseline_kw = ?3, promised_kw = ?4, begins = ?5, ends = ?6, priority = ?7,
                       modified = ?8, asked_kw = ?9, opted_out = ?10
                     WHERE reported = 0 AND (?8 > modified OR (?8 = modified AND (?4 <> promised_kw OR ?10 <> opted_out)))",
                )?
                .execute(params![
                    response.event,
                    response.program,
                    response.baseline_kw,
                    response.promised_kw,
                    response.begins,
                    response.ends,
                    response.priority,
                    response.modified,
                    response.asked_kw,
                    response.opted_out
                ])?;
            if made > 0 {
                let newest: i64 = tx.prepare_cached("SELECT max(id) FROM responses")?.query_row([], |row| row.get(0))?;
                let oldest = newest - RESPONSES_KEPT as i64;
                tx.prepare_cached("DELETE FROM responses WHERE id <= ?1 AND reported = 1")?.execute([oldest])?;
            }
            Ok(made > 0)
        }
    }
}

/// Responses whose result is still to come.
pub(crate) fn open(tx: &Transaction<'_>) -> Result<Vec<Response>, ReadFault> {
    let mut select = tx.prepare_cached(
        "SELECT event, program, baseline_kw, promised_kw, begins, ends, priority, modified, asked_kw, opted_out
           FROM responses WHERE reported = 0 ORDER BY id",
    )?;
    let rows = select.query_map([], |row| {
        Ok(Response {
            event: row.get(0)?,
            program: row.get(1)?,
            baseline_kw: row.get(2)?,
            promised_kw: row.get(3)?,
            begins: row.get(4)?,
            ends: row.get(5)?,
            priority: row.get(6)?,
            modified: row.get(7)?,
            asked_kw: row.get(8)?,
            opted_out: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
