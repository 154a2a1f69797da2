//! The thread that owns the connection.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::watch;

use crate::faults::Faults;
use crate::queue::{Group, Queue};
use crate::writer::{Fault, Tally, Work};

pub(crate) struct Worker<W: Work> {
    pub(crate) connection: Connection,
    pub(crate) work: W,
    pub(crate) queue: Arc<Queue<W::Job, W::Done>>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) failed: watch::Sender<Option<Fault>>,
}

impl<W: Work> Worker<W> {
    /// Commits groups until the queue is drained. A panic, or a sync of the disk that failed, ends the thread: what it holds in memory
    /// or on the disk can no longer be trusted to match what it told anybody.
    pub(crate) fn run(mut self) {
        let mut group = Group::default();
        while self.queue.take(&mut group) {
            let ended = catch_unwind(AssertUnwindSafe(|| self.commit(&mut group)));
            self.queue.ended(&mut group);
            let fault = match ended {
                Ok(Ok(done)) => {
                    for (reply, answer) in group.replies.drain(..).zip(done) {
                        reply.send(Ok(answer));
                    }
                    continue;
                }
                Ok(Err(fault)) => fault,
                Err(panic) => Fault::Panicked(text_of(&*panic).into()),
            };
            tracing::warn!(%fault, jobs = group.replies.len(), "a group was not committed");
            let fatal = fault.is_fatal();
            if fatal {
                // Before the replies: whoever hears of the fault finds the queue closed.
                self.queue.fail(&fault);
            }
            for reply in group.replies.drain(..) {
                reply.send(Err(fault.clone()));
            }
            if fatal {
                tracing::error!(%fault, "the writer thread ended");
                self.failed.send_replace(Some(fault));
                return;
            }
        }
        self.work.ended(&self.connection);
    }

    fn commit(&mut self, group: &mut Group<W::Job, W::Done>) -> Result<Vec<W::Done>, Fault> {
        let start = Instant::now();
        let mut waited = Duration::ZERO;
        let applied = self.apply(group, &mut waited);
        group.jobs.clear();
        match applied {
            Ok(done) => {
                self.work.committed();
                self.tally.committed(done.len(), start.elapsed().saturating_sub(waited));
                Ok(done)
            }
            Err(fault) => {
                self.work.rolled_back();
                self.tally.failed();
                Err(fault)
            }
        }
    }

    fn apply(&mut self, group: &mut Group<W::Job, W::Done>, waited: &mut Duration) -> Result<Vec<W::Done>, Fault> {
        self.faults.before_group(&self.connection)?;
        // Dropped on every other way out, it rolls back.
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = tx.total_changes();
        let mut done = Vec::new();
        let start = Instant::now();
        loop {
            let patient = group.jobs.iter().all(W::is_patient);
            let applied = self.work.apply(&tx, &mut group.jobs)?;
            group.jobs.clear();
            if done.is_empty() {
                done = applied;
            } else {
                done.extend(applied);
            }
            let count = group.replies.len();
            if done.len() != count {
                return Err(Fault::Work(format!("{count} jobs got {} answers", done.len()).into()));
            }
            if !patient {
                break;
            }
            let waiting = Instant::now();
            let more = self.queue.take_more(group, start);
            *waited += waiting.elapsed();
            if !more {
                break;
            }
        }
        self.work.complete(&tx)?;
        self.faults.before_commit(|| tx.total_changes() > before)?;
        tx.commit()?;
        Ok(done)
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "without a message".to_owned(),
    }
}
