//! Moves records from the storage area to the backlog lane: a spill (A6), a flush, or the answer to a pull (A12, A13).
//!
//! One page moves in one transaction, and what it carries is noted beside it until the receipt. So a hand-over may end, or the
//! process die, between any two pages: each record is in exactly one place, and whoever asks for it again is told which page has it.

use rusqlite::Transaction;
use wire::{At, Intervals, RunView, Series};

use crate::close::{Closer, Pages};
use crate::engine::{Done, GoneRuns, HandOver, Job};
use crate::error::{Damage, ReadError};
use crate::ledger;

/// Chunks that are looked up in one go, and that one page carries at most: it shares the commit with records that wait for their
/// acknowledgement.
const CHUNKS_PIECE: usize = 256;

/// What to hand over. Whole chunks move: a chunk that holds some of it goes with all its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All chunks of the storage area; the open segment, which is the buffer area, stays.
    Chunks,
    /// Everything: the open segment is closed first.
    All,
    /// What holds records of one series in a range of time, in chunks and in the open segment.
    Range {
        /// The series.
        series: Series,
        /// Earliest generation time.
        from: At,
        /// First generation time that is too late.
        to: At,
    },
}

/// A hand-over that is carried out page by page with [`crate::Archive::hand_over_page`].
#[derive(Debug, Clone)]
pub struct HandingOver {
    selection: Selection,
    stage: Stage,
    handed: HandedOver,
}

/// What a hand-over did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// Pages, and so frames, that carry what was asked for and that had no receipt when it was done.
    pub frames: Intervals,
    /// Records that were asked for in those pages; with them, records that share a chunk or a page with them.
    pub records: u64,
    /// Records that this hand-over moved.
    pub moved: u64,
    /// Chunks that can't be read. They stay where they are.
    pub damaged: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    /// Runs of the open segment up to page `last`.
    Open {
        last: u64,
    },
    /// Chunks behind `after` up to `end`: what is published later belongs to the next hand-over.
    Chunks {
        after: i64,
        end: i64,
    },
    Done,
}

impl HandingOver {
    /// Nothing is handed over yet.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, stage: Stage::Begin, handed: HandedOver::default() }
    }

    /// Whether everything is handed over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// What was done so far.
    #[must_use]
    pub fn so_far(&self) -> &HandedOver {
        &self.handed
    }

    /// What was done.
    #[must_use]
    pub fn into_handed(self) -> HandedOver {
        self.handed
    }
}

/// Moves one page. Between two pages a segment may be closed, and other hand-overs may go on.
pub(crate) fn page(closer: &mut Closer<'_>, handing: &mut HandingOver) -> Result<(), ReadError> {
    loop {
        let moved = match handing.stage {
            Stage::Begin => {
                handing.stage = begin(closer, &handing.selection)?;
                false
            }
            Stage::Open { last } => {
                let moved = open_runs(closer, handing, last)?;
                if !moved {
                    handing.stage = chunks(closer, &handing.selection)?;
                }
                moved
            }
            Stage::Chunks { after, end } => {
                let moved = some_chunks(closer, handing, after, end)?;
                if !moved {
                    on_their_way(closer, handing)?;
                    handing.stage = Stage::Done;
                }
                moved
            }
            Stage::Done => return Ok(()),
        };
        if moved {
            return Ok(());
        }
    }
}

fn begin(closer: &mut Closer<'_>, selection: &Selection) -> Result<Stage, ReadError> {
    match selection {
        Selection::Chunks => {}
        Selection::All => {
            closer.close_all()?;
            closer.purge()?;
        }
        Selection::Range { .. } => {
            if let Some(last) = closer.shared.buffer.last_page() {
                return Ok(Stage::Open { last });
            }
        }
    }
    chunks(closer, selection)
}

fn chunks(closer: &Closer<'_>, selection: &Selection) -> Result<Stage, ReadError> {
    let published = |tx: &Transaction<'_>| tx.query_row("SELECT chunks_published FROM marks", [], |row| row.get(0));
    let end = match selection {
        // A chunk whose secret comes meanwhile gets another number, and is wanted all the same.
        Selection::Range { .. } => i64::MAX,
        Selection::All | Selection::Chunks => closer.readers.read(|tx| Ok::<_, ReadError>(published(tx)?))?,
    };
    Ok(Stage::Chunks { after: 0, end })
}

/// Moves runs that lie in the open segment: up to a page that is full, or to the last page that touches the range.
fn open_runs(closer: &Closer<'_>, handing: &mut HandingOver, last: u64) -> Result<bool, ReadError> {
    let Selection::Range { series: name, from, to } = &handing.selection else { return Ok(false) };
    let Some(series) = closer.shared.series.get(name.as_str()) else { return Ok(false) };
    let mut runs = closer.shared.buffer.runs(series, |at, _| at.page <= last);
    // All that was committed before the last one that touches the range goes too: what has gone is told by one page number.
    let touches = |page: &crate::buffer::OpenPage| page.at_max >= *from && page.at_min < *to;
    runs.truncate(runs.iter().rposition(|run| touches(&run.page)).map_or(0, |place| place + 1));
    let Some(up_to) = runs.last().map(|run| run.at.page) else { return Ok(false) };
    let pages = Pages::load_some(closer.readers, &runs)?;
    let mut job = HandOver { chunks: Vec::new(), gone: None, records: 0, runs: Vec::new() };
    let mut gone = GoneRuns { series, page: up_to, parts: Vec::new() };
    let mut runs = runs.iter().peekable();
    while let Some(run) = runs.next() {
        let bytes = pages.bytes(run)?;
        let (view, _) = RunView::parse(bytes).map_err(|fault| Damage::Page { page: run.at.page, fault })?;
        job.runs.extend_from_slice(view.raw());
        job.records += view.count();
        gone.add(&view);
        // A page of the segment goes as a whole.
        let at_end = runs.peek().is_none_or(|next| next.at.page != run.at.page);
        if at_end && job.runs.len() >= closer.shared.options.page_bytes_max {
            gone.page = run.at.page;
            break;
        }
    }
    job.gone = Some(gone);
    send(closer, &mut handing.handed, job)?;
    Ok(true)
}

fn some_chunks(closer: &Closer<'_>, handing: &mut HandingOver, mut after: i64, end: i64) -> Result<bool, ReadError> {
    let mut job = HandOver { chunks: Vec::new(), gone: None, records: 0, runs: Vec::new() };
    'page: loop {
        let ids = closer.readers.read(|tx| select(tx, closer, &handing.selection, after, end))?;
        if ids.is_empty() {
            break;
        }
        for id in ids {
            after = id;
            let whole = match closer.readers.read(|tx| ledger::chunk(tx, closer.shared, id)) {
                Ok(Some(whole)) => whole,
                Ok(None) => continue,
                Err(error @ (ReadError::Damaged(_) | ReadError::Store(store::ReadError::Corrupt(_)))) => {
                    tracing::error!(chunk = id, %error, "ALARM: a chunk can't be read; it stays in the storage area");
                    handing.handed.damaged.push(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let written = whole.readings.write_runs(&whole.series, whole.epoch, &mut job.runs);
            written.map_err(|fault| Damage::Page { page: 0, fault })?;
            job.records += whole.readings.len() as u64;
            job.chunks.push((id, whole.readings.len() as i64, whole.body_bytes));
            if job.runs.len() >= closer.shared.options.page_bytes_max || job.chunks.len() >= CHUNKS_PIECE {
                break 'page;
            }
        }
    }
    let moved = !job.chunks.is_empty();
    if moved {
        send(closer, &mut handing.handed, job)?;
    }
    // Only now: a page that could not be written is made again.
    handing.stage = Stage::Chunks { after, end };
    Ok(moved)
}

fn send(closer: &Closer<'_>, handed: &mut HandedOver, job: HandOver) -> Result<(), ReadError> {
    let records = job.records;
    match closer.ask(Job::HandOver(job))? {
        Done::HandedOver(page) => {
            handed.frames.insert(page, page);
            handed.records += records;
            handed.moved += records;
            Ok(())
        }
        other => Err(other.unexpected().into()),
    }
}

/// Adds what others had handed over before, or meanwhile.
fn on_their_way(closer: &Closer<'_>, handing: &mut HandingOver) -> Result<(), ReadError> {
    let Selection::Range { series, from, to } = &handing.selection else { return Ok(()) };
    let Some(series) = closer.shared.series.get(series.as_str()) else { return Ok(()) };
    let mine = handing.handed.frames.clone();
    let handed = &mut handing.handed;
    closer.readers.read(|tx| {
        let mut statement =
            tx.prepare_cached("SELECT page, records FROM leaving WHERE series = ?1 AND at_max >= ?2 AND at_min < ?3")?;
        let mut rows = statement.query((series, from, to))?;
        while let Some(row) = rows.next()? {
            let page = row.get::<_, i64>(0)?.cast_unsigned();
            if !mine.contains(page) {
                handed.frames.insert(page, page);
                handed.records += row.get::<_, i64>(1)?.cast_unsigned();
            }
        }
        Ok(())
    })
}

fn select(tx: &Transaction<'_>, closer: &Closer<'_>, selection: &Selection, after: i64, end: i64) -> Result<Vec<i64>, ReadError> {
    let rows = match selection {
        Selection::All | Selection::Chunks => {
            let mut statement = tx.prepare_cached("SELECT id FROM chunks WHERE id > ?1 AND id <= ?2 AND id <= (SELECT chunks_published FROM marks) ORDER BY id LIMIT ?3")?;
            statement.query_map((after, end, CHUNKS_PIECE as i64), |row| row.get(0))?.collect::<Result<_, _>>()
        }
        Selection::Range { series, from, to } => {
            let Some(series) = closer.shared.series.get(series.as_str()) else { return Ok(Vec::new()) };
            let mut statement = tx.prepare_cached(
                "SELECT id FROM chunks WHERE series = ?1 AND at_max >= ?2 AND at_min < ?3 AND id > ?4 AND id <= ?5
                 AND id <= (SELECT chunks_published FROM marks) ORDER BY id LIMIT ?6",
            )?;
            statement.query_map((series, from, to, after, end, CHUNKS_PIECE as i64), |row| row.get(0))?.collect::<Result<_, _>>()
        }
    };
    Ok(rows?)
}
