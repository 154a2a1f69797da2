//! Moves records from the storage area to the backlog lane: a spill (A6), a flush, or the answer to a pull (A12, A13).

use rusqlite::Transaction;
use wire::{At, Series};

use crate::close::Closer;
use crate::engine::{HandedOver, Job};
use crate::error::ReadError;
use crate::ledger;

/// Chunks looked up in one go.
const IDS_PIECE: i64 = 256;

/// What to hand over. Whole chunks move: a chunk that holds some of it goes with all its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything in the storage area.
    All,
    /// What holds records of one series in a range of time.
    Range {
        /// The series.
        series: Series,
        /// Earliest generation time.
        from: At,
        /// First generation time that is too late.
        to: At,
    },
}

pub(crate) fn run(closer: &Closer<'_>, selection: &Selection) -> Result<u64, ReadError> {
    // What is published later belongs to the next hand-over.
    let end: i64 = closer
        .readers
        .read(|tx| Ok::<_, ReadError>(tx.query_row("SELECT chunks_published FROM marks", [], |row| row.get(0))?))?;
    let page_bytes = closer.shared.options.page_bytes_max;
    let mut last = 0;
    let mut moved = 0;
    let mut piece = empty();
    loop {
        let ids = closer.readers.read(|tx| select(tx, closer, selection, last, end))?;
        let Some(next) = ids.last() else { break };
        last = *next;
        for id in ids {
            let Some(whole) = closer.readers.read(|tx| ledger::chunk(tx, closer.shared, id))? else { continue };
            let records = whole.readings.len() as i64;
            let written = whole.readings.write_runs(&whole.series, whole.epoch, &mut piece.runs);
            written.map_err(|fault| crate::error::Damage::Page { page: 0, fault })?;
            piece.chunks.push(id);
            piece.records += records;
            piece.bytes += whole.body_bytes;
            moved += records.cast_unsigned();
            if piece.runs.len() >= page_bytes {
                closer.ask(Job::HandOver(std::mem::replace(&mut piece, empty())))?;
            }
        }
    }
    if !piece.chunks.is_empty() {
        closer.ask(Job::HandOver(piece))?;
    }
    Ok(moved)
}

fn empty() -> HandedOver {
    HandedOver { chunks: Vec::new(), records: 0, bytes: 0, runs: Vec::new() }
}

fn select(tx: &Transaction<'_>, closer: &Closer<'_>, selection: &Selection, last: i64, end: i64) -> Result<Vec<i64>, ReadError> {
    let rows = match selection {
        Selection::All => {
            let mut statement = tx.prepare_cached("SELECT id FROM chunks WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
            statement.query_map((last, end, IDS_PIECE), |row| row.get(0))?.collect::<Result<_, _>>()
        }
        Selection::Range { series, from, to } => {
            let Some(series) = closer.shared.series.get(series.as_str()) else { return Ok(Vec::new()) };
            let mut statement = tx.prepare_cached(
                "SELECT id FROM chunks WHERE series = ?1 AND at_max >= ?2 AND at_min < ?3 AND id > ?4 AND id <= ?5 ORDER BY id LIMIT ?6",
            )?;
            statement.query_map((series, from, to, last, end, IDS_PIECE), |row| row.get(0))?.collect::<Result<_, _>>()
        }
    };
    Ok(rows?)
}
