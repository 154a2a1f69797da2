//! Finds records of the storage area by their keys.

use std::collections::BTreeMap;

use rusqlite::Transaction;
use wire::{At, Epoch, Intervals, Operation, RecordView, RunView};

use crate::buffer::{OpenRun, RunAt};
use crate::chunk;
use crate::error::{Damage, ReadError};
use crate::schema::{decode, from_sql, to_sql};
use crate::shared::Shared;

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) via: u32,
    pub(crate) at: At,
    pub(crate) operation: Operation,
    pub(crate) payload: Vec<u8>,
}

impl Found {
    /// Whether `record` has the same content.
    pub(crate) fn is(&self, record: &RecordView<'_>) -> bool {
        self.at == record.at && self.operation == record.operation && self.payload == record.payload
    }

    /// The stored content under the key of `other`.
    pub(crate) fn view<'a>(&'a self, other: &RecordView<'a>) -> RecordView<'a> {
        RecordView { at: self.at, operation: self.operation, payload: &self.payload, ..*other }
    }
}

/// What is stored of one series and epoch under the numbers `low..=high`: in `more` (runs with their relay), in the open pages, in chunks.
pub(crate) fn find<'a>(
    tx: &Transaction<'_>,
    shared: &Shared,
    series: u32,
    epoch: u64,
    (low, high): (u64, u64),
    more: impl Iterator<Item = (RunAt, u32, &'a [u8])>,
) -> Result<BTreeMap<u64, Found>, ReadError> {
    let wanted = (high - low + 1) as usize;
    let touches = |at: &RunAt| at.epoch == epoch && at.first_seq <= high && at.last_seq() >= low;
    let mut found = BTreeMap::new();
    for (at, via, bytes) in more.filter(|(at, ..)| touches(at)) {
        take_run(&mut found, at.page, via, bytes, (low, high))?;
    }
    for run in shared.buffer.runs(series, |at, _| touches(at)) {
        if found.len() == wanted {
            return Ok(found);
        }
        with_run(tx, &run, |bytes| take_run(&mut found, run.at.page, run.page.via, bytes, (low, high)))?;
    }
    let mut statement = tx.prepare_cached(
        "SELECT via, seqs, body FROM chunks WHERE series = ?1 AND epoch = ?2 AND seq_first <= ?3 AND seq_last >= ?4 ORDER BY seq_first DESC",
    )?;
    let mut rows = statement.query((series, to_sql(epoch), high.cast_signed(), low.cast_signed()))?;
    while let Some(row) = rows.next()? {
        if found.len() == wanted {
            break;
        }
        let seqs = decode(&row.get::<_, Vec<u8>>(1)?).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
        if !seqs.overlaps(low, high) {
            continue;
        }
        let via = row.get(0)?;
        let readings = chunk::decode(&row.get::<_, Vec<u8>>(2)?, &seqs)?;
        for index in readings.seqs.partition_point(|seq| *seq < low)..readings.seqs.partition_point(|seq| *seq <= high) {
            found.entry(readings.seqs[index]).or_insert_with(|| Found {
                via,
                at: readings.ats[index],
                operation: readings.operations[index],
                payload: readings.payload(index).to_vec(),
            });
        }
    }
    Ok(found)
}

/// Those of `seqs`, which rise, that are within `low..=high`.
pub(crate) fn within(seqs: &[u64], low: u64, high: u64) -> &[u64] {
    let from = &seqs[seqs.partition_point(|seq| *seq < low)..];
    &from[..from.partition_point(|seq| *seq <= high)]
}

/// Generation times of those of `seqs`, which rise, that are stored: in `open` or in chunks.
pub(crate) fn times(
    tx: &Transaction<'_>,
    open: Vec<OpenRun>,
    series: u32,
    epoch: u64,
    seqs: &[u64],
) -> Result<BTreeMap<u64, At>, ReadError> {
    let mut times = BTreeMap::new();
    let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else { return Ok(times) };
    for open in open {
        with_run(tx, &open, |bytes| {
            let (run, _) = RunView::parse(bytes).map_err(|fault| Damage::Page { page: open.at.page, fault })?;
            let wanted = run.records().filter(|record| seqs.binary_search(&record.seq).is_ok());
            times.extend(wanted.map(|record| (record.seq, record.at)));
            Ok(())
        })?;
    }
    let mut statement = tx.prepare_cached(
        "SELECT seq_first, seq_last, seqs, body FROM chunks WHERE series = ?1 AND epoch = ?2 AND seq_first <= ?3 AND seq_last >= ?4",
    )?;
    let mut rows = statement.query((series, to_sql(epoch), last.cast_signed(), first.cast_signed()))?;
    while let Some(row) = rows.next()? {
        let (low, high) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned());
        let wanted = within(seqs, low, high);
        if wanted.iter().all(|seq| times.contains_key(seq)) {
            continue;
        }
        let held = decode(&row.get::<_, Vec<u8>>(2)?).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
        if !wanted.iter().any(|seq| held.contains(*seq)) {
            continue;
        }
        let readings = chunk::decode(&row.get::<_, Vec<u8>>(3)?, &held)?;
        let here = |seq: &u64| readings.seqs.binary_search(seq).ok().map(|index| (*seq, readings.ats[index]));
        times.extend(wanted.iter().filter_map(here));
    }
    Ok(times)
}

/// Sequence numbers of a series by epoch: those that were saved when a segment was closed, and those of `open`.
pub(crate) fn received(tx: &Transaction<'_>, series: u32, open: &[OpenRun]) -> Result<Vec<(Epoch, Intervals)>, ReadError> {
    let mut epochs: BTreeMap<u64, Intervals> = BTreeMap::new();
    let mut statement = tx.prepare_cached("SELECT epoch, seqs FROM held WHERE series = ?1")?;
    let mut rows = statement.query([series])?;
    while let Some(row) = rows.next()? {
        let seqs = decode(&row.get::<_, Vec<u8>>(1)?).map_err(|fault| Damage::Intervals { table: "held", fault })?;
        epochs.insert(from_sql(row.get(0)?), seqs);
    }
    for run in open {
        epochs.entry(run.at.epoch).or_default().insert(run.at.first_seq, run.at.last_seq());
    }
    Ok(epochs.into_iter().map(|(epoch, seqs)| (Epoch(epoch), seqs)).collect())
}

fn take_run(
    found: &mut BTreeMap<u64, Found>,
    page: u64,
    via: u32,
    bytes: &[u8],
    (low, high): (u64, u64),
) -> Result<(), ReadError> {
    let (run, _) = RunView::parse(bytes).map_err(|fault| Damage::Page { page, fault })?;
    for record in run.records().filter(|record| (low..=high).contains(&record.seq)) {
        found.entry(record.seq).or_insert_with(|| Found {
            via,
            at: record.at,
            operation: record.operation,
            payload: record.payload.to_vec(),
        });
    }
    Ok(())
}

/// Lends the bytes of an open run, from memory or from the file. A page that is no longer in the file has become chunks, which the same
/// snapshot shows: then there is nothing to lend.
pub(crate) fn with_run(
    tx: &Transaction<'_>,
    run: &OpenRun,
    lend: impl FnOnce(&[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let offset = run.at.offset as usize;
    let missing = Damage::Row("a page ends before its runs");
    if let Some(body) = &run.page.body {
        return lend(body.get(offset..).ok_or(missing)?);
    }
    let mut statement = tx.prepare_cached("SELECT body FROM buffer WHERE id = ?1")?;
    let mut rows = statement.query([run.at.page.cast_signed()])?;
    match rows.next()? {
        Some(row) => lend(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?.get(offset..).ok_or(missing)?),
        None => Ok(()),
    }
}
