//! Requests, decisions and the audit trail: `access.sqlite` in the cloud's folder of data.
//!
//! A change of a request and its entry in the trail are one transaction. Little is written here, so one connection serves all.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use store::rusqlite::{self, Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use store::{OpenError, Options, Step};
use wire::At;

use super::audit::{self, Entry};
use super::rule::Given;
use super::state::{Event, State};
use super::want::{Bounds, Narrowed, Want};
use crate::moment;
use crate::problem::Problem;

const STEPS: &[Step] = &[Step { name: "access", sql: include_str!("sql/001_access.sql") }];
const FILE: &str = "access.sqlite";
/// What "per day" means.
const DAY: At = 86_400 * 1_000_000_000;
/// Entries of the trail that are checked at once when it is opened.
const CHECKED_AT_ONCE: u64 = 1_000;

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerFault {
    /// It can't be opened.
    #[error("{}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// SQLite refused.
    #[error("the access ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Who asks, as his authority knows him.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity {
    /// The name that grants know him by.
    pub(crate) user: String,
    pub(crate) authority: String,
    pub(crate) attributes: Map<String, Value>,
}

/// A request and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) who: Identity,
    pub(crate) want: Want,
    pub(crate) asked_at: At,
    pub(crate) state: State,
    pub(crate) decided: Option<Decided>,
    /// While it is approved.
    pub(crate) granted: Option<(Bounds, At)>,
}

/// The last decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decided {
    pub(crate) at: At,
    pub(crate) by: String,
    pub(crate) reason: String,
}

/// Limits of one user's requests, and of all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) waiting_max: u32,
    pub(crate) day_max: u32,
    pub(crate) kept_max: u32,
}

/// Why nothing was changed.
#[derive(Debug)]
pub(crate) enum Refused {
    /// What the asker is told.
    Problem(Problem),
    /// What only the log is told.
    Fault(LedgerFault),
}

impl From<rusqlite::Error> for Refused {
    fn from(fault: rusqlite::Error) -> Self {
        Self::Fault(fault.into())
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// The ledger, open.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<Connection>);

impl Ledger {
    /// Opens it in the folder `data`, and says at which entry the audit trail is broken, if it is.
    pub(crate) fn open(data: &Path) -> Result<(Self, Option<u64>), LedgerFault> {
        let path = data.join(FILE);
        let options = Options { cache_bytes: 1 << 20, wal_bytes: 4 << 20, ..Options::default() };
        let connection = store::open(&path, STEPS, &options).map_err(|source| LedgerFault::Open { path, source })?;
        let ledger = Self(Mutex::new(connection));
        let broken = ledger.broken()?;
        Ok((ledger, broken))
    }

    fn broken(&self) -> Result<Option<u64>, rusqlite::Error> {
        let (mut seq, mut before) = (0, audit::FIRST);
        loop {
            let entries = self.log(seq, CHECKED_AT_ONCE)?;
            if entries.is_empty() {
                return Ok(None);
            }
            for entry in entries {
                match entry.follows(seq + 1, before) {
                    Some(link) => (seq, before) = (entry.seq, link),
                    None => return Ok(Some(seq + 1)),
                }
            }
        }
    }

    /// Keeps a request, approved at once if a rule gives it.
    pub(crate) fn ask(
        &self,
        who: &Identity,
        want: &Want,
        given: Option<&Given>,
        limits: Limits,
        now: At,
    ) -> Result<Request, Refused> {
        let mut connection = self.0.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        make_room(&tx, who, limits, now)?;
        tx.prepare_cached(
            "INSERT INTO request (user, authority, attributes, bounds, from_at, until_at, purpose, asked_at, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'waiting')",
        )?
        .execute(params![
            who.user,
            who.authority,
            Value::Object(who.attributes.clone()).to_string(),
            json!(want.bounds).to_string(),
            want.from,
            want.until,
            want.purpose,
            now
        ])?;
        let id = tx.last_insert_rowid() as u64;
        let detail = json!({"bounds": want.bounds, "from": moment::format(want.from), "until": moment::format(want.until),
            "authority": who.authority, "attributes": who.attributes});
        write(&tx, now, &who.user, "asked", id, &want.purpose, &detail)?;
        if let Some(given) = given {
            let by = Decided { at: now, by: format!("rule {}", given.rule), reason: "by rule".to_owned() };
            settle(&tx, id, State::Approved, &by, Some((&want.bounds, given.until)))?;
        }
        let request = read(&tx, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        tx.commit()?;
        Ok(request)
    }

    /// Changes the state of a request. For an approval, `narrowed` says what is given of what was asked for.
    pub(crate) fn decide(&self, id: u64, event: Event, by: &Decided, narrowed: &Narrowed) -> Result<Request, Refused> {
        let mut connection = self.0.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let held = read(&tx, id)?.ok_or_else(|| Problem::not_found(format!("there is no request {id}")))?;
        let next = held.state.after(event);
        let next =
            next.ok_or_else(|| Problem::conflict(format!("request {id} is {}, so it can't be {}", held.state, event.done())))?;
        let granted = match event {
            Event::Approve => Some(narrowed.of(&held.want.bounds, held.want.until, by.at)?),
            Event::Reject | Event::Withdraw | Event::Revoke => None,
        };
        settle(&tx, id, next, by, granted.as_ref().map(|(bounds, until)| (bounds, *until)))?;
        let request = read(&tx, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        tx.commit()?;
        Ok(request)
    }

    pub(crate) fn get(&self, id: u64) -> Result<Option<Request>, rusqlite::Error> {
        read(&self.0.lock(), id)
    }

    /// Requests before number `before`, the newest first; of one user, and in one state, if these are given.
    pub(crate) fn list(
        &self,
        user: Option<&str>,
        state: Option<State>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Request>, rusqlite::Error> {
        let connection = self.0.lock();
        let sql = format!(
            "SELECT {COLUMNS} FROM request WHERE id < ?1 AND (?2 IS NULL OR user = ?2) AND (?3 IS NULL OR state = ?3)
             ORDER BY id DESC LIMIT ?4"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![before, user, state.map(State::as_str), limit as i64], request)?;
        rows.collect()
    }

    /// What is granted beyond `now`.
    pub(crate) fn in_force(&self, now: At) -> Result<Vec<Request>, rusqlite::Error> {
        let connection = self.0.lock();
        let sql = format!("SELECT {COLUMNS} FROM request WHERE state = 'approved' AND granted_until > ?1 ORDER BY id");
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map([now], request)?;
        rows.collect()
    }

    /// Entries of the trail behind number `after`.
    pub(crate) fn log(&self, after: u64, limit: u64) -> Result<Vec<Entry>, rusqlite::Error> {
        let connection = self.0.lock();
        let mut statement = connection.prepare_cached(
            "SELECT seq, at, who, what, request, reason, detail, chain FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let rows = statement.query_map([after as i64, limit as i64], |row| {
            Ok(Entry {
                seq: row.get::<_, i64>(0)? as u64,
                at: moment::format(row.get(1)?),
                who: row.get(2)?,
                what: row.get(3)?,
                request: row.get::<_, i64>(4)? as u64,
                reason: row.get(5)?,
                detail: parsed(row, 6)?,
                chain: audit::hex(&row.get::<_, Vec<u8>>(7)?),
            })
        })?;
        rows.collect()
    }
}

/// Refuses a request above a limit; forgets the oldest one that is over when there are too many. The trail keeps what it was.
fn make_room(tx: &Transaction<'_>, who: &Identity, limits: Limits, now: At) -> Result<(), Refused> {
    let count = |sql: &str, params: &[&dyn rusqlite::ToSql]| tx.query_row(sql, params, |row| row.get::<_, u32>(0));
    let waiting = count("SELECT count(*) FROM request WHERE user = ?1 AND state = 'waiting'", &[&who.user])?;
    if waiting >= limits.waiting_max {
        return Err(Problem::too_many(format!("{waiting} requests of yours wait for a decision; withdraw one, or wait")).into());
    }
    let day = count("SELECT count(*) FROM request WHERE user = ?1 AND asked_at > ?2", &[&who.user, &now.saturating_sub(DAY)])?;
    if day >= limits.day_max {
        return Err(Problem::too_many(format!("you have made {day} requests within a day; wait")).into());
    }
    if count("SELECT count(*) FROM request", &[])? >= limits.kept_max {
        let forgotten = tx.execute(
            "DELETE FROM request WHERE id = (SELECT id FROM request WHERE state IN ('rejected', 'withdrawn', 'revoked')
             OR (state = 'approved' AND granted_until <= ?1) ORDER BY id LIMIT 1)",
            [now],
        )?;
        if forgotten == 0 {
            return Err(Problem::too_many("the list of requests is full; ask the operator to decide some").into());
        }
    }
    Ok(())
}

/// Writes a decision, and its entry in the trail.
fn settle(
    tx: &Transaction<'_>,
    id: u64,
    state: State,
    by: &Decided,
    granted: Option<(&Bounds, At)>,
) -> Result<(), rusqlite::Error> {
    let bounds = granted.map(|(bounds, _)| json!(bounds).to_string());
    tx.prepare_cached(
        "UPDATE request SET state = ?2, decided_at = ?3, decided_by = ?4, reason = ?5, granted_bounds = ?6, granted_until = ?7
         WHERE id = ?1",
    )?
    .execute(params![id as i64, state.as_str(), by.at, by.by, by.reason, bounds, granted.map(|(_, until)| until)])?;
    let detail = match granted {
        Some((bounds, until)) => json!({"bounds": bounds, "until": moment::format(until)}),
        None => json!({}),
    };
    write(tx, by.at, &by.by, state.as_str(), id, &by.reason, &detail)
}

/// Adds an entry to the trail.
fn write(
    tx: &Transaction<'_>,
    at: At,
    who: &str,
    what: &str,
    request: u64,
    reason: &str,
    detail: &Value,
) -> Result<(), rusqlite::Error> {
    let last = tx
        .prepare_cached("SELECT seq, chain FROM log ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, [u8; 32]>(1)?)))
        .optional()?;
    let (before_seq, before) = last.unwrap_or((0, audit::FIRST));
    let at = at.max(0);
    let entry = Entry {
        seq: before_seq + 1,
        at: moment::format(at),
        who: who.to_owned(),
        what: what.to_owned(),
        request,
        reason: reason.to_owned(),
        detail: detail.clone(),
        chain: String::new(),
    };
    let chain = entry.link(before).ok_or(rusqlite::Error::InvalidQuery)?;
    tx.prepare_cached(
        "INSERT INTO log (seq, at, who, what, request, reason, detail, chain) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![entry.seq as i64, at, who, what, request as i64, reason, detail.to_string(), chain])?;
    Ok(())
}

const COLUMNS: &str =
    "id, user, authority, attributes, bounds, from_at, until_at, purpose, asked_at, state, decided_at, decided_by,
    reason, granted_bounds, granted_until";

fn read(connection: &Connection, id: u64) -> Result<Option<Request>, rusqlite::Error> {
    let Ok(id) = i64::try_from(id) else { return Ok(None) };
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM request WHERE id = ?1"))?;
    statement.query_row([id], request).optional()
}

fn request(row: &Row<'_>) -> Result<Request, rusqlite::Error> {
    let decided = match row.get::<_, Option<At>>(10)? {
        None => None,
        Some(at) => Some(Decided { at, by: row.get(11)?, reason: row.get(12)? }),
    };
    let granted = match row.get::<_, Option<At>>(14)? {
        None => None,
        Some(until) => Some((parsed(row, 13)?, until)),
    };
    let state: String = row.get(9)?;
    Ok(Request {
        id: row.get::<_, i64>(0)? as u64,
        who: Identity { user: row.get(1)?, authority: row.get(2)?, attributes: parsed(row, 3)? },
        want: Want { bounds: parsed(row, 4)?, from: row.get(5)?, until: row.get(6)?, purpose: row.get(7)? },
        asked_at: row.get(8)?,
        state: State::named(&state).ok_or_else(|| unreadable(9, format!("state {state:?}").into()))?,
        decided,
        granted,
    })
}

fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|fault| unreadable(column, fault.into()))
}

fn unreadable(column: usize, fault: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, fault)
}

#[cfg(test)]
mod tests;
