//! What the writer thread does: the only code that writes the agent's database.
//!
//! Counts and sequence numbers are kept in memory and follow the commit: a group that is rolled back leaves neither.

use std::collections::HashMap;
use std::sync::Arc;

use anchor::changes::{Change, LedgerId};
use chassis::Clock;
use store::rusqlite::{OptionalExtension, Transaction, params};
use store::{Fault, Work};
use tokio::sync::watch;
use wire::{At, SensorId, Series};

use super::budget::{Budget, Claim};
use super::following;
use super::grouping::{self, ChunkLimits};
use super::reporting;
use super::responses::{self, Noted};
use super::schema::Origin;
use super::sending::{self, Row, Verdict};
use super::taking::Taking;
use super::targets::{self, Entry};
use crate::progress::Progress;
use crate::reading::{Position, Reading};

/// What can be asked of the writer.
pub(crate) enum Job {
    /// Take readings, and remember how far their input was read.
    Take { readings: Vec<Reading>, position: Option<Position>, claim: Option<Claim> },
    /// Number readings that can't be taken, and leave tombstones.
    Drop { counts: Vec<(Series, u64)>, reason: &'static str, now: At },
    /// Mark the next open rows as sent and hand them out.
    Dispatch { after: i64, records_max: u64, bytes_max: usize },
    /// The relay has answered for these rows.
    Resolve { rows: Vec<i64>, verdict: Verdict, now: At },
    /// Purge, then make chunks that are due (B7).
    Group { limits: ChunkLimits, now: At },
    /// The ledger says where batches stand.
    Follow { ledger: LedgerId, changes: Vec<Change> },
    /// A round of probes has ended, or there is a new target.
    Register(Entry),
    /// Tell the cloud of new tombstones, and of the target if `target`.
    Report { sensor: SensorId, target: bool, now: At },
    /// Take a record about a demand-response event, unless what it says is known.
    Respond { reading: Reading, noted: Noted, claim: Claim },
}

/// The answers.
#[derive(Debug)]
pub(crate) enum Done {
    /// Nothing to say but that it is durable.
    Written,
    /// Rows to be sent.
    Rows(Vec<Row>),
    /// Whether the pass reached its limit, so that another one should follow at once.
    More(bool),
    /// It was known; nothing was taken.
    Known,
}

/// A series as the writer knows it.
struct Slot {
    id: i64,
    next_seq: u64,
    /// Whether the open transaction has changed it.
    touched: bool,
}

/// The writer's memory.
pub(crate) struct Desk {
    pub(crate) origin: Origin,
    budget: Arc<Budget>,
    shown: watch::Sender<Progress>,
    slots: HashMap<Series, Slot>,
    /// Bytes of leaves that chunks hold.
    leaf_bytes: u64,
    clock: Arc<dyn Clock>,
    /// The time of the group.
    pub(crate) now: At,
    pending: Pending,
}

/// What the open transaction would change in memory.
#[derive(Default)]
struct Pending {
    progress: Option<Progress>,
    leaf_bytes: Option<u64>,
    /// Bytes given back to the budget.
    freed: u64,
    claims: Vec<Claim>,
    touched: Vec<Series>,
}

impl Desk {
    pub(crate) fn new(
        origin: Origin,
        budget: Arc<Budget>,
        shown: watch::Sender<Progress>,
        leaf_bytes: u64,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { origin, budget, shown, slots: HashMap::new(), leaf_bytes, clock, now: 0, pending: Pending::default() }
    }

    /// The counts as they will be after the commit.
    pub(crate) fn progress(&mut self) -> &mut Progress {
        let shown = &self.shown;
        self.pending.progress.get_or_insert_with(|| *shown.borrow())
    }

    /// Bytes of leaves as they will be after the commit.
    pub(crate) fn leaf_bytes(&mut self) -> &mut u64 {
        let now = self.leaf_bytes;
        self.pending.leaf_bytes.get_or_insert(now)
    }

    /// Claims room for a record of the agent's own; false when there is none.
    pub(crate) fn claim(&mut self, bytes: u64) -> bool {
        let claim = self.budget.try_claim(bytes);
        let is_claimed = claim.is_some();
        self.pending.claims.extend(claim);
        is_claimed
    }

    pub(crate) fn free(&mut self, bytes: u64) {
        self.pending.freed += bytes;
        let progress = self.progress();
        progress.open_bytes = progress.open_bytes.saturating_sub(bytes);
    }

    /// The series, made if it is new, with its next `count` numbers reserved; tells its row and the first of the numbers.
    pub(crate) fn reserve(&mut self, tx: &Transaction<'_>, series: &Series, count: u64) -> Result<(i64, u64), Fault> {
        if !self.slots.contains_key(series) {
            self.slots.insert(series.clone(), Slot::load(tx, series)?);
        }
        let slot = self.slots.get_mut(series).ok_or_else(|| Fault::Work("a series was lost".into()))?;
        if !slot.touched {
            slot.touched = true;
            self.pending.touched.push(series.clone());
        }
        let first = slot.next_seq;
        slot.next_seq += count;
        Ok((slot.id, first))
    }

    fn write_slots(&self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let mut update = tx.prepare_cached("UPDATE series SET next_seq = ?2 WHERE id = ?1")?;
        for slot in self.pending.touched.iter().filter_map(|series| self.slots.get(series)) {
            update.execute(params![slot.id, slot.next_seq.cast_signed()])?;
        }
        Ok(())
    }

    fn drop_untaken(&mut self, tx: &Transaction<'_>, counts: &[(Series, u64)], reason: &str, now: At) -> Result<(), Fault> {
        for (series, count) in counts.iter().filter(|(_, count)| *count > 0) {
            let (id, first) = self.reserve(tx, series, *count)?;
            grouping::bury(tx, &grouping::Grave { series: id, first, last: first + count - 1, reason, taken: false, at: now })?;
            self.progress().dropped += count;
        }
        Ok(())
    }
}

impl Slot {
    fn load(tx: &Transaction<'_>, series: &Series) -> Result<Self, Fault> {
        let found = tx
            .prepare_cached("SELECT id, next_seq FROM series WHERE name = ?1")?
            .query_row([series.as_str()], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        if let Some((id, next_seq)) = found {
            return Ok(Self { id, next_seq: next_seq.cast_unsigned(), touched: false });
        }
        tx.prepare_cached("INSERT INTO series (name, next_seq) VALUES (?1, 1)")?.execute([series.as_str()])?;
        Ok(Self { id: tx.last_insert_rowid(), next_seq: 1, touched: false })
    }
}

impl Work for Desk {
    type Job = Job;
    type Done = Done;

    fn apply(&mut self, tx: &Transaction<'_>, jobs: &mut Vec<Job>) -> Result<Vec<Done>, Fault> {
        self.now = self.clock.now();
        let mut done = Vec::with_capacity(jobs.len());
        let mut taking = Taking::default();
        for job in jobs.drain(..) {
            if !matches!(job, Job::Take { .. }) {
                // What follows may look at the rows.
                taking.write(self, tx)?;
            }
            done.push(match job {
                Job::Take { readings, position, claim } => {
                    self.pending.claims.extend(claim);
                    for reading in &readings {
                        taking.push(self, tx, reading)?;
                    }
                    if let Some(position) = position {
                        taking.advance(position);
                    }
                    Done::Written
                }
                Job::Drop { counts, reason, now } => {
                    self.drop_untaken(tx, &counts, reason, now)?;
                    Done::Written
                }
                Job::Dispatch { after, records_max, bytes_max } => {
                    Done::Rows(sending::dispatch(self, tx, after, records_max, bytes_max)?)
                }
                Job::Resolve { rows, verdict, now } => {
                    sending::resolve(self, tx, &rows, &verdict, now)?;
                    Done::Written
                }
                Job::Group { limits, now } => Done::More(grouping::pass(self, tx, &limits, now)?),
                Job::Follow { ledger, changes } => {
                    following::follow(self, tx, &ledger, &changes)?;
                    Done::Written
                }
                Job::Register(entry) => {
                    targets::write(tx, &entry)?;
                    if let (true, Some(moved)) = (entry.report, &entry.moved) {
                        // Without room it is told with the next report.
                        reporting::moved(self, tx, &mut taking, &entry.sensor, moved)?;
                    }
                    Done::Written
                }
                Job::Respond { reading, noted, claim } => match responses::note(tx, &noted)? {
                    // The claim is dropped, and gives its bytes back.
                    false => Done::Known,
                    true => {
                        self.pending.claims.push(claim);
                        taking.push(self, tx, &reading)?;
                        Done::Written
                    }
                },
                Job::Report { sensor, target, now } => {
                    reporting::tombstones(self, tx, &mut taking, &sensor, now)?;
                    Done::More(target && !reporting::target(self, tx, &mut taking, &sensor, now)?)
                }
            });
        }
        taking.write(self, tx)?;
        self.write_slots(tx)?;
        Ok(done)
    }

    fn committed(&mut self) {
        let Pending { progress, leaf_bytes, freed, claims, touched } = std::mem::take(&mut self.pending);
        claims.into_iter().for_each(Claim::keep);
        self.budget.release(freed);
        for series in &touched {
            if let Some(slot) = self.slots.get_mut(series) {
                slot.touched = false;
            }
        }
        self.leaf_bytes = leaf_bytes.unwrap_or(self.leaf_bytes);
        if let Some(progress) = progress {
            self.shown.send_replace(progress);
        }
    }

    fn rolled_back(&mut self) {
        // Dropping the claims gives their bytes back; the slots are read from the database again.
        for series in std::mem::take(&mut self.pending).touched {
            self.slots.remove(&series);
        }
    }

    fn weigh(job: &Job) -> usize {
        match job {
            Job::Take { readings, .. } => readings.iter().map(|reading| reading.cost() as usize).sum(),
            Job::Respond { reading, .. } => reading.cost() as usize,
            Job::Resolve { rows, .. } => 64 + 8 * rows.len(),
            Job::Drop { counts, .. } => 64 * counts.len(),
            Job::Register(entry) => 128 + 64 * entry.probes.len(),
            Job::Follow { changes, .. } => 64 + 128 * changes.len(),
            Job::Dispatch { .. } | Job::Group { .. } | Job::Report { .. } => 64,
        }
    }
}
