//! Resources: what is behind a VEN.

use store::rusqlite::{OptionalExtension, Row, params};
use wire::At;
use wire::openadr::clients::RESOURCE_BY_BL;
use wire::openadr::{self, Resource, ResourceRequest};

use super::{ClientsFault, Desk, Whose, client_id, json, list, number_of};

/// Resources of one VEN.
const RESOURCES_MAX: i64 = 1_000;
const SELECT: &str = "SELECT r.id, v.user, r.name, r.attributes, r.created, r.modified, r.targets, r.ven \
                      FROM resources r JOIN vens v ON v.id = r.ven";

impl Desk<'_> {
    /// Resources, the oldest first; of one VEN if one is named.
    pub(crate) fn resources(&self, whose: Whose<'_>, ven: Option<&str>) -> Result<Vec<Resource>, ClientsFault> {
        let filter = "WHERE (?1 IS NULL OR v.user = ?1) AND (?2 IS NULL OR r.ven = ?2) ORDER BY r.id";
        let ven = match ven.map(|id| number_of(id, "ven")) {
            None => None,
            Some(Some(number)) => Some(number),
            Some(None) => return Ok(Vec::new()),
        };
        let mut select = self.0.prepare_cached(&format!("{SELECT} {filter}"))?;
        let rows = select.query_map(params![whose.user(), ven], resource)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One resource and its user.
    pub(crate) fn resource(&self, whose: Whose<'_>, id: &str) -> Result<Option<(Resource, String)>, ClientsFault> {
        let Some(number) = number_of(id, "resource") else { return Ok(None) };
        let mut select = self.0.prepare_cached(&format!("{SELECT} WHERE r.id = ?1 AND (?2 IS NULL OR v.user = ?2)"))?;
        Ok(select.query_row(params![number, whose.user()], |row| Ok((resource(row)?, row.get(1)?))).optional()?)
    }

    /// Makes a resource of a VEN; `None` if there is no such VEN.
    pub(crate) fn add_resource(
        &self,
        whose: Whose<'_>,
        wanted: &ResourceRequest,
        now: At,
    ) -> Result<Option<(Resource, String)>, ClientsFault> {
        let (Some(ven), Some(_)) = (number_of(&wanted.ven_id, "ven"), self.ven(whose, &wanted.ven_id)?) else {
            return Ok(None);
        };
        let count: i64 = self.0.query_row("SELECT count(*) FROM resources WHERE ven = ?1", [ven], |row| row.get(0))?;
        if count >= RESOURCES_MAX {
            return Err(ClientsFault::TooMany("resources of the VEN", RESOURCES_MAX));
        }
        self.is_free_in(ven, &wanted.resource_name, 0)?;
        self.0.execute(
            "INSERT INTO resources (ven, name, attributes, targets, created, modified) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            params![ven, wanted.resource_name, json(wanted.attributes.as_ref()), json(wanted.targets.as_ref()), now],
        )?;
        self.resource(whose, &format!("resource-{}", self.0.last_insert_rowid()))
    }

    /// Changes a resource; `None` if there is none of this id, or it has another VEN. Targets stay where the request names none.
    pub(crate) fn change_resource(
        &self,
        whose: Whose<'_>,
        id: &str,
        wanted: &ResourceRequest,
        now: At,
    ) -> Result<Option<(Resource, String)>, ClientsFault> {
        let (Some(number), Some((known, _))) = (number_of(id, "resource"), self.resource(whose, id)?) else { return Ok(None) };
        let Some(ven) = number_of(&wanted.ven_id, "ven").filter(|_| known.ven_id == wanted.ven_id) else { return Ok(None) };
        self.is_free_in(ven, &wanted.resource_name, number)?;
        self.0.execute(
            "UPDATE resources SET name = ?2, attributes = ?3, modified = ?4, targets = coalesce(?5, targets) WHERE id = ?1",
            params![number, wanted.resource_name, json(wanted.attributes.as_ref()), now, json(wanted.targets.as_ref())],
        )?;
        self.resource(whose, id)
    }

    /// Removes a resource, and gives what it was.
    pub(crate) fn remove_resource(&self, whose: Whose<'_>, id: &str) -> Result<Option<(Resource, String)>, ClientsFault> {
        let found = self.resource(whose, id)?;
        if let (Some(_), Some(number)) = (&found, number_of(id, "resource")) {
            self.0.execute("DELETE FROM resources WHERE id = ?1", [number])?;
        }
        Ok(found)
    }

    fn is_free_in(&self, ven: i64, name: &str, but: i64) -> Result<(), ClientsFault> {
        let taken = "SELECT 1 FROM resources WHERE ven = ?1 AND name = ?2 AND id <> ?3";
        let taken = self.0.query_row(taken, params![ven, name, but], |_| Ok(())).optional()?;
        if taken.is_some() { Err(ClientsFault::Taken("resource")) } else { Ok(()) }
    }
}

fn resource(row: &Row<'_>) -> store::rusqlite::Result<Resource> {
    let attributes: Option<String> = row.get(3)?;
    let user: String = row.get(1)?;
    Ok(Resource {
        id: format!("resource-{}", row.get::<_, i64>(0)?),
        created_date_time: openadr::time_text(row.get(4)?),
        modification_date_time: openadr::time_text(row.get(5)?),
        object_type: RESOURCE_BY_BL.to_owned(),
        client_id: client_id(&user),
        resource_name: row.get(2)?,
        ven_id: format!("ven-{}", row.get::<_, i64>(7)?),
        attributes: attributes.and_then(|text| serde_json::from_str(&text).ok()),
        targets: list(row.get(6)?),
    })
}
