//! Where terms are kept: a small database beside the archive, written once a term. A term is kept before it is told, so none is given twice,
//! whenever the cloud is killed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use store::rusqlite::{self, Connection, OptionalExtension, Transaction, params};
use store::{OpenError, Options, Step};
use wire::{At, RelayId};

use super::lease::{Change, Kept, Reason};
use super::view::{ScoreView, TERMS_MAX, TermView};

const STEPS: &[Step] = &[Step {
    name: "terms, rounds and scores of groups",
    sql: "CREATE TABLE terms (
            grp TEXT NOT NULL, term INTEGER NOT NULL, holder TEXT NOT NULL, address TEXT NOT NULL, round INTEGER NOT NULL,
            since INTEGER NOT NULL, until INTEGER, ended TEXT,
            PRIMARY KEY (grp, term)
          ) STRICT, WITHOUT ROWID;
          CREATE TABLE served (grp TEXT NOT NULL, relay TEXT NOT NULL, PRIMARY KEY (grp, relay)) STRICT, WITHOUT ROWID;
          CREATE TABLE scores (grp TEXT NOT NULL, relay TEXT NOT NULL, score TEXT NOT NULL, PRIMARY KEY (grp, relay)) STRICT, WITHOUT ROWID;",
}];

/// Why the book can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is damaged and can't be put aside.
    #[error("the damaged database of groups can't be put aside")]
    Aside(#[source] io::Error),
    /// A statement failed.
    #[error("the database of groups: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What is kept can't be read back.
    #[error("the database of groups holds {what} that can't be read")]
    Content {
        /// What it is.
        what: &'static str,
    },
}

/// The book of terms. Clones share the connection; every call blocks for a statement or a sync.
#[derive(Clone)]
pub(crate) struct Book(Arc<Mutex<Connection>>);

impl Book {
    /// Opens the book in `folder`. A damaged one is put aside: members tell the terms that they know, and a new one is above them.
    pub(crate) fn open(folder: &Path) -> Result<Self, BookError> {
        let path = folder.join("groups.sqlite");
        let options = Options { cache_bytes: 1 << 20, wal_bytes: 1 << 20, ..Options::default() };
        let connection = match store::open(&path, STEPS, &options) {
            Err(OpenError::Corrupt { .. }) => {
                let aside = store::quarantine(&path).map_err(BookError::Aside)?;
                tracing::error!(aside = %aside.display(), "ALARM: the database of groups was damaged; a fresh one was started");
                store::open(&path, STEPS, &options)?
            }
            opened => opened?,
        };
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// The last term of a group.
    pub(crate) fn kept(&self, group: &RelayId) -> Result<Option<Kept>, BookError> {
        let connection = self.0.lock();
        let sql = "SELECT term, holder, address, since, round FROM terms WHERE grp = ?1 ORDER BY term DESC LIMIT 1";
        let row =
            |row: &rusqlite::Row<'_>| Ok((number(row, 0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, number(row, 4)?));
        let Some((term, holder, address, since, round)) = connection.query_row(sql, [group.as_str()], row).optional()? else {
            return Ok(None);
        };
        let mut served = connection.prepare_cached("SELECT relay FROM served WHERE grp = ?1")?;
        let names = served.query_map([group.as_str()], |row| row.get::<_, String>(0))?;
        let served = names.map(|name| relay(&name?)).collect::<Result<BTreeSet<_>, BookError>>()?;
        Ok(Some(Kept { term, holder: relay(&holder)?, address, since, round, served }))
    }

    /// Keeps a new term, together with the end of the one before.
    pub(crate) fn keep(&self, group: &RelayId, change: &Change) -> Result<(), BookError> {
        let mut connection = self.0.lock();
        let tx = connection.transaction()?;
        keep(&tx, group.as_str(), change)?;
        tx.commit()?;
        Ok(())
    }

    /// The last `limit` terms of a group, the latest first.
    pub(crate) fn terms(&self, group: &RelayId, limit: usize) -> Result<Vec<TermView>, BookError> {
        let connection = self.0.lock();
        let mut terms = connection.prepare_cached(
            "SELECT term, holder, round, since, until, ended FROM terms WHERE grp = ?1 ORDER BY term DESC LIMIT ?2",
        )?;
        let row = |row: &rusqlite::Row<'_>| {
            let (holder, ended): (String, Option<String>) = (row.get(1)?, row.get(5)?);
            Ok((number(row, 0)?, holder, number(row, 2)?, row.get::<_, At>(3)?, row.get::<_, Option<At>>(4)?, ended))
        };
        let rows = terms.query_map(params![group.as_str(), limit as i64], row)?;
        rows.map(|row| {
            let (term, holder, round, since, until, ended) = row?;
            Ok(TermView::new(term, relay(&holder)?, round, since, until, ended.map(|text| reason(&text)).transpose()?))
        })
        .collect()
    }

    /// What the members collected in the last term that ended.
    pub(crate) fn scores(&self, group: &RelayId) -> Result<Vec<ScoreView>, BookError> {
        let connection = self.0.lock();
        let mut scores = connection.prepare_cached("SELECT score FROM scores WHERE grp = ?1 ORDER BY relay")?;
        let rows = scores.query_map([group.as_str()], |row| row.get::<_, String>(0))?;
        rows.map(|text| serde_json::from_str(&text?).map_err(|_| BookError::Content { what: "a score" })).collect()
    }
}

fn keep(tx: &Transaction<'_>, group: &str, change: &Change) -> Result<(), BookError> {
    let Change { term, holder, address, at, reason, round, served, scored } = change;
    // The machine lets neither come near 2^63.
    let (term, round) = (*term as i64, *round as i64);
    tx.execute("UPDATE terms SET until = ?2, ended = ?3 WHERE grp = ?1 AND until IS NULL", params![group, at, reason.as_str()])?;
    tx.execute(
        "INSERT INTO terms (grp, term, holder, address, round, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![group, term, holder.as_str(), address, round, at],
    )?;
    tx.execute("DELETE FROM terms WHERE grp = ?1 AND term <= ?2", params![group, term.saturating_sub(TERMS_MAX as i64)])?;
    tx.execute("DELETE FROM served WHERE grp = ?1", [group])?;
    for relay in served {
        tx.execute("INSERT INTO served (grp, relay) VALUES (?1, ?2)", [group, relay.as_str()])?;
    }
    tx.execute("DELETE FROM scores WHERE grp = ?1", [group])?;
    for scored in scored {
        let text = serde_json::to_string(&ScoreView::of(scored)).map_err(|_| BookError::Content { what: "a score" })?;
        tx.execute("INSERT INTO scores (grp, relay, score) VALUES (?1, ?2, ?3)", [group, scored.relay.as_str(), &text])?;
    }
    Ok(())
}

fn number(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(index)?.unsigned_abs())
}

fn relay(name: &str) -> Result<RelayId, BookError> {
    name.parse().map_err(|_| BookError::Content { what: "the name of a relay" })
}

fn reason(text: &str) -> Result<Reason, BookError> {
    serde_json::from_value(text.into()).map_err(|_| BookError::Content { what: "the reason of an end" })
}
