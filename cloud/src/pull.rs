//! Pull-through (A12): relays are asked for records that the archive lacks, and whoever asked waits for the commit of what they send.

mod arrivals;
mod hearing;
mod machine;
mod through;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use archive::Archive;
use broker::Refusal;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot, watch};
use wire::index::{Outcome, Reply};
use wire::{Command, Epoch, Intervals, RelayId};

use crate::commands::Commands;
use crate::metrics::Metrics;
use arrivals::Arrivals;
pub use hearing::Unheard;
pub(crate) use hearing::{Heard, Hearing};
pub(crate) use machine::{Ask, Limits};
use machine::{Ending, Machine, Verdict};

/// Asks relays. Clones share what is under way.
#[derive(Clone)]
pub(crate) struct Pulls(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Whether a frame's commit may be waited for; read for every frame.
    awaits_frames: AtomicBool,
    /// A pull has ended: there is room for another.
    ended: Notify,
    limits: Limits,
    commands: Commands,
    archive: Archive,
    metrics: Metrics,
    /// Who waits for a reply to something else than a pull.
    replies: Mutex<FxHashMap<u64, (RelayId, oneshot::Sender<Reply>)>>,
}

struct State {
    machine: Machine,
    arrivals: Arrivals,
    waiters: FxHashMap<u64, watch::Sender<Option<Ending>>>,
}

impl State {
    fn awaits_frames(&self) -> bool {
        self.machine.awaits_frames() || self.arrivals.awaits()
    }
}

/// What to do for an asker.
enum Next {
    Wait(watch::Receiver<Option<Ending>>),
    GoOn,
    Again,
}

impl Pulls {
    /// Pulls within `limits`.
    pub(crate) fn new(limits: Limits, commands: Commands, archive: Archive, metrics: Metrics) -> Self {
        let state = State { machine: Machine::new(limits), arrivals: Arrivals::default(), waiters: FxHashMap::default() };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            awaits_frames: AtomicBool::new(false),
            ended: Notify::new(),
            limits,
            commands,
            archive,
            metrics,
            replies: Mutex::default(),
        }))
    }

    /// When somebody who asks now has waited long enough.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.0.limits.wait
    }

    /// Asks for all of it and waits, until `deadline` at the latest. Says of each ask whether everything has arrived.
    pub(crate) async fn fetch(&self, asks: Vec<Ask>, deadline: Instant) -> Vec<bool> {
        let asking: Vec<_> = asks
            .into_iter()
            .map(|ask| {
                let pulls = self.clone();
                tokio::spawn(async move { pulls.one(ask, deadline).await })
            })
            .collect();
        let mut arrived = Vec::with_capacity(asking.len());
        for one in asking {
            arrived.push(one.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a pull ended without an answer");
                false
            }));
        }
        arrived
    }

    /// Whether a relay can be asked: somebody listens for its orders, and it did not leave one unanswered a moment ago.
    pub(crate) fn reaches(&self, relay: &RelayId) -> bool {
        self.0.commands.reaches(relay) && !self.0.state.lock().machine.is_silent(relay, Instant::now())
    }

    /// Whether somebody listens for the relay's orders.
    fn listens(&self, relay: &RelayId) -> bool {
        self.0.commands.reaches(relay)
    }

    /// Waits for the end of a pull that brings what is asked for. Says whether it has.
    async fn one(&self, ask: Ask, deadline: Instant) -> bool {
        loop {
            // Before the look, so that a pull which ends in between is noticed.
            let mut room = std::pin::pin!(self.0.ended.notified());
            room.as_mut().enable();
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            match self.next(&ask, (now, deadline)) {
                Next::GoOn => return false,
                Next::Wait(mut ended) => {
                    // What is here by then is what is shown.
                    let Ok(ended) = tokio::time::timeout_at(deadline.into(), ended.wait_for(Option::is_some)).await else {
                        self.expire();
                        return false;
                    };
                    return ended.is_ok_and(|ended| *ended == Some(Ending::Arrived));
                }
                Next::Again => {
                    // Out of time or not: the loop looks.
                    let _ = tokio::time::timeout_at(deadline.into(), room).await;
                }
            }
        }
    }

    fn next(&self, ask: &Ask, (now, deadline): (Instant, Instant)) -> Next {
        let mut state = self.0.state.lock();
        let id = self.0.commands.next();
        match state.machine.ask(ask, id, (now, deadline)) {
            Verdict::Join(id) => match state.waiters.get(&id) {
                Some(waiters) => Next::Wait(waiters.subscribe()),
                None => Next::GoOn,
            },
            Verdict::Start => {
                let (sender, receiver) = watch::channel(None);
                state.waiters.insert(id, sender);
                // A task of its own: the pull goes on for those who joined it even if the first asker goes away.
                tokio::spawn(self.clone().run(id, ask.clone(), deadline));
                Next::Wait(receiver)
            }
            Verdict::Silent => Next::GoOn,
            Verdict::Full => Next::Again,
        }
    }

    /// Sends the order of a pull and ends it when its time is over.
    async fn run(self, id: u64, ask: Ask, deadline: Instant) {
        let ended = self.0.state.lock().waiters.get(&id).map(watch::Sender::subscribe);
        let Some(mut ended) = ended else { return };
        let Ask { relay, series, from, to, since: _ } = ask;
        tracing::debug!(%relay, command = id, %series, from, to, "a relay is asked for records");
        if !self.0.commands.send(&relay, &Command::Pull { id, series, from, to }).await {
            let unheard = self.0.state.lock().machine.unheard(id);
            return self.settle(unheard.into_iter().collect());
        }
        self.0.metrics.pulls_sent.inc();
        if tokio::time::timeout_at(deadline.into(), ended.wait_for(Option::is_some)).await.is_err() {
            self.expire();
        }
    }

    /// Ends the pulls whose time is over.
    fn expire(&self) {
        let expired = self.0.state.lock().machine.expire(Instant::now());
        self.settle(expired);
    }

    /// Takes a relay's reply.
    ///
    /// # Errors
    /// It is not a reply.
    pub(crate) fn replied(&self, relay: &RelayId, payload: &[u8]) -> Result<(), Refusal> {
        let reply = Reply::parse(payload).map_err(|fault| {
            tracing::debug!(%relay, error = %fault, "a reply was refused");
            Refusal::PayloadFormatInvalid
        })?;
        if let Outcome::Failed { reason } = &reply.outcome {
            tracing::warn!(%relay, command = reply.command, reason, "a relay could not carry out an order");
        }
        if let Some((_, waiter)) = self.take_waiter(relay, reply.command) {
            // Whoever waited may have gone. That a relay left a pull unanswered is not forgotten for it.
            let _ = waiter.send(reply);
            return Ok(());
        }
        let ended = {
            let state = &mut *self.0.state.lock();
            let ended = state.machine.replied(relay, &reply);
            self.0.awaits_frames.store(state.awaits_frames(), Ordering::SeqCst);
            ended
        };
        self.settle(ended.into_iter().collect());
        if self.0.awaits_frames.load(Ordering::SeqCst) && matches!(reply.outcome, Outcome::Done { .. }) {
            self.look(relay.clone(), reply.relay_epoch);
        }
        Ok(())
    }

    /// Looks which frames are here: some may have been faster than the reply that names them.
    fn look(&self, relay: RelayId, relay_epoch: Epoch) {
        let pulls = self.clone();
        tokio::task::spawn_blocking(move || match pulls.0.archive.frames_of(&relay, relay_epoch) {
            Ok(frames) => pulls.held(&relay, relay_epoch, &frames),
            Err(error) => tracing::error!(%error, "the archive does not say which frames it holds"),
        });
    }

    fn take_waiter(&self, relay: &RelayId, command: u64) -> Option<(RelayId, oneshot::Sender<Reply>)> {
        let mut replies = self.0.replies.lock();
        if replies.get(&command)?.0 == *relay { replies.remove(&command) } else { None }
    }

    /// Sends an order that is no pull and waits for its reply. `None`: nobody listens for it, or it has not come by `deadline`.
    async fn order(&self, relay: &RelayId, command: &Command, id: u64, deadline: Instant) -> Option<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.0.replies.lock().insert(id, (relay.clone(), sender));
        let asking = async {
            if !self.0.commands.send(relay, command).await {
                return None;
            }
            tokio::time::timeout_at(deadline.into(), receiver).await.ok()?.ok()
        };
        let reply = asking.await;
        self.0.replies.lock().remove(&id);
        reply
    }

    /// Waits until these frames of a relay are committed, until `deadline` at the latest. Says whether they are.
    async fn arrive(&self, relay: &RelayId, relay_epoch: Epoch, frames: Intervals, deadline: Instant) -> bool {
        if frames.is_empty() {
            return true;
        }
        let arrived = {
            let state = &mut *self.0.state.lock();
            let arrived = state.arrivals.wait(relay.clone(), relay_epoch, frames);
            self.0.awaits_frames.store(true, Ordering::SeqCst);
            arrived
        };
        self.look(relay.clone(), relay_epoch);
        let has_arrived = tokio::time::timeout_at(deadline.into(), arrived).await.is_ok_and(|told| told.is_ok());
        if !has_arrived {
            let state = &mut *self.0.state.lock();
            state.arrivals.forget_gone();
            self.0.awaits_frames.store(state.awaits_frames(), Ordering::SeqCst);
        }
        has_arrived
    }

    /// A frame is committed.
    pub(crate) fn committed(&self, relay: &RelayId, relay_epoch: Epoch, number: u64) {
        if self.0.awaits_frames.load(Ordering::SeqCst) {
            self.held(relay, relay_epoch, &Intervals::of(number, number));
        }
    }

    /// The relay has said something: it is not silent.
    pub(crate) fn heard(&self, relay: &RelayId) {
        self.0.state.lock().machine.heard(relay);
    }

    fn held(&self, relay: &RelayId, relay_epoch: Epoch, frames: &Intervals) {
        let ended = {
            let state = &mut *self.0.state.lock();
            let ended = state.machine.held(relay, relay_epoch, frames);
            state.arrivals.held(relay, relay_epoch, frames);
            self.0.awaits_frames.store(state.awaits_frames(), Ordering::SeqCst);
            ended
        };
        self.settle(ended);
    }

    /// Tells those who wait.
    fn settle(&self, ended: Vec<(u64, Ending)>) {
        if ended.is_empty() {
            return;
        }
        for (id, ending) in ended {
            match ending {
                Ending::Arrived => self.0.metrics.pulls_answered.inc(),
                Ending::Failed => self.0.metrics.pulls_failed.inc(),
                Ending::Late => {
                    tracing::warn!(command = id, "a relay did not bring in time what it was asked for");
                    self.0.metrics.pulls_unanswered.inc()
                }
                Ending::Unheard => 0,
            };
            if let Some(waiters) = self.0.state.lock().waiters.remove(&id) {
                waiters.send_replace(Some(ending));
            }
        }
        self.0.ended.notify_waiters();
    }
}
