//! Sending: rows of the outbox become frames, and the relay's acknowledgements become states.
//!
//! A window of frames is in flight, in the order of taking, to the target of the moment; with another target it is another window, which
//! starts at the oldest open row. When a frame is lost with its connection, or the relay says that it can't
//! take more, nothing new is sent until the rest of the window is answered; then sending starts over at the oldest open row, with the
//! same keys and bytes. So a series arrives in order, save that a relay which refuses one frame may have taken the ones right behind it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Stop};
use link::{Backoff, Link, LinkConfig};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store::Fault;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::{SensorId, Topic};

use crate::choice::{Event, Why};
use crate::config::{ProbeConfig, RelayConfig, SendConfig};
use crate::flying::{Flying, Outcome};
use crate::frames::{Frame, pack};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::progress::Progress;
use crate::target::{Parts, Target};

/// How long a stopping agent waits for the answers of its window.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why sending can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The outbox is gone.
    #[error("the outbox failed: {0}")]
    Outbox(#[from] Fault),
    /// A row does not hold what was written.
    #[error("a row of the outbox is damaged: {0}")]
    Damaged(#[from] wire::Fault),
}

/// What sending needs.
pub(crate) struct Sender {
    pub(crate) outbox: Outbox,
    pub(crate) sensor: SensorId,
    /// The relays to choose from.
    pub(crate) relays: Vec<RelayConfig>,
    pub(crate) probe: ProbeConfig,
    /// Whether changes of the target are told to the cloud.
    pub(crate) report: bool,
    pub(crate) settings: SendConfig,
    pub(crate) backoff: Backoff,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    /// Seeds the jitter of pauses, and what breaks ties.
    pub(crate) seed: u64,
}

impl Sender {
    /// Sends until stopped.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), SendError> {
        let mut target = self.target();
        loop {
            let relay = tokio::select! {
                relay = target.relay() => relay,
                () = stop.stopped() => return Ok(()),
            };
            let (link, mut incoming) = Link::start(self.link_config(&relay));
            // Nobody has anything to say to an agent yet; unread messages would hold up the connection.
            let listening = tokio::spawn(async move { while incoming.next().await.is_some() {} });
            let ended = Window::new(&self, &mut target, link.clone()).run(&stop).await;
            link.close().await;
            listening.abort();
            match ended? {
                End::Stopped => return Ok(()),
                End::Moved => {}
            }
        }
    }

    fn target(&self) -> Target {
        let probes = |relay| {
            let mut config = self.link_config(relay);
            // A second connection with the same name would end the one that sends.
            config.client_id = format!("probe-{}-{}", self.sensor.area(), self.sensor.sensor());
            config.connect_timeout = self.probe.timeout.duration();
            config
        };
        let parts = Parts {
            sensor: self.sensor.clone(),
            links: self.relays.iter().map(probes).collect(),
            relays: self.relays.clone(),
            topic: Topic::Probe { sensor: (&self.sensor).into() }.to_string(),
            settings: self.probe,
            report: self.report,
            outbox: self.outbox.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            rng: StdRng::seed_from_u64(self.seed),
        };
        Target::new(parts, self.outbox.last_target().as_ref())
    }

    fn link_config(&self, relay: &RelayConfig) -> LinkConfig {
        let client = format!("agent-{}-{}", self.sensor.area(), self.sensor.sensor());
        let mut config = LinkConfig::new(&relay.address.host, relay.address.port, client);
        if let Some(user) = &relay.user {
            config = config.with_credentials(user, relay.password.as_ref().map_or("", |password| password.expose()));
        }
        config.keep_alive = self.settings.keep_alive.duration();
        config.inflight_max = self.settings.inflight_max;
        config.backoff = self.backoff.clone();
        config.seed = Some(self.seed);
        config
    }
}

/// Why a window ended.
enum End {
    /// The agent stops.
    Stopped,
    /// Another relay is the target.
    Moved,
}

struct Window<'a> {
    sender: &'a Sender,
    target: &'a mut Target,
    outbox: Outbox,
    link: Link,
    connected: watch::Receiver<bool>,
    progress: watch::Receiver<Progress>,
    backoff: Backoff,
    rng: StdRng,
    flight: JoinSet<Outcome>,
    /// The last row that was handed out.
    cursor: i64,
    /// Whether there may be rows after the cursor.
    more: bool,
    /// How many records had been taken when rows were last asked for.
    taken_seen: u64,
    /// Start over at the oldest open row once nothing is in flight, and not before this time.
    rewind: Option<Instant>,
    /// Number of the connection, counted here.
    connection: u64,
    /// Whether the relay has acknowledged the secret on this connection.
    announced: bool,
    frame_bytes_max: usize,
    frame_records_max: u64,
    /// A send has taken longer than the limit.
    slow: Arc<Notify>,
}

impl<'a> Window<'a> {
    fn new(sender: &'a Sender, target: &'a mut Target, link: Link) -> Self {
        let mut connected = link.connected();
        // The state it is in now is news, too.
        connected.mark_changed();
        Self {
            sender,
            target,
            outbox: sender.outbox.clone(),
            connected,
            link,
            progress: sender.outbox.watch(),
            backoff: sender.backoff.clone(),
            rng: StdRng::seed_from_u64(sender.seed),
            flight: JoinSet::new(),
            cursor: 0,
            more: true,
            taken_seen: 0,
            rewind: None,
            connection: 0,
            announced: false,
            frame_bytes_max: sender.settings.frame_bytes_max.bytes() as usize,
            frame_records_max: sender.settings.frame_records_max,
            slow: Arc::new(Notify::new()),
        }
    }

    async fn run(mut self, stop: &Stop) -> Result<End, SendError> {
        let mut connected = false;
        let (end, patience) = loop {
            if let Some(not_before) = self.rewind
                && self.flight.is_empty()
                && Instant::now() >= not_before
            {
                (self.rewind, self.cursor, self.more) = (None, 0, true);
            }
            let room = self.flight.len() < usize::from(self.sender.settings.inflight_max);
            let may_send = connected && self.rewind.is_none() && room;
            tokio::select! {
                biased;
                () = stop.stopped() => break (End::Stopped, LAST_ANSWERS),
                why = self.target.turn() => {
                    // Of a target that works the last answers are worth a moment; what is open after that is sent again.
                    let works = connected && why == Why::Faster;
                    break (End::Moved, if works { self.sender.probe.rtt_limit.duration() } else { Duration::ZERO });
                }
                Some(outcome) = self.flight.join_next() => self.learn(outcome),
                () = self.slow.notified() => self.target.tell(Event::Slow),
                changed = self.connected.changed() => {
                    if changed.is_err() {
                        break (End::Stopped, Duration::ZERO);
                    }
                    connected = *self.connected.borrow_and_update();
                    self.on_connection(connected);
                }
                () = wait_until(self.rewind), if self.rewind.is_some() && self.flight.is_empty() => {}
                () = std::future::ready(()), if may_send && self.more => connected = self.send_more(stop).await?,
                taken = next_taken(&mut self.progress, self.taken_seen), if may_send && !self.more => {
                    let Some(taken) = taken else { break (End::Stopped, Duration::ZERO) };
                    if taken - self.taken_seen < self.sender.settings.frame_records_max {
                        self.linger(stop).await;
                    }
                    self.more = true;
                }
            }
        };
        self.settle(patience).await;
        Ok(end)
    }

    /// Waits for company, so that readings which come one by one share a frame.
    async fn linger(&self, stop: &Stop) {
        let until = Instant::now() + self.sender.settings.linger.duration();
        tokio::select! {
            () = sleep_until(until) => {}
            () = stop.stopped() => {}
        }
    }

    fn on_connection(&mut self, connected: bool) {
        self.target.tell(if connected { Event::Connected } else { Event::Lost });
        // Also when it reads true both times: there may have been a break in between that nobody saw.
        self.connection += 1;
        self.announced = false;
        self.frame_bytes_max = self.sender.settings.frame_bytes_max.bytes() as usize;
        self.start_over(Duration::ZERO);
        tracing::debug!(sensor = %self.sender.sensor, connected, "connection to the relay changed");
    }

    fn start_over(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.rewind = Some(self.rewind.map_or(at, |already| already.max(at)));
    }

    /// Hands out as many rows as the window has room for. False when the connection ended on the way.
    async fn send_more(&mut self, stop: &Stop) -> Result<bool, SendError> {
        let settings = &self.sender.settings;
        let room = usize::from(settings.inflight_max) - self.flight.len();
        self.taken_seen = self.progress.borrow_and_update().taken;
        let records_max = settings.frame_records_max.saturating_mul(room as u64);
        let bytes_max = (settings.frame_bytes_max.bytes() as usize).saturating_mul(room);
        let rows = match self.outbox.dispatch(self.cursor, records_max, bytes_max).await {
            Ok(rows) => rows,
            Err(fault @ (Fault::Stopped | Fault::Panicked(_))) => return Err(fault.into()),
            Err(fault) => {
                let pause = self.backoff.pause(&mut self.rng);
                tracing::warn!(sensor = %self.sender.sensor, %fault, ?pause, "can't mark rows as sent");
                self.start_over(pause);
                return Ok(true);
            }
        };
        self.more = !rows.is_empty();
        self.cursor = rows.last().map_or(self.cursor, |row| row.id);
        for frame in pack(&rows, self.frame_records_max, self.frame_bytes_max)? {
            if !self.send(frame, stop).await {
                return Ok(*self.connected.borrow());
            }
        }
        Ok(true)
    }

    /// False when connection or target changed before there was room for the frame: it is sent when sending starts over.
    async fn send(&mut self, frame: Frame, stop: &Stop) -> bool {
        let origin = self.outbox.origin();
        let announces = !self.announced;
        let secrets = if announces { vec![(origin.epoch, origin.secret.clone())] } else { Vec::new() };
        let topic = Topic::Frame { operation: frame.operation(), sensor: (&self.sender.sensor).into() }.to_string();
        let payload = frame.encode(&secrets);
        let started = Instant::now();
        let link = self.link.clone();
        let mut handing = pin!(link.enqueue(topic, payload));
        let handed = loop {
            tokio::select! {
                biased;
                changed = self.connected.changed() => {
                    self.connected.mark_changed(); // For the loop to see.
                    if changed.is_ok() {
                        self.start_over(Duration::ZERO);
                    }
                    return false;
                }
                () = stop.stopped() => return false,
                _ = self.target.turn() => return false,
                () = self.slow.notified() => self.target.tell(Event::Slow),
                handed = &mut handing => break handed,
            }
        };
        let flying = Flying {
            outbox: self.outbox.clone(),
            metrics: self.sender.metrics.clone(),
            clock: self.sender.clock.clone(),
            sensor: self.sender.sensor.clone(),
            announces: announces.then_some(self.connection),
            started,
            limit: self.sender.probe.rtt_limit.duration(),
            slow: self.slow.clone(),
            frame,
        };
        self.flight.spawn(flying.answered(handed));
        true
    }

    fn learn(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        match outcome {
            Ok(Outcome::Settled) => self.goes_well(),
            Ok(Outcome::Announced(connection)) => {
                self.goes_well();
                self.announced |= connection == self.connection;
            }
            Ok(Outcome::Lost) => self.start_over(Duration::ZERO),
            Ok(Outcome::TooLarge) => {
                self.frame_bytes_max = (self.frame_bytes_max / 2).max(1);
                self.start_over(Duration::ZERO);
            }
            Ok(Outcome::Unreadable(records)) => {
                self.frame_records_max = self.frame_records_max.min(records / 2).max(1);
                self.start_over(Duration::ZERO);
            }
            Ok(Outcome::Refused) => {
                self.target.tell(Event::Refused);
                if self.rewind.is_none_or(|at| at <= Instant::now()) {
                    let pause = self.backoff.jittered(self.sender.settings.refused_retry.duration(), &mut self.rng);
                    tracing::error!(sensor = %self.sender.sensor, ?pause, "the relay does not let us send; add a grant for this agent there");
                    self.start_over(pause);
                }
            }
            Ok(Outcome::Deferred) => {
                // One pause for a window of refusals.
                if self.rewind.is_none_or(|at| at <= Instant::now()) {
                    let pause = self.backoff.pause(&mut self.rng);
                    tracing::warn!(sensor = %self.sender.sensor, ?pause, "the relay can't take more now");
                    self.start_over(pause);
                }
            }
            Ok(Outcome::Unwritten(fault)) => {
                let pause = self.backoff.pause(&mut self.rng);
                tracing::warn!(sensor = %self.sender.sensor, %fault, ?pause, "an acknowledgement could not be written down");
                self.start_over(pause);
            }
            Err(failed) => {
                tracing::error!(sensor = %self.sender.sensor, %failed, "waiting for an acknowledgement failed");
                self.start_over(Duration::ZERO);
            }
        }
    }

    /// A frame is settled, so the next may be larger again.
    fn goes_well(&mut self) {
        self.backoff.reset();
        self.frame_records_max = self.frame_records_max.saturating_mul(2).min(self.sender.settings.frame_records_max);
    }

    /// Waits for the last answers, within reason: what stays open is sent again after the restart, or to the next target. That must not
    /// begin before the answers which did come are written down.
    async fn settle(mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while let Ok(Some(_)) = timeout_at(until, self.flight.join_next()).await {}
        self.link.close().await;
        while self.flight.join_next().await.is_some() {}
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Resolves when more than `seen` records were taken; `None` when the outbox is gone.
async fn next_taken(progress: &mut watch::Receiver<Progress>, seen: u64) -> Option<u64> {
    progress.wait_for(|progress| progress.taken > seen).await.ok().map(|progress| progress.taken)
}
