//! The way up: sends pages as frames, keeps them in the end-to-end window, and forgets them when the cloud's receipt comes.
//!
//! Two lanes share the connection. Live pages go first; the backlog (what was handed over from the storage area) gets at
//! least every fourth frame, so neither starves. Nothing here holds custody: the archive does, until the receipt.
//!
//! One loop does everything and never waits for one thing alone: not for room on the connection, not for the disk. Receipts and the
//! word to stop are heard whatever the connection does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::Archive;
use chassis::Stop;
use link::{Incoming, Link, Qos, Received};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wire::{Command, Receipt, RelayId};

use crate::announcing::Announcing;
use crate::handover::Handover;
use crate::metrics::Metrics;
use crate::outlet::Outlet;
use crate::receipts::Receipts;
use crate::sender::{Parts, Sender};
use crate::tickets::Tickets;
use crate::window::Window;

/// Commands that wait to be carried out; more are dropped, the cloud asks again.
const COMMANDS_MAX: usize = 64;

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
    /// The connection to the cloud.
    pub link: Link,
    /// What comes from the cloud.
    pub incoming: Incoming,
    /// The end-to-end window.
    pub window: Window,
    /// A page that the cloud refuses for good is tried again after this time, and then less and less often.
    pub refused_retry: Duration,
    /// Carries out commands of the cloud.
    pub handover: Arc<Handover>,
    /// Tells when there are new secrets.
    pub announcing: Announcing,
    /// What else is said to the cloud goes by the connection of this uplink.
    pub outlet: Outlet,
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
        let Self { relay, archive, link, mut incoming, window, refused_retry, handover, announcing, outlet, metrics } = self;
        let mut ears = Ears::new(&relay, archive.clone(), link.clone());
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        // Dropped, and so ended, with the loop.
        let mut worker = JoinSet::new();
        worker.spawn(carry_out(handover, waiting));
        let mut connected = link.connected();
        let mut pages = archive.watch_outgoing();
        let mut tickets = Tickets::default();
        let mut receipts = Receipts::new(archive.clone());
        let closing = link.clone();
        let mut sender = Sender::new(Parts { relay, archive, link, window, refused_retry, announcing, metrics: metrics.clone() });
        // Before the connection is there, so that its first frames find us listening.
        tokio::select! {
            biased;
            () = stop.stopped() => {}
            () = ears.open() => {}
        }
        let mut online = *connected.borrow_and_update();
        if online {
            outlet.open(&closing);
        }
        let outcome = loop {
            metrics.uplink(online, sender.window().len(), sender.pages_aside());
            let now = Instant::now();
            let deadline = if online { sender.next_deadline(now) } else { None };
            tokio::select! {
                biased;
                () = stop.stopped() => break Ok(()),
                changed = connected.changed() => {
                    if changed.is_err() {
                        break Ok(());
                    }
                    online = *connected.borrow_and_update();
                    if online { outlet.open(&closing) } else { outlet.shut() }
                    // Whatever was under way may be lost with the connection: start from the oldest page without receipt.
                    sender.start_over();
                    tickets.clear();
                }
                refused = tickets.refused() => sender.refused(&refused, Instant::now()),
                message = incoming.next() => match message {
                    None => break Ok(()),
                    Some(message) => match ears.hear(&message) {
                        Some(Word::Receipt(receipt)) => receipts.add(&sender.receipted(&receipt.numbers, now)),
                        Some(Word::Command(command)) => pass_on(&commands, command),
                        None => {}
                    },
                },
                fault = receipts.keep() => break Err(UplinkError::Keep(fault)),
                sent = sender.send_next(), if online => {
                    if sent.overdue {
                        ears.open_again();
                    }
                    if let Some(ticket) = sent.ticket {
                        tickets.push(sent.number, sent.told, ticket);
                    }
                }
                // The next turn sends what there is.
                changed = pages.changed() => if changed.is_err() {
                    break Ok(());
                },
                () = at(deadline) => {}
            }
        };
        drop(sender);
        outlet.shut();
        closing.close().await;
        outcome
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn pass_on(commands: &mpsc::Sender<Command>, command: Command) {
    if commands.try_send(command).is_err() {
        tracing::warn!("too many commands wait; this one is dropped and the cloud has to ask again");
    }
}

/// Carries out commands one after the other, away from the sending loop.
async fn carry_out(handover: Arc<Handover>, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        handover.carry_out(command).await;
    }
}

/// What the cloud says.
enum Word {
    Receipt(Receipt),
    Command(Command),
}

/// Listens to the cloud.
struct Ears {
    archive: Archive,
    link: Link,
    receipts: String,
    commands: String,
    opening: JoinSet<()>,
}

impl Ears {
    fn new(relay: &RelayId, archive: Archive, link: Link) -> Self {
        let topic = |kind| format!("down/{relay}/{kind}");
        Self { archive, link, receipts: topic("receipts"), commands: topic("commands"), opening: JoinSet::new() }
    }

    /// Subscribes to what the cloud says.
    fn open(&self) -> impl Future<Output = ()> + Send + use<> {
        let (link, topics) = (self.link.clone(), [self.receipts.clone(), self.commands.clone()]);
        async move {
            for topic in topics {
                if let Err(error) = link.subscribe(topic.as_str(), Qos::One).await {
                    tracing::error!(%error, topic, "the cloud refuses the relay's subscription, so nothing can be deleted here; grant it");
                }
            }
        }
    }

    /// Subscribes again, beside the loop: no receipt came, perhaps because the cloud refused the subscription at a time.
    fn open_again(&mut self) {
        while self.opening.try_join_next().is_some() {}
        if self.opening.is_empty() {
            self.opening.spawn(self.open());
        }
    }

    /// Reads one message; what is not for us, or can't be read, is nothing.
    fn hear(&self, message: &Received) -> Option<Word> {
        if message.retain {
            tracing::warn!(topic = message.topic, "a retained message is ignored: the cloud says everything when it is true");
            return None;
        }
        let word = if message.topic == self.receipts {
            Receipt::parse(&message.payload).map(Word::Receipt)
        } else if message.topic == self.commands {
            Command::parse(&message.payload).map(Word::Command)
        } else {
            return None;
        };
        match word {
            // Two databases of one name may talk to one cloud while a relay is rebuilt: numbers are each one's own.
            Ok(Word::Receipt(receipt)) if receipt.relay_epoch != self.archive.epoch() => None,
            Ok(word) => Some(word),
            Err(fault) => {
                tracing::warn!(topic = message.topic, %fault, "a message of the cloud can't be read and is ignored");
                None
            }
        }
    }
}
