//! What waits for the writer thread: bounded in bytes, taken in groups.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::ticket::{Reply, Ticket};
use crate::writer::{Busy, Fault, Limits};

pub(crate) struct Queue<J, D> {
    limits: Limits,
    state: Mutex<State<J, D>>,
    arrived: Condvar,
    /// One permit a byte; held from submission until the group has ended. Waiters are served in the order they came.
    room: Semaphore,
}

struct State<J, D> {
    jobs: Vec<J>,
    replies: Vec<Reply<D>>,
    weights: Vec<u32>,
    bytes: u64,
    /// The thread sleeps and wants to be woken.
    idle: bool,
    phase: Phase,
}

enum Phase {
    Open,
    /// What is queued is still committed; nothing new comes in.
    Draining,
    Failed(Fault),
}

/// The jobs that are committed together.
pub(crate) struct Group<J, D> {
    pub(crate) jobs: Vec<J>,
    pub(crate) replies: Vec<Reply<D>>,
    weights: Vec<u32>,
    bytes: u64,
}

impl<J, D> Default for Group<J, D> {
    fn default() -> Self {
        Self { jobs: Vec::new(), replies: Vec::new(), weights: Vec::new(), bytes: 0 }
    }
}

impl<J, D> Queue<J, D> {
    pub(crate) fn new(limits: Limits) -> Self {
        let limits = Limits {
            group_jobs_max: limits.group_jobs_max.max(1),
            queue_bytes_max: limits.queue_bytes_max.clamp(1, u32::MAX as usize),
            ..limits
        };
        let state =
            State { jobs: Vec::new(), replies: Vec::new(), weights: Vec::new(), bytes: 0, idle: false, phase: Phase::Open };
        Self { limits, state: Mutex::new(state), arrived: Condvar::new(), room: Semaphore::new(limits.queue_bytes_max) }
    }

    /// Bytes that may be submitted before the queue is full.
    pub(crate) fn room(&self) -> usize {
        self.room.available_permits()
    }

    /// A job larger than the whole queue passes when the queue is empty.
    fn weight(&self, bytes: usize) -> u32 {
        bytes.clamp(1, self.limits.queue_bytes_max) as u32
    }

    pub(crate) fn try_push(&self, job: J, bytes: usize) -> Result<Ticket<D>, Busy<J>> {
        let weight = self.weight(bytes);
        match self.room.try_acquire_many(weight) {
            Ok(permit) => {
                permit.forget();
                self.push(job, weight)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(Busy::Full(job)),
            Err(tokio::sync::TryAcquireError::Closed) => Err(Busy::Down(self.fault(), job)),
        }
    }

    pub(crate) async fn push_waiting(&self, job: J, bytes: usize) -> Result<Ticket<D>, Fault> {
        let weight = self.weight(bytes);
        match self.room.acquire_many(weight).await {
            Ok(permit) => {
                permit.forget();
                self.push(job, weight).map_err(|busy| match busy {
                    Busy::Down(fault, _) => fault,
                    Busy::Full(_) => Fault::Stopped,
                })
            }
            Err(_) => Err(self.fault()),
        }
    }

    /// Puts a job in without asking for room: for the few that make room.
    pub(crate) fn push_ahead(&self, job: J) -> Result<Ticket<D>, Busy<J>> {
        self.push(job, 0)
    }

    fn push(&self, job: J, weight: u32) -> Result<Ticket<D>, Busy<J>> {
        let (reply, ticket) = Ticket::pair();
        let mut state = self.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Draining => return Err(Busy::Down(Fault::Stopped, job)),
            Phase::Failed(fault) => return Err(Busy::Down(fault.clone(), job)),
        }
        state.jobs.push(job);
        state.replies.push(reply);
        state.weights.push(weight);
        state.bytes += u64::from(weight);
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
        Ok(ticket)
    }

    /// Waits for work and moves the next group into the empty `group`. False when the queue was drained and closed.
    pub(crate) fn take(&self, group: &mut Group<J, D>) -> bool {
        let mut state = self.lock();
        loop {
            if !state.jobs.is_empty() {
                break;
            }
            if !matches!(state.phase, Phase::Open) {
                return false;
            }
            state.idle = true;
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        self.fill(&mut state, group);
        true
    }

    /// Waits until [`Limits::group_wait`] after `start` for company and moves it into `group`, whose jobs have been taken out. False when
    /// there is none, or the group is full.
    pub(crate) fn take_more(&self, group: &mut Group<J, D>, start: Instant) -> bool {
        let full = group.replies.len() >= self.limits.group_jobs_max || group.bytes >= self.limits.group_bytes_max as u64;
        if self.limits.group_wait.is_zero() || full {
            return false;
        }
        let until = start + self.limits.group_wait;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !matches!(state.phase, Phase::Open) {
                return false;
            }
            if !state.jobs.is_empty() {
                break;
            }
            state.idle = true;
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.idle = false;
        }
        self.fill(&mut state, group);
        !group.jobs.is_empty()
    }

    /// Moves as much into the group as its limits let in; at least one job, however large, into one that is empty.
    fn fill(&self, state: &mut State<J, D>, group: &mut Group<J, D>) {
        let (held, bytes_held) = (group.replies.len(), group.bytes);
        let (jobs_max, bytes_max) = (self.limits.group_jobs_max.saturating_sub(held), self.limits.group_bytes_max as u64);
        if held == 0 && state.jobs.len() <= jobs_max && state.bytes <= bytes_max {
            std::mem::swap(&mut state.jobs, &mut group.jobs);
            std::mem::swap(&mut state.replies, &mut group.replies);
            std::mem::swap(&mut state.weights, &mut group.weights);
            group.bytes = std::mem::take(&mut state.bytes);
            return;
        }
        let mut count = 0;
        let mut bytes = 0;
        for weight in state.weights.iter().take(jobs_max) {
            if held + count > 0 && bytes_held + bytes + u64::from(*weight) > bytes_max {
                break;
            }
            bytes += u64::from(*weight);
            count += 1;
        }
        group.jobs.extend(state.jobs.drain(..count));
        group.replies.extend(state.replies.drain(..count));
        group.weights.extend(state.weights.drain(..count));
        group.bytes += bytes;
        state.bytes -= bytes;
    }

    /// Gives the room of an ended group back.
    pub(crate) fn ended(&self, group: &mut Group<J, D>) {
        self.room.add_permits(std::mem::take(&mut group.bytes) as usize);
        group.weights.clear();
    }

    /// Nothing new comes in; the thread ends when the queue is empty.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Draining;
        }
        drop(state);
        self.room.close();
        self.arrived.notify_all();
    }

    /// The thread died: everybody who waits hears why.
    pub(crate) fn fail(&self, fault: &Fault) {
        let mut state = self.lock();
        state.phase = Phase::Failed(fault.clone());
        state.jobs.clear();
        state.weights.clear();
        let replies = std::mem::take(&mut state.replies);
        drop(state);
        self.room.close();
        for reply in replies {
            reply.send(Err(fault.clone()));
        }
    }

    fn fault(&self) -> Fault {
        match &self.lock().phase {
            Phase::Failed(fault) => fault.clone(),
            Phase::Open | Phase::Draining => Fault::Stopped,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
