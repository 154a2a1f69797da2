//! Taking: readings become rows, with numbers and leaves, within one transaction (B1: the data and its digest).

use std::collections::HashMap;

use store::Fault;
use store::rusqlite::{Transaction, params};
use wire::{Operation, RunBuilder, RunView, Series};

use super::desk::Desk;
use crate::limits::{RUN_BYTES_MAX, RUN_RECORDS_MAX};
use crate::reading::{Position, Reading};
use crate::state::State;

/// The rows that one group is building: one open row a series, so that readings which came in many jobs share rows.
#[derive(Default)]
pub(crate) struct Taking {
    open: HashMap<Series, OpenRow>,
    positions: Vec<Position>,
}

struct OpenRow {
    series: i64,
    first_seq: u64,
    run: RunBuilder,
    at_min: i64,
    at_max: i64,
    cost: u64,
}

impl Taking {
    /// Numbers a reading and puts it behind the others of its series.
    pub(crate) fn push(&mut self, desk: &mut Desk, tx: &Transaction<'_>, reading: &Reading) -> Result<(), Fault> {
        let full = self.open.get(reading.series()).is_some_and(|row| row.is_closed_to(reading.operation()));
        if full && let Some(row) = self.open.remove(reading.series()) {
            row.write(desk, tx)?;
        }
        let (series, seq) = desk.reserve(tx, reading.series(), 1)?;
        let row = self.open.entry(reading.series().clone()).or_insert_with(|| OpenRow::new(series, seq, reading));
        row.run.push(reading.at(), reading.payload()).map_err(|fault| Fault::Work(fault.to_string().into()))?;
        row.at_min = row.at_min.min(reading.at());
        row.at_max = row.at_max.max(reading.at());
        row.cost += reading.cost();
        Ok(())
    }

    /// Remembers how far an input was read.
    pub(crate) fn advance(&mut self, position: Position) {
        match self.positions.iter_mut().find(|known| known.input == position.input) {
            Some(known) => *known = position,
            None => self.positions.push(position),
        }
    }

    /// Writes what is open.
    pub(crate) fn write(&mut self, desk: &mut Desk, tx: &Transaction<'_>) -> Result<(), Fault> {
        for (_, row) in self.open.drain() {
            row.write(desk, tx)?;
        }
        let mut advance = tx.prepare_cached(
            "INSERT INTO positions (input, source, position) VALUES (?1, ?2, ?3)
             ON CONFLICT (input) DO UPDATE SET source = excluded.source, position = excluded.position",
        )?;
        for position in self.positions.drain(..) {
            advance.execute(params![position.input, position.source, position.taken.cast_signed()])?;
        }
        Ok(())
    }
}

impl OpenRow {
    fn new(series: i64, first_seq: u64, reading: &Reading) -> Self {
        let run = RunBuilder::new(reading.series().clone(), reading.operation());
        Self { series, first_seq, run, at_min: reading.at(), at_max: reading.at(), cost: 0 }
    }

    fn is_closed_to(&self, operation: Operation) -> bool {
        self.run.operation() != operation || self.run.len() >= RUN_RECORDS_MAX || self.run.bytes() >= RUN_BYTES_MAX
    }

    fn write(self, desk: &mut Desk, tx: &Transaction<'_>) -> Result<(), Fault> {
        let count = self.run.len();
        let mut run = Vec::new();
        self.run.write(desk.origin.epoch, self.first_seq, &mut run);
        // From what is kept, not from what came: a digest of something else would be the worst that could be anchored.
        let (view, _) = RunView::parse(&run).map_err(|fault| Fault::Work(fault.to_string().into()))?;
        let leaves = desk.origin.secret.leaves(view.records());
        tx.prepare_cached(
            "INSERT INTO outbox (series, operation, seq_first, seq_last, at_min, at_max, state, cost, leaves, since)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            self.series,
            self.run.operation().code().cast_signed(),
            self.first_seq.cast_signed(),
            (self.first_seq + count - 1).cast_signed(),
            self.at_min,
            self.at_max,
            State::Pending.code(),
            self.cost.cast_signed(),
            leaves.as_flattened(),
            desk.now,
        ])?;
        let id = tx.last_insert_rowid();
        tx.prepare_cached("INSERT INTO bodies (id, run) VALUES (?1, ?2)")?.execute(params![id, run])?;
        let progress = desk.progress();
        progress.taken += count;
        progress.open_bytes += self.cost;
        Ok(())
    }
}
