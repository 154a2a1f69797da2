//! Clients of other makers that take part: their names and what they say about themselves, in a small database of its own.

use std::path::Path;

use parking_lot::Mutex;
use store::rusqlite::{Connection, OptionalExtension, Row, params};
use store::{OpenError, Options, Step};
use wire::At;
use wire::openadr::{self, Ven, VenRequest};

const STEPS: &[Step] = &[Step { name: "vens", sql: include_str!("../sql/001_vens.sql") }];
/// VENs of one user.
const VENS_MAX: i64 = 100;

/// Why VENs can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VensFault {
    /// The database can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database failed.
    #[error("sqlite: {0}")]
    Sqlite(#[from] store::rusqlite::Error),
    /// The user has one of this name.
    #[error("you have a VEN of this name already")]
    Taken,
    /// The user has enough.
    #[error("you have {VENS_MAX} VENs already")]
    TooMany,
}

/// The VENs. Calls block shortly: the database is small.
pub(crate) struct Vens(Mutex<Connection>);

impl Vens {
    /// Opens the database, making it if need be.
    pub(crate) fn open(path: &Path) -> Result<Self, VensFault> {
        let options = Options { cache_bytes: 1 << 20, wal_bytes: 1 << 20, ..Options::default() };
        Ok(Self(Mutex::new(store::open(path, STEPS, &options)?)))
    }

    /// The VENs of a user; an empty name is nobody's, where anybody may come.
    pub(crate) fn of(&self, user: &str) -> Result<Vec<Ven>, VensFault> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(&format!("{SELECT} WHERE user = ?1 ORDER BY id"))?;
        let rows = select.query_map([user], ven)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Makes a VEN of a user.
    pub(crate) fn add(&self, user: &str, wanted: &VenRequest, now: At) -> Result<Ven, VensFault> {
        let mut connection = self.0.lock();
        let tx = connection.transaction()?;
        let count: i64 = tx.query_row("SELECT count(*) FROM vens WHERE user = ?1", [user], |row| row.get(0))?;
        if count >= VENS_MAX {
            return Err(VensFault::TooMany);
        }
        let known: Option<i64> = tx
            .query_row("SELECT id FROM vens WHERE user = ?1 AND name = ?2", [user, &wanted.ven_name], |row| row.get(0))
            .optional()?;
        if known.is_some() {
            return Err(VensFault::Taken);
        }
        let attributes = wanted.attributes.as_ref().and_then(|attributes| serde_json::to_string(attributes).ok());
        tx.execute(
            "INSERT INTO vens (user, name, attributes, created, modified) VALUES (?1, ?2, ?3, ?4, ?4)",
            params![user, wanted.ven_name, attributes, now],
        )?;
        let made = tx.query_row(&format!("{SELECT} WHERE id = ?1"), [tx.last_insert_rowid()], ven)?;
        tx.commit()?;
        Ok(made)
    }

    /// Changes a VEN of a user; `None` if there is none of this id.
    pub(crate) fn change(&self, user: &str, id: &str, wanted: &VenRequest, now: At) -> Result<Option<Ven>, VensFault> {
        let Some(number) = number_of(id) else { return Ok(None) };
        let connection = self.0.lock();
        let attributes = wanted.attributes.as_ref().and_then(|attributes| serde_json::to_string(attributes).ok());
        let changed = connection.execute(
            "UPDATE vens SET name = ?3, attributes = ?4, modified = ?5 WHERE id = ?1 AND user = ?2
               AND NOT EXISTS (SELECT 1 FROM vens other WHERE other.user = ?2 AND other.name = ?3 AND other.id <> ?1)",
            params![number, user, wanted.ven_name, attributes, now],
        )?;
        if changed == 0 {
            let is_there = connection
                .query_row("SELECT 1 FROM vens WHERE id = ?1 AND user = ?2", params![number, user], |_| Ok(()))
                .optional()?;
            return if is_there.is_some() { Err(VensFault::Taken) } else { Ok(None) };
        }
        Ok(Some(connection.query_row(&format!("{SELECT} WHERE id = ?1"), [number], ven)?))
    }

    /// Removes a VEN of a user, and gives what it was.
    pub(crate) fn remove(&self, user: &str, id: &str) -> Result<Option<Ven>, VensFault> {
        let found = self.of(user)?.into_iter().find(|ven| ven.id == id);
        if let (Some(_), Some(number)) = (&found, number_of(id)) {
            self.0.lock().execute("DELETE FROM vens WHERE id = ?1 AND user = ?2", params![number, user])?;
        }
        Ok(found)
    }
}

const SELECT: &str = "SELECT id, user, name, attributes, created, modified FROM vens";

fn number_of(id: &str) -> Option<i64> {
    id.strip_prefix("ven-")?.parse().ok()
}

fn ven(row: &Row<'_>) -> store::rusqlite::Result<Ven> {
    let attributes: Option<String> = row.get(3)?;
    let user: String = row.get(1)?;
    Ok(Ven {
        id: format!("ven-{}", row.get::<_, i64>(0)?),
        created_date_time: openadr::time_text(row.get(4)?),
        modification_date_time: openadr::time_text(row.get(5)?),
        object_type: "BL_VEN_REQUEST".to_owned(),
        client_id: client_id(&user),
        ven_name: row.get(2)?,
        attributes: attributes.and_then(|text| serde_json::from_str(&text).ok()),
        targets: Vec::new(),
    })
}

/// A user's name as an OpenADR client id, which has fewer characters than a name here may have.
pub(crate) fn client_id(user: &str) -> String {
    let allowed = |byte: char| if byte.is_ascii_alphanumeric() || byte == '-' { byte } else { '_' };
    if user.is_empty() { "anonymous".to_owned() } else { user.chars().map(allowed).take(128).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_a_ven_is_its_users_own_and_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vens.sqlite");
        let wanted = |name: &str| VenRequest { ven_name: name.to_owned(), attributes: None };
        let vens = Vens::open(&path).unwrap();
        let made = vens.add("user.1", &wanted("home"), 5).unwrap();
        assert_eq!((made.id.as_str(), made.client_id.as_str(), made.ven_name.as_str()), ("ven-1", "user_1", "home"));
        assert!(matches!(vens.add("user.1", &wanted("home"), 6), Err(VensFault::Taken)));
        vens.add("eve", &wanted("home"), 6).unwrap();
        drop(vens);
        let vens = Vens::open(&path).unwrap();
        assert_eq!(vens.of("user.1").unwrap(), [made]);
        assert_eq!(vens.change("eve", "ven-1", &wanted("mine"), 7).unwrap(), None);
        assert_eq!(vens.remove("eve", "ven-1").unwrap(), None);
        let changed = vens.change("user.1", "ven-1", &wanted("house"), 7).unwrap().unwrap();
        assert_eq!((changed.ven_name.as_str(), changed.created_date_time == changed.modification_date_time), ("house", false));
        assert!(vens.remove("user.1", "ven-1").unwrap().is_some());
        assert_eq!(vens.of("user.1").unwrap(), []);
    }

    #[test]
    fn steps_are_sound() {
        store::check_steps(STEPS).unwrap();
    }
}
