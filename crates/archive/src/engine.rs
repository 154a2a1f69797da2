//! The writer thread's work: numbers, verdicts, pages, upkeep.
//!
//! A commit writes one row a page and a few small rows beside it, whatever it holds: no row a record, no row a series. What the counters
//! were is found again at the next opening from the last snapshot and the pages behind it.

mod ahead;
mod ingest;
mod pages;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rusqlite::{Connection, Transaction};
use rustc_hash::FxHashMap;
use store::{Fault, Work};
use tokio::sync::watch;
use wire::{Announcement, At, Digest, Epoch, Intervals, Record, RunBuilder};

use crate::anchored::{self, Following};
use crate::append::{Appended, Lane};
use crate::buffer::Written;
use crate::chunk::ChunkRow;
use crate::held::{Held, StateId};
use crate::lanes::Page;
use crate::schema::{encode, execute, to_sql};
use crate::shared::Shared;
use ahead::Ahead;

pub(crate) use ahead::recover_ahead;
pub(crate) use pages::{Next, Pages};
pub(crate) use upkeep::{Frozen, GoneRuns, HandOver, Publish};

/// One run of an append, looked at on the caller's thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunMeta {
    pub(crate) series: u32,
    pub(crate) epoch: u64,
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    pub(crate) at_min: At,
    pub(crate) at_max: At,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// What the writer thread is asked for.
#[derive(Debug)]
pub(crate) enum Job {
    /// Number these and keep them.
    Raw { lane: Lane, runs: Vec<(u32, RunBuilder)>, weight: usize },
    /// Keep these as they are.
    Framed { lane: Lane, bytes: Bytes, runs: Vec<RunMeta>, secrets: Vec<Announcement> },
    /// Keep of these what is new.
    Ingest { relay: u32, epoch: u64, number: u64, bytes: Bytes, runs: Vec<RunMeta>, secrets: Vec<Announcement> },
    /// The cloud holds these pages.
    Delivered(Intervals),
    /// What is held of this series.
    Held(u32),
    /// Say where the open segment ends and which counters changed.
    Freeze,
    /// Counters that are not going to be saved after all.
    PutBack(Vec<StateId>),
    /// Save these counters.
    Save(Vec<StateId>),
    /// Keep these chunks, to be published later; their records are durable since then.
    Chunks(Vec<ChunkRow>, At),
    /// Two records of one key were found while a segment was closed; these are the later ones.
    KeepAside(Vec<(u32, Record)>),
    /// Throw away chunks that were not published.
    Discard,
    /// The segment is closed.
    Publish(Publish),
    /// Delete pages that nobody needs.
    Purge,
    /// A chunk's secret became known.
    Root { chunk: i64, root: Digest },
    /// Put the records of chunks on the backlog lane.
    HandOver(HandOver),
    /// The anchor ledger says where batches stand.
    Anchored(Following),
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Done {
    Appended(Appended),
    Held(Vec<(Epoch, Intervals)>),
    Frozen(Frozen),
    /// The page that carries what was handed over.
    HandedOver(u64),
    /// Whether there is more to purge.
    Purged {
        more: bool,
    },
    Plain,
}

impl Done {
    /// The answer does not fit the question; only a mistake in this crate can make that happen.
    pub(crate) fn unexpected(&self) -> Fault {
        Fault::Work(format!("the writer answered {self:?} to another question").into())
    }
}

/// What a commit makes true in memory.
#[derive(Debug)]
pub(crate) enum Effect {
    Buffered {
        written: Written,
        records: u64,
        bytes: u64,
    },
    Outgoing {
        lane: Lane,
        page: Page,
    },
    Delivered(Intervals),
    Secrets(Vec<Announcement>),
    /// Raw readings are numbered in this epoch from now on.
    Origin(Epoch),
    SeriesSaved(Vec<u32>),
    RelaySaved(u32),
    BufferDone(u64),
    ChunksAdded {
        records: i64,
        bytes: i64,
    },
    Purged {
        lane: Lane,
        records: u64,
        bytes: u64,
    },
    Marks {
        outgoing_saved: u64,
        buffer_done: u64,
    },
    /// Runs of a series in pages up to this one have left the open segment.
    Gone {
        series: u32,
        page: u64,
    },
    /// Chunks that came into the index or left it.
    Index(Intervals),
}

/// Frames received from one database of one relay.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    numbers: Intervals,
    touched: bool,
}

impl Frames {
    pub(crate) fn of(numbers: Intervals) -> Self {
        Self { numbers, touched: false }
    }
}

/// What recovery found, for the engine to go on with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) held: Held,
    pub(crate) origin: Epoch,
    pub(crate) frames: FxHashMap<(u32, u64), Frames>,
    pub(crate) delivered: Intervals,
    pub(crate) next: Next,
    pub(crate) next_chunk: i64,
    pub(crate) outgoing_saved: u64,
    pub(crate) buffer_done: u64,
    pub(crate) series_saved: Vec<bool>,
    pub(crate) relays_saved: Vec<bool>,
}

/// The writer thread's own state.
#[derive(Debug)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
    start: Start,
    pages: Pages,
    effects: Vec<Effect>,
    /// Frames of the current group, for a rollback.
    frames_added: Vec<((u32, u64), u64)>,
    /// Counters handed out by a freeze in the current group.
    frozen: Vec<StateId>,
    committed_chunk: i64,
    /// Where raw readings get their numbers.
    origin: Epoch,
    ahead: Ahead,
    announce: watch::Sender<u64>,
    visible: watch::Sender<u64>,
}

impl Engine {
    /// An engine that tells the last outgoing page that is committed, and the last one that may be sent.
    pub(crate) fn new(shared: Arc<Shared>, start: Start, announce: watch::Sender<u64>, visible: watch::Sender<u64>) -> Self {
        let pages = Pages::new(start.next);
        let committed_chunk = start.next_chunk;
        Self {
            shared,
            origin: start.origin,
            start,
            pages,
            effects: Vec::new(),
            frames_added: Vec::new(),
            frozen: Vec::new(),
            committed_chunk,
            ahead: Ahead::default(),
            announce,
            visible,
        }
    }

    fn job(&mut self, tx: &Transaction<'_>, job: Job, now: At) -> Result<Done, Fault> {
        match job {
            Job::Raw { lane, runs, .. } => self.raw(tx, lane, &runs, now),
            Job::Framed { lane, bytes, runs, secrets } => self.framed(tx, lane, &bytes, &runs, secrets, now),
            Job::Ingest { relay, epoch, number, bytes, runs, secrets } => {
                self.learn(tx, secrets)?;
                self.ingest(tx, (relay, epoch), number, &bytes, &runs, now)
            }
            Job::Delivered(numbers) => self.delivered(tx, numbers),
            Job::Held(series) => {
                Ok(Done::Held(self.start.held.of_series(series).map(|(epoch, held)| (Epoch(epoch), held.clone())).collect()))
            }
            Job::Freeze => self.freeze(tx, now),
            Job::PutBack(ids) => {
                self.start.held.put_back(ids);
                Ok(Done::Plain)
            }
            Job::Save(ids) => self.save(tx, &ids),
            Job::Chunks(rows, taken_at) => self.chunks(tx, &rows, taken_at),
            Job::KeepAside(records) => {
                for (via, record) in &records {
                    self.keep_aside(tx, *via, &record.view(), None, now)?;
                }
                Ok(Done::Plain)
            }
            Job::Discard => self.discard(tx),
            Job::Publish(publish) => self.publish(tx, &publish),
            Job::Purge => self.purge(tx),
            Job::Root { chunk, root } => self.root(tx, chunk, &root),
            Job::HandOver(handed) => self.hand_over(tx, handed, now),
            Job::Anchored(following) => {
                anchored::write(tx, &following)?;
                Ok(Done::Plain)
            }
        }
    }

    fn raw(&mut self, tx: &Transaction<'_>, lane: Lane, runs: &[(u32, RunBuilder)], now: At) -> Result<Done, Fault> {
        let own = self.shared.own;
        let epoch = self.origin(tx)?;
        let mut new = 0;
        for (series, run) in runs {
            let state = self.start.held.id(*series, epoch.0);
            let first = self.start.held.of(state).last().unwrap_or(0) + 1;
            self.start.held.add(state, first, first + run.len() - 1);
            new += run.len();
            let bytes = if lane == Lane::Store {
                self.pages.push_with(lane, own, *series, run.len(), |out| run.write(epoch, first, out))?
            } else {
                self.pages.write_outgoing(lane, own, run.len(), |out| run.write(epoch, first, out))
            };
            self.cut(tx, lane, own, bytes, now)?;
        }
        Ok(Done::Appended(Appended { new, ..Appended::default() }))
    }

    fn framed(
        &mut self,
        tx: &Transaction<'_>,
        lane: Lane,
        bytes: &[u8],
        runs: &[RunMeta],
        secrets: Vec<Announcement>,
        now: At,
    ) -> Result<Done, Fault> {
        self.learn(tx, secrets)?;
        let own = self.shared.own;
        let mut new = 0;
        for run in runs {
            let state = self.start.held.id(run.series, run.epoch);
            self.start.held.add_missing(state, run.first_seq, run.first_seq + run.count - 1);
            new += run.count;
            let written = self.pages.push(lane, own, run, &bytes[run.start as usize..run.end as usize]);
            self.cut(tx, lane, own, written, now)?;
        }
        Ok(Done::Appended(Appended { new, ..Appended::default() }))
    }

    /// Writes a page that is full.
    fn cut(&mut self, tx: &Transaction<'_>, lane: Lane, via: u32, bytes: usize, now: At) -> Result<(), Fault> {
        if bytes >= self.shared.options.page_bytes_max {
            let effect = self.pages.flush(tx, &self.shared, lane, via, now)?;
            self.effects.extend(effect);
        }
        Ok(())
    }

    /// Keeps secrets that are not known yet.
    fn learn(&mut self, tx: &Transaction<'_>, mut secrets: Vec<Announcement>) -> Result<(), Fault> {
        secrets.retain(|announced| !self.shared.secrets.knows(announced));
        if secrets.is_empty() {
            return Ok(());
        }
        for announced in &secrets {
            let scope = announced.scope.as_ref().map_or("", |sensor| sensor.as_str());
            execute(
                tx,
                "INSERT OR IGNORE INTO epochs (epoch, scope, secret) VALUES (?1, ?2, ?3)",
                (to_sql(announced.epoch.0), scope, &announced.secret.expose()[..]),
            )?;
        }
        self.effects.push(Effect::Secrets(secrets));
        Ok(())
    }

    /// Saves a relay's name under its number.
    fn save_relay(&mut self, tx: &Transaction<'_>, relay: u32) -> Result<(), Fault> {
        if self.start.relays_saved.get(relay as usize).copied().unwrap_or(false) {
            return Ok(());
        }
        let name = self.shared.relays.name(relay).ok_or(Fault::Work("a relay has no name".into()))?;
        execute(tx, "INSERT OR IGNORE INTO relays (id, name) VALUES (?1, ?2)", (relay, &*name))?;
        self.effects.push(Effect::RelaySaved(relay));
        Ok(())
    }

    fn save_frames(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        for index in 0..self.frames_added.len() {
            let (key, _) = self.frames_added[index];
            let Some(frames) = self.start.frames.get_mut(&key).filter(|frames| frames.touched) else { continue };
            frames.touched = false;
            execute(
                tx,
                "INSERT INTO frames (relay, epoch, numbers) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET numbers = excluded.numbers",
                (key.0, to_sql(key.1), encode(&frames.numbers)),
            )?;
        }
        Ok(())
    }

    fn take_effect(&mut self, effect: Effect) {
        let shared = &self.shared;
        match effect {
            Effect::Buffered { written, records, bytes } => {
                shared.gauges.buffer.add(records.cast_signed(), bytes.cast_signed());
                shared.buffer.add(written);
            }
            Effect::Outgoing { lane, page } => {
                shared.gauges.lane(lane).add(page.records.cast_signed(), page.body.len() as i64);
                shared.outgoing.add(lane, page);
            }
            Effect::Delivered(numbers) => {
                self.start.delivered.extend(&numbers);
                shared.outgoing.deliver(&numbers);
            }
            Effect::Secrets(secrets) => secrets.iter().for_each(|announced| shared.secrets.add(announced)),
            Effect::Origin(epoch) => shared.origin.store(epoch.0, Ordering::Release),
            Effect::SeriesSaved(ids) => ids.iter().for_each(|id| mark(&mut self.start.series_saved, *id)),
            Effect::RelaySaved(id) => mark(&mut self.start.relays_saved, id),
            Effect::BufferDone(last) => shared.buffer.remove_up_to(last),
            Effect::ChunksAdded { records, bytes } => shared.gauges.chunks.add(records, bytes),
            Effect::Purged { lane, records, bytes } => shared.gauges.lane(lane).add(-records.cast_signed(), -bytes.cast_signed()),
            Effect::Marks { outgoing_saved, buffer_done } => {
                self.start.outgoing_saved = outgoing_saved;
                self.start.buffer_done = buffer_done;
            }
            Effect::Gone { series, page } => shared.buffer.remove_series_up_to(series, page),
            Effect::Index(numbers) => shared.index.add(&numbers),
        }
    }
}

fn mark(saved: &mut Vec<bool>, id: u32) {
    let index = id as usize;
    if saved.len() <= index {
        saved.resize(index + 1, false);
    }
    saved[index] = true;
}

impl Work for Engine {
    type Job = Job;
    type Done = Done;

    fn apply(&mut self, tx: &Transaction<'_>, jobs: &mut Vec<Job>) -> Result<Vec<Done>, Fault> {
        let now = (self.shared.options.now)();
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            done.push(self.job(tx, job, now)?);
        }
        self.pages.show(&self.shared);
        Ok(done)
    }

    fn complete(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let now = (self.shared.options.now)();
        self.pages.flush_all(tx, &self.shared, now, &mut self.effects)?;
        self.save_frames(tx)?;
        self.pass_over(tx)?;
        self.show_ahead(tx)
    }

    /// Records and receipts may wait for others; who asks for the rest asks one after the other.
    fn is_patient(job: &Job) -> bool {
        matches!(job, Job::Ingest { .. } | Job::Raw { .. } | Job::Framed { .. } | Job::Delivered(_))
    }

    fn committed(&mut self) {
        self.start.held.begin();
        let before = self.pages.committed_outgoing();
        self.pages.commit();
        self.committed_chunk = self.start.next_chunk;
        self.frames_added.clear();
        self.frozen.clear();
        self.ahead_committed();
        let mut effects = std::mem::take(&mut self.effects);
        effects.drain(..).for_each(|effect| self.take_effect(effect));
        self.effects = effects;
        let last = self.pages.committed_outgoing();
        if last != before {
            self.announce.send_replace(last - 1);
            self.visible.send_if_modified(|visible| std::mem::replace(visible, last - 1) != last - 1);
        }
    }

    fn ended(&mut self, connection: &Connection) {
        self.end_ahead(connection);
    }

    fn rolled_back(&mut self) {
        self.ahead_rolled_back();
        self.pages.roll_back();
        self.start.held.roll_back();
        self.start.next_chunk = self.committed_chunk;
        self.effects.clear();
        for (key, number) in self.frames_added.drain(..) {
            if let Some(frames) = self.start.frames.get_mut(&key) {
                frames.numbers.remove(number, number);
                frames.touched = false;
            }
        }
        let frozen = std::mem::take(&mut self.frozen);
        self.start.held.put_back(frozen);
    }

    fn weigh(job: &Job) -> usize {
        /// What a job costs beside its bytes.
        const OVERHEAD: usize = 256;
        match job {
            Job::Raw { weight, .. } => *weight + OVERHEAD,
            Job::HandOver(handed) => handed.runs.len() + OVERHEAD,
            Job::Framed { bytes, runs, .. } | Job::Ingest { bytes, runs, .. } => {
                bytes.len() + runs.len() * size_of::<RunMeta>() + OVERHEAD
            }
            _ => OVERHEAD,
        }
    }
}
