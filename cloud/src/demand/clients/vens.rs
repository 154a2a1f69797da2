//! VENs: their names, and what an operator has granted to them.

use store::rusqlite::{OptionalExtension, Row, params};
use wire::At;
use wire::openadr::clients::VEN_BY_BL;
use wire::openadr::{self, Ven, VenRequest};

use super::{ClientsFault, Desk, Whose, client_id, json, list, number_of};

/// VENs of one user.
const VENS_MAX: i64 = 100;
const SELECT: &str = "SELECT id, user, name, attributes, created, modified, targets FROM vens";

impl Desk<'_> {
    /// VENs, the oldest first.
    pub(crate) fn vens(&self, whose: Whose<'_>) -> Result<Vec<Ven>, ClientsFault> {
        let mut select = self.0.prepare_cached(&format!("{SELECT} WHERE ?1 IS NULL OR user = ?1 ORDER BY id"))?;
        let rows = select.query_map([whose.user()], ven)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One VEN and its user.
    pub(crate) fn ven(&self, whose: Whose<'_>, id: &str) -> Result<Option<(Ven, String)>, ClientsFault> {
        let Some(number) = number_of(id, "ven") else { return Ok(None) };
        let mut select = self.0.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND (?2 IS NULL OR user = ?2)"))?;
        Ok(select.query_row(params![number, whose.user()], |row| Ok((ven(row)?, row.get(1)?))).optional()?)
    }

    /// Makes a VEN of `user`. Its name must be new among all: the standard looks it up by that.
    pub(crate) fn add_ven(&self, user: &str, wanted: &VenRequest, now: At) -> Result<Ven, ClientsFault> {
        let count: i64 = self.0.query_row("SELECT count(*) FROM vens WHERE user = ?1", [user], |row| row.get(0))?;
        if count >= VENS_MAX {
            return Err(ClientsFault::TooMany("VENs", VENS_MAX));
        }
        self.is_free(&wanted.ven_name, 0)?;
        self.0.execute(
            "INSERT INTO vens (user, name, attributes, created, modified, targets) VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
            params![user, wanted.ven_name, json(wanted.attributes.as_ref()), now, json(wanted.targets.as_ref())],
        )?;
        Ok(self.0.query_row(&format!("{SELECT} WHERE id = ?1"), [self.0.last_insert_rowid()], ven)?)
    }

    /// Changes a VEN; `None` if there is none of this id. Targets stay where the request names none.
    pub(crate) fn change_ven(
        &self,
        whose: Whose<'_>,
        id: &str,
        wanted: &VenRequest,
        now: At,
    ) -> Result<Option<(Ven, String)>, ClientsFault> {
        let (Some(number), Some(_)) = (number_of(id, "ven"), self.ven(whose, id)?) else { return Ok(None) };
        self.is_free(&wanted.ven_name, number)?;
        self.0.execute(
            "UPDATE vens SET name = ?2, attributes = ?3, modified = ?4, targets = coalesce(?5, targets) WHERE id = ?1",
            params![number, wanted.ven_name, json(wanted.attributes.as_ref()), now, json(wanted.targets.as_ref())],
        )?;
        self.ven(whose, id)
    }

    /// Removes a VEN with its resources, and gives what it was.
    pub(crate) fn remove_ven(&self, whose: Whose<'_>, id: &str) -> Result<Option<(Ven, String)>, ClientsFault> {
        let found = self.ven(whose, id)?;
        if let (Some(_), Some(number)) = (&found, number_of(id, "ven")) {
            self.0.execute("DELETE FROM resources WHERE ven = ?1", [number])?;
            self.0.execute("DELETE FROM vens WHERE id = ?1", [number])?;
        }
        Ok(found)
    }

    /// What was granted to a user: the targets of its VENs and of their resources.
    pub(crate) fn granted(&self, user: &str) -> Result<Vec<String>, ClientsFault> {
        let mut select = self.0.prepare_cached(
            "SELECT targets FROM vens WHERE user = ?1
             UNION ALL SELECT r.targets FROM resources r JOIN vens v ON v.id = r.ven WHERE v.user = ?1",
        )?;
        let rows = select.query_map([user], |row| row.get(0))?;
        let mut all = Vec::new();
        for targets in rows {
            all.extend(list(targets?));
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn is_free(&self, name: &str, but: i64) -> Result<(), ClientsFault> {
        let taken = "SELECT 1 FROM vens WHERE name = ?1 AND id <> ?2";
        let taken = self.0.query_row(taken, params![name, but], |_| Ok(())).optional()?;
        if taken.is_some() { Err(ClientsFault::Taken("VEN")) } else { Ok(()) }
    }
}

fn ven(row: &Row<'_>) -> store::rusqlite::Result<Ven> {
    let attributes: Option<String> = row.get(3)?;
    let user: String = row.get(1)?;
    Ok(Ven {
        id: format!("ven-{}", row.get::<_, i64>(0)?),
        created_date_time: openadr::time_text(row.get(4)?),
        modification_date_time: openadr::time_text(row.get(5)?),
        object_type: VEN_BY_BL.to_owned(),
        client_id: client_id(&user),
        ven_name: row.get(2)?,
        attributes: attributes.and_then(|text| serde_json::from_str(&text).ok()),
        targets: list(row.get(6)?),
    })
}
