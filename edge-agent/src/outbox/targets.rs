//! The target registry (A1, A2): the last round-trip time of each relay, and why the target is what it is.

use std::time::Duration;

use store::Fault;
use store::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use wire::{At, RelayId, SensorId};

use super::OutboxError;
use super::reading_back::ReadFault;
use crate::choice::Why;
use crate::limits::MOVES_KEPT;

/// What is written together: a round, and the move that it led to.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) sensor: SensorId,
    /// Every relay of the round; empty when there was none.
    pub(crate) probes: Vec<(RelayId, Option<Duration>)>,
    pub(crate) moved: Option<Moved>,
    pub(crate) at: At,
    /// Whether a move is told to the cloud.
    pub(crate) report: bool,
}

/// A relay's last round-trip time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The sensor that measured.
    pub sensor: SensorId,
    /// The relay.
    pub relay: RelayId,
    /// Median of the round; `None` when it did not answer, or refused.
    pub rtt: Option<Duration>,
    /// When.
    pub at: At,
}

/// A change of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The target before, if there was one.
    pub from: Option<RelayId>,
    /// The target since then.
    pub to: RelayId,
    /// When.
    pub at: At,
    /// Why.
    pub why: Why,
    /// Round-trip time of the old target in the round that decided, if it answered.
    pub before: Option<Duration>,
    /// Round-trip time of the new target.
    pub after: Option<Duration>,
}

pub(crate) fn nanos(rtt: Option<Duration>) -> Option<i64> {
    rtt.map(|rtt| i64::try_from(rtt.as_nanos()).unwrap_or(i64::MAX))
}

fn duration(nanos: Option<i64>) -> Option<Duration> {
    nanos.map(|nanos| Duration::from_nanos(nanos.cast_unsigned()))
}

pub(crate) fn write(tx: &Transaction<'_>, entry: &Entry) -> Result<(), Fault> {
    let sensor = entry.sensor.as_str();
    if !entry.probes.is_empty() {
        // A relay that is no longer configured goes.
        tx.prepare_cached("DELETE FROM probes WHERE sensor = ?1")?.execute([sensor])?;
    }
    let mut insert = tx.prepare_cached("INSERT INTO probes (sensor, relay, rtt, at) VALUES (?1, ?2, ?3, ?4)")?;
    for (relay, rtt) in &entry.probes {
        insert.execute(params![sensor, relay.as_str(), nanos(*rtt), entry.at])?;
    }
    let Some(moved) = &entry.moved else { return Ok(()) };
    tx.prepare_cached(
        "INSERT INTO moves (sensor, relay_from, relay_to, at, why, rtt_before, rtt_after) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        sensor,
        moved.from.as_ref().map(RelayId::as_str),
        moved.to.as_str(),
        moved.at,
        moved.why.as_str(),
        nanos(moved.before),
        nanos(moved.after),
    ])?;
    let oldest = tx.last_insert_rowid() - MOVES_KEPT as i64;
    tx.prepare_cached("DELETE FROM moves WHERE id <= ?1")?.execute([oldest])?;
    Ok(())
}

/// The target: what the newest move says.
pub(crate) fn current(connection: &Connection) -> Result<Option<RelayId>, OutboxError> {
    let newest = "SELECT relay_to FROM moves ORDER BY id DESC LIMIT 1";
    let name: Option<String> = connection.query_row(newest, [], |row| row.get(0)).optional()?;
    // A name that is none is of no relay: the choice starts anew.
    Ok(name.and_then(|name| name.parse().ok()))
}

/// Whether the database is of a version that has a registry. Who only reads does not migrate.
fn is_there(tx: &Transaction<'_>) -> Result<bool, ReadFault> {
    let found =
        tx.query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('probes', 'moves')", [], |row| row.get::<_, i64>(0))?;
    Ok(found == 2)
}

pub(crate) fn relays(tx: &Transaction<'_>) -> Result<Vec<Measured>, ReadFault> {
    if !is_there(tx)? {
        return Ok(Vec::new());
    }
    let mut select = tx.prepare_cached("SELECT sensor, relay, rtt, at FROM probes ORDER BY sensor, relay")?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Measured {
            sensor: row.get::<_, String>(0)?.parse().map_err(|_| ReadFault::Invalid("sensor"))?,
            relay: relay(row, 1)?.ok_or(ReadFault::Invalid("relay"))?,
            rtt: duration(row.get(2)?),
            at: row.get(3)?,
        });
    }
    Ok(found)
}

pub(crate) fn moves(tx: &Transaction<'_>, limit: usize) -> Result<Vec<Moved>, ReadFault> {
    if !is_there(tx)? {
        return Ok(Vec::new());
    }
    let mut select =
        tx.prepare_cached("SELECT relay_from, relay_to, at, why, rtt_before, rtt_after FROM moves ORDER BY id DESC LIMIT ?1")?;
    let mut rows = select.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let why: String = row.get(3)?;
        found.push(Moved {
            from: relay(row, 0)?,
            to: relay(row, 1)?.ok_or(ReadFault::Invalid("relay"))?,
            at: row.get(2)?,
            why: Why::ALL.into_iter().find(|known| known.as_str() == why).ok_or(ReadFault::Invalid("reason"))?,
            before: duration(row.get(4)?),
            after: duration(row.get(5)?),
        });
    }
    Ok(found)
}

fn relay(row: &Row<'_>, column: usize) -> Result<Option<RelayId>, ReadFault> {
    let name: Option<String> = row.get(column)?;
    name.map(|name| name.parse().map_err(|_| ReadFault::Invalid("relay"))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::schema::STEPS;

    #[test]
    fn a1_registry_keeps_the_last_round_and_so_many_moves() {
        let mut connection = Connection::open_in_memory().unwrap();
        STEPS.iter().for_each(|step| connection.execute_batch(step.sql).unwrap());
        let tx = connection.transaction().unwrap();
        assert_eq!(current(&tx).unwrap(), None);
        let (a, b): (RelayId, RelayId) = ("a".parse().unwrap(), "b".parse().unwrap());
        for n in 0..MOVES_KEPT as i64 + 50 {
            let (from, to) = if n % 2 == 0 { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
            let rtt = Some(Duration::from_nanos(n as u64));
            let moved = Moved { from: Some(from), to, at: n, why: Why::Faster, before: None, after: rtt };
            let probes = vec![(a.clone(), rtt), (b.clone(), None)];
            write(&tx, &Entry { sensor: "x/y".parse().unwrap(), probes, moved: Some(moved), at: n, report: false }).unwrap();
        }
        let last = MOVES_KEPT as i64 + 49;
        let found = moves(&tx, usize::MAX).unwrap();
        assert_eq!((found.len(), found[0].at, found[0].after), (MOVES_KEPT, last, Some(Duration::from_nanos(last as u64))));
        assert_eq!((found[0].to.as_str(), current(&tx).unwrap()), ("a", Some(a.clone())));
        let relays = relays(&tx).unwrap();
        assert_eq!((relays.len(), relays[0].at, relays[0].rtt, relays[1].rtt), (2, last, found[0].after, None));
        // A relay that is not configured any more is forgotten with the next round; a move alone forgets nothing.
        let only = |probes| Entry { sensor: "x/y".parse().unwrap(), probes, moved: None, at: 0, report: false };
        write(&tx, &only(Vec::new())).unwrap();
        assert_eq!(super::relays(&tx).unwrap().len(), 2);
        write(&tx, &only(vec![(a, None)])).unwrap();
        assert_eq!(super::relays(&tx).unwrap().len(), 1);
    }
}
