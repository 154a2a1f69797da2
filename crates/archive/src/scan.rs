//! Ranges of one series by time, over open pages and chunks together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rusqlite::Transaction;
use wire::{At, Epoch, Record, RecordKey, RelayId, RunView, Series};

use crate::buffer::OpenRun;
use crate::chunk::{self, Readings};
use crate::cursor::Cursor;
use crate::error::{Damage, ReadError};
use crate::find::with_run;
use crate::schema::{decode, from_sql};
use crate::shared::Shared;

/// What to read.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The series.
    pub series: Series,
    /// Earliest generation time.
    pub from: At,
    /// First generation time that is too late.
    pub to: At,
    /// Where the answer before this one stopped.
    pub after: Option<Cursor>,
    /// Most records in the answer.
    pub limit: usize,
}

/// A record and the relay it came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The record.
    pub record: Record,
    /// The relay.
    pub via: RelayId,
}

/// Something that holds records of the series, not looked at before its time has come.
struct Source {
    at_min: At,
    kind: Kind,
}

enum Kind {
    Run(OpenRun),
    Chunk(i64),
}

/// Records of one source.
struct Loaded {
    via: u32,
    epoch: u64,
    readings: Readings,
}

/// Order of an answer, then where the record is.
type Place = (At, u64, u64, usize, usize);

pub(crate) fn scan(
    tx: &Transaction<'_>,
    shared: &Shared,
    scan: &Scan,
    open: Vec<OpenRun>,
    series: u32,
) -> Result<Vec<Entry>, ReadError> {
    let mut sources = sources(tx, scan, open, series)?.into_iter().peekable();
    let mut loaded: Vec<Loaded> = Vec::new();
    let mut heap: BinaryHeap<Reverse<Place>> = BinaryHeap::new();
    let mut entries: Vec<Entry> = Vec::new();
    let mut last: Option<Cursor> = scan.after;
    while entries.len() < scan.limit {
        // Whatever may hold an earlier record than the next one goes first.
        while let Some(source) = sources.next_if(|source| heap.peek().is_none_or(|Reverse(next)| source.at_min <= next.0)) {
            if let Some(more) = load(tx, source)? {
                let index = loaded.len();
                for place in 0..more.readings.len() {
                    let at = more.readings.ats[place];
                    let here = Cursor { at, epoch: more.epoch, seq: more.readings.seqs[place] };
                    if (scan.from..scan.to).contains(&at) && last.is_none_or(|last| here > last) {
                        heap.push(Reverse((at, here.epoch, here.seq, index, place)));
                    }
                }
                loaded.push(more);
            }
        }
        let Some(Reverse((at, epoch, seq, index, place))) = heap.pop() else { break };
        let here = Cursor { at, epoch, seq };
        if last == Some(here) {
            // The same record in a page and in a chunk, or through two relays.
            continue;
        }
        last = Some(here);
        let from = &loaded[index];
        let record = Record {
            key: RecordKey { series: scan.series.clone(), epoch: Epoch(epoch), seq },
            at,
            operation: from.readings.operations[place],
            payload: from.readings.payload(place).to_vec(),
        };
        entries.push(Entry { record, via: relay(shared, from.via)? });
    }
    Ok(entries)
}

/// The relay with this number.
pub(crate) fn relay(shared: &Shared, id: u32) -> Result<RelayId, ReadError> {
    let name = shared.relays.name(id).and_then(|name| name.parse().ok());
    name.ok_or(ReadError::Damaged(Damage::Row("a record came through a relay without a name")))
}

fn sources(tx: &Transaction<'_>, scan: &Scan, open: Vec<OpenRun>, series: u32) -> Result<Vec<Source>, ReadError> {
    let from = scan.after.map_or(scan.from, |after| after.at.max(scan.from));
    let mut sources: Vec<Source> = open.into_iter().map(|run| Source { at_min: run.page.at_min, kind: Kind::Run(run) }).collect();
    let mut statement = tx.prepare_cached("SELECT id, at_min FROM chunks WHERE series = ?1 AND at_max >= ?2 AND at_min < ?3")?;
    let rows =
        statement.query_map((series, from, scan.to), |row| Ok(Source { at_min: row.get(1)?, kind: Kind::Chunk(row.get(0)?) }))?;
    for row in rows {
        sources.push(row?);
    }
    sources.sort_by_key(|source| source.at_min);
    Ok(sources)
}

fn load(tx: &Transaction<'_>, source: Source) -> Result<Option<Loaded>, ReadError> {
    match source.kind {
        Kind::Run(run) => {
            let mut loaded = None;
            with_run(tx, &run, |bytes| {
                let (view, _) = RunView::parse(bytes).map_err(|fault| Damage::Page { page: run.at.page, fault })?;
                loaded = Some(Loaded { via: run.page.via, epoch: run.at.epoch, readings: Readings::of_run(&view) });
                Ok(())
            })?;
            Ok(loaded)
        }
        Kind::Chunk(id) => {
            let mut statement = tx.prepare_cached("SELECT via, epoch, seqs, body FROM chunks WHERE id = ?1")?;
            let (via, epoch, seqs, body): (u32, i64, Vec<u8>, Vec<u8>) =
                statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            let seqs = decode(&seqs).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
            Ok(Some(Loaded { via, epoch: from_sql(epoch), readings: chunk::decode(&body, &seqs)? }))
        }
    }
}
