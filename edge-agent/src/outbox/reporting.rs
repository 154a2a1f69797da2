//! What the agent says about itself: records under `forebay/`, taken by the same commit as what they tell (A1, C3).

use store::Fault;
use store::rusqlite::{OptionalExtension, Transaction, params};
use wire::system::{self, Place, REASON_CHARS_MAX, TargetReport, TombstoneReport};
use wire::{At, Operation, RelayId, SensorId, Series};

use super::desk::Desk;
use super::taking::Taking;
use super::targets::{Moved, nanos};
use crate::limits::TOMBSTONES_PER_REPORT_MAX;
use crate::reading::Reading;

/// Takes a record of ours. False when there is no room: what it says is said another time.
fn say(
    desk: &mut Desk,
    tx: &Transaction<'_>,
    taking: &mut Taking,
    (sensor, stream): (&SensorId, &str),
    (now, payload): (At, Vec<u8>),
) -> Result<bool, Fault> {
    let refused = |fault: String| Fault::Work(fault.into());
    let series = Series::new(sensor, stream).map_err(|fault| refused(fault.to_string()))?;
    let reading = Reading::new(series, Operation::Forward, now.max(0), payload).map_err(|fault| refused(fault.to_string()))?;
    if !desk.claim(reading.cost()) {
        return Ok(false);
    }
    taking.push(desk, tx, &reading)?;
    Ok(true)
}

/// Tells of a change of the target.
pub(crate) fn moved(
    desk: &mut Desk,
    tx: &Transaction<'_>,
    taking: &mut Taking,
    sensor: &SensorId,
    moved: &Moved,
) -> Result<bool, Fault> {
    let report = TargetReport {
        relay: moved.to.clone(),
        rtt_ns: nanos(moved.after).map(i64::cast_unsigned),
        since_ns: moved.at,
        why: moved.why.as_str().to_owned(),
        from: moved.from.clone(),
    };
    say(desk, tx, taking, (sensor, system::TARGETS), (moved.at, report.encode()))
}

/// Tells the target again: what the newest move and the last round say. True when there is nothing more to say now.
pub(crate) fn target(
    desk: &mut Desk,
    tx: &Transaction<'_>,
    taking: &mut Taking,
    sensor: &SensorId,
    now: At,
) -> Result<bool, Fault> {
    let newest = tx
        .prepare_cached(
            "SELECT m.relay_to, m.at, m.why, m.relay_from, p.rtt FROM moves m
               LEFT JOIN probes p ON p.sensor = m.sensor AND p.relay = m.relay_to ORDER BY m.id DESC LIMIT 1",
        )?
        .query_row([], |row| {
            let rtt: Option<i64> = row.get(4)?;
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get::<_, Option<String>>(3)?, rtt))
        })
        .optional()?;
    let Some((relay, since_ns, why, from, rtt)) = newest else { return Ok(true) };
    // A name that is none is of no relay.
    let Ok(relay) = relay.parse::<RelayId>() else { return Ok(true) };
    let from = from.and_then(|from| from.parse().ok());
    let report = TargetReport { relay, rtt_ns: rtt.map(i64::cast_unsigned), since_ns, why, from };
    say(desk, tx, taking, (sensor, system::TARGETS), (now, report.encode()))
}

/// Tells of tombstones, or parts of them, that the cloud was not told of. Those of our own streams are not told: telling could go on for ever.
pub(crate) fn tombstones(
    desk: &mut Desk,
    tx: &Transaction<'_>,
    taking: &mut Taking,
    sensor: &SensorId,
    now: At,
) -> Result<(), Fault> {
    let mut select = tx.prepare_cached(
        "SELECT t.id, s.name, max(t.seq_first, t.told + 1), t.seq_last, t.reason, t.taken, t.at
           FROM tombstones t JOIN series s ON s.id = t.series WHERE t.told < t.seq_last ORDER BY t.id LIMIT ?1",
    )?;
    let mut told = tx.prepare_cached("UPDATE tombstones SET told = ?2 WHERE id = ?1")?;
    let mut rows = select.query([TOMBSTONES_PER_REPORT_MAX as i64])?;
    let mut untold = Vec::new();
    while let Some(row) = rows.next()? {
        let series: String = row.get(1)?;
        let series: Series = series.parse().map_err(|_| Fault::Corrupt("the name of a series is none".into()))?;
        let (from_seq, to_seq) = (row.get::<_, i64>(2)?.cast_unsigned(), row.get::<_, i64>(3)?.cast_unsigned());
        let reason: String = row.get(4)?;
        let report = TombstoneReport {
            series,
            epoch: desk.origin.epoch,
            from_seq,
            to_seq,
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
            place: if row.get(5)? { Place::Relay } else { Place::Agent },
            at_ns: row.get(6)?,
        };
        untold.push((row.get::<_, i64>(0)?, report));
    }
    drop(rows);
    for (id, report) in untold {
        let ours = system::is_reserved(report.series.stream());
        if !ours && !say(desk, tx, taking, (sensor, system::TOMBSTONES), (now, report.encode()))? {
            return Ok(());
        }
        told.execute(params![id, report.to_seq.cast_signed()])?;
    }
    Ok(())
}
