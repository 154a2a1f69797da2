//! What a relay takes: raw readings and frames of agents, and probes.
//!
//! A publish to `op/{operation}/{area}/{sensor}/{stream…}` is one raw reading, and the relay is its origin. A publish to
//! `op/{operation}/{area}/{sensor}` is a frame of records that an agent has already given their keys. Both are acknowledged
//! when they are committed. `probe/{area}/{sensor}` keeps nothing: its acknowledgement is what the agent times (A1).
//!
//! What another member of the group publishes to `up/{member}/…` is passed on to the cloud, see [`crate::group`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use archive::{Append, AppendError, Appended, Appending, Archive, Lane};
use broker::{Client, Commit, Intake, IntakeSession, Offer, Refusal};
use chassis::Clock;
use rustc_hash::FxHashMap;
use tokio::task::JoinHandle;
use wire::{Announcement, Epoch, FrameView, Operation, RunBuilder, SensorId, Series, Topic};

use crate::announcing::{Announcing, Unsettled};
use crate::group::{Passing, Proxy, Volume};
use crate::metrics::{Metrics, Refused};
use crate::room::Room;

/// Topics that one connection remembers: as many as the broker remembers verdicts. A gateway with more starts its memory anew, which
/// costs it a parse a reading; 20,000 connections may each fill theirs.
const TOPICS_KNOWN_MAX: usize = 256;

/// Secrets that one frame may announce. An agent has one epoch, and another after it lost its database. Secrets are kept for good and
/// count against no budget, so they are not to be had for nothing: each announced epoch must be that of records in the same frame.
const SECRETS_PER_FRAME_MAX: usize = 16;

/// With less room than this in the archive's queue a batch waits instead of being refused: more than all that can be submitted between a
/// look and the submission.
const QUEUE_SPARE_BYTES: usize = 16 * 1024 * 1024;

/// The lane that a record takes through the relay (A4).
pub(crate) fn lane_of(operation: Operation) -> Lane {
    match operation {
        Operation::Store => Lane::Store,
        Operation::Forward => Lane::Live,
    }
}

/// The relay's hook into its broker.
pub struct RelayIntake {
    archive: Archive,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    room: Room,
    announcing: Announcing,
    group: Option<Grouped>,
}

/// What the intake of a member of a group does beside.
#[derive(Debug, Clone)]
pub(crate) struct Grouped {
    /// Counts what is collected.
    pub(crate) volume: Volume,
    /// Passes on what other members say.
    pub(crate) proxy: Proxy,
    /// The largest packet of a sensor or an agent: those of members are larger.
    pub(crate) packet_bytes_max: usize,
}

impl RelayIntake {
    /// An intake that keeps everything in `archive`, while there is room.
    pub fn new(archive: Archive, clock: Arc<dyn Clock>, metrics: Metrics, room: Room, announcing: Announcing) -> Self {
        Self { archive, clock, metrics, room, announcing, group: None }
    }

    /// The same, of a member of a group.
    pub(crate) fn in_group(mut self, group: Option<Grouped>) -> Self {
        self.group = group;
        self
    }
}

impl Intake for RelayIntake {
    fn claims(&self, topic: &str) -> bool {
        let own = topic.starts_with("op/") || topic.starts_with("probe/");
        own || (self.group.is_some() && (topic.starts_with("up/") || topic.starts_with("down/")))
    }

    fn open(&self, _client: &Client) -> Box<dyn IntakeSession> {
        Box::new(Session {
            archive: self.archive.clone(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            room: self.room.clone(),
            announcing: self.announcing.clone(),
            group: self.group.clone(),
            passing: self.group.as_ref().map(|group| Passing::new(group.proxy.clone())),
            bytes: 0,
            waiting: Arc::default(),
            batch: 0,
            slots: FxHashMap::default(),
            last: None,
            collected: [Collected::default(), Collected::default()],
        })
    }
}

/// Where a topic's readings are collected.
#[derive(Debug, Clone)]
struct Slot {
    series: Series,
    operation: Operation,
    /// Index of the run in `batch`; in a later batch it has none yet.
    run: usize,
    batch: u64,
}

/// What came for one lane since the last commit.
#[derive(Debug, Default)]
struct Collected {
    raw: Vec<RunBuilder>,
    framed: Vec<u8>,
    /// Secrets that came with `framed`.
    secrets: Vec<Announcement>,
}

/// One connection's readings since its last commit.
struct Session {
    archive: Archive,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    room: Room,
    announcing: Announcing,
    group: Option<Grouped>,
    /// If this is the connection of another member.
    passing: Option<Passing>,
    /// Payload bytes since the last commit.
    bytes: u64,
    /// Batches that found the archive's queue full and wait for it. While there are any, later ones wait too: readings of one
    /// connection keep their order.
    waiting: Arc<AtomicUsize>,
    /// Number of the batch that is being collected.
    batch: u64,
    slots: FxHashMap<Box<str>, Slot>,
    /// The topic of the last raw reading with its operation and run: most connections publish to one topic only.
    last: Option<(Box<str>, Operation, usize)>,
    /// Store and forward collect apart: they take different lanes.
    collected: [Collected; 2],
}

fn side(operation: Operation) -> usize {
    operation.code() as usize
}

impl Session {
    fn refuse(&self, why: Refused, refusal: Refusal) -> Refusal {
        self.metrics.refused(why);
        refusal
    }

    fn check_room(&self, operation: Operation) -> Result<(), Refusal> {
        match self.room.has_room(operation) {
            true => Ok(()),
            false => Err(self.refuse(Refused::Full, Refusal::QuotaExceeded)),
        }
    }

    /// Finds the run that collects the readings of `topic`, opening it if need be.
    fn run_of(&mut self, topic: &str) -> Option<(Operation, usize)> {
        if !self.slots.contains_key(topic) {
            let Ok(Topic::Reading { operation, series }) = Topic::parse(topic) else { return None };
            let series: Series = series.as_str().parse().ok()?;
            if wire::system::is_reserved(series.stream()) {
                return None;
            }
            if self.slots.len() >= TOPICS_KNOWN_MAX {
                // What was collected stays: a series may then have two runs in one batch, which is allowed.
                self.slots.clear();
            }
            self.slots.insert(topic.into(), Slot { series, operation, run: usize::MAX, batch: u64::MAX });
        }
        let slot = self.slots.get_mut(topic)?;
        if slot.batch != self.batch {
            let raw = &mut self.collected[side(slot.operation)].raw;
            slot.batch = self.batch;
            slot.run = raw.len();
            raw.push(RunBuilder::new(slot.series.clone(), slot.operation));
        }
        Some((slot.operation, slot.run))
    }

    fn offer_reading(&mut self, topic: &str, payload: &[u8]) -> Result<(), Refusal> {
        let at = self.clock.now();
        let (operation, run) = match &self.last {
            Some((last, operation, run)) if **last == *topic => (*operation, *run),
            _ => {
                let Some((operation, run)) = self.run_of(topic) else {
                    return Err(self.refuse(Refused::Topic, Refusal::TopicNameInvalid));
                };
                self.last = Some((topic.into(), operation, run));
                (operation, run)
            }
        };
        self.check_room(operation)?;
        let pushed = self.collected[side(operation)].raw[run].push(at, payload);
        pushed.map_err(|_| self.refuse(Refused::Payload, Refusal::PayloadFormatInvalid))?;
        self.bytes += payload.len() as u64;
        Ok(())
    }

    fn offer_frame(&mut self, operation: Operation, sensor: &SensorId, payload: &[u8]) -> Result<(), Refusal> {
        self.check_room(operation)?;
        if self.group.as_ref().is_some_and(|group| payload.len() > group.packet_bytes_max) {
            return Err(self.refuse(Refused::Payload, Refusal::PayloadFormatInvalid));
        }
        let frame = match FrameView::parse(payload) {
            Ok(frame) if self.may_say(operation, sensor, &frame) => frame,
            _ => return Err(self.refuse(Refused::Payload, Refusal::PayloadFormatInvalid)),
        };
        let collected = &mut self.collected[side(operation)];
        collected.framed.extend_from_slice(frame.runs);
        let announced = frame.secrets.into_iter();
        collected.secrets.extend(announced.map(|(epoch, secret)| Announcement { epoch, scope: Some(sensor.clone()), secret }));
        self.bytes += payload.len() as u64;
        Ok(())
    }

    /// A publisher of one sensor can't speak for another; the operation of the topic is that of every record; and nobody but this relay
    /// gives keys in its epoch: a sequence number taken there would be missing when the next raw reading needs it.
    fn may_say(&self, operation: Operation, sensor: &SensorId, frame: &FrameView<'_>) -> bool {
        if frame.secrets.len() > SECRETS_PER_FRAME_MAX {
            return false;
        }
        let mut unused: Vec<Epoch> = frame.secrets.iter().map(|(epoch, _)| *epoch).collect();
        let all = frame.runs().all(|run| {
            unused.retain(|epoch| *epoch != run.epoch());
            sensor.owns(run.series()) && run.operation() == operation && self.archive.origin_secret(run.epoch()).is_none()
        });
        all && unused.is_empty()
    }
}

impl IntakeSession for Session {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        // The hot path: the same topic as last time.
        if self.last.as_ref().is_some_and(|(last, ..)| **last == *offer.topic) {
            return self.offer_reading(offer.topic, offer.payload);
        }
        match Topic::parse(offer.topic) {
            Ok(Topic::Reading { .. }) => self.offer_reading(offer.topic, offer.payload),
            Ok(Topic::Frame { operation, sensor }) => match sensor.as_str().parse() {
                Ok(sensor) => self.offer_frame(operation, &sensor, offer.payload),
                Err(_) => Err(self.refuse(Refused::Topic, Refusal::TopicNameInvalid)),
            },
            Ok(Topic::Probe { .. }) => Ok(()),
            Ok(Topic::Up { relay, kind }) if self.passing.is_some() => {
                self.passing.as_mut().map_or(Ok(()), |passing| passing.offer(relay, kind, offer.payload))
            }
            // Only the cloud speaks there, and it speaks through us.
            Ok(Topic::Down { .. }) => Err(self.refuse(Refused::Topic, Refusal::NotAuthorized)),
            _ => Err(self.refuse(Refused::Topic, Refusal::TopicNameInvalid)),
        }
    }

    fn alone(&self) -> bool {
        self.passing.as_ref().is_some_and(Passing::has_offered)
    }

    fn commit(&mut self) -> Option<Commit> {
        if let Some(passed) = self.passing.as_mut().and_then(Passing::commit) {
            // What sensors said before it in one read waits with it, if anybody is both.
            return Some(match self.commit_own() {
                None => passed,
                Some(own) => Box::pin(async move {
                    own.await?;
                    passed.await
                }),
            });
        }
        self.commit_own()
    }
}

impl Session {
    fn commit_own(&mut self) -> Option<Commit> {
        let mut jobs = Vec::new();
        for operation in [Operation::Store, Operation::Forward] {
            let lane = lane_of(operation);
            let Collected { mut raw, framed, secrets } = std::mem::take(&mut self.collected[side(operation)]);
            // A run whose only reading was refused.
            raw.retain(|run| !run.is_empty());
            if !raw.is_empty() {
                jobs.push(Job { append: Append::Raw { lane, runs: raw }, unsettled: None });
            }
            if !framed.is_empty() {
                let unsettled = (!secrets.is_empty()).then(|| self.announcing.submitted());
                jobs.push(Job { append: Append::Framed { lane, runs: framed.into(), secrets }, unsettled });
            }
        }
        self.last = None;
        self.batch += 1;
        if jobs.is_empty() {
            return None;
        }
        let keeping = self.keep(jobs);
        let (metrics, room) = (self.metrics.clone(), self.room.clone());
        let bytes = std::mem::take(&mut self.bytes);
        let volume = self.group.as_ref().map(|group| (group.volume.clone(), Arc::clone(&self.clock)));
        Some(Box::pin(async move {
            match keeping.await {
                Ok(records) => {
                    metrics.taken(records);
                    if let Some((volume, clock)) = volume {
                        volume.add(clock.now(), bytes);
                    }
                    Ok(())
                }
                Err(error) => Err(refusal(&metrics, &room, &error)),
            }
        }))
    }
}

impl Session {
    /// Submits a batch at once if the archive's queue has room, else when it is awaited. Gives the number of records kept. What one connection
    /// sent between two commits is acknowledged together or not at all; after a failure nothing more of it is submitted.
    fn keep(&self, jobs: Vec<Job>) -> impl Future<Output = Result<u64, AppendError>> + Send + use<> {
        let archive = self.archive.clone();
        let full = archive.queue_room() < QUEUE_SPARE_BYTES || self.waiting.load(Ordering::Acquire) > 0;
        let turn = full.then(|| Turn::take(Arc::clone(&self.waiting)));
        let mut kept = Vec::with_capacity(jobs.len());
        let mut failed = None;
        let mut late = jobs.into_iter();
        if !full {
            for Job { append, unsettled } in late.by_ref() {
                match archive.append(append) {
                    Ok(appending) => kept.push(Kept::new(appending, unsettled)),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
        async move {
            if failed.is_none() {
                for Job { append, unsettled } in late {
                    match archive.append_waiting(append).await {
                        Ok(appending) => kept.push(Kept::new(appending, unsettled)),
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
            }
            drop(turn);
            let mut records = 0;
            for appending in kept {
                match appending.outcome().await {
                    Ok(appended) => records += appended.new,
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(records), Err)
        }
    }
}

/// An append, and what is told when it has settled.
struct Job {
    append: Append,
    unsettled: Option<Unsettled>,
}

/// An append that was submitted.
enum Kept {
    Plain(Appending),
    /// With secrets: awaited by a task of its own, because the connection may end before the commit and the uplink is to learn of it
    /// all the same.
    Announcing(JoinHandle<Result<Appended, AppendError>>),
}

impl Kept {
    fn new(appending: Appending, unsettled: Option<Unsettled>) -> Self {
        let Some(unsettled) = unsettled else { return Self::Plain(appending) };
        Self::Announcing(tokio::spawn(async move {
            let outcome = appending.await;
            drop(unsettled);
            outcome
        }))
    }

    async fn outcome(self) -> Result<Appended, AppendError> {
        match self {
            Self::Plain(appending) => appending.await,
            // The task fails only with its runtime.
            Self::Announcing(task) => task.await.unwrap_or(Err(AppendError::NotKept(archive::Fault::Stopped))),
        }
    }
}

/// A batch that waits for the queue. Counted until it is submitted or given up.
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn take(waiting: Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::AcqRel);
        Self(waiting)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the publisher is told when its readings were not kept.
fn refusal(metrics: &Metrics, room: &Room, error: &AppendError) -> Refusal {
    match error {
        AppendError::Full { lane, .. } => {
            room.is_full(*lane);
            metrics.refused(Refused::Full);
            Refusal::QuotaExceeded
        }
        AppendError::Busy => {
            metrics.refused(Refused::Full);
            Refusal::QuotaExceeded
        }
        AppendError::Malformed(_) => {
            metrics.refused(Refused::Payload);
            Refusal::PayloadFormatInvalid
        }
        AppendError::NotKept(_) => {
            metrics.refused(Refused::Store);
            tracing::error!(%error, "readings were not stored and are not acknowledged");
            Refusal::Unavailable
        }
    }
}
