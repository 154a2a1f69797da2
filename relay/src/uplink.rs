//! The way up: sends pages as frames, keeps them in the end-to-end window, and forgets them when the cloud's receipt comes.
//!
//! Two lanes share the connection. Live pages go first; the backlog (what was handed over from the storage area) gets at
//! least every fourth frame, so neither starves. Nothing here holds custody: the archive does, until the receipt.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use archive::{Archive, Lane, Page};
use bytes::Bytes;
use chassis::Stop;
use link::{Incoming, Link, PublishError, Qos, Received, Ticket};
use tokio::sync::{mpsc, watch};
use wire::{Announcement, Command, Receipt, RelayId, UpFrame};

use crate::announcing::Announcing;
use crate::handover::Handover;
use crate::metrics::Metrics;
use crate::window::Window;

/// Pages are read from the archive in portions of this size.
const PORTION_BYTES: usize = 4 * 1024 * 1024;
/// After this many live frames in a row a waiting backlog frame goes.
const LIVE_RUN_MAX: u32 = 3;
/// Pause after the cloud refused a frame.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// Secrets told in one frame, at most.
const SECRETS_PER_FRAME: usize = 1_000;
/// Commands that wait to be carried out; more are dropped, the cloud asks again.
const COMMANDS_MAX: usize = 64;

/// Pages of one lane that wait to be sent.
#[derive(Debug)]
struct LaneQueue {
    lane: Lane,
    /// The last page that was taken from the archive.
    after: u64,
    pages: VecDeque<Page>,
}

impl LaneQueue {
    fn new(lane: Lane) -> Self {
        Self { lane, after: 0, pages: VecDeque::new() }
    }

    /// From the oldest page that has no receipt.
    fn rewind(&mut self) {
        self.after = 0;
        self.pages.clear();
    }

    fn refill(&mut self, archive: &Archive) -> Result<(), archive::ReadError> {
        if self.pages.is_empty() {
            let pages = archive.outgoing(self.lane, self.after, PORTION_BYTES)?;
            if let Some(last) = pages.last() {
                self.after = last.id;
            }
            self.pages.extend(pages);
        }
        Ok(())
    }
}

/// What was announced on this connection.
#[derive(Debug, Clone, Copy, Default)]
struct Announced {
    own: bool,
    /// Last row of the archive's secrets that was told.
    row: i64,
    /// How far the intake had settled when nothing more was found; `None` before the first complete look.
    mark: Option<u64>,
}

/// Answers that the connection gave to frames, as they come.
enum Answer {
    Refused { number: u64, error: PublishError },
}

/// Why the uplink ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The archive can't be read.
    #[error("the uplink can't read its pages")]
    Read(#[from] archive::ReadError),
    /// Receipts can't be kept.
    #[error("the uplink can't keep receipts")]
    Keep(#[from] archive::Fault),
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
    /// Carries out commands of the cloud.
    pub handover: Arc<Handover>,
    /// Tells when there are new secrets.
    pub announcing: Arc<Announcing>,
    /// What is counted.
    pub metrics: Metrics,
}

/// What the loop woke up for.
enum Wake {
    Connected(bool),
    Pages,
    Received(Option<Received>),
    Answer(Answer),
    Overdue,
    Stopped,
}

impl Uplink {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// [`UplinkError`] when the archive fails; the supervisor decides.
    pub async fn run(self, stop: Stop) -> Result<(), UplinkError> {
        let Self { relay, archive, link, mut incoming, window, handover, announcing, metrics } = self;
        for kind in ["receipts", "commands"] {
            if let Err(error) = link.subscribe(format!("down/{relay}/{kind}"), Qos::One).await {
                tracing::error!(%error, kind, "the cloud refuses the relay's subscription; grant it down/{relay}/#");
            }
        }
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        let worker = tokio::spawn(carry_out(Arc::clone(&handover), waiting));
        let mut connected = link.connected();
        let mut pages = archive.watch_outgoing();
        let mut sender = Sender {
            topic: format!("up/{relay}/frames"),
            relay,
            live: LaneQueue::new(Lane::Live),
            backlog: LaneQueue::new(Lane::Backlog),
            live_run: 0,
            announced: Announced::default(),
            announcing,
            tickets: Tickets::default(),
            paused_until: None,
            archive,
            link,
            window,
            metrics,
        };
        let mut online = *connected.borrow_and_update();
        let outcome = loop {
            if online && let Err(error) = sender.fill().await {
                break Err(error);
            }
            sender.metrics.window(sender.window.len());
            match next(&stop, &mut connected, &mut pages, &mut incoming, &mut sender).await {
                Wake::Stopped | Wake::Received(None) => break Ok(()),
                Wake::Pages => {}
                Wake::Connected(now_online) => {
                    online = now_online;
                    // Whatever was under way may be lost with the connection: start from the oldest page without receipt.
                    sender.rewind();
                }
                Wake::Answer(Answer::Refused { number, error }) => sender.refused(number, &error),
                Wake::Overdue => {
                    if online && let Err(error) = sender.send_overdue().await {
                        break Err(error);
                    }
                }
                Wake::Received(Some(message)) => {
                    if let Err(error) = sender.received(&message, &commands) {
                        break Err(error);
                    }
                }
            }
        };
        drop(commands);
        worker.abort();
        sender.link.close().await;
        outcome
    }
}

/// Waits for whatever comes first.
async fn next(
    stop: &Stop,
    connected: &mut watch::Receiver<bool>,
    pages: &mut watch::Receiver<u64>,
    incoming: &mut Incoming,
    sender: &mut Sender,
) -> Wake {
    let deadline = sender.next_deadline();
    tokio::select! {
        biased;
        () = stop.stopped() => Wake::Stopped,
        changed = connected.changed() => match changed {
            Ok(()) => Wake::Connected(*connected.borrow_and_update()),
            Err(_) => Wake::Stopped,
        },
        message = incoming.next() => Wake::Received(message),
        answer = sender.tickets.next() => Wake::Answer(answer),
        changed = pages.changed() => if changed.is_ok() { Wake::Pages } else { Wake::Stopped },
        () = tokio::time::sleep_until(deadline.into()) => Wake::Overdue,
    }
}

/// The sending half: lanes, window and connection.
struct Sender {
    topic: String,
    relay: RelayId,
    live: LaneQueue,
    backlog: LaneQueue,
    live_run: u32,
    /// How many announcements of epoch secrets went out on this connection.
    announced: Announced,
    tickets: Tickets,
    paused_until: Option<Instant>,
    announcing: Arc<Announcing>,
    archive: Archive,
    link: Link,
    window: Window,
    metrics: Metrics,
}

impl Sender {
    fn rewind(&mut self) {
        self.window.clear();
        self.live.rewind();
        self.backlog.rewind();
        self.announced = Announced::default();
        self.tickets = Tickets::default();
    }

    fn next_deadline(&self) -> Instant {
        // Far enough away to mean "nothing to wait for", near enough for any timer.
        let never = Instant::now() + Duration::from_secs(3_600);
        let paused = self.paused_until.unwrap_or(never);
        self.window.next_overdue().map_or(paused, |overdue| overdue.min(paused))
    }

    /// Sends pages while the window has room.
    async fn fill(&mut self) -> Result<(), UplinkError> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.paused_until = None;
        while self.window.has_room() {
            let Some((lane, page)) = self.next_page()? else { return Ok(()) };
            if !self.window.holds(page.id) {
                self.send(lane, &page, false).await?;
            }
        }
        Ok(())
    }

    fn next_page(&mut self) -> Result<Option<(Lane, Page)>, UplinkError> {
        self.live.refill(&self.archive)?;
        self.backlog.refill(&self.archive)?;
        let backlog_waits = !self.backlog.pages.is_empty();
        if self.live_run < LIVE_RUN_MAX || !backlog_waits {
            if let Some(page) = self.live.pages.pop_front() {
                self.live_run += 1;
                return Ok(Some((Lane::Live, page)));
            }
        }
        self.live_run = 0;
        Ok(self.backlog.pages.pop_front().map(|page| (Lane::Backlog, page)))
    }

    /// Secrets that were not told on this connection yet. The cloud keeps the first that it hears of an epoch.
    fn announcements(&self) -> Result<(Announced, Vec<Announcement>), UplinkError> {
        let mut announced = self.announced;
        let mut secrets = Vec::new();
        if !announced.own {
            secrets.push(Announcement { epoch: self.archive.epoch(), scope: None, secret: self.archive.secret().clone() });
            announced.own = true;
        }
        if announced.mark.is_none_or(|mark| self.announcing.is_news(mark)) {
            let mark = self.announcing.mark();
            let found = self.archive.announcements_after(announced.row, SECRETS_PER_FRAME)?;
            // A full portion may have more behind it: the next frame looks again.
            announced.mark = (found.len() < SECRETS_PER_FRAME).then_some(mark);
            for (row, announcement) in found {
                announced.row = row;
                secrets.push(announcement);
            }
        }
        Ok((announced, secrets))
    }

    async fn send(&mut self, lane: Lane, page: &Page, again: bool) -> Result<(), UplinkError> {
        let (announced, secrets) = self.announcements()?;
        let frame = UpFrame {
            relay: self.relay.as_str(),
            relay_epoch: self.archive.epoch(),
            number: page.id,
            term: 0,
            historical: lane == Lane::Backlog,
            secrets,
            runs: &page.body,
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let size = bytes.len();
        match self.link.enqueue(self.topic.as_str(), Bytes::from(bytes)).await {
            Ok(ticket) => {
                self.window.sent(page.id, lane, size, Instant::now());
                self.announced = announced;
                self.tickets.push(page.id, ticket);
                self.metrics.sent(again);
            }
            // The connection ended meanwhile: its end rewinds the lanes.
            Err(PublishError::Lost | PublishError::Closed) => {}
            Err(error) => self.refused(page.id, &error),
        }
        Ok(())
    }

    /// The cloud (or the way to it) refused a frame. The page stays; it is sent again after a pause.
    fn refused(&mut self, number: u64, error: &PublishError) {
        if matches!(error, PublishError::Lost | PublishError::Closed) {
            return;
        }
        tracing::warn!(number, %error, "the cloud refused a frame; it is kept and sent again");
        self.window.remove(number);
        self.live.rewind();
        self.backlog.rewind();
        self.paused_until = Some(Instant::now() + REFUSED_PAUSE);
    }

    async fn send_overdue(&mut self) -> Result<(), UplinkError> {
        for (number, lane) in self.window.overdue(Instant::now()) {
            match self.archive.outgoing(lane, number - 1, 1)?.into_iter().next().filter(|page| page.id == number) {
                Some(page) => self.send(lane, &page, true).await?,
                None => self.window.remove(number),
            }
        }
        Ok(())
    }

    fn received(&mut self, message: &Received, commands: &mpsc::Sender<Command>) -> Result<(), UplinkError> {
        if message.topic.ends_with("/receipts") {
            match Receipt::parse(&message.payload) {
                // Two databases of one name may talk to one cloud while a relay is rebuilt: numbers are each one's own.
                Ok(receipt) if receipt.relay_epoch == self.archive.epoch() => {
                    // Not waited for: a receipt that is lost in a crash comes again.
                    drop(self.archive.delivered(&receipt.numbers)?);
                    let before = self.window.len();
                    self.window.receipted(&receipt.numbers);
                    self.metrics.receipted((before - self.window.len()) as u64);
                }
                Ok(_) => {}
                Err(fault) => tracing::warn!(%fault, "a receipt can't be read and is ignored"),
            }
            return Ok(());
        }
        match Command::parse(&message.payload) {
            Ok(command) => {
                if commands.try_send(command).is_err() {
                    tracing::warn!("too many commands wait; this one is dropped and the cloud has to ask again");
                }
            }
            Err(fault) => tracing::warn!(%fault, "a command can't be read and is ignored"),
        }
        Ok(())
    }
}

/// Carries out commands one after the other, away from the sending loop.
async fn carry_out(handover: Arc<Handover>, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        handover.carry_out(command).await;
    }
}

/// Acknowledgements under way. Only refusals matter: custody moves by receipts.
#[derive(Default)]
struct Tickets {
    waiting: VecDeque<(u64, Ticket)>,
}

impl Tickets {
    fn push(&mut self, number: u64, ticket: Ticket) {
        self.waiting.push_back((number, ticket));
    }

    /// The next refusal; pending while there is none. Acknowledgements come in order, so only the first ticket is polled.
    fn next(&mut self) -> impl Future<Output = Answer> + '_ {
        NextRefusal(self)
    }
}

struct NextRefusal<'a>(&'a mut Tickets);

impl Future for NextRefusal<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        while let Some((number, ticket)) = self.0.waiting.front_mut() {
            let number = *number;
            match Pin::new(ticket).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => {
                    self.0.waiting.pop_front();
                    if let Err(error) = outcome {
                        return Poll::Ready(Answer::Refused { number, error });
                    }
                }
            }
        }
        Poll::Pending
    }
}
