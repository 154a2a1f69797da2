//! Faults on demand, for tests and drills: a commit that fails, a commit that hangs, a disk that is full, a thread that panics.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::writer::Fault;

/// Levers on one writer thread. Idle, they cost one atomic load a group.
#[derive(Debug, Default)]
pub struct Faults {
    armed: AtomicBool,
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    failing: u32,
    held: bool,
    /// So many commits still go through before the gate closes.
    passes: Option<u64>,
    at_gate: bool,
    panic: bool,
    growth: Option<Growth>,
}

#[derive(Debug, Clone, Copy)]
enum Growth {
    Pages(u64),
    Unlimited,
}

impl Faults {
    /// The next `count` commits fail after their work was applied. Commits that wrote nothing (upkeep that found nothing to do) touch no
    /// disk and are none of them.
    pub fn fail_commits(&self, count: u32) {
        self.change(|plan| plan.failing = count);
    }

    /// Commits that wrote something wait at the gate, applied but not durable, until [`Faults::release`].
    pub fn hold(&self) {
        self.change(|plan| plan.held = true);
    }

    /// Closes the gate once `passes` commits that wrote something have gone through: the next one waits, applied but not durable.
    pub fn hold_after(&self, passes: u64) {
        self.change(|plan| plan.passes = Some(passes));
    }

    /// Opens the gate.
    pub fn release(&self) {
        self.change(|plan| (plan.held, plan.passes) = (false, None));
    }

    /// Blocks until a commit stands at the gate.
    pub fn wait_at_gate(&self) {
        let mut plan = self.lock();
        while !plan.at_gate {
            plan = self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The thread panics in its next group.
    pub fn panic(&self) {
        self.change(|plan| plan.panic = true);
    }

    /// The database file may grow by at most so many pages: what a full disk looks like to SQLite.
    pub fn limit_growth(&self, pages: u64) {
        self.change(|plan| plan.growth = Some(Growth::Pages(pages)));
    }

    /// The disk has room again.
    pub fn unlimit_growth(&self) {
        self.change(|plan| plan.growth = Some(Growth::Unlimited));
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.lock());
        self.armed.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn before_group(&self, connection: &Connection) -> Result<(), Fault> {
        if !self.armed.load(Ordering::Acquire) {
            return Ok(());
        }
        let (growth, panic) = {
            let mut plan = self.lock();
            (plan.growth.take(), std::mem::take(&mut plan.panic))
        };
        if let Some(growth) = growth {
            let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            let limit = match growth {
                Growth::Pages(more) => pages + more as i64,
                Growth::Unlimited => i64::from(u32::MAX) - 1,
            };
            connection.query_row(&format!("PRAGMA max_page_count = {limit}"), [], |_| Ok(()))?;
        }
        assert!(!panic, "a fault was injected");
        Ok(())
    }

    fn wait_in_gate(&self) -> MutexGuard<'_, Plan> {
        let mut plan = self.lock();
        match plan.passes {
            Some(0) => (plan.held, plan.passes) = (true, None),
            Some(passes) => plan.passes = Some(passes - 1),
            None => {}
        }
        while plan.held {
            plan.at_gate = true;
            self.changed.notify_all();
            plan = self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
        plan.at_gate = false;
        plan
    }

    /// The gate alone, for a connection that no writer thread owns: to be called before each commit that wrote something.
    pub fn gate(&self) {
        if self.armed.load(Ordering::Acquire) {
            drop(self.wait_in_gate());
        }
    }

    /// `wrote` says whether the transaction changed anything.
    pub(crate) fn before_commit(&self, wrote: impl FnOnce() -> bool) -> Result<(), Fault> {
        if !self.armed.load(Ordering::Acquire) || !wrote() {
            return Ok(());
        }
        let mut plan = self.wait_in_gate();
        if plan.failing > 0 {
            plan.failing -= 1;
            return Err(Fault::Work("a fault was injected".into()));
        }
        Ok(())
    }
}
