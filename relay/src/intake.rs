//! What a relay takes: raw readings and frames of agents, and probes.
//!
//! A publish to `op/{operation}/{area}/{sensor}/{stream…}` is one raw reading, and the relay is its origin. A publish to
//! `op/{operation}/{area}/{sensor}` is a frame of records that an agent has already given their keys. Both are acknowledged
//! when they are committed. `probe/{area}/{sensor}` keeps nothing: its acknowledgement is what the agent times (A1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use archive::{Append, AppendError, Archive, Lane};
use broker::{Client, Commit, Intake, IntakeSession, Offer, Refusal};
use chassis::Clock;
use rustc_hash::FxHashMap;
use wire::{Announcement, FrameView, Operation, RunBuilder, SensorId, Series, Topic};

use crate::announcing::Announcing;
use crate::metrics::{Metrics, Refused};

/// Series whose builders one connection keeps between commits. A gateway with more starts its cache anew.
const SERIES_CACHED_MAX: usize = 4_096;

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
    closing: Arc<AtomicBool>,
    announcing: Arc<Announcing>,
}

impl RelayIntake {
    /// An intake that keeps everything in `archive`. Once `closing` is set it takes nothing more.
    pub fn new(
        archive: Archive,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        closing: Arc<AtomicBool>,
        announcing: Arc<Announcing>,
    ) -> Self {
        Self { archive, clock, metrics, closing, announcing }
    }
}

impl Intake for RelayIntake {
    fn claims(&self, topic: &str) -> bool {
        topic.starts_with("op/") || topic.starts_with("probe/")
    }

    fn open(&self, _client: &Client) -> Box<dyn IntakeSession> {
        Box::new(Session {
            archive: self.archive.clone(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            closing: Arc::clone(&self.closing),
            announcing: Arc::clone(&self.announcing),
            waiting: Arc::default(),
            slots: FxHashMap::default(),
            last: None,
            raw: [Vec::new(), Vec::new()],
            framed: [Vec::new(), Vec::new()],
            secrets: Vec::new(),
        })
    }
}

/// Where a topic's readings are collected: the run's index in its lane, valid for the batch in which it was opened.
#[derive(Debug, Clone)]
struct Slot {
    series: Series,
    operation: Operation,
    /// Index into `raw[lane]`; `usize::MAX` while the batch has no run of this series.
    run: usize,
}

/// One connection's readings since its last commit.
struct Session {
    archive: Archive,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    closing: Arc<AtomicBool>,
    announcing: Arc<Announcing>,
    /// Batches that found the archive's queue full and wait for it. While there are any, later ones wait too: readings of one
    /// connection keep their order.
    waiting: Arc<AtomicUsize>,
    slots: FxHashMap<Box<str>, Slot>,
    /// The topic of the last raw reading with its lane and run: most connections publish to one topic only.
    last: Option<(Box<str>, usize, usize)>,
    raw: [Vec<RunBuilder>; 2],
    framed: [Vec<u8>; 2],
    secrets: Vec<Announcement>,
}

/// Store and forward collect apart: they take different lanes.
fn side(operation: Operation) -> usize {
    operation.code() as usize
}

impl Session {
    fn refuse(&self, why: Refused, refusal: Refusal) -> Refusal {
        self.metrics.refused(why);
        refusal
    }

    /// Finds the run that collects the readings of `topic`, opening it if need be.
    fn run_of(&mut self, topic: &str) -> Option<(usize, usize)> {
        if !self.slots.contains_key(topic) {
            let Ok(Topic::Reading { operation, series }) = Topic::parse(topic) else { return None };
            let series: Series = series.as_str().parse().ok()?;
            if self.slots.len() >= SERIES_CACHED_MAX {
                self.forget_topics();
            }
            self.slots.insert(topic.into(), Slot { series, operation, run: usize::MAX });
        }
        let slot = self.slots.get_mut(topic)?;
        let side = side(slot.operation);
        if slot.run == usize::MAX {
            slot.run = self.raw[side].len();
            self.raw[side].push(RunBuilder::new(slot.series.clone(), slot.operation));
        }
        Some((side, slot.run))
    }

    /// Drops the cache, but keeps what was collected: a series may then have two runs in one batch, which is allowed.
    fn forget_topics(&mut self) {
        self.slots.clear();
        self.last = None;
    }

    fn offer_reading(&mut self, topic: &str, payload: &[u8]) -> Result<(), Refusal> {
        let at = self.clock.now();
        let (side, run) = match &self.last {
            Some((last, side, run)) if **last == *topic => (*side, *run),
            _ => {
                let Some((side, run)) = self.run_of(topic) else {
                    return Err(self.refuse(Refused::Topic, Refusal::TopicNameInvalid));
                };
                self.last = Some((topic.into(), side, run));
                (side, run)
            }
        };
        self.raw[side][run].push(at, payload).map_err(|_| self.refuse(Refused::Payload, Refusal::PayloadFormatInvalid))
    }

    fn offer_frame(&mut self, operation: Operation, sensor: &SensorId, payload: &[u8]) -> Result<(), Refusal> {
        let Ok(frame) = FrameView::parse(payload) else {
            return Err(self.refuse(Refused::Payload, Refusal::PayloadFormatInvalid));
        };
        // A publisher of one sensor can't speak for another, and the operation of the topic is that of every record.
        if !frame.runs().all(|run| sensor.owns(run.series()) && run.operation() == operation) {
            return Err(self.refuse(Refused::Payload, Refusal::PayloadFormatInvalid));
        }
        self.framed[side(operation)].extend_from_slice(frame.runs);
        let scope = Some(sensor.clone());
        self.secrets
            .extend(frame.secrets.into_iter().map(|(epoch, secret)| Announcement { epoch, scope: scope.clone(), secret }));
        Ok(())
    }
}

impl IntakeSession for Session {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(self.refuse(Refused::Closing, Refusal::Unavailable));
        }
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
            _ => Err(self.refuse(Refused::Topic, Refusal::TopicNameInvalid)),
        }
    }

    fn commit(&mut self) -> Option<Commit> {
        let mut appends = Vec::new();
        for operation in [Operation::Store, Operation::Forward] {
            let (lane, side) = (lane_of(operation), side(operation));
            let raw = std::mem::take(&mut self.raw[side]);
            if !raw.is_empty() {
                appends.push(Append::Raw { lane, runs: raw });
            }
            let framed = std::mem::take(&mut self.framed[side]);
            if !framed.is_empty() {
                appends.push(Append::Framed { lane, runs: framed.into(), secrets: std::mem::take(&mut self.secrets) });
            }
        }
        self.last = None;
        for slot in self.slots.values_mut() {
            slot.run = usize::MAX;
        }
        if appends.is_empty() {
            return None;
        }
        let announces = appends.iter().any(|append| matches!(append, Append::Framed { secrets, .. } if !secrets.is_empty()));
        if announces {
            self.announcing.submitted();
        }
        let announcing = announces.then(|| Arc::clone(&self.announcing));
        let keeping = self.keep(appends);
        let metrics = self.metrics.clone();
        Some(Box::pin(async move {
            let outcome = keeping.await;
            if let Some(announcing) = announcing {
                announcing.settled();
            }
            match outcome {
                Ok(records) => {
                    metrics.taken(records);
                    Ok(())
                }
                Err(error) => Err(refusal(&metrics, &error)),
            }
        }))
    }
}

impl Session {
    /// Submits a batch at once if the archive's queue has room, else when it is awaited. Gives the number of records kept. What one connection
    /// sent between two commits is acknowledged together or not at all.
    fn keep(&self, appends: Vec<Append>) -> impl Future<Output = Result<u64, AppendError>> + Send + use<> {
        let archive = self.archive.clone();
        let waiting = Arc::clone(&self.waiting);
        let mut pending = Vec::with_capacity(appends.len());
        let mut late = Vec::new();
        let mut failed = None;
        let full = archive.queue_room() < QUEUE_SPARE_BYTES || waiting.load(Ordering::Acquire) > 0;
        for append in appends {
            if full {
                late.push(append);
                continue;
            }
            match archive.append(append) {
                Ok(appending) => pending.push(appending),
                Err(error) => failed = Some(error),
            }
        }
        let turn = (!late.is_empty()).then(|| Turn::take(waiting));
        async move {
            for append in late {
                match archive.append_waiting(append).await {
                    Ok(appending) => pending.push(appending),
                    Err(error) => failed = Some(error),
                }
            }
            drop(turn);
            let mut records = 0;
            for appending in pending {
                match appending.await {
                    Ok(appended) => records += appended.new,
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(records), Err)
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
fn refusal(metrics: &Metrics, error: &AppendError) -> Refusal {
    match error {
        AppendError::Full { .. } | AppendError::Busy => {
            metrics.refused(Refused::Full);
            Refusal::QuotaExceeded
        }
        error => {
            metrics.refused(Refused::Store);
            tracing::error!(%error, "readings were not stored and are not acknowledged");
            Refusal::Unavailable
        }
    }
}
