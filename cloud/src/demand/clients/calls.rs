//! Notifications that wait to be delivered, and when they are tried again.

use store::rusqlite::params;
use wire::At;

use super::{ClientsFault, Desk};

/// First pause after a failure; each further one doubles it.
const PAUSE: i64 = 1_000_000_000;
/// Longest pause.
const PAUSE_MAX: i64 = 300_000_000_000;

/// A notification on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: i64,
    pub(crate) url: String,
    pub(crate) bearer: Option<String>,
    pub(crate) body: String,
    /// How often it has failed.
    pub(crate) tries: u32,
    /// When it was queued.
    pub(crate) made: At,
}

/// What becomes of a notification that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is tried again then.
    Again(At),
    /// It is dropped.
    Never,
}

impl Call {
    /// After one more failure at `now`; it is given up once it is older than `kept` nanoseconds.
    pub(crate) fn after_failure(&self, now: At, kept: i64) -> Next {
        if now.saturating_sub(self.made) >= kept {
            return Next::Never;
        }
        let pause = PAUSE.checked_shl(self.tries.min(32)).map_or(PAUSE_MAX, |pause| pause.clamp(PAUSE, PAUSE_MAX));
        Next::Again(now.saturating_add(pause))
    }
}

impl Desk<'_> {
    /// The oldest call of every subscription, where it is due: one that fails holds up those behind it, so that they come in order.
    pub(crate) fn due(&self, now: At, limit: usize) -> Result<Vec<Call>, ClientsFault> {
        let mut select = self.0.prepare_cached(
            "SELECT c.id, c.url, c.bearer, c.body, c.tries, c.made FROM calls c
              WHERE c.id IN (SELECT min(id) FROM calls GROUP BY subscription) AND c.due <= ?1 ORDER BY c.due, c.id LIMIT ?2",
        )?;
        let rows = select.query_map(params![now, limit as i64], |row| {
            Ok(Call {
                id: row.get(0)?,
                url: row.get(1)?,
                bearer: row.get(2)?,
                body: row.get(3)?,
                tries: row.get(4)?,
                made: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> Result<i64, ClientsFault> {
        Ok(self.0.prepare_cached("SELECT count(*) FROM calls")?.query_row([], |row| row.get(0))?)
    }

    /// It was taken, or given up.
    pub(crate) fn end_call(&self, id: i64) -> Result<(), ClientsFault> {
        self.0.prepare_cached("DELETE FROM calls WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// It failed, and is tried again at `due`.
    pub(crate) fn put_off(&self, id: i64, due: At) -> Result<(), ClientsFault> {
        self.0.prepare_cached("UPDATE calls SET tries = tries + 1, due = ?2 WHERE id = ?1")?.execute(params![id, due])?;
        Ok(())
    }
}
