//! Verdicts: new, duplicate, conflict. Found and acted upon in the transaction that keeps the records.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use rusqlite::Transaction;
use store::Fault;
use wire::{At, EpochSecret, RecordView, RunBuilder, RunView};

use super::{Done, Engine, RunMeta};
use crate::append::{Appended, Lane};
use crate::error::ReadError;
use crate::find::{Found, find};
use crate::schema::{execute, to_sql};

/// Conflicts kept aside at most; further ones are counted and alarmed only, so that they can't fill the disk.
const CONFLICTS_KEPT_MAX: i64 = 65_536;

impl Engine {
    pub(super) fn ingest(
        &mut self,
        tx: &Transaction<'_>,
        from: (u32, u64),
        number: u64,
        bytes: &[u8],
        runs: &[RunMeta],
        now: At,
    ) -> Result<Done, Fault> {
        let frames = self.start.frames.entry(from).or_default();
        if frames.numbers.contains(number) {
            let duplicate = runs.iter().map(|run| run.count).sum();
            return Ok(Done::Appended(Appended { duplicate, repeated: true, ..Appended::default() }));
        }
        frames.numbers.insert(number, number);
        frames.touched = true;
        self.frames_added.push((from, number));
        self.save_relay(tx, from.0)?;
        let mut verdict = Appended::default();
        for run in runs {
            let raw = &bytes[run.start as usize..run.end as usize];
            let last = run.first_seq + run.count - 1;
            let state = self.start.held.id(run.series, run.epoch);
            if self.start.held.of(state).overlaps(run.first_seq, last) {
                self.sift(tx, from.0, run, raw, &mut verdict, now)?;
                continue;
            }
            self.start.held.add(state, run.first_seq, last);
            verdict.new += run.count;
            let written = self.pages.push(Lane::Store, from.0, run, raw);
            self.cut(tx, Lane::Store, from.0, written, now)?;
        }
        Ok(Done::Appended(verdict))
    }

    /// A run of which something is held: compares that, keeps the rest.
    fn sift(
        &mut self,
        tx: &Transaction<'_>,
        via: u32,
        meta: &RunMeta,
        raw: &[u8],
        verdict: &mut Appended,
        now: At,
    ) -> Result<(), Fault> {
        let (run, _) = RunView::parse(raw).map_err(|fault| Fault::Work(format!("a run can't be read back: {fault}").into()))?;
        let state = self.start.held.id(meta.series, meta.epoch);
        let missing = self.start.held.of(state).missing(run.first_seq(), run.last_seq());
        let stored = self.stored(tx, meta, &run)?;
        let is_missing = |seq: u64| missing.iter().any(|(low, high)| (*low..=*high).contains(&seq));
        for record in run.records().filter(|record| !is_missing(record.seq)) {
            match stored.as_ref().map(|stored| stored.get(&record.seq)) {
                // Held, and no longer here to be compared: it was here once, so it is not new.
                Some(None) => verdict.duplicate += 1,
                Some(Some(found)) if found.is(&record) => verdict.duplicate += 1,
                other => {
                    verdict.conflict += 1;
                    self.keep_aside(tx, via, &record, other.flatten(), now)?;
                }
            }
        }
        for (low, high) in missing {
            let series =
                run.series().parse().map_err(|fault| Fault::Work(format!("a run can't be read back: {fault}").into()))?;
            let mut part = RunBuilder::new(series, run.operation());
            for record in run.records().filter(|record| (low..=high).contains(&record.seq)) {
                part.push(record.at, record.payload).map_err(|fault| Fault::Work(fault.to_string().into()))?;
            }
            self.start.held.add(state, low, high);
            verdict.new += part.len();
            let written =
                self.pages.push_with(Lane::Store, via, meta.series, part.len(), |out| part.write(run.epoch(), low, out))?;
            self.cut(tx, Lane::Store, via, written, now)?;
        }
        Ok(())
    }

    /// What is stored under the numbers of `run`, this group included. `None` if it can't be read: then the offered bytes are kept aside,
    /// because they may be the only good ones left.
    fn stored(&self, tx: &Transaction<'_>, meta: &RunMeta, run: &RunView<'_>) -> Result<Option<BTreeMap<u64, Found>>, Fault> {
        let (low, high) = (run.first_seq(), run.last_seq());
        let growing = self.pages.runs(meta.series);
        let written = self.effects.iter().filter_map(|effect| match effect {
            super::Effect::Buffered { written, .. } => Some(written),
            _ => None,
        });
        let written = written.flat_map(|written| {
            let own = written.runs.iter().filter(|(series, _)| *series == meta.series);
            own.filter_map(|(_, at)| Some((*at, written.page.via, &written.page.body.as_ref()?[at.offset as usize..])))
        });
        match find(tx, &self.shared, meta.series, meta.epoch, (low, high), growing.chain(written)) {
            Ok(found) => Ok(Some(found)),
            Err(ReadError::Damaged(damage)) => {
                tracing::error!(series = run.series(), epoch = %run.epoch(), low, high, %damage, "what is held can't be compared");
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    pub(super) fn keep_aside(
        &mut self,
        tx: &Transaction<'_>,
        via: u32,
        offered: &RecordView<'_>,
        held: Option<&Found>,
        now: At,
    ) -> Result<(), Fault> {
        self.shared.conflicts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(series = offered.series, epoch = %offered.epoch, seq = offered.seq, "another content under a key that is held");
        let kept: i64 = tx.prepare_cached("SELECT coalesce(max(id), 0) FROM conflicts")?.query_row([], |row| row.get(0))?;
        if kept >= CONFLICTS_KEPT_MAX {
            return Ok(());
        }
        let secret = self.shared.secrets.of(offered.series, offered.epoch);
        let digest = |record: &RecordView<'_>| -> [u8; 32] {
            match &secret {
                Some(secret) => secret.leaf(record),
                // Without its secret a leaf can't be had; two contents can be told apart all the same.
                None => EpochSecret::new([0; 32]).leaf(record),
            }
        };
        let held_digest = held.map_or(Vec::new(), |held| digest(&held.view(offered)).to_vec());
        execute(
            tx,
            "INSERT INTO conflicts (series, epoch, seq, via, seen_at, at, operation, payload, held_digest, offered_digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            (
                offered.series,
                to_sql(offered.epoch.0),
                offered.seq.cast_signed(),
                via,
                now,
                offered.at,
                offered.operation.code().cast_signed(),
                offered.payload,
                held_digest,
                digest(offered).to_vec(),
            ),
        )?;
        Ok(())
    }
}
