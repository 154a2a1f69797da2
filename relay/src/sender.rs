//! The sending half of the uplink: which page goes next, as which frame, and what becomes of it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use archive::{Archive, Lane, Page};
use bytes::Bytes;
use chassis::Clock;
use link::{Link, PublishError, Ticket};
use tokio::sync::watch;
use wire::packed::Packer;
use wire::{Intervals, RelayId, UpFrame};

use crate::announcing::Announcing;
use crate::lane::{LaneQueue, Reading};
use crate::metrics::Metrics;
use crate::pace::{Aside, Pace, is_for_good};
use crate::rate::Rate;
use crate::telling::Telling;
use crate::tickets::Refused;
use crate::traffic::Traffic;
use crate::window::Window;

/// After this many live frames in a row a waiting old frame goes.
const LIVE_RUN_MAX: u32 = 3;

/// What a sender is made of.
pub(crate) struct Parts {
    pub(crate) relay: RelayId,
    pub(crate) archive: Archive,
    pub(crate) link: Link,
    pub(crate) window: Window,
    pub(crate) refused_retry: Duration,
    pub(crate) backlog: Backlog,
    pub(crate) announcing: Announcing,
    pub(crate) clock: Arc<dyn Clock>,
    /// Packs frames for the way; `None`: they go as they are.
    pub(crate) packer: Option<Packer>,
    pub(crate) metrics: Metrics,
}

/// What can be set about old pages (C8).
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    /// Bytes of them that may be sent a second; `None` is no bound.
    pub bytes_per_second: Option<u64>,
    /// A live page that has waited for so long is late.
    pub late_after: Duration,
}

/// Lanes, window and connection.
pub(crate) struct Sender {
    topic: String,
    packer: Option<Packer>,
    relay: RelayId,
    archive: Archive,
    link: Link,
    /// Of the lease by which frames go; 0 if there is none.
    term: u64,
    window: Window,
    metrics: Metrics,
    last_page: watch::Receiver<u64>,
    live: LaneQueue,
    /// Pages of the live lane up to this one are late, or have their receipts.
    late_through: u64,
    late: LaneQueue,
    backlog: LaneQueue,
    live_run: u32,
    late_was_last: bool,
    rate: Rate,
    late_after: Duration,
    clock: Arc<dyn Clock>,
    telling: Telling,
    pace: Pace,
    aside: Aside,
    /// A page that is read to be sent again.
    again: Option<(u64, Traffic, Reading)>,
    /// A frame that waits for room on the connection.
    in_hand: Option<Frame>,
}

/// A page that is ready to go.
struct Ready {
    traffic: Traffic,
    page: Page,
    again: bool,
}

/// A frame that is ready to go.
struct Frame {
    traffic: Traffic,
    number: u64,
    bytes: Bytes,
    /// Before packing: what the cloud has to do with it, and so what window, rate and share go by.
    size: usize,
    told: bool,
    again: bool,
}

/// A frame that went.
pub(crate) struct Sent {
    pub(crate) number: u64,
    /// Whether it carried announcements of secrets.
    pub(crate) told: bool,
    /// Size of the frame.
    pub(crate) bytes: usize,
    /// Whether its receipt was overdue.
    pub(crate) overdue: bool,
    /// Its acknowledgement; `None` if it was refused here.
    pub(crate) ticket: Option<Ticket>,
}

impl Sender {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { relay, archive, link, window, refused_retry, backlog, announcing, clock, packer, metrics } = parts;
        Self {
            topic: format!("up/{relay}/frames"),
            packer,
            relay,
            last_page: archive.watch_visible(),
            live: LaneQueue::behind(Lane::Live, 0),
            late_through: 0,
            late: LaneQueue::between(Lane::Live, 0, 0),
            backlog: LaneQueue::behind(Lane::Backlog, 0),
            live_run: 0,
            late_was_last: false,
            rate: Rate::new(backlog.bytes_per_second),
            late_after: backlog.late_after,
            clock,
            telling: Telling::new(archive.clone(), announcing),
            pace: Pace::new(),
            aside: Aside::new(refused_retry),
            again: None,
            in_hand: None,
            archive,
            link,
            term: 0,
            window,
            metrics,
        }
    }

    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// Pages that the cloud refused for good.
    pub(crate) fn pages_aside(&self) -> usize {
        self.aside.len()
    }

    /// From the oldest page that has no receipt, by another connection, stamped with this term.
    pub(crate) fn start_over(&mut self, link: &Link, term: u64) {
        self.link = link.clone();
        self.term = term;
        self.window.clear();
        self.aside.clear();
        self.live = LaneQueue::behind(Lane::Live, self.late_through);
        self.late = LaneQueue::between(Lane::Live, 0, self.late_through);
        self.backlog = LaneQueue::behind(Lane::Backlog, 0);
        self.telling.start_over();
        self.again = None;
        self.in_hand = None;
    }

    /// When to try to send though nothing else happens.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.in_hand.is_some() {
            return None;
        }
        if let Some(until) = self.pace.paused_until(now) {
            return Some(until);
        }
        let again = match self.again {
            Some(_) => None,
            None => earliest(self.window.next_overdue(), self.aside.next_due(|traffic| self.has_room(traffic))),
        };
        let old_waits = !self.late.is_empty() || !self.backlog.is_empty();
        let rate = self.rate.waits_until(now).filter(|_| old_waits);
        let paused = [&self.live, &self.late, &self.backlog].into_iter().filter_map(LaneQueue::paused_until).min();
        earliest(again, earliest(rate, paused))
    }

    fn has_room(&self, traffic: Traffic) -> bool {
        if self.pace.is_probing() { self.window.is_empty() } else { self.window.has_room(traffic) }
    }

    /// Sends one frame, when there is one and the connection has room. May be dropped at any moment: what it was about to send stays
    /// in hand.
    pub(crate) async fn send_next(&mut self) -> Sent {
        if self.in_hand.is_none() {
            let ready = poll_fn(|cx| self.poll_ready(cx, Instant::now())).await;
            self.in_hand = Some(self.frame(&ready));
        }
        // Nothing of the frame has been sent unless this resolves.
        let bytes = self.in_hand.as_ref().map(|frame| frame.bytes.clone()).unwrap_or_default();
        let outcome = self.link.enqueue(self.topic.as_str(), bytes).await;
        let Some(frame) = self.in_hand.take() else { return std::future::pending().await };
        self.went(frame, outcome, Instant::now())
    }

    fn went(&mut self, frame: Frame, outcome: Result<Ticket, PublishError>, now: Instant) -> Sent {
        let Frame { traffic, number, size, told, again, .. } = frame;
        let overdue = again && self.window.holds(number);
        let ticket = match outcome {
            Ok(ticket) => {
                self.window.sent(number, traffic, size, now);
                self.aside.sent(number);
                self.metrics.sent(again, traffic.is_old());
                if traffic.is_old() {
                    self.rate.sent(size, now);
                }
                Some(ticket)
            }
            Err(error) => {
                self.window.remove(number);
                self.refuse(number, traffic, told, &error, now);
                None
            }
        };
        Sent { number, told, bytes: size, overdue, ticket }
    }

    fn frame(&mut self, ready: &Ready) -> Frame {
        let Ready { traffic, page, again } = ready;
        let secrets = if self.aside.goes_alone(page.id) { Vec::new() } else { self.telling.take(&page.body) };
        let told = !secrets.is_empty();
        let frame = UpFrame {
            relay: self.relay.as_str(),
            relay_epoch: self.archive.epoch(),
            number: page.id,
            term: self.term,
            historical: traffic.is_old(),
            secrets,
            runs: &page.body,
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let size = bytes.len();
        if let Some(packer) = &mut self.packer {
            bytes = packer.pack(bytes);
        }
        Frame { traffic: *traffic, number: page.id, bytes: bytes.into(), size, told, again: *again }
    }

    /// The page that goes next, if one may.
    fn poll_ready(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Ready> {
        if self.pace.paused_until(now).is_some() {
            return Poll::Pending;
        }
        if let Some(ready) = self.poll_again(cx, now) {
            return Poll::Ready(ready);
        }
        let last = *self.last_page.borrow();
        self.live.refill(cx, &self.archive, last, now);
        if self.part_late(last) {
            self.live.refill(cx, &self.archive, last, now);
        }
        self.refill_late(cx, last, now);
        self.backlog.refill(cx, &self.archive, last, now);
        let live = !self.live.is_empty() && self.has_room(Traffic::Live);
        let old = self.next_old().filter(|traffic| self.has_room(*traffic) && self.rate.waits_until(now).is_none());
        let (traffic, queue) = match old {
            _ if live && (self.live_run < LIVE_RUN_MAX || old.is_none()) => {
                self.live_run = self.live_run.saturating_add(1);
                (Traffic::Live, &mut self.live)
            }
            Some(traffic) => {
                self.live_run = 0;
                self.late_was_last = traffic == Traffic::Late;
                (traffic, if self.late_was_last { &mut self.late } else { &mut self.backlog })
            }
            None => return Poll::Pending,
        };
        queue.pop().map_or(Poll::Pending, |page| Poll::Ready(Ready { traffic, page, again: false }))
    }

    /// If the oldest live page has waited for too long, it and all that is committed by now goes to the late ones: in their order, but
    /// no longer before what comes from now on. See ADR 11.
    fn part_late(&mut self, last: u64) -> bool {
        let Some(oldest) = self.live.front() else { return false };
        let waited = self.clock.now().saturating_sub(oldest.taken_at);
        if i128::from(waited) <= self.late_after.as_nanos().cast_signed() {
            return false;
        }
        tracing::info!(from = oldest.id, through = last, "live pages are late; they go beside what comes from now on");
        self.late.extend(oldest.id - 1, last);
        self.late_through = last;
        self.live.skip_to(last);
        true
    }

    /// Reads late pages, without those that went while they were live.
    fn refill_late(&mut self, cx: &mut Context<'_>, last: u64, now: Instant) {
        loop {
            self.late.refill(cx, &self.archive, last, now);
            match self.late.front() {
                Some(page) if self.window.holds(page.id) || self.aside.holds(page.id) => drop(self.late.pop()),
                _ => return,
            }
        }
    }

    /// Late pages and the backlog take turns.
    fn next_old(&self) -> Option<Traffic> {
        match (!self.late.is_empty(), !self.backlog.is_empty()) {
            (true, true) => Some(if self.late_was_last { Traffic::Backlog } else { Traffic::Late }),
            (true, false) => Some(Traffic::Late),
            (false, true) => Some(Traffic::Backlog),
            (false, false) => None,
        }
    }

    /// A page that goes again: its receipt is overdue, or it was refused and its time has come.
    fn poll_again(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Ready> {
        loop {
            if self.again.is_none() {
                let due = self.window.overdue(now).or_else(|| self.aside.due(now, |traffic| self.has_room(traffic)));
                let (number, traffic) = due?;
                self.again = Some((number, traffic, Reading::start(&self.archive, traffic.lane(), number - 1, 1)));
            }
            let (number, traffic, reading) = self.again.as_mut()?;
            let (number, traffic) = (*number, *traffic);
            let Poll::Ready(read) = reading.poll(cx) else { return None };
            self.again = None;
            if !self.window.holds(number) && !self.aside.holds(number) {
                // Its receipt came meanwhile.
                continue;
            }
            match read {
                Ok(pages) => match pages.into_iter().next().filter(|page| page.id == number) {
                    Some(page) => return Some(Ready { traffic, page, again: true }),
                    None => self.forget(number),
                },
                Err(error) => {
                    tracing::error!(number, %error, "a page can't be read; it stays and is tried again");
                    self.window.remove(number);
                    self.aside.put_aside(number, traffic, now);
                }
            }
        }
    }

    /// The archive has no such page any more: it was delivered.
    fn forget(&mut self, number: u64) {
        self.window.remove(number);
        self.aside.remove(&Intervals::of(number, number));
    }

    /// The connection brought a refusal.
    pub(crate) fn refused(&mut self, refused: &Refused, now: Instant) {
        // Otherwise its receipt came first, by another sending of it.
        if let Some(traffic) = self.window.remove(refused.number) {
            self.refuse(refused.number, traffic, refused.told, &refused.error, now);
        }
    }

    /// The cloud, or the way to it, refused a frame. The page stays; when it is sent again depends on why. See [`crate::pace`].
    fn refuse(&mut self, number: u64, traffic: Traffic, told: bool, error: &PublishError, now: Instant) {
        self.metrics.frame_refused(error);
        if !is_for_good(error) {
            tracing::warn!(number, %error, "the cloud does not take a frame now; it is kept and sent again");
            if told {
                self.telling.start_over();
            }
            let due = self.pace.slow(now);
            self.aside.put_off(number, traffic, due);
        } else if told {
            tracing::warn!(number, %error, "the cloud refused a frame with announcements; it is sent again without them");
            self.aside.put_alone(number, traffic, now);
        } else if self.aside.put_aside(number, traffic, now) {
            tracing::error!(number, %traffic, %error, "ALARM: the cloud refused a page for good; it is kept, put aside and tried again later");
            // If it refuses everything, the backlog shall not be carried past it once.
            self.pace.slow(now);
        }
    }

    /// The cloud holds these frames. Gives those that it can hold, because they were sent.
    pub(crate) fn receipted(&mut self, numbers: &Intervals, now: Instant) -> Intervals {
        let receipted = self.window.receipted(numbers, now);
        if !receipted.is_empty() {
            self.aside.remove(&receipted);
            if self.pace.receipted() {
                // What was refused while the cloud took nothing may be taken now, and what it was told then may not have been heard.
                self.aside.release(now);
                self.telling.start_over();
            }
            self.metrics.receipted(receipted.count());
        }
        receipted
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
