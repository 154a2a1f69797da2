//! The pages that the current group writes.

use bytes::Bytes;
use rusqlite::Transaction;
use store::Fault;
use wire::{At, RunView};

use super::Effect;
use crate::append::Lane;
use crate::buffer::{OpenPage, RunAt, Written};
use crate::lanes::Page;
use crate::options::Fresh;
use crate::schema::execute;
use crate::shared::Shared;

/// The pages of one group: one a lane and relay, and another when one is full.
#[derive(Debug)]
pub(crate) struct Pages {
    open: Vec<Slot>,
    next: Next,
    committed: Next,
}

/// The ids that come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) buffer: u64,
    pub(crate) outgoing: u64,
}

/// A page that still grows.
#[derive(Debug)]
struct Slot {
    lane: Lane,
    via: u32,
    body: Vec<u8>,
    runs: Vec<(u32, RunAt)>,
    records: u64,
    at_min: At,
    at_max: At,
    /// How much of the body the observer has seen.
    shown: usize,
}

impl Pages {
    pub(crate) fn new(next: Next) -> Self {
        Self { open: Vec::new(), next, committed: next }
    }

    pub(crate) fn next(&self) -> Next {
        self.next
    }

    /// The id that the first outgoing page of this group has, whether it is there or not.
    pub(crate) fn committed_outgoing(&self) -> u64 {
        self.committed.outgoing
    }

    pub(crate) fn commit(&mut self) {
        self.committed = self.next;
    }

    /// The outgoing pages of this group keep their ids though it is rolled back: nothing else is called so.
    pub(crate) fn pass_over_outgoing(&mut self) {
        self.committed.outgoing = self.next.outgoing;
    }

    pub(crate) fn roll_back(&mut self) {
        self.open.clear();
        self.next = self.committed;
    }

    fn slot(&mut self, lane: Lane, via: u32) -> &mut Slot {
        let index = self.open.iter().position(|slot| slot.lane == lane && slot.via == via).unwrap_or_else(|| {
            self.open.push(Slot {
                lane,
                via,
                body: Vec::new(),
                runs: Vec::new(),
                records: 0,
                at_min: At::MAX,
                at_max: At::MIN,
                shown: 0,
            });
            self.open.len() - 1
        });
        &mut self.open[index]
    }

    /// Adds a run that `write` appends to the page's bytes.
    pub(crate) fn push_with(
        &mut self,
        lane: Lane,
        via: u32,
        series: u32,
        records: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<usize, Fault> {
        let slot = self.slot(lane, via);
        let start = slot.body.len();
        write(&mut slot.body);
        slot.records += records;
        if lane == Lane::Store {
            let (run, _) = RunView::parse(&slot.body[start..])
                .map_err(|fault| Fault::Work(format!("a run can't be read back: {fault}").into()))?;
            let at = RunAt {
                page: 0,
                epoch: run.epoch().0,
                first_seq: run.first_seq(),
                offset: start as u32,
                count: run.count() as u32,
            };
            slot.at_min = slot.at_min.min(run.at_min());
            slot.at_max = slot.at_max.max(run.at_max());
            slot.runs.push((series, at));
        }
        Ok(slot.body.len())
    }

    /// Adds a run that was validated before.
    pub(crate) fn push(&mut self, lane: Lane, via: u32, run: &super::RunMeta, raw: &[u8]) -> usize {
        let slot = self.slot(lane, via);
        let start = slot.body.len();
        slot.body.extend_from_slice(raw);
        slot.records += run.count;
        if lane == Lane::Store {
            let at = RunAt { page: 0, epoch: run.epoch, first_seq: run.first_seq, offset: start as u32, count: run.count as u32 };
            slot.at_min = slot.at_min.min(run.at_min);
            slot.at_max = slot.at_max.max(run.at_max);
            slot.runs.push((run.series, at));
        }
        slot.body.len()
    }

    /// Adds runs to an outgoing lane, where nobody looks for one of them.
    pub(crate) fn write_outgoing(&mut self, lane: Lane, via: u32, records: u64, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let slot = self.slot(lane, via);
        write(&mut slot.body);
        slot.records += records;
        slot.body.len()
    }

    /// Runs of a series in the pages that still grow.
    pub(crate) fn runs(&self, series: u32) -> impl Iterator<Item = (RunAt, u32, &[u8])> {
        self.open.iter().flat_map(move |slot| {
            let own = slot.runs.iter().filter(move |(other, _)| *other == series);
            own.map(move |(_, at)| (*at, slot.via, &slot.body[at.offset as usize..]))
        })
    }

    /// Shows the observer what came since it was last shown something: it does not wait for the end of the group.
    pub(crate) fn show(&mut self, shared: &Shared) {
        for slot in &mut self.open {
            if slot.shown < slot.body.len() {
                show(shared, slot.lane, slot.via, || Bytes::copy_from_slice(&slot.body[slot.shown..]));
                slot.shown = slot.body.len();
            }
        }
    }

    /// Writes the page of this lane and relay, so that the next run begins another.
    pub(crate) fn flush(
        &mut self,
        tx: &Transaction<'_>,
        shared: &Shared,
        lane: Lane,
        via: u32,
        now: At,
    ) -> Result<Option<Effect>, Fault> {
        let index = self.open.iter().position(|slot| slot.lane == lane && slot.via == via && !slot.body.is_empty());
        let Some(index) = index else { return Ok(None) };
        let slot = self.open.swap_remove(index);
        self.write(tx, shared, slot, now).map(Some)
    }

    /// Writes all pages.
    pub(crate) fn flush_all(
        &mut self,
        tx: &Transaction<'_>,
        shared: &Shared,
        now: At,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Fault> {
        for slot in std::mem::take(&mut self.open) {
            if !slot.body.is_empty() {
                let effect = self.write(tx, shared, slot, now)?;
                effects.push(effect);
            }
        }
        Ok(())
    }

    fn write(&mut self, tx: &Transaction<'_>, shared: &Shared, slot: Slot, now: At) -> Result<Effect, Fault> {
        let Slot { lane, via, body, mut runs, records, at_min, at_max, shown } = slot;
        let body = Bytes::from(body);
        if shown < body.len() {
            show(shared, lane, via, || body.slice(shown..));
        }
        let rows = records.cast_signed();
        if lane == Lane::Store {
            let id = self.next.buffer;
            self.next.buffer += 1;
            execute(
                tx,
                "INSERT INTO buffer (id, via, records, taken_at, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                (id.cast_signed(), via, rows, now, &body[..]),
            )?;
            for (_, at) in &mut runs {
                at.page = id;
            }
            let bytes = body.len() as u64;
            let page = OpenPage { via, at_min, at_max, bytes: body.len() as u32, body: Some(body) };
            return Ok(Effect::Buffered { written: Written { id, page, runs }, records, bytes });
        }
        let id = self.next.outgoing;
        self.next.outgoing += 1;
        let sql = match lane {
            Lane::Backlog => "INSERT INTO backlog (id, records, taken_at, body) VALUES (?1, ?2, ?3, ?4)",
            Lane::Live | Lane::Store => "INSERT INTO live (id, records, taken_at, body) VALUES (?1, ?2, ?3, ?4)",
        };
        execute(tx, sql, (id.cast_signed(), rows, now, &body[..]))?;
        Ok(Effect::Outgoing { lane, page: Page { id, records, taken_at: now, body } })
    }
}

fn show(shared: &Shared, lane: Lane, via: u32, runs: impl FnOnce() -> Bytes) {
    if let Some(observer) = &shared.options.observer
        && let Some(via) = shared.relays.name(via).and_then(|name| name.parse().ok())
    {
        observer(Fresh { via, lane, runs: runs() });
    }
}
