//! The way up: sends pages as frames, keeps them in the end-to-end window, and forgets them when the cloud's receipt comes.
//!
//! Two lanes share the connection. Live pages go first; what is old gets at least every fourth frame, so neither starves. Nothing here
//! holds custody: the archive does, until the receipt. Which way frames take is decided by the [machine](crate::way).
//!
//! One loop does everything and never waits for one thing alone: not for room on the connection, not for the disk. Receipts and the
//! word to stop are heard whatever the connection does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::Archive;
use chassis::{Clock, Stop};
use link::PublishError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wire::packed::Packer;
use wire::topics::{SegmentName, Topic, Up};
use wire::{Command, RelayId};

use crate::announcing::Announcing;
use crate::candidate::{Candidate, stands};
use crate::dial::{Dial, Leg};
use crate::ears::{Ears, Word};
use crate::group::Member;
use crate::handover::Handover;
use crate::metrics::Metrics;
use crate::outlet::Outlet;
use crate::receipts::Receipts;
use crate::sender::{Backlog, Parts, Sender, Sent};
use crate::tickets::{Answer, Refused, Tickets};
use crate::way::{Action, Machine, Patience, Way};
use crate::window::Window;

/// Commands that wait to be carried out; more are dropped, the cloud asks again.
const COMMANDS_MAX: usize = 64;
/// Heartbeats whose acknowledgement is waited for.
const BEATS_MAX: usize = 16;

/// Why the uplink ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The archive takes nothing any more.
    #[error("the uplink can't keep receipts")]
    Keep(#[source] archive::Fault),
}

/// Sends what the archive holds for the cloud.
pub struct Uplink {
    /// The relay's name.
    pub relay: RelayId,
    /// What is sent.
    pub archive: Archive,
    /// Makes the connections.
    pub dial: Dial,
    /// The relay's place in its group, if it has one.
    pub member: Option<Member>,
    /// The end-to-end window.
    pub window: Window,
    /// A page that the cloud refuses for good is tried again after this time, and then less and less often.
    pub refused_retry: Duration,
    /// How old pages stand back behind live ones.
    pub backlog: Backlog,
    /// Carries out commands of the cloud.
    pub handover: Arc<Handover>,
    /// Tells when there are new secrets.
    pub announcing: Announcing,
    /// Packs frames for the way; `None`: they go as they are.
    pub packer: Option<Packer>,
    /// What else is said to the cloud goes by the connection of this uplink.
    pub outlet: Outlet,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Uplink {
    /// Runs until told to stop. What was sent and has no receipt then is sent again by the next run; commands that were not carried out
    /// are forgotten, and a hand-over under way ends where it is: each of its pieces is a transaction.
    ///
    /// # Errors
    /// [`UplinkError`] when the archive takes nothing any more.
    pub async fn run(self, stop: Stop) -> Result<(), UplinkError> {
        let Self {
            relay,
            archive,
            mut dial,
            member,
            window,
            refused_retry,
            backlog,
            handover,
            announcing,
            packer,
            outlet,
            clock,
            metrics,
        } = self;
        let ears = Ears::new(&relay, archive.clone(), member.is_some());
        dial.listen(ears.topics());
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        // Dropped, and so ended, with the loop.
        let mut worker = JoinSet::new();
        worker.spawn(carry_out(handover, waiting));
        let leg = dial.direct();
        let parts = Parts {
            relay: relay.clone(),
            archive: archive.clone(),
            link: leg.link.clone(),
            window,
            refused_retry,
            backlog,
            announcing,
            clock: Arc::clone(&clock),
            packer,
            metrics: metrics.clone(),
        };
        let patience = member.as_ref().map_or(Duration::from_secs(1), Member::interval);
        let run = Run {
            machine: Machine::new(relay.clone(), Patience::of(patience), Instant::now()),
            stats: Topic::Up { relay: SegmentName::from(&relay), kind: Up::Stats }.to_string(),
            member,
            dial,
            leg,
            leg_number: 0,
            leg_is_direct: true,
            online: false,
            holding: false,
            candidate: None,
            left: JoinSet::new(),
            beats: JoinSet::new(),
            tickets: Tickets::default(),
            ears,
            receipts: Receipts::new(archive.clone()),
            sender: Sender::new(parts),
            commands,
            outlet,
            clock,
            metrics,
        };
        run.run(&archive, stop).await
    }
}

/// The uplink while it runs.
struct Run {
    machine: Machine,
    /// Where heartbeats go.
    stats: String,
    member: Option<Member>,
    dial: Dial,
    /// The connection of the way in force.
    leg: Leg,
    leg_number: u64,
    leg_is_direct: bool,
    online: bool,
    /// Nothing is sent until the way changes.
    holding: bool,
    /// The connection of a way that is tried.
    candidate: Option<Candidate>,
    /// Connections that say goodbye.
    left: JoinSet<()>,
    /// Heartbeats by number of their connection.
    beats: JoinSet<(u64, Result<(), PublishError>)>,
    tickets: Tickets,
    ears: Ears,
    receipts: Receipts,
    sender: Sender,
    commands: mpsc::Sender<Command>,
    outlet: Outlet,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Run {
    async fn run(mut self, archive: &Archive, stop: Stop) -> Result<(), UplinkError> {
        let mut pages = archive.watch_visible();
        let outcome = loop {
            let now = Instant::now();
            self.tell();
            let sending = self.online && !self.holding;
            let deadline = self.deadline(sending, now);
            tokio::select! {
                biased;
                () = stop.stopped() => break Ok(()),
                changed = self.leg.connected.changed() => {
                    if changed.is_err() {
                        break Ok(());
                    }
                    self.reconnected(Instant::now());
                }
                stands = stands(&mut self.candidate) => {
                    let actions = self.machine.tried(stands, Instant::now());
                    self.obey(actions);
                }
                answer = self.tickets.next() => self.answered(&answer, Instant::now()),
                message = self.leg.incoming.next() => match message {
                    None => break Ok(()),
                    Some(message) => if let Some(word) = self.ears.hear(message) {
                        self.heed(word, Instant::now());
                    },
                },
                fault = self.receipts.keep() => break Err(UplinkError::Keep(fault)),
                Some(beat) = self.beats.join_next(), if !self.beats.is_empty() => if let Ok((leg, outcome)) = beat {
                    self.beat_answered(leg, &outcome, Instant::now());
                },
                () = done(self.member.as_ref()) => self.beat(Instant::now()),
                Some(_) = self.left.join_next(), if !self.left.is_empty() => {}
                sent = self.sender.send_next(), if sending => self.sent(sent),
                // The next turn sends what there is.
                changed = pages.changed() => if changed.is_err() {
                    break Ok(());
                },
                () = at(deadline) => self.tick(Instant::now()),
            }
        };
        let Self { leg, sender, member, outlet, .. } = self;
        drop(sender);
        outlet.shut();
        if let Some(member) = member {
            member.proxy.rest();
        }
        leg.link.close().await;
        outcome
    }

    fn tell(&self) {
        self.metrics.uplink(self.online, self.sender.window(), self.sender.pages_aside());
        if let Some(member) = &self.member {
            member.proxy.metrics().lease(self.machine.term(), self.machine.unanswered());
        }
    }

    fn deadline(&self, sending: bool, now: Instant) -> Option<Instant> {
        let frames = if sending { self.sender.next_deadline(now) } else { None };
        let beat = self.member.as_ref().filter(|_| self.online).map(|member| member.pulse.due());
        [frames, beat, self.machine.next_tick(now)].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Instant) {
        if self.online && self.member.as_ref().is_some_and(|member| member.pulse.due() <= now) {
            self.beat(now);
        }
        let actions = self.machine.tick(now);
        self.obey(actions);
    }

    /// The link of the way in force came up or went down.
    fn reconnected(&mut self, now: Instant) {
        self.online = *self.leg.connected.borrow_and_update();
        // Whatever was under way may be lost with the connection: start from the oldest page without receipt.
        self.start_over();
        let actions = self.machine.connected(self.online, now);
        self.obey(actions);
    }

    fn start_over(&mut self) {
        self.sender.start_over(&self.leg.link, self.machine.way().term());
        self.tickets.clear();
        if self.online {
            self.outlet.open(&self.leg.link);
            if let Some(member) = &mut self.member {
                member.pulse.connected(Instant::now());
            }
        } else {
            self.outlet.shut();
        }
        self.serve();
    }

    /// Lets the others know whether this relay is their proxy.
    fn serve(&self) {
        let Some(member) = &self.member else { return };
        match self.machine.limits() {
            Some(limits) if self.online => {
                let term = self.machine.way().term();
                member.proxy.serve(&self.leg.link, self.leg.connected.clone(), term, limits, Instant::now());
            }
            _ => member.proxy.rest(),
        }
    }

    fn sent(&mut self, sent: Sent) {
        if sent.overdue {
            self.ears.open_again(&self.leg.link);
        }
        if let Some(ticket) = sent.ticket {
            self.tickets.push(sent.number, sent.told, sent.bytes, ticket);
        }
    }

    fn answered(&mut self, answer: &Answer, now: Instant) {
        match answer {
            Answer::Acknowledged { frames, bytes } => {
                if self.machine.way().is_direct() {
                    self.machine.alive(now);
                }
                if let Some(member) = &self.member {
                    member.proxy.passed(*bytes, *frames, now);
                }
            }
            Answer::Refused(Refused { error, .. }) if is_over(error, self.machine.way()) => {
                tracing::info!(%error, way = ?self.machine.way(), "the way refuses frames; they are sent again by another");
                let actions = self.machine.refused(now);
                self.obey(actions);
            }
            Answer::Refused(refused) => {
                if self.machine.way().is_direct() {
                    self.machine.alive(now);
                }
                self.sender.refused(refused, now);
            }
        }
    }

    fn heed(&mut self, word: Word, now: Instant) {
        match word {
            Word::Receipt(receipt) => {
                self.machine.alive(now);
                self.receipts.add(&self.sender.receipted(&receipt.numbers, now));
            }
            Word::Command(command) => {
                if self.commands.try_send(command).is_err() {
                    tracing::warn!("too many commands wait; this one is dropped and the cloud has to ask again");
                }
            }
            Word::Lease(lease) => {
                let Some(member) = &self.member else { return };
                if lease.group == *member.pulse.group() {
                    let actions = self.machine.lease(&lease, now);
                    self.obey(actions);
                    self.serve();
                }
            }
            Word::Foreign(message) => {
                if let Some(member) = &self.member {
                    member.proxy.hand_down(message);
                }
            }
        }
    }

    fn beat(&mut self, now: Instant) {
        let Some(member) = &mut self.member else { return };
        let done = member.proxy.is_done(now);
        let heartbeat = member.pulse.beat(self.machine.term(), done, now, self.clock.now());
        if !self.online {
            return;
        }
        self.machine.beat(heartbeat.beat, now);
        member.proxy.metrics().beat();
        if self.beats.len() < BEATS_MAX {
            let (link, leg, topic) = (self.leg.link.clone(), self.leg_number, self.stats.clone());
            self.beats.spawn(async move { (leg, link.publish(topic, heartbeat.encode()).await) });
        }
    }

    fn beat_answered(&mut self, leg: u64, outcome: &Result<(), PublishError>, now: Instant) {
        if leg != self.leg_number {
            return;
        }
        match outcome {
            Ok(()) | Err(PublishError::Refused { .. }) if self.machine.way().is_direct() => self.machine.alive(now),
            Err(error) if is_over(error, self.machine.way()) => {
                let actions = self.machine.beat_refused(now);
                self.obey(actions);
            }
            _ => {}
        }
    }

    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Go(way, why) => {
                    tracing::info!(?way, ?why, "frames take another way");
                    if let Some(member) = &self.member {
                        member.proxy.metrics().way(&way, why);
                    }
                    self.go(&way);
                }
                Action::Try { address, .. } => {
                    self.give_up();
                    self.try_proxy(&address);
                }
                Action::GiveUp => self.give_up(),
                Action::Redial => {
                    tracing::info!("the cloud shows no sign of life; it is dialled anew");
                    if let Some(member) = &self.member {
                        member.proxy.metrics().redialled();
                    }
                    let leg = self.dial.direct();
                    self.take(leg);
                }
                Action::Hold => self.holding = true,
                Action::Beat => self.beat(Instant::now()),
            }
        }
    }

    fn try_proxy(&mut self, address: &str) {
        let Some(member) = &mut self.member else { return };
        let Some(leg) = self.dial.proxy(address) else {
            tracing::error!(address, "the proxy's address is not host:port; mend group.advertise there");
            return;
        };
        let heartbeat = member.pulse.beat(self.machine.term(), false, Instant::now(), self.clock.now());
        self.candidate = Some(Candidate::new(leg, self.stats.clone(), heartbeat.encode().into()));
    }

    fn go(&mut self, way: &Way) {
        self.holding = false;
        match way {
            Way::Direct { .. } if self.leg_is_direct => self.start_over(),
            Way::Direct { .. } => {
                let leg = self.dial.direct();
                self.take(leg);
            }
            Way::Proxied { .. } => {
                if let Some(Candidate { leg, .. }) = self.candidate.take() {
                    self.take(leg);
                }
            }
        }
    }
    /// Makes this the connection of the way in force.
    fn take(&mut self, leg: Leg) {
        let old = std::mem::replace(&mut self.leg, leg);
        self.left.spawn(say_goodbye(old));
        self.leg_number += 1;
        self.leg_is_direct = self.machine.way().is_direct();
        self.online = *self.leg.connected.borrow_and_update();
        if let Some(member) = &self.member {
            member.proxy.another_link();
        }
        self.start_over();
        // Only what differs from what the machine takes for granted: a candidate stands, and a new connection does not yet.
        if self.online == self.leg_is_direct {
            let actions = self.machine.connected(self.online, Instant::now());
            self.obey(actions);
        }
    }

    fn give_up(&mut self) {
        if let Some(Candidate { leg, .. }) = self.candidate.take() {
            self.left.spawn(say_goodbye(leg));
        }
    }
}

/// Whether a refusal says that the way is over, not the frame wrong: the term of the lease is, or the proxy can't pass it on.
fn is_over(error: &PublishError, way: &Way) -> bool {
    match error {
        _ if way.term() == 0 => false,
        PublishError::Refused { reason_code: 0x83 } => true,
        // The proxy does not know us as a member.
        PublishError::Refused { reason_code } => !way.is_direct() && matches!(reason_code, 0x87 | 0x90),
        _ => false,
    }
}

async fn say_goodbye(leg: Leg) {
    let Leg { link, incoming, .. } = leg;
    drop(incoming);
    link.close().await;
}

/// Resolves when the own term as proxy is done (A8).
async fn done(member: Option<&Member>) {
    match member {
        Some(member) => member.proxy.done().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Carries out commands one after the other, away from the sending loop.
async fn carry_out(handover: Arc<Handover>, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        handover.carry_out(command).await;
    }
}
