//! The sending half of the uplink: which page goes next, as which frame, and what becomes of it.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use archive::{Archive, Lane, Page};
use bytes::Bytes;
use link::{Link, PublishError, Ticket};
use tokio::sync::watch;
use wire::{Intervals, RelayId, UpFrame};

use crate::announcing::Announcing;
use crate::lane::{LaneQueue, Reading};
use crate::metrics::Metrics;
use crate::pace::{Aside, Pace, is_for_good};
use crate::telling::Telling;
use crate::tickets::Refused;
use crate::window::Window;

/// After this many live frames in a row a waiting backlog frame goes.
const LIVE_RUN_MAX: u32 = 3;

/// What a sender is made of.
pub(crate) struct Parts {
    pub(crate) relay: RelayId,
    pub(crate) archive: Archive,
    pub(crate) link: Link,
    pub(crate) window: Window,
    pub(crate) refused_retry: Duration,
    pub(crate) announcing: Announcing,
    pub(crate) metrics: Metrics,
}

/// Lanes, window and connection.
pub(crate) struct Sender {
    topic: String,
    relay: RelayId,
    archive: Archive,
    link: Link,
    /// Of the lease by which frames go; 0 if there is none.
    term: u64,
    window: Window,
    metrics: Metrics,
    last_page: watch::Receiver<u64>,
    live: LaneQueue,
    backlog: LaneQueue,
    live_run: u32,
    telling: Telling,
    pace: Pace,
    aside: Aside,
    /// A page that is read to be sent again.
    again: Option<(u64, Lane, Reading)>,
    /// A frame that waits for room on the connection.
    in_hand: Option<Frame>,
}

/// A page that is ready to go.
struct Ready {
    lane: Lane,
    page: Page,
    again: bool,
}

/// A frame that is ready to go.
struct Frame {
    lane: Lane,
    number: u64,
    bytes: Bytes,
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
        let Parts { relay, archive, link, window, refused_retry, announcing, metrics } = parts;
        Self {
            topic: format!("up/{relay}/frames"),
            relay,
            last_page: archive.watch_outgoing(),
            live: LaneQueue::new(Lane::Live),
            backlog: LaneQueue::new(Lane::Backlog),
            live_run: 0,
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
        self.live.rewind();
        self.backlog.rewind();
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
            None => earliest(self.window.next_overdue(), self.aside.next_due(|lane| self.has_room(lane))),
        };
        earliest(again, earliest(self.live.paused_until(), self.backlog.paused_until()))
    }

    fn has_room(&self, lane: Lane) -> bool {
        if self.pace.is_probing() { self.window.is_empty() } else { self.window.has_room(lane) }
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
        let Frame { lane, number, bytes, told, again } = frame;
        let overdue = again && self.window.holds(number);
        let size = bytes.len();
        let ticket = match outcome {
            Ok(ticket) => {
                self.window.sent(number, lane, size, now);
                self.aside.sent(number);
                self.metrics.sent(again);
                Some(ticket)
            }
            Err(error) => {
                self.window.remove(number);
                self.refuse(number, lane, told, &error, now);
                None
            }
        };
        Sent { number, told, bytes: size, overdue, ticket }
    }

    fn frame(&mut self, ready: &Ready) -> Frame {
        let Ready { lane, page, again } = ready;
        let secrets = if self.aside.goes_alone(page.id) { Vec::new() } else { self.telling.take(&page.body) };
        let told = !secrets.is_empty();
        let frame = UpFrame {
            relay: self.relay.as_str(),
            relay_epoch: self.archive.epoch(),
            number: page.id,
            term: self.term,
            historical: *lane == Lane::Backlog,
            secrets,
            runs: &page.body,
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        Frame { lane: *lane, number: page.id, bytes: bytes.into(), told, again: *again }
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
        self.backlog.refill(cx, &self.archive, last, now);
        let live = !self.live.is_empty() && self.has_room(Lane::Live);
        let backlog = !self.backlog.is_empty() && self.has_room(Lane::Backlog);
        let (lane, queue) = if live && (self.live_run < LIVE_RUN_MAX || !backlog) {
            self.live_run += 1;
            (Lane::Live, &mut self.live)
        } else if backlog {
            self.live_run = 0;
            (Lane::Backlog, &mut self.backlog)
        } else {
            return Poll::Pending;
        };
        queue.pop().map_or(Poll::Pending, |page| Poll::Ready(Ready { lane, page, again: false }))
    }

    /// A page that goes again: its receipt is overdue, or it was refused and its time has come.
    fn poll_again(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Ready> {
        loop {
            if self.again.is_none() {
                let due = self.window.overdue(now).or_else(|| self.aside.due(now, |lane| self.has_room(lane)));
                let (number, lane) = due?;
                self.again = Some((number, lane, Reading::start(&self.archive, lane, number - 1, 1)));
            }
            let (number, lane, reading) = self.again.as_mut()?;
            let (number, lane) = (*number, *lane);
            let Poll::Ready(read) = reading.poll(cx) else { return None };
            self.again = None;
            if !self.window.holds(number) && !self.aside.holds(number) {
                // Its receipt came meanwhile.
                continue;
            }
            match read {
                Ok(pages) => match pages.into_iter().next().filter(|page| page.id == number) {
                    Some(page) => return Some(Ready { lane, page, again: true }),
                    None => self.forget(number),
                },
                Err(error) => {
                    tracing::error!(number, %error, "a page can't be read; it stays and is tried again");
                    self.window.remove(number);
                    self.aside.put_aside(number, lane, now);
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
        if let Some(lane) = self.window.remove(refused.number) {
            self.refuse(refused.number, lane, refused.told, &refused.error, now);
        }
    }

    /// The cloud, or the way to it, refused a frame. The page stays; when it is sent again depends on why. See [`crate::pace`].
    fn refuse(&mut self, number: u64, lane: Lane, told: bool, error: &PublishError, now: Instant) {
        self.metrics.frame_refused(error);
        if !is_for_good(error) {
            tracing::warn!(number, %error, "the cloud does not take a frame now; it is kept and sent again");
            if told {
                self.telling.start_over();
            }
            let due = self.pace.slow(now);
            self.aside.put_off(number, lane, due);
        } else if told {
            tracing::warn!(number, %error, "the cloud refused a frame with announcements; it is sent again without them");
            self.aside.put_alone(number, lane, now);
        } else if self.aside.put_aside(number, lane, now) {
            tracing::error!(number, %lane, %error, "ALARM: the cloud refused a page for good; it is kept, put aside and tried again later");
            // If it refuses everything, the backlog shall not be carried past it once.
            self.pace.slow(now);
        }
    }

    /// The cloud holds these frames. Gives those that it can hold, because they were sent.
    pub(crate) fn receipted(&mut self, numbers: &Intervals, now: Instant) -> Intervals {
        let receipted = self.window.receipted(numbers);
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
