//! Live delivery: new records become messages on `data/{series}` for whoever has subscribed.
//!
//! [`Live::take_in`] stands on the archive's writer thread and must not block it: it puts the new runs into a bounded queue and
//! goes on. [`Live::deliver`] turns what somebody wants of them into messages. Nothing waits for a timer: an idle task is woken by the
//! first run, and a busy one finds more in the queue, so batches grow with the load alone. When the queue is full, new records are left
//! out of the live stream, counted and logged; the archive has them.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::Fresh;
use broker::{Hub, Message};
use chassis::Stop;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use wire::frame::Records;
use wire::{RunView, Runs};

use crate::late::{Late, LateRuns};
use crate::metrics::Metrics;
use crate::moment::Stamper;

/// Messages handed to the broker together: enough to share the hand-over, few enough to keep the memory in a cache.
const MESSAGES_MAX: usize = 512;
/// Topics whose text is kept between runs; then all are forgotten and made anew.
const TOPICS_MAX: usize = 65_536;
/// What waiting runs cost beside their bytes.
const WAITING_OVERHEAD: usize = 128;
/// How often drops are logged.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(1);

enum Waiting {
    /// New runs.
    Fresh(Fresh),
    /// All runs of a historical frame are in the queue before this.
    Committed(LateRuns),
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    bytes: usize,
    dropped: u64,
    drop_logged: Option<Instant>,
}

struct Shared {
    bytes_max: usize,
    queue: Mutex<Queue>,
    filled: Notify,
    late: Late,
    metrics: Metrics,
}

/// New records on their way to live subscribers. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Live(Arc<Shared>);

impl Live {
    /// A queue of at most `bytes_max` bytes; as much again may be in the hands of the delivering task.
    pub(crate) fn new(bytes_max: usize, late: Late, metrics: Metrics) -> Self {
        Self(Arc::new(Shared { bytes_max, queue: Mutex::default(), filled: Notify::new(), late, metrics }))
    }

    /// Takes new runs. Never blocks: the lock is held for a few instructions by either side.
    pub(crate) fn take_in(&self, fresh: Fresh) {
        let cost = fresh.runs.len() + WAITING_OVERHEAD;
        let mut queue = self.0.queue.lock();
        if queue.bytes + cost > self.0.bytes_max {
            self.count_dropped(&mut queue, &fresh);
            return;
        }
        queue.bytes += cost;
        self.push(queue, Waiting::Fresh(fresh));
    }

    /// A historical frame is committed, so all that was new in it is in the queue.
    pub(crate) fn committed(&self, runs: LateRuns) {
        self.push(self.0.queue.lock(), Waiting::Committed(runs));
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, waiting: Waiting) {
        queue.waiting.push(waiting);
        let first = queue.waiting.len() == 1;
        drop(queue);
        if first {
            self.0.filled.notify_one();
        }
    }

    fn count_dropped(&self, queue: &mut Queue, fresh: &Fresh) {
        let records = Runs::new(&fresh.runs).map_while(Result::ok).map(|run| run.count()).sum();
        self.0.metrics.live_dropped.inc_by(records);
        queue.dropped += records;
        let now = Instant::now();
        if queue.drop_logged.is_none_or(|logged| now - logged >= DROP_LOG_INTERVAL) {
            queue.drop_logged = Some(now);
            tracing::warn!(records = queue.dropped, "live subscribers are too slow: records were left out of the live stream");
            queue.dropped = 0;
        }
    }

    /// Waits for runs and takes all that are there.
    async fn take_all(&self) -> Vec<Waiting> {
        loop {
            let waiting = {
                let mut queue = self.0.queue.lock();
                queue.bytes = 0;
                std::mem::take(&mut queue.waiting)
            };
            if !waiting.is_empty() {
                return waiting;
            }
            self.0.filled.notified().await;
        }
    }

    /// Delivers until told to stop. What is still waiting then is not delivered: its readers are being disconnected.
    pub(crate) async fn deliver(self, hub: Hub, stop: Stop) {
        let mut writer = Writer::default();
        loop {
            let waiting = tokio::select! {
                () = stop.stopped() => return,
                waiting = self.take_all() => waiting,
            };
            for waiting in waiting {
                match waiting {
                    Waiting::Fresh(fresh) => self.write(&fresh, &hub, &mut writer).await,
                    Waiting::Committed(runs) => self.0.late.forget(&runs),
                }
            }
            self.publish(&hub, &mut writer).await;
        }
    }

    /// Writes messages of what somebody wants; full batches are handed over on the way.
    async fn write(&self, fresh: &Fresh, hub: &Hub, writer: &mut Writer) {
        for run in Runs::new(&fresh.runs).map_while(Result::ok) {
            let topic = writer.topic(run.series());
            if !hub.wanted(&topic) {
                continue;
            }
            let historical = self.0.late.holds(&run);
            let mut records = run.records();
            while writer.write(&topic, fresh, historical, &run, &mut records) {
                self.publish(hub, writer).await;
            }
        }
    }

    async fn publish(&self, hub: &Hub, writer: &mut Writer) {
        if writer.messages.is_empty() {
            return;
        }
        let messages = std::mem::replace(&mut writer.messages, Vec::with_capacity(MESSAGES_MAX));
        self.0.metrics.live_published.inc_by(messages.len() as u64);
        hub.publish_all(messages).await;
    }
}

/// Writes messages, with as few allocations a record as the broker's message allows.
#[derive(Default)]
struct Writer {
    messages: Vec<Message>,
    topics: FxHashMap<Box<str>, Arc<str>>,
    stamper: Stamper,
    key: String,
}

impl Writer {
    /// Writes messages of a run's records until there are enough; says whether the batch is full.
    fn write(&mut self, topic: &Arc<str>, fresh: &Fresh, historical: bool, run: &RunView<'_>, records: &mut Records<'_>) -> bool {
        self.key.clear();
        // Writing to a string can't fail.
        let _ = write!(self.key, "{}@{}.", run.series(), run.epoch());
        let place = self.key.len();
        let operation = run.operation().as_str();
        while self.messages.len() < MESSAGES_MAX {
            let Some(record) = records.next() else { return false };
            self.key.truncate(place);
            let _ = write!(self.key, "{}", record.seq);
            let mut message = Message::new(topic.clone(), fresh.runs.slice_ref(record.payload))
                .user_property("key", &self.key)
                .user_property("at", self.stamper.stamp(record.at))
                .user_property("relay", fresh.via.as_str())
                .user_property("operation", operation);
            if historical {
                message = message.user_property("historical", "true");
            }
            self.messages.push(message);
        }
        true
    }

    fn topic(&mut self, series: &str) -> Arc<str> {
        if let Some(topic) = self.topics.get(series) {
            return topic.clone();
        }
        if self.topics.len() >= TOPICS_MAX {
            self.topics.clear();
        }
        let topic: Arc<str> = format!("data/{series}").into();
        self.topics.insert(series.into(), topic.clone());
        topic
    }
}
