//! Pages that the uplink sees before their commit.
//!
//! A reading on its way to somebody who watches need not wait for the disk of every server that it passes. But what was seen can't be taken
//! back: if the commit fails, or the process dies first, the cloud may hold a page and records that this database does not. So their
//! names are never given to anything else: page numbers up to a mark that was committed before are passed over, and raw readings are
//! numbered in another epoch from then on. See ADR 18.

use rusqlite::Transaction;
use store::Fault;
use wire::{Announcement, Epoch, EpochSecret, Intervals};

use super::{Effect, Engine};
use crate::append::Lane;
use crate::error::OpenError;
use crate::schema::{encode, execute, to_sql};

/// The mark goes up by so many pages at a time, so that few commits pay for it.
const AHEAD_PAGES: u64 = 4096;
/// A group with more than this is not shown: the time of its commit is not what it waits for.
const AHEAD_BYTES_MAX: usize = 256 * 1024;

/// What is known of pages that were seen too early.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Pages up to here may be seen before their commit: the mark, as committed.
    mark: u64,
    /// The mark of the current group.
    raising: Option<u64>,
    /// Pages of the current group have been seen.
    shown: bool,
    /// The current group numbered raw readings.
    pub(super) numbered: bool,
    /// The group before failed: until one succeeds, nothing is shown that may be refused.
    failing: bool,
    /// Pages that were seen and do not exist.
    void: Intervals,
    /// Raw readings were seen and do not exist: the next ones are numbered in another epoch.
    stale: bool,
    /// The origin before the current group began another.
    before: Option<Epoch>,
}

impl Engine {
    /// Another origin if the one before may have been seen with other readings under the numbers that come next.
    pub(super) fn origin(&mut self, tx: &Transaction<'_>) -> Result<Epoch, Fault> {
        self.ahead.numbered = true;
        if self.ahead.stale && self.ahead.before.is_none() {
            let (epoch, secret) = random().map_err(|error| Fault::Work(error.to_string().into()))?;
            keep_origin(tx, epoch, &secret)?;
            self.ahead.before = Some(self.origin);
            self.origin = epoch;
            self.effects.push(Effect::Secrets(vec![Announcement { epoch, scope: None, secret }]));
            self.effects.push(Effect::Origin(epoch));
        }
        Ok(self.origin)
    }

    /// Pages that were seen and do not exist are as good as delivered: nobody has to wait for them.
    pub(super) fn pass_over(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        if !self.ahead.void.is_empty() {
            self.delivered(tx, self.ahead.void.clone())?;
        }
        Ok(())
    }

    /// The group's pages are written and not committed: shows them, if they may be.
    pub(super) fn show_ahead(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let last = self.pages.next().outgoing - 1;
        if !self.shared.options.ahead || last < self.pages.committed_outgoing() {
            return Ok(());
        }
        if last + AHEAD_PAGES / 2 > self.ahead.mark {
            let mark = last + AHEAD_PAGES;
            execute(tx, "UPDATE marks SET ahead = ?1", [mark.cast_signed()])?;
            self.ahead.raising = Some(mark);
        }
        if self.ahead.failing || last > self.ahead.mark {
            return Ok(());
        }
        let mut bytes = 0;
        for effect in &self.effects {
            match effect {
                Effect::Outgoing { lane: Lane::Live, page } => bytes += page.body.len(),
                // All pages of a group are seen or none, and who sees a page may look for its secrets in the file.
                Effect::Outgoing { .. } | Effect::Secrets(_) => return Ok(()),
                _ => {}
            }
        }
        if bytes > AHEAD_BYTES_MAX.min(self.shared.options.cache_bytes_max / 2) {
            return Ok(());
        }
        for effect in &self.effects {
            if let Effect::Outgoing { lane, page } = effect {
                self.shared.outgoing.add(*lane, page.clone());
            }
        }
        self.ahead.shown = true;
        self.visible.send_replace(last);
        Ok(())
    }

    /// The group is durable.
    pub(super) fn ahead_committed(&mut self) {
        let Ahead { mark, raising, shown, numbered, failing, void, stale, before } = &mut self.ahead;
        *mark = raising.take().unwrap_or(*mark);
        (*shown, *numbered, *failing) = (false, false, false);
        *void = Intervals::new();
        if before.take().is_some() {
            *stale = false;
        }
    }

    /// The group is not in the database.
    pub(super) fn ahead_rolled_back(&mut self) {
        self.ahead.raising = None;
        self.ahead.failing = true;
        if let Some(before) = self.ahead.before.take() {
            self.origin = before;
        }
        if self.ahead.shown {
            let (first, next) = (self.pages.committed_outgoing(), self.pages.next().outgoing);
            self.shared.outgoing.withdraw(first);
            self.ahead.void.insert(first, next - 1);
            self.ahead.stale |= self.ahead.numbered;
            self.pages.pass_over_outgoing();
        }
        (self.ahead.shown, self.ahead.numbered) = (false, false);
    }

    /// The database is closed in order, and whatever was seen is in it: what comes next may go on behind it.
    pub(super) fn end_ahead(&mut self, connection: &rusqlite::Connection) {
        if self.ahead.mark == 0 || !self.ahead.void.is_empty() || self.ahead.stale {
            return;
        }
        if let Err(error) = connection.execute("UPDATE marks SET ahead = 0", []) {
            tracing::warn!(%error, "the archive is not closed in order: the next start begins another epoch");
        }
    }
}

/// What an opening finds of a process that did not close in order: pages behind `last` may have been seen. Gives the last page that may.
pub(crate) fn recover_ahead(tx: &Transaction<'_>, last: u64, delivered: &mut Intervals) -> Result<u64, OpenError> {
    let mark: i64 = tx.query_row("SELECT ahead FROM marks", [], |row| row.get(0))?;
    if mark == 0 {
        return Ok(last);
    }
    let mark = mark.cast_unsigned().max(last);
    if mark > last {
        delivered.insert(last + 1, mark);
        tx.execute(
            "INSERT INTO receipts (one, delivered) VALUES (1, ?1) ON CONFLICT DO UPDATE SET delivered = excluded.delivered",
            [encode(delivered)],
        )?;
    }
    let (epoch, secret) = random().map_err(OpenError::Random)?;
    keep_origin(tx, epoch, &secret)?;
    tx.execute("UPDATE marks SET ahead = 0", [])?;
    Ok(mark)
}

fn random() -> Result<(Epoch, EpochSecret), getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok((Epoch(getrandom::u64()?), EpochSecret::new(secret)))
}

fn keep_origin(tx: &Transaction<'_>, epoch: Epoch, secret: &EpochSecret) -> Result<(), Fault> {
    execute(
        tx,
        "INSERT OR IGNORE INTO epochs (epoch, scope, secret) VALUES (?1, '', ?2)",
        (to_sql(epoch.0), &secret.expose()[..]),
    )?;
    execute(tx, "UPDATE marks SET origin = ?1", [to_sql(epoch.0)])?;
    Ok(())
}
