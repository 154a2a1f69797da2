//! What an archive knows when it is opened: the last snapshots, and the pages behind them.

use std::path::PathBuf;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use rustc_hash::FxHashMap;
use wire::{Announcement, Epoch, EpochSecret, Intervals, Runs};

use crate::append::Lane;
use crate::buffer::{Buffer, OpenPage, RunAt, Written};
use crate::engine::{Frames, Next, Start, recover_ahead};
use crate::error::{Damage, OpenError};
use crate::held::Held;
use crate::index::Changes;
use crate::lanes::Outgoing;
use crate::names::Names;
use crate::options::Options;
use crate::schema::{decode, from_sql, to_sql};
use crate::secrets::Secrets;
use crate::shared::{Gauges, Shared};

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Pages behind the last snapshot that were read again.
    pub pages: u64,
    /// Records in them.
    pub records: u64,
    /// Chunks of a segment that was being closed; its pages are still there.
    pub unfinished_chunks: u64,
    /// A damaged database was put aside here, and a fresh one, with a new epoch, was started.
    pub quarantined: Option<PathBuf>,
}

/// Everything an archive starts with.
pub(crate) struct Opened {
    pub(crate) shared: Shared,
    pub(crate) start: Start,
    pub(crate) secret: EpochSecret,
    pub(crate) last_outgoing: u64,
    pub(crate) recovered: Recovered,
}

struct Marks {
    buffer_done: u64,
    outgoing_saved: u64,
    chunks_published: i64,
    chunk_records: i64,
    chunk_bytes: i64,
}

pub(crate) fn recover(connection: &mut Connection, options: Options) -> Result<Opened, OpenError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (epoch, secret) = identity(&tx)?;
    let marks =
        tx.query_row("SELECT buffer_done, outgoing_saved, chunks_published, chunk_records, chunk_bytes FROM marks", [], |row| {
            Ok(Marks {
                buffer_done: row.get::<_, i64>(0)?.cast_unsigned(),
                outgoing_saved: row.get::<_, i64>(1)?.cast_unsigned(),
                chunks_published: row.get(2)?,
                chunk_records: row.get(3)?,
                chunk_bytes: row.get(4)?,
            })
        })?;
    let mut recovered = Recovered {
        unfinished_chunks: tx.execute("DELETE FROM chunks WHERE id > ?1", [marks.chunks_published])? as u64,
        ..Recovered::default()
    };
    tx.execute("DELETE FROM buffer WHERE id <= ?1", [marks.buffer_done.cast_signed()])?;

    let series = Names::load(names(&tx, "SELECT id, name FROM series ORDER BY id")?);
    let relays = Names::load(names(&tx, "SELECT id, name FROM relays ORDER BY id")?);
    let own = relays.number_one(options.name.as_str());
    tx.execute("INSERT OR IGNORE INTO relays (id, name) VALUES (?1, ?2)", (own, options.name.as_str()))?;
    let series_saved = (0..series.len() as u32).map(|id| series.name(id).is_some_and(|name| !name.is_empty())).collect();
    let relays_saved = (0..relays.len() as u32).map(|id| relays.name(id).is_some_and(|name| !name.is_empty())).collect();

    let mut held = snapshots(&tx)?;
    let delivered: Option<Vec<u8>> = tx.query_row("SELECT delivered FROM receipts", [], |row| row.get(0)).optional()?;
    let mut delivered = delivered.map_or(Ok(Intervals::new()), |bytes| sets("receipts", &bytes))?;

    let gauges = Gauges::default();
    gauges.chunks.add(marks.chunk_records, marks.chunk_bytes);
    let buffer = Buffer::new(options.cache_bytes_max);
    let mut last_buffer = marks.buffer_done;
    {
        let mut statement = tx.prepare("SELECT id, via, records, body FROM buffer ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let body = Bytes::from(row.get::<_, Vec<u8>>(3)?);
            gauges.buffer.add(row.get(2)?, body.len() as i64);
            last_buffer = row.get::<_, i64>(0)?.cast_unsigned();
            let written = replay(&series, &mut held, last_buffer, row.get(1)?, body, &mut recovered)?;
            buffer.add(written);
        }
    }
    for (series, page) in gone(&tx)? {
        buffer.remove_series_up_to(series, page);
    }
    let mut last_outgoing = delivered.last().unwrap_or(0).max(marks.outgoing_saved - 1);
    for (lane, table) in [(Lane::Live, "live"), (Lane::Backlog, "backlog")] {
        let total =
            format!("SELECT coalesce(sum(records), 0), coalesce(sum(length(body)), 0), coalesce(max(id), 0) FROM {table}");
        let (records, bytes, last): (i64, i64, i64) =
            tx.query_row(&total, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        gauges.lane(lane).add(records, bytes);
        last_outgoing = last_outgoing.max(last.cast_unsigned());
        let mut statement = tx.prepare(&format!("SELECT id, body FROM {table} WHERE id >= ?1 ORDER BY id"))?;
        let mut rows = statement.query([marks.outgoing_saved.cast_signed()])?;
        while let Some(row) = rows.next()? {
            replay(
                &series,
                &mut held,
                row.get::<_, i64>(0)?.cast_unsigned(),
                own,
                Bytes::from(row.get::<_, Vec<u8>>(1)?),
                &mut recovered,
            )?;
        }
    }
    last_outgoing = recover_ahead(&tx, last_outgoing, &mut delivered)?;
    let origin: Option<i64> = tx.query_row("SELECT origin FROM marks", [], |row| row.get(0))?;
    let origin = origin.map_or(epoch, |origin| Epoch(from_sql(origin)));
    let secrets = secrets(&tx, epoch, &secret)?;
    let last_chunk: i64 = tx.query_row("SELECT coalesce(max(id), 0) FROM chunks", [], |row| row.get(0))?;
    let frames = frames(&tx)?;
    tx.commit()?;

    let start = Start {
        held,
        origin,
        frames,
        delivered: delivered.clone(),
        next: Next { buffer: last_buffer + 1, outgoing: last_outgoing + 1 },
        next_chunk: last_chunk.max(marks.chunks_published) + 1,
        outgoing_saved: marks.outgoing_saved,
        buffer_done: marks.buffer_done,
        series_saved,
        relays_saved,
    };
    let outgoing = Outgoing::new(options.cache_bytes_max, last_outgoing, delivered);
    let shared = Shared {
        options,
        epoch,
        origin: origin.0.into(),
        own,
        series,
        relays,
        secrets,
        buffer,
        outgoing,
        gauges,
        index: Changes::new(marks.chunks_published.cast_unsigned()),
        conflicts: 0.into(),
    };
    Ok(Opened { shared, start, secret, last_outgoing, recovered })
}

/// Epoch and secret of this database, made at its first opening.
fn identity(tx: &Transaction<'_>) -> Result<(Epoch, EpochSecret), OpenError> {
    let found: Option<(i64, Vec<u8>)> =
        tx.query_row("SELECT epoch, secret FROM identity", [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some((epoch, secret)) = found {
        let secret = secret.try_into().map_err(|_| damage(Damage::Row("the epoch's secret has another length")))?;
        return Ok((Epoch(from_sql(epoch)), EpochSecret::new(secret)));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(OpenError::Random)?;
    let epoch = getrandom::u64().map_err(OpenError::Random)?;
    tx.execute("INSERT INTO identity (one, epoch, secret) VALUES (1, ?1, ?2)", (to_sql(epoch), &secret[..]))?;
    Ok((Epoch(epoch), EpochSecret::new(secret)))
}

fn names(tx: &Transaction<'_>, sql: &str) -> Result<Vec<(u32, String)>, OpenError> {
    let mut statement = tx.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn secrets(tx: &Transaction<'_>, epoch: Epoch, own: &EpochSecret) -> Result<Secrets, OpenError> {
    let secrets = Secrets::default();
    secrets.add(&Announcement { epoch, scope: None, secret: own.clone() });
    let mut statement = tx.prepare("SELECT epoch, scope, secret FROM epochs")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        secrets.add(&announcement(row).map_err(OpenError::from)?.map_err(damage)?);
    }
    Ok(secrets)
}

/// An announcement from the columns epoch, scope, secret.
pub(crate) fn announcement(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Announcement, Damage>> {
    let (epoch, scope, secret): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let scope = match scope.as_str() {
        "" => None,
        text => match text.parse() {
            Ok(sensor) => Some(sensor),
            Err(_) => return Ok(Err(Damage::Row("an epoch's scope is no sensor"))),
        },
    };
    let Ok(secret) = <[u8; 32]>::try_from(secret) else { return Ok(Err(Damage::Row("an epoch's secret has another length"))) };
    Ok(Ok(Announcement { epoch: Epoch(from_sql(epoch)), scope, secret: EpochSecret::new(secret) }))
}

fn snapshots(tx: &Transaction<'_>) -> Result<Held, OpenError> {
    let mut held = Held::default();
    let mut statement = tx.prepare("SELECT series, epoch, seqs FROM held")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        held.restore(row.get(0)?, from_sql(row.get(1)?), sets("held", &row.get::<_, Vec<u8>>(2)?)?);
    }
    Ok(held)
}

fn frames(tx: &Transaction<'_>) -> Result<FxHashMap<(u32, u64), Frames>, OpenError> {
    let mut frames = FxHashMap::default();
    let mut statement = tx.prepare("SELECT relay, epoch, numbers FROM frames")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let numbers = sets("frames", &row.get::<_, Vec<u8>>(2)?)?;
        frames.insert((row.get(0)?, from_sql(row.get(1)?)), Frames::of(numbers));
    }
    Ok(frames)
}

/// Series whose runs in the open segment were handed over, with the last page of that.
fn gone(tx: &Transaction<'_>) -> Result<Vec<(u32, u64)>, OpenError> {
    let mut statement = tx.prepare("SELECT series, page FROM gone")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn sets(table: &'static str, bytes: &[u8]) -> Result<Intervals, OpenError> {
    decode(bytes).map_err(|fault| damage(Damage::Intervals { table, fault }))
}

/// Counts what a page holds, and says where each of its runs is.
fn replay(
    series: &Names,
    held: &mut Held,
    page: u64,
    via: u32,
    body: Bytes,
    recovered: &mut Recovered,
) -> Result<Written, OpenError> {
    let mut open = OpenPage { via, at_min: i64::MAX, at_max: i64::MIN, bytes: body.len() as u32, body: None };
    let mut runs = Vec::new();
    let mut offset = 0;
    for run in Runs::new(&body) {
        let run = run.map_err(|fault| damage(Damage::Page { page, fault }))?;
        let id = series.number_one(run.series());
        let state = held.id(id, run.epoch().0);
        held.begin();
        held.add_missing(state, run.first_seq(), run.last_seq());
        open.at_min = open.at_min.min(run.at_min());
        open.at_max = open.at_max.max(run.at_max());
        runs.push((id, RunAt { page, epoch: run.epoch().0, first_seq: run.first_seq(), offset, count: run.count() as u32 }));
        offset += run.raw().len() as u32;
        recovered.records += run.count();
    }
    recovered.pages += 1;
    open.body = Some(body);
    Ok(Written { id: page, page: open, runs })
}

/// Damage found while opening, as the store would report it.
fn damage(damage: Damage) -> OpenError {
    OpenError::Fault(damage.into())
}
