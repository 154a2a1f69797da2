//! Named units under one supervisor; none is spawned and forgotten.
//!
//! Units start in the order of adding and stop in the reverse one, each with a deadline: add the store before what writes
//! to it, and the listeners last. A unit's panic is its failure.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::{Exit, Signals, Stop, Stopper};

/// What a unit says when it fails; `anyhow::Error` and every error type turn into it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a unit has to stop, unless it was added with a deadline of its own.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// First and longest pause before a unit is started again.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the end of a unit means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Its end, with or without an error, is a failure of the whole: better down than lying.
    Fatal,
    /// Its failure starts it again after a pause, but more than `times` failures `within` this time are a failure of the
    /// whole. When it ends without an error it has done its work, and the others go on.
    Restart {
        /// Failures that are forgiven.
        times: u32,
        /// The time they are counted in.
        within: Duration,
    },
    /// The reason the process runs: when it ends well, the whole ends well. Its failure is a failure of the whole.
    Lead,
}

/// Why the units ended, when all of them ended in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM or SIGINT.
    Signal,
    /// Somebody inside asked by [`Units::stopper`].
    Asked,
    /// The unit with [`Policy::Lead`] of this name, or the last unit of all, has done its work.
    Done(String),
}

/// Why the units did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum UnitsFault {
    /// A unit failed; the others were stopped in order.
    #[error("unit {unit} failed: {why}")]
    Failed {
        /// The first unit that failed.
        unit: String,
        /// What it said, or its panic.
        why: String,
    },
    /// Units did not stop in time and were cut off.
    #[error("stopped, but not in time: {}", units.join(", "))]
    Overran {
        /// Their names.
        units: Vec<String>,
    },
    /// A second signal came before everything had stopped.
    #[error("ended at once by a second signal, still running: {}", left.join(", "))]
    Hurried {
        /// Their names, the next to stop first.
        left: Vec<String>,
    },
    /// The process can't listen for signals.
    #[error("can't listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

type Life = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

struct Unit {
    name: String,
    policy: Policy,
    deadline: Duration,
    start: Box<dyn FnMut(Stop) -> Life + Send>,
}

/// The units of one process, or of one town in a test.
#[derive(Default)]
pub struct Units {
    units: Vec<Unit>,
    asked: Stopper,
}

impl Units {
    /// No units yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a unit with the usual ten seconds to stop. `start` is called at each (re)start.
    pub fn add<F, Fut, E>(&mut self, name: impl Into<String>, policy: Policy, start: F)
    where
        F: FnMut(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.add_with_deadline(name, policy, STOP_DEADLINE, start);
    }

    /// Adds a unit that has `deadline` to stop; then it is cut off and named.
    pub fn add_with_deadline<F, Fut, E>(&mut self, name: impl Into<String>, policy: Policy, deadline: Duration, mut start: F)
    where
        F: FnMut(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.units.push(Unit {
            name: name.into(),
            policy,
            deadline,
            start: Box::new(move |stop| {
                let life = start(stop);
                Box::pin(async move { life.await.map_err(Into::into) })
            }),
        });
    }

    /// Starts the orderly shutdown from inside.
    pub fn stopper(&self) -> Stopper {
        self.asked.clone()
    }

    /// Runs until SIGTERM, SIGINT, a failure or the end of the lead. A second signal ends the process at once, after
    /// naming what was still running.
    pub async fn run(self) -> Result<Cause, UnitsFault> {
        let signals = Signals::of_process().map_err(UnitsFault::Signals)?;
        let ended = self.run_until(signals).await;
        if let Err(hurried @ UnitsFault::Hurried { .. }) = &ended {
            error!("{hurried}");
            std::process::exit(Exit::CouldNot as i32);
        }
        ended
    }

    /// The same with signals that the caller makes, and without ending the process.
    pub async fn run_until(self, mut signals: Signals) -> Result<Cause, UnitsFault> {
        let asked = self.asked.token();
        let mut running = Running::start(self.units);
        let mut cause = running.watch(&asked, &mut signals).await;
        info!(reason = ?cause, "stopping");
        let overran = running.stop(&mut cause, &mut signals).await?;
        match cause {
            Ending::Fault { unit, why } => Err(UnitsFault::Failed { unit, why }),
            Ending::Order(_) if !overran.is_empty() => Err(UnitsFault::Overran { units: overran }),
            Ending::Order(cause) => Ok(cause),
        }
    }
}

#[derive(Debug)]
enum Ending {
    Order(Cause),
    Fault { unit: String, why: String },
}

/// A started unit, as long as it has not ended.
struct Handle {
    name: String,
    policy: Policy,
    deadline: Duration,
    stopper: Stopper,
    abort: AbortHandle,
}

struct Running {
    tasks: JoinSet<Result<(), String>>,
    handles: Vec<Handle>,
}

impl Running {
    fn start(units: Vec<Unit>) -> Self {
        let mut tasks = JoinSet::new();
        let handles = units
            .into_iter()
            .map(|unit| {
                let stopper = Stopper::new();
                let (name, policy, deadline) = (unit.name.clone(), unit.policy, unit.deadline);
                let abort = tasks.spawn(live(unit, stopper.token()));
                Handle { name, policy, deadline, stopper, abort }
            })
            .collect();
        Self { tasks, handles }
    }

    /// Until something ends the whole.
    async fn watch(&mut self, asked: &Stop, signals: &mut Signals) -> Ending {
        loop {
            tokio::select! {
                biased;
                () = signals.next() => return Ending::Order(Cause::Signal),
                () = asked.stopped() => return Ending::Order(Cause::Asked),
                ended = self.next_end() => match ended {
                    None => return Ending::Order(Cause::Done(String::new())),
                    Some((handle, Err(why))) => {
                        error!(unit = handle.name, why, "unit failed");
                        return Ending::Fault { unit: handle.name, why };
                    }
                    Some((handle, Ok(()))) => match handle.policy {
                        Policy::Fatal => {
                            let why = "it ended without being asked to".to_owned();
                            error!(unit = handle.name, why, "unit failed");
                            return Ending::Fault { unit: handle.name, why };
                        }
                        Policy::Lead => return Ending::Order(Cause::Done(handle.name)),
                        Policy::Restart { .. } if self.handles.is_empty() => {
                            return Ending::Order(Cause::Done(handle.name));
                        }
                        Policy::Restart { .. } => info!(unit = handle.name, "unit is done"),
                    },
                },
            }
        }
    }

    /// Stops one after the other, the last added first. Gives the names of those that were cut off.
    async fn stop(&mut self, ending: &mut Ending, signals: &mut Signals) -> Result<Vec<String>, UnitsFault> {
        let mut overran = Vec::new();
        while let Some(last) = self.handles.last() {
            let id = last.abort.id();
            last.stopper.stop();
            let deadline = sleep_until(Instant::now() + last.deadline);
            tokio::pin!(deadline);
            while self.handles.last().is_some_and(|h| h.abort.id() == id) {
                tokio::select! {
                    biased;
                    () = signals.next() => {
                        let left = self.handles.iter().rev().map(|h| h.name.clone()).collect();
                        self.tasks.abort_all();
                        return Err(UnitsFault::Hurried { left });
                    }
                    ended = self.next_end() => {
                        if let Some((handle, Err(why))) = ended {
                            error!(unit = handle.name, why, "unit failed while stopping");
                            if let Ending::Order(_) = ending {
                                *ending = Ending::Fault { unit: handle.name, why };
                            }
                        }
                    }
                    () = &mut deadline => {
                        if let Some(handle) = self.handles.pop() {
                            warn!(unit = handle.name, "unit did not stop in time");
                            handle.abort.abort();
                            overran.push(handle.name);
                        }
                    }
                }
            }
        }
        Ok(overran)
    }

    /// The next unit that ends by itself; `None` when there is none left.
    async fn next_end(&mut self) -> Option<(Handle, Result<(), String>)> {
        loop {
            let (id, end) = match self.tasks.join_next_with_id().await? {
                Ok((id, end)) => (id, end),
                Err(fault) => (fault.id(), Err(panic_text(fault))),
            };
            if let Some(handle) = self.take(id) {
                return Some((handle, end));
            }
        }
    }

    fn take(&mut self, id: Id) -> Option<Handle> {
        let place = self.handles.iter().position(|h| h.abort.id() == id)?;
        Some(self.handles.remove(place))
    }
}

/// A unit with its restarts.
async fn live(mut unit: Unit, stop: Stop) -> Result<(), String> {
    let mut failures: VecDeque<Instant> = VecDeque::new();
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        // In a set of its own: a panic comes back as a value, and an abort of this task takes it along.
        let mut attempt = JoinSet::new();
        let life = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (unit.start)(stop.clone())))
            .map_err(|panic| panic_message(&*panic))?;
        attempt.spawn(life);
        let why = match attempt.join_next().await {
            None | Some(Ok(Ok(()))) => return Ok(()),
            Some(Ok(Err(why))) => chain(&*why),
            Some(Err(fault)) => panic_text(fault),
        };
        let Policy::Restart { times, within } = unit.policy else {
            return Err(why);
        };
        let now = Instant::now();
        failures.push_back(now);
        failures.retain(|at| now.duration_since(*at) < within);
        if failures.len() > times as usize {
            return Err(format!("{why} (failure {} within {within:?})", failures.len()));
        }
        if stop.is_stopped() {
            return Err(why);
        }
        if failures.len() == 1 {
            pause = RESTART_PAUSE_MIN;
        }
        warn!(unit = unit.name, why, ?pause, "unit failed, starting it again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.stopped() => return Ok(()),
        }
        pause = pause.saturating_mul(2).min(RESTART_PAUSE_MAX);
    }
}

/// An error with its sources, in one line.
fn chain(fault: &(dyn std::error::Error + 'static)) -> String {
    let mut text = fault.to_string();
    let mut next = fault.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}

fn panic_text(fault: JoinError) -> String {
    match fault.try_into_panic() {
        Ok(panic) => panic_message(&*panic),
        Err(_) => "it was cut off".to_owned(),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    format!("panicked: {text}")
}
