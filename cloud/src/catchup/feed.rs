//! One feed: history first, then what is committed, from the archive alone.
//!
//! The task holds at most one batch that waits for the session, and goes on keeping account of what is committed meanwhile. It ends
//! when the session drops the feed.

use std::sync::Arc;
use std::time::Duration;

use archive::{Archive, Behind, Committed, Follower, ReadError, SeriesId, Stretch, Walk, Walked};
use broker::{FeedEnd, Message, Policy};
use chassis::Clock;
use rustc_hash::FxHashSet;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use wire::grants::Action;
use wire::{At, Epoch, Series, Topic};

use super::plan::{Due, Plan};
use super::scribe::{Batch, Heading, Line, Scribe};
use crate::history::{History, Viewer};
use crate::index::LookFault;
use crate::metrics::Metrics;

/// Records of one walk, and bytes of their payloads.
const PIECE_RECORDS_MAX: usize = 512;
const PIECE_BYTES_MAX: usize = 128 << 10;
/// Beyond this, what is committed is not put into a batch that waits; it is due then.
const BATCH_RECORDS_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Pages taken from the follower at once.
const PAGES_MAX: usize = 64;
/// Series asked about in one read.
const LIST_PIECE: usize = 256;
/// Series that relays are asked for together.
const BRING_PIECE: usize = 64;
/// What it costs to await a series, about.
const AWAITED_BYTES: usize = 192;
/// How often grants are asked again; each record is asked about at most this long ago.
const GRANTS_INTERVAL: Duration = Duration::from_millis(500);

/// What all feeds of a cloud share.
pub(super) struct Shared {
    pub(super) archive: Archive,
    /// Has relays bring what they keep.
    pub(super) history: History,
    pub(super) policy: Policy,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    /// Feeds that read the archive at the same time.
    pub(super) readers: Semaphore,
    /// Bytes that the account of one feed may cost.
    pub(super) memory_max: usize,
}

/// Whether a series is the feed's business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Known {
    /// Not asked yet.
    #[default]
    No,
    /// It does not match the filter, ever.
    Foreign,
    /// It matches, and no grant names it.
    Denied,
    /// It is.
    Own,
}

pub(super) struct Feed {
    shared: Arc<Shared>,
    viewer: Viewer,
    /// `data/…`, as grants know it.
    filter: String,
    from: At,
    follower: Follower,
    plan: Plan,
    known: Vec<Known>,
    scribe: Scribe,
    /// Series found granted lately, under this version of the policy.
    granted: (u64, FxHashSet<SeriesId>),
    policy_version: u64,
    asked: Instant,
    /// Series of which relays may keep records that are being brought. They are sent from when that is done, in order.
    awaited: FxHashSet<Series>,
    brought: mpsc::Receiver<Vec<Series>>,
    tell_brought: mpsc::Sender<Vec<Series>>,
    /// What brings them; ends with the feed.
    bringing: JoinSet<()>,
}

impl Feed {
    pub(super) fn new(shared: Arc<Shared>, viewer: Viewer, filter: String, from: At) -> Self {
        let (tell_brought, brought) = mpsc::channel(1);
        Self {
            follower: shared.archive.follow(),
            policy_version: shared.policy.version(),
            shared,
            viewer,
            filter,
            from,
            plan: Plan::default(),
            known: Vec::new(),
            scribe: Scribe::default(),
            granted: (0, FxHashSet::default()),
            asked: Instant::now(),
            awaited: FxHashSet::default(),
            brought,
            tell_brought,
            bringing: JoinSet::new(),
        }
    }

    /// Whether grants cover the feed as a whole: to subscribe, and to ask for the past.
    pub(super) fn is_covered(shared: &Shared, viewer: &Viewer, filter: &str) -> bool {
        let (subject, now) = (viewer.subject(), shared.clock.now());
        [Action::Subscribe, Action::Query].into_iter().all(|action| shared.policy.covers(&subject, action, filter, now))
    }

    /// Feeds `out` until it is closed, or until the feed can't go on.
    pub(super) async fn run(mut self, out: mpsc::Sender<Result<Vec<Message>, FeedEnd>>) {
        if let Err(end) = self.feed(&out).await {
            self.shared.metrics.feed_ended(end);
            // Fails if nobody wants to know.
            let _ = out.send(Err(end)).await;
        }
    }

    async fn feed(&mut self, out: &mpsc::Sender<Result<Vec<Message>, FeedEnd>>) -> Result<(), FeedEnd> {
        let mut ticks = tokio::time::interval(GRANTS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.list().await?;
        let mut batch = Batch::default();
        loop {
            if batch.messages.is_empty()
                && let Some(due) = self.plan.next()
            {
                self.walk(&due, &mut batch).await?;
            }
            let more = self.absorb(&mut batch).await?;
            let idle = batch.messages.is_empty();
            if idle && (more || self.plan.next().is_some()) {
                if out.is_closed() {
                    return Ok(());
                }
                self.ask_again().await?;
                continue;
            }
            let mut brought = None;
            tokio::select! {
                room = out.reserve(), if !idle => {
                    let Ok(room) = room else { return Ok(()) };
                    let sent = std::mem::take(&mut batch);
                    self.shared.metrics.feed_records.inc_by(sent.messages.len() as u64);
                    room.send(Ok(sent.messages));
                }
                () = out.closed() => return Ok(()),
                () = self.follower.changed() => {}
                names = self.brought.recv() => brought = names,
                _ = ticks.tick() => {}
            }
            if let Some(names) = brought {
                // What was brought is committed; it goes behind what was held, before the series is let go.
                while self.absorb(&mut batch).await? {}
                self.release(&names);
            }
            self.ask_again().await?;
        }
    }

    fn release(&mut self, names: &[Series]) {
        for name in names {
            self.awaited.remove(name);
            if let Some(id) = self.shared.archive.series_id(name) {
                self.plan.release(id);
            }
        }
    }

    /// Asks the grants again, if they have changed or a while has passed: a feed does not outlive its grant, and begins with what has
    /// been granted since.
    async fn ask_again(&mut self) -> Result<(), FeedEnd> {
        let version = self.shared.policy.version();
        if version == self.policy_version && self.asked.elapsed() < GRANTS_INTERVAL {
            return Ok(());
        }
        self.asked = Instant::now();
        self.granted.1.clear();
        if !Self::is_covered(&self.shared, &self.viewer, &self.filter) {
            return Err(FeedEnd::NotAuthorized);
        }
        if version != self.policy_version {
            self.policy_version = version;
            let topics = self.plan.series().map(|(_, topic)| topic);
            if !topics.into_iter().all(|topic| self.may_see(topic)) {
                return Err(FeedEnd::NotAuthorized);
            }
            self.known.iter_mut().filter(|known| **known == Known::Denied).for_each(|known| *known = Known::No);
            self.list().await?;
        }
        Ok(())
    }

    fn may_see(&self, topic: &str) -> bool {
        let (subject, now) = (self.viewer.subject(), self.shared.clock.now());
        let policy = &self.shared.policy;
        policy.delivers(&subject, topic, now) && policy.verdict(&subject, Action::Query, topic, now).is_allowed()
    }

    /// [`Feed::may_see`] of a series of the feed, asked at most [`GRANTS_INTERVAL`] ago and under the policy in force.
    fn still_granted(&mut self, series: SeriesId) -> Result<(), FeedEnd> {
        let version = self.shared.policy.version();
        if self.granted.0 != version {
            self.granted.1.clear();
            self.granted.0 = version;
        }
        if !self.granted.1.contains(&series) {
            let Some(topic) = self.plan.topic(series) else { return Err(FeedEnd::NotAuthorized) };
            if !self.may_see(topic) {
                return Err(FeedEnd::NotAuthorized);
            }
            self.granted.1.insert(series);
        }
        Ok(())
    }

    /// Finds all series that the feed is about, and what is held of them. What relays keep of them is brought first.
    async fn list(&mut self) -> Result<(), FeedEnd> {
        let (pattern, history) = (self.pattern().to_owned(), self.shared.history.clone());
        let heard = history.hear((self.from, At::MAX), history.pulls().deadline()).await;
        let open = heard.unwrap_or_default().series(|name| wire::filter::matches(&pattern, name));
        let (ids, stated) = self
            .read(move |archive| {
                let mut stated = history.index().series(|name| wire::filter::matches(&pattern, name))?;
                stated.extend(open);
                Ok::<_, LookFault>((archive.series_ids(&pattern), stated))
            })
            .await?;
        let fresh: Vec<SeriesId> = ids.into_iter().filter(|id| self.known(*id) == Known::No).collect();
        let (mut own, mut names) = (Vec::new(), Vec::new());
        for id in fresh {
            let Some(topic) = self.meet(id) else { continue };
            names.extend(self.shared.archive.series_of(id));
            self.plan.hold_back(id, &topic);
            own.push((id, topic));
        }
        self.hold(&own).await?;
        // Series of which relays alone have anything.
        let elsewhere = |name: &Series| self.shared.archive.series_id(name).is_none() && self.may_see(&topic_of(name));
        names.extend(stated.into_iter().filter(elsewhere));
        self.awaited.extend(names.iter().cloned());
        self.check_memory()?;
        self.bring(names);
        Ok(())
    }

    /// Has relays bring what they keep of these series, piece by piece, and tells when a piece is here or can't be had now.
    fn bring(&mut self, names: Vec<Series>) {
        let (history, tell, from) = (self.shared.history.clone(), self.tell_brought.clone(), self.from);
        self.bringing.spawn(async move {
            for piece in names.chunks(BRING_PIECE) {
                let (deadline, range) = (history.pulls().deadline(), (from, At::MAX));
                let brought = async {
                    let heard = history.hear(range, deadline).await?;
                    history.bring((piece, 0), &heard, range, deadline).await
                };
                if let Err(problem) = brought.await {
                    tracing::warn!(?problem, "what relays keep can't be brought for a feed");
                }
                if tell.send(piece.to_vec()).await.is_err() {
                    return;
                }
            }
        });
    }

    /// What is held of series of the feed, and was not sent, is due.
    async fn hold(&mut self, series: &[(SeriesId, Arc<str>)]) -> Result<(), FeedEnd> {
        let from = self.from;
        for piece in series.chunks(LIST_PIECE) {
            let ids: Vec<SeriesId> = piece.iter().map(|(id, _)| *id).collect();
            let held = self
                .read(move |archive| {
                    let mut held = archive.held_of(&ids, from)?;
                    for (id, held) in ids.iter().zip(&mut held).filter(|(_, held)| held.since && held.epochs.len() > 1) {
                        let order = archive.epochs_by_age(*id)?;
                        let place = |epoch: &Epoch| order.iter().position(|other| other == epoch);
                        held.epochs.sort_by_key(|(epoch, _)| place(epoch));
                    }
                    Ok::<_, ReadError>(held)
                })
                .await?;
            for ((id, topic), held) in piece.iter().zip(held) {
                self.plan.hold(*id, topic, &held.epochs, !held.since);
            }
            self.check_memory()?;
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), FeedEnd> {
        let bytes = self.plan.bytes() + self.known.capacity() + self.awaited.len() * AWAITED_BYTES;
        if bytes <= self.shared.memory_max {
            return Ok(());
        }
        tracing::warn!(
            filter = self.filter,
            bytes,
            "a feed needs more than feeds.memory and ends: too many series, or too many holes"
        );
        Err(FeedEnd::QuotaExceeded)
    }

    /// The part of the filter that the names of series match.
    fn pattern(&self) -> &str {
        self.filter.strip_prefix("data/").unwrap_or(&self.filter)
    }

    fn known(&self, id: SeriesId) -> Known {
        self.known.get(id.index()).copied().unwrap_or_default()
    }

    /// Decides about a series that has not been seen before; its topic if it is the feed's business.
    fn meet(&mut self, id: SeriesId) -> Option<Arc<str>> {
        let series = self.shared.archive.series_of(id)?;
        let mut found = None;
        let known = if wire::filter::matches(self.pattern(), series.as_str()) {
            let topic = topic_of(&series);
            if self.may_see(&topic) {
                found = Some(topic.into());
                Known::Own
            } else {
                Known::Denied
            }
        } else {
            Known::Foreign
        };
        if self.known.len() <= id.index() {
            self.known.resize(id.index() + 1, Known::No);
        }
        self.known[id.index()] = known;
        found
    }

    /// Sends a piece of what is due.
    async fn walk(&mut self, due: &Due, batch: &mut Batch) -> Result<(), FeedEnd> {
        let (asked, from) = (due.clone(), self.from);
        let walked = self
            .read(move |archive| {
                archive.walk(&Walk {
                    series: asked.series,
                    epoch: asked.epoch,
                    wanted: &asked.wanted,
                    from,
                    records_max: PIECE_RECORDS_MAX,
                    bytes_max: PIECE_BYTES_MAX,
                })
            })
            .await?;
        let Walked { records, to, unreadable } = walked;
        self.shared.metrics.feed_unreadable.inc_by(unreadable);
        if !records.is_empty() {
            self.still_granted(due.series)?;
        }
        if let Some(topic) = self.plan.topic(due.series) {
            let series = topic.strip_prefix("data/").unwrap_or(topic);
            let heading = Heading { topic, series, epoch: due.epoch };
            for record in records {
                let is_past = self.plan.is_past(due.series, due.epoch, record.seq);
                let line = Line {
                    seq: record.seq,
                    at: record.at,
                    operation: record.operation,
                    via: &record.via,
                    payload: record.payload,
                    is_past,
                };
                self.scribe.write(&heading, line, batch);
            }
        }
        self.plan.walked(due, to);
        self.check_memory()
    }

    /// Takes in what was committed: into the batch where it is next and the batch has room, otherwise it is due. Says whether there
    /// may be more.
    async fn absorb(&mut self, batch: &mut Batch) -> Result<bool, FeedEnd> {
        let pages = match self.follower.take(PAGES_MAX) {
            Ok(pages) => pages,
            Err(Behind) => {
                let own: Vec<_> = self.plan.series().map(|(id, topic)| (id, topic.clone())).collect();
                self.hold(&own).await?;
                self.list().await?;
                return Ok(true);
            }
        };
        for page in &pages {
            self.take_in(page, batch)?;
        }
        if !pages.is_empty() {
            self.check_memory()?;
        }
        Ok(pages.len() == PAGES_MAX)
    }

    fn take_in(&mut self, page: &Committed, batch: &mut Batch) -> Result<(), FeedEnd> {
        let via = self.follower.relay(page).unwrap_or_else(|| "".into());
        for stretch in page.stretches() {
            let id = stretch.series;
            match self.known(id) {
                Known::Foreign | Known::Denied => continue,
                Known::Own => {}
                // New since the feed began, so all of it comes this way.
                Known::No => match self.meet(id) {
                    Some(topic) => {
                        if self.shared.archive.series_of(id).is_some_and(|name| self.awaited.contains(&name)) {
                            self.plan.hold_back(id, &topic);
                        }
                        self.plan.hold(id, &topic, &[], false);
                    }
                    None => continue,
                },
            }
            let room = batch.messages.len() < BATCH_RECORDS_MAX && batch.bytes < BATCH_BYTES_MAX;
            if self.plan.committed(id, stretch.epoch, (stretch.first_seq, stretch.last_seq), room) {
                self.still_granted(id)?;
                self.copy(page, &stretch, &via, batch);
            }
        }
        Ok(())
    }

    /// Puts what was just committed into the batch.
    fn copy(&mut self, page: &Committed, stretch: &Stretch, via: &str, batch: &mut Batch) {
        let (Some(topic), Some(run)) = (self.plan.topic(stretch.series), page.run(stretch)) else { return };
        let heading = Heading { topic, series: run.series(), epoch: stretch.epoch };
        let operation = run.operation();
        for record in run.records().filter(|record| record.at >= self.from) {
            let payload = page.body().slice_ref(record.payload);
            let line = Line { seq: record.seq, at: record.at, operation, via, payload, is_past: false };
            self.scribe.write(&heading, line, batch);
        }
    }

    /// Reads the archive where waiting for the disk hurts nobody.
    async fn read<T: Send + 'static, E: std::error::Error + Send + 'static>(
        &self,
        read: impl FnOnce(&Archive) -> Result<T, E> + Send + 'static,
    ) -> Result<T, FeedEnd> {
        let _permit = self.shared.readers.acquire().await.map_err(|_| FeedEnd::Unavailable)?;
        let archive = self.shared.archive.clone();
        match tokio::task::spawn_blocking(move || read(&archive)).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(fault)) => {
                tracing::error!(error = %fault, "the archive did not answer a feed");
                Err(FeedEnd::Unavailable)
            }
            Err(fault) => {
                tracing::error!(error = %fault, "a read for a feed ended without an answer");
                Err(FeedEnd::Unavailable)
            }
        }
    }
}

fn topic_of(series: &Series) -> String {
    Topic::Data { series: series.into() }.to_string()
}
