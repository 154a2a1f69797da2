//! Handing over: stored records go up when the cloud asks for them (A12, A13), or when an operator flushes the relay.
//!
//! A hand-over moves records from the storage area to the backlog lane, a page in a transaction, as the lane has room. From there they
//! are sent, receipted and deleted like everything else, so custody is in one place at every moment. The reply names the frames; that
//! they have arrived the cloud sees itself.

mod prove;
mod pulls;
mod unstated;

use std::convert::Infallible;
use std::time::Duration;

use archive::{Archive, HandedOver, HandingOver, ReadError, Selection};
use chassis::Stop;
use link::PublishError;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use wire::index::{Outcome, Reply, Stretch};
use wire::topics::Up;
use wire::{Command, Intervals};

use crate::index::{Asked, Progress};
use crate::metrics::Metrics;
use crate::outlet::Outlet;
use prove::Wanted;
use pulls::{Pulls, Range};
use unstated::Asks;

/// How long a hand-over waits for room in the outgoing lanes.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const ROOM_EVERY: Duration = Duration::from_millis(20);
/// Replies and flushes that wait, at most. A reply that finds no room is dropped: whoever asked asks again.
const REPLIES_MAX: usize = 1_024;
const FLUSHES_MAX: usize = 64;
/// Records that wait to be shown, at most; more are refused.
const PROVES_MAX: usize = 256;
/// How often a reply is said whose connection ends under it.
const REPLY_TRIES: u32 = 3;

/// Why something was not handed over, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The disk failed.
    #[error(transparent)]
    Archive(#[from] ReadError),
    /// The cloud takes less than what waits for it already.
    #[error("too much waits for the cloud's receipt already (storage.outgoing_budget); the rest stays in the storage area")]
    NoRoom,
}

/// Carries out hand-overs.
pub struct Handover {
    archive: Archive,
    /// Bytes that may wait for the cloud's receipt.
    outgoing_budget: u64,
    metrics: Metrics,
    pulls: Mutex<Pulls>,
    pulled: Notify,
    flushes: (mpsc::Sender<u64>, Mutex<Option<mpsc::Receiver<u64>>>),
    proves: (mpsc::Sender<Wanted>, Mutex<Option<mpsc::Receiver<Wanted>>>),
    replies: (mpsc::Sender<Reply>, Mutex<Option<mpsc::Receiver<Reply>>>),
    asked: Asked,
    progress: Progress,
    asks: Asks,
}

/// How much of the outgoing budget a hand-over may use.
#[derive(Debug, Clone, Copy)]
enum Share {
    /// All: somebody waits for an answer.
    Whole,
    /// Half: there is much of it, and what is forwarded needs room.
    Half,
}

impl Handover {
    /// Hand-overs from `archive`, whose outgoing lanes hold `outgoing_budget` bytes.
    #[must_use]
    pub fn new(archive: Archive, outgoing_budget: u64, metrics: Metrics) -> Self {
        let (flush, flushes) = mpsc::channel(FLUSHES_MAX);
        let (reply, replies) = mpsc::channel(REPLIES_MAX);
        let (prove, proves) = mpsc::channel(PROVES_MAX);
        Self {
            archive,
            outgoing_budget,
            metrics,
            pulls: Mutex::default(),
            pulled: Notify::new(),
            flushes: (flush, Mutex::new(Some(flushes))),
            proves: (prove, Mutex::new(Some(proves))),
            replies: (reply, Mutex::new(Some(replies))),
            asked: Asked::default(),
            progress: Progress::default(),
            asks: Asks::default(),
        }
    }

    /// Moves what `selection` names to the backlog lane, as there is room.
    ///
    /// # Errors
    /// [`HandoverError`]. What was moved before stays moved; nothing is lost.
    pub async fn hand_over(&self, selection: Selection) -> Result<HandedOver, HandoverError> {
        self.by_pages(selection, Share::Half).await
    }

    async fn by_pages(&self, selection: Selection, share: Share) -> Result<HandedOver, HandoverError> {
        let mut handing = HandingOver::new(selection);
        while !handing.is_done() {
            self.room(share).await?;
            let (archive, moved) = (self.archive.clone(), handing.so_far().moved);
            let outcome;
            (handing, outcome) = crate::blocking(move || {
                let outcome = archive.hand_over_page(&mut handing);
                (handing, outcome)
            })
            .await;
            self.metrics.handed_over(handing.so_far().moved - moved);
            outcome?;
        }
        let handed = handing.into_handed();
        self.metrics.chunks_unreadable(handed.damaged.len() as u64);
        Ok(handed)
    }

    /// Waits until the outgoing lanes have room for a page.
    async fn room(&self, share: Share) -> Result<(), HandoverError> {
        let limit = match share {
            Share::Whole => self.outgoing_budget,
            Share::Half => self.outgoing_budget / 2,
        };
        let deadline = Instant::now() + ROOM_WAIT;
        loop {
            let stats = self.archive.stats();
            let outgoing = stats.live.bytes + stats.backlog.bytes;
            if outgoing < limit || outgoing == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(HandoverError::NoRoom);
            }
            tokio::time::sleep(ROOM_EVERY).await;
        }
    }

    /// Stretches of the index that the cloud asks for.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.clone()
    }

    /// To be told how far the cloud has taken the index.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Takes a command of the cloud; it is carried out by [`Handover::run`].
    pub(crate) async fn carry_out(&self, command: Command) {
        match command {
            Command::Flush { id } => {
                if self.flushes.0.try_send(id).is_err() {
                    self.fail(id, "too many flushes wait");
                }
            }
            Command::Pull { id, series, from, to } => {
                if self.pulls.lock().add(id, Range { series, from, to }) {
                    self.pulled.notify_one();
                } else {
                    self.fail(id, "too many pulls wait");
                }
            }
            Command::Index { id, stretches } => {
                tracing::debug!(command = id, stretches = stretches.len(), "the cloud's index differs");
                self.asked.add(stretches.into_iter().map(|Stretch { after, through }| (after + 1, through)).collect());
            }
            Command::Prove { id, chunk, key } => {
                if self.proves.0.try_send(Wanted { id, chunk, key }).is_err() {
                    self.fail(id, "too many records wait to be shown");
                }
            }
            Command::Unstated { id, relay_epoch, segment, after } => {
                if !self.asks.add(id, (relay_epoch, segment, after)) {
                    self.fail(id, "too many questions wait");
                }
            }
        }
    }

    /// Carries out commands and says how they went, until told to stop. Pulls do not wait for a flush: both go page by page.
    ///
    /// # Errors
    /// Never.
    pub(crate) async fn run(&self, outlet: Outlet, stop: Stop) -> Result<(), Infallible> {
        let (Some(flushes), Some(replies)) = (self.flushes.1.lock().take(), self.replies.1.lock().take()) else {
            return Ok(());
        };
        let Some(proves) = self.proves.1.lock().take() else { return Ok(()) };
        tokio::select! {
            biased;
            () = stop.stopped() => {}
            () = self.pull() => {}
            () = self.flush(flushes) => {}
            () = self.show(proves) => {}
            () = self.say_unstated() => {}
            () = say(outlet, replies) => {}
        }
        Ok(())
    }

    async fn pull(&self) {
        loop {
            let next = self.pulls.lock().next();
            let Some((Range { series, from, to }, askers)) = next else {
                self.pulled.notified().await;
                continue;
            };
            let selection = Selection::Range { series: series.clone(), from, to };
            let outcome = self.by_pages(selection, Share::Whole).await;
            match &outcome {
                Ok(handed) => {
                    tracing::info!(%series, from, to, records = handed.records, frames = handed.frames.count(), "pulled by the cloud");
                }
                Err(error) => tracing::error!(%series, from, to, %error, "a pull of the cloud failed; the records stay here"),
            }
            let outcome = said(outcome);
            for command in askers {
                self.metrics.pulled(matches!(outcome, Outcome::Done { .. }));
                self.reply(command, outcome.clone());
            }
        }
    }

    async fn flush(&self, mut flushes: mpsc::Receiver<u64>) {
        while let Some(first) = flushes.recv().await {
            let mut askers = vec![first];
            while let Ok(another) = flushes.try_recv() {
                askers.push(another);
            }
            let outcome = self.by_pages(Selection::All, Share::Half).await;
            match &outcome {
                Ok(handed) => tracing::info!(records = handed.moved, "everything was handed over to the cloud"),
                Err(error) => tracing::error!(%error, "not everything was handed over; the rest stays here"),
            }
            let outcome = said(outcome);
            askers.into_iter().for_each(|command| self.reply(command, outcome.clone()));
        }
    }

    async fn say_unstated(&self) {
        loop {
            for (command, knows) in self.asks.take().await {
                let outcome = unstated::say(&self.archive, &self.progress, &self.asked, knows).await;
                self.reply(command, outcome);
            }
        }
    }

    fn fail(&self, command: u64, reason: &str) {
        tracing::warn!(command, reason, "a command of the cloud is refused");
        self.reply(command, Outcome::Failed { reason: reason.to_owned() });
    }

    fn reply(&self, command: u64, outcome: Outcome) {
        let reply = Reply { relay_epoch: self.archive.epoch(), command, outcome };
        if self.replies.0.try_send(reply).is_err() {
            tracing::warn!(
                command,
                "too many replies wait for the connection; this one is dropped and the cloud has to ask again"
            );
        }
    }
}

/// The words for how it went. A chunk that can't be read may hold what was asked for: then it is not done.
fn said(outcome: Result<HandedOver, HandoverError>) -> Outcome {
    match outcome {
        Ok(HandedOver { frames, records, damaged, .. }) if damaged.is_empty() => Outcome::Done { frames, records },
        Ok(HandedOver { damaged, .. }) => {
            let chunks: Intervals = damaged.iter().map(|chunk| (chunk.cast_unsigned(), chunk.cast_unsigned())).collect();
            Outcome::Failed { reason: format!("these chunks can't be read and stay at the relay: {:?}", chunks.as_slice()) }
        }
        Err(error) => Outcome::Failed { reason: error.to_string() },
    }
}

async fn say(outlet: Outlet, mut replies: mpsc::Receiver<Reply>) {
    while let Some(reply) = replies.recv().await {
        let bytes = reply.encode();
        for _ in 0..REPLY_TRIES {
            match outlet.publish(Up::Reply, bytes.clone()).await {
                Err(PublishError::Lost) => {}
                Err(PublishError::Closed) => return std::future::pending().await,
                Err(error) => {
                    tracing::warn!(command = reply.command, %error, "the cloud does not take a reply");
                    break;
                }
                Ok(()) => break,
            }
        }
    }
}
