//! What the index's writer thread does.

use store::rusqlite::{OptionalExtension, Transaction};
use store::{Fault, Work};
use wire::index::{IndexEntry, Stretch};
use wire::{At, Digest, Epoch, Intervals, RelayId, Statement};

use super::statements;

/// Mismatches kept at most; further ones are counted and alarmed only, so that a relay that lies can't fill the disk.
const MISMATCHES_MAX: i64 = 65_536;

/// What the writer thread is asked for.
#[derive(Debug)]
pub(super) enum Job {
    /// The relay speaks from this database.
    Current { relay: RelayId, epoch: Epoch },
    /// These are all chunks of the stretch.
    Page { relay: RelayId, epoch: Epoch, stretch: Stretch, entries: Vec<IndexEntry> },
    /// The records of an entry are in the archive and give this root.
    Checked { row: i64, found: Digest },
    /// What older databases of the relay held is given up, or the relay is.
    GiveUp { relay: RelayId, whole: bool },
    /// A database of a relay was heard whole.
    Heard { relay: RelayId, epoch: Epoch, at: At },
    /// Statements up to this one are in batches.
    Batched { through: i64 },
}

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is kept. So many entries of an older database of the relay are void now.
    Kept {
        /// How many.
        lost: u64,
    },
    /// There is no room for more entries.
    Full,
    /// Whether the root is the one that was announced.
    Compared {
        /// It is.
        same: bool,
    },
    /// So many entries were forgotten.
    GivenUp(u64),
    /// Statements were forgotten.
    Forgotten,
}

/// The writer thread's state.
pub(super) struct Keeper {
    now: archive::Now,
    entries_max: u64,
    /// Entries as of the last commit, and with the open group.
    count: (i64, i64),
    /// Statements that are in no batch, likewise; `None` if nothing is anchored.
    waiting: Option<(i64, i64)>,
}

pub(super) const fn to_sql(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) const fn from_sql(number: i64) -> u64 {
    number.cast_unsigned()
}

fn encode(set: &Intervals) -> Vec<u8> {
    let mut out = Vec::new();
    set.encode(&mut out);
    out
}

fn execute(tx: &Transaction<'_>, sql: &str, values: impl store::rusqlite::Params) -> Result<i64, Fault> {
    Ok(tx.prepare_cached(sql)?.execute(values)? as i64)
}

impl Keeper {
    pub(super) fn new(now: archive::Now, entries_max: u64, count: i64, waiting: Option<i64>) -> Self {
        Self { now, entries_max, count: (count, count), waiting: waiting.map(|waiting| (waiting, waiting)) }
    }

    /// Gives the row of a relay's database, and how many entries became void because it is another one than before.
    fn current(&self, tx: &Transaction<'_>, relay: &RelayId, epoch: Epoch, now: At) -> Result<(i64, u64), Fault> {
        let place = (relay.as_str(), to_sql(epoch.0));
        let known: Option<(i64, bool)> = tx
            .prepare_cached("SELECT id, is_current FROM relays WHERE name = ?1 AND epoch = ?2")?
            .query_row(place, |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((id, true)) = known {
            return Ok((id, 0));
        }
        execute(tx, "UPDATE relays SET is_current = 0 WHERE name = ?1", [relay.as_str()])?;
        let id = tx
            .prepare_cached(
                "INSERT INTO relays (name, epoch, is_current) VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET is_current = 1 RETURNING id",
            )?
            .query_row(place, |row| row.get(0))?;
        let lost = execute(
            tx,
            "UPDATE entries SET left_at = ?2 WHERE left_at IS NULL AND relay IN (SELECT id FROM relays WHERE name = ?1 AND is_current = 0)",
            (relay.as_str(), now),
        )?;
        Ok((id, from_sql(lost)))
    }

    fn page(
        &mut self,
        tx: &Transaction<'_>,
        relay: &RelayId,
        epoch: Epoch,
        stretch: Stretch,
        entries: &[IndexEntry],
        now: At,
    ) -> Result<Done, Fault> {
        let most = self.waiting.map_or(self.count.1, |waiting| waiting.1.max(self.count.1));
        if most.saturating_add(entries.len() as i64) > to_sql(self.entries_max) {
            return Ok(Done::Full);
        }
        let (id, lost) = self.current(tx, relay, epoch, now)?;
        let mut next = stretch.after + 1;
        for entry in entries {
            self.leave(tx, id, (next, entry.chunk - 1), now)?;
            self.state(tx, (id, relay, epoch), entry, now)?;
            next = entry.chunk + 1;
        }
        self.leave(tx, id, (next, stretch.through), now)?;
        Ok(Done::Kept { lost })
    }

    /// The relay states none of these chunks any more. What was compared is forgotten; the rest stays known until its records are here.
    fn leave(&mut self, tx: &Transaction<'_>, relay: i64, (low, high): (u64, u64), now: At) -> Result<(), Fault> {
        if low > high {
            return Ok(());
        }
        let stretch = (relay, to_sql(low), to_sql(high));
        self.count.1 -= execute(
            tx,
            "DELETE FROM entries WHERE relay = ?1 AND chunk BETWEEN ?2 AND ?3 AND left_at IS NULL AND checked <> 0",
            stretch,
        )?;
        let left = (stretch.0, stretch.1, stretch.2, now);
        execute(tx, "UPDATE entries SET left_at = ?4 WHERE relay = ?1 AND chunk BETWEEN ?2 AND ?3 AND left_at IS NULL", left)?;
        Ok(())
    }

    /// The relay states this chunk.
    fn state(
        &mut self,
        tx: &Transaction<'_>,
        (relay, name, relay_epoch): (i64, &RelayId, Epoch),
        entry: &IndexEntry,
        now: At,
    ) -> Result<(), Fault> {
        let series: i64 = tx
            .prepare_cached("INSERT INTO series (name) VALUES (?1) ON CONFLICT DO UPDATE SET name = name RETURNING id")?
            .query_row([entry.series.as_str()], |row| row.get(0))?;
        let seqs = encode(&entry.seqs);
        let same: Option<(i64, bool)> = tx
            .prepare_cached(
                "SELECT id, left_at IS NULL FROM entries WHERE relay = ?1 AND chunk = ?2 AND series = ?3 AND epoch = ?4 AND seqs = ?5
                 AND root = ?6 AND at_min = ?7 AND at_max = ?8 ORDER BY left_at IS NULL DESC",
            )?
            .query_row(
                (
                    relay,
                    to_sql(entry.chunk),
                    series,
                    to_sql(entry.epoch.0),
                    &seqs,
                    &entry.root[..],
                    entry.at_min,
                    entry.at_max,
                ),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        if let Some((_, true)) = same {
            return Ok(());
        }
        // Another chunk under this number: what stood here before is not forgotten by it.
        self.leave(tx, relay, (entry.chunk, entry.chunk), now)?;
        if let Some((row, false)) = same {
            execute(tx, "UPDATE entries SET left_at = NULL WHERE id = ?1", [row])?;
            return Ok(());
        }
        let statement = match &mut self.waiting {
            Some(waiting) => {
                waiting.1 += 1;
                Some(statements::keep(tx, &Statement::of(name.clone(), relay_epoch, now.max(0), entry))?)
            }
            None => None,
        };
        self.count.1 += execute(
            tx,
            "INSERT INTO entries (relay, chunk, series, epoch, at_min, at_max, seqs, root, statement)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            (
                relay,
                to_sql(entry.chunk),
                series,
                to_sql(entry.epoch.0),
                entry.at_min,
                entry.at_max,
                &seqs,
                &entry.root[..],
                statement,
            ),
        )?;
        Ok(())
    }

    fn checked(&mut self, tx: &Transaction<'_>, row: i64, found: &Digest, now: At) -> Result<Done, Fault> {
        let entry: Option<(Vec<u8>, bool, i64)> = tx
            .prepare_cached("SELECT root, left_at IS NOT NULL, checked FROM entries WHERE id = ?1")?
            .query_row([row], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        // Somebody else has compared it meanwhile.
        let Some((root, has_left, 0)) = entry else { return Ok(Done::Compared { same: true }) };
        let same = root == found;
        if !same {
            let kept: i64 = tx.prepare_cached("SELECT coalesce(max(id), 0) FROM mismatches")?.query_row([], |row| row.get(0))?;
            if kept < MISMATCHES_MAX {
                execute(
                    tx,
                    "INSERT INTO mismatches (relay, relay_epoch, chunk, series, epoch, at_min, at_max, seqs, announced, found, found_at)
                     SELECT r.name, r.epoch, e.chunk, e.series, e.epoch, e.at_min, e.at_max, e.seqs, e.root, ?2, ?3
                     FROM entries e JOIN relays r ON r.id = e.relay WHERE e.id = ?1",
                    (row, &found[..], now),
                )?;
            }
        }
        if has_left {
            self.count.1 -= execute(tx, "DELETE FROM entries WHERE id = ?1", [row])?;
        } else {
            execute(tx, "UPDATE entries SET checked = ?2 WHERE id = ?1", (row, if same { 1 } else { 2 }))?;
        }
        Ok(Done::Compared { same })
    }

    fn give_up(&mut self, tx: &Transaction<'_>, relay: &RelayId, whole: bool) -> Result<Done, Fault> {
        let forgotten = execute(
            tx,
            "DELETE FROM entries WHERE relay IN (SELECT id FROM relays WHERE name = ?1 AND (?2 OR is_current = 0))",
            (relay.as_str(), whole),
        )?;
        execute(tx, "DELETE FROM relays WHERE name = ?1 AND (?2 OR is_current = 0)", (relay.as_str(), whole))?;
        self.count.1 -= forgotten;
        Ok(Done::GivenUp(from_sql(forgotten)))
    }

    fn batched(&mut self, tx: &Transaction<'_>, through: i64) -> Result<Done, Fault> {
        let forgotten = execute(tx, "DELETE FROM statements WHERE id <= ?1", [through])?;
        if let Some(waiting) = &mut self.waiting {
            waiting.1 -= forgotten;
        }
        Ok(Done::Forgotten)
    }
}

impl Work for Keeper {
    type Job = Job;
    type Done = Done;

    fn apply(&mut self, tx: &Transaction<'_>, jobs: &mut Vec<Job>) -> Result<Vec<Done>, Fault> {
        let now = (self.now)();
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            done.push(match job {
                Job::Current { relay, epoch } => Done::Kept { lost: self.current(tx, &relay, epoch, now)?.1 },
                Job::Page { relay, epoch, stretch, entries } => self.page(tx, &relay, epoch, stretch, &entries, now)?,
                Job::Checked { row, found } => self.checked(tx, row, &found, now)?,
                Job::GiveUp { relay, whole } => self.give_up(tx, &relay, whole)?,
                Job::Heard { relay, epoch, at } => {
                    let heard = (relay.as_str(), to_sql(epoch.0), at);
                    execute(
                        tx,
                        "UPDATE relays SET heard_at = max(coalesce(heard_at, ?3), ?3) WHERE name = ?1 AND epoch = ?2",
                        heard,
                    )?;
                    Done::Kept { lost: 0 }
                }
                Job::Batched { through } => self.batched(tx, through)?,
            });
        }
        Ok(done)
    }

    fn committed(&mut self) {
        self.count.0 = self.count.1;
        self.waiting = self.waiting.map(|(_, now)| (now, now));
    }

    fn rolled_back(&mut self) {
        self.count.1 = self.count.0;
        self.waiting = self.waiting.map(|(before, _)| (before, before));
    }

    fn weigh(job: &Job) -> usize {
        /// What an entry costs beside its name and numbers.
        const ENTRY: usize = 192;
        match job {
            Job::Page { entries, .. } => {
                let entry = |entry: &IndexEntry| ENTRY + 16 * entry.seqs.as_slice().len();
                ENTRY + entries.iter().map(entry).sum::<usize>()
            }
            Job::Current { .. } | Job::Checked { .. } | Job::GiveUp { .. } | Job::Heard { .. } | Job::Batched { .. } => ENTRY,
        }
    }
}
