//! The proxy (A7): passes what members say up to the cloud, and what the cloud says down to them.
//!
//! It keeps nothing on disk and acknowledges nothing by itself. What a member sends goes up unchanged by the proxy's own connection,
//! and the member's PUBACK is the cloud's. What stands between the two is bounded; custody, window, timeouts and sending again are
//! between member and cloud, so a proxy may die at any moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use broker::{Hub, Message};
use chassis::Stop;
use link::{Link, Qos, Received};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use wire::RelayId;
use wire::group::TermLimits;
use wire::topics::{Down, SegmentName, Topic};

use super::metrics::{GroupMetrics, NotPassed};

/// Messages of the cloud that wait to be handed to members; one more is dropped and counted. Receipts, leases and commands come
/// again.
const DOWN_MAX: usize = 4_096;
/// Messages handed to the broker at once.
const DOWN_AT_ONCE: usize = 256;
/// Bytes of members that may be in hand, all together. A member that finds them used up has to do without this proxy.
const IN_HAND_MAX: usize = 128 * 1024 * 1024;

/// The service of this relay as proxy. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    me: RelayId,
    state: Mutex<State>,
    /// Connections of each member by each link, by which its `down/` topics are subscribed. Held while that is done, so that coming
    /// and going don't cross.
    members: tokio::sync::Mutex<HashMap<(u64, String), usize>>,
    in_hand: AtomicUsize,
    down: mpsc::Sender<Message>,
    done: Notify,
    metrics: GroupMetrics,
}

#[derive(Debug, Default)]
struct State {
    serving: Option<Serving>,
    served: Option<Served>,
    links: u64,
}

/// The connection by which members are served.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    /// Number of the link; connections of one link share it.
    pub(crate) number: u64,
    pub(crate) link: Link,
    /// Unchanged for as long as the connection lasts.
    pub(crate) connected: watch::Receiver<bool>,
}

/// What was done in the own term.
#[derive(Debug, Clone, Copy)]
struct Served {
    term: u64,
    since: Instant,
    limits: TermLimits,
    bytes: u64,
    frames: u64,
    done: bool,
}

impl Served {
    fn check(&mut self, now: Instant) -> bool {
        let was_done = self.done;
        self.done |= self.limits.reached(now.saturating_duration_since(self.since), self.bytes, self.frames);
        self.done && !was_done
    }
}

/// What the broker is to hand to members.
#[derive(Debug)]
pub(crate) struct Downward(mpsc::Receiver<Message>);

impl Proxy {
    /// A relay that serves nobody yet.
    pub(crate) fn new(me: RelayId, metrics: GroupMetrics) -> (Self, Downward) {
        let (down, waiting) = mpsc::channel(DOWN_MAX);
        let shared = Shared {
            me,
            state: Mutex::default(),
            members: tokio::sync::Mutex::default(),
            in_hand: AtomicUsize::new(0),
            down,
            done: Notify::new(),
            metrics,
        };
        (Self(Arc::new(shared)), Downward(waiting))
    }

    pub(crate) fn me(&self) -> &RelayId {
        &self.0.me
    }

    pub(crate) fn metrics(&self) -> &GroupMetrics {
        &self.0.metrics
    }

    /// Another link: what was subscribed by the last one is none of its business.
    pub(crate) fn another_link(&self) {
        let mut state = self.0.state.lock();
        state.links += 1;
        state.serving = None;
    }

    /// This relay holds the lease and is connected: members are served by this connection. A term that goes on keeps its counts.
    pub(crate) fn serve(&self, link: &Link, connected: watch::Receiver<bool>, term: u64, limits: TermLimits, now: Instant) {
        let mut state = self.0.state.lock();
        let number = state.links;
        state.serving = Some(Serving { number, link: link.clone(), connected });
        match &mut state.served {
            Some(served) if served.term == term => served.limits = limits,
            served => *served = Some(Served { term, since: now, limits, bytes: 0, frames: 0, done: false }),
        }
        self.0.metrics.own_term(term);
    }

    /// It does not, or is not: members are refused.
    pub(crate) fn rest(&self) {
        self.0.state.lock().serving = None;
        self.0.metrics.own_term(0);
    }

    /// The connection by which members are served now.
    pub(crate) fn serving(&self) -> Option<Serving> {
        self.0.state.lock().serving.clone()
    }

    /// The cloud has acknowledged a frame that this relay sent in its own term, a member's or its own. Checks whether the term is done
    /// (A8).
    pub(crate) fn passed(&self, bytes: usize, frames: u64, now: Instant) {
        let mut state = self.0.state.lock();
        if state.serving.is_none() {
            return;
        }
        let Some(served) = &mut state.served else { return };
        served.frames += frames;
        served.bytes += bytes as u64;
        if served.check(now) {
            self.0.done.notify_one();
        }
    }

    /// Whether the condition that ends the own term is met.
    pub(crate) fn is_done(&self, now: Instant) -> bool {
        let mut state = self.0.state.lock();
        if state.serving.is_none() {
            return false;
        }
        state.served.as_mut().is_some_and(|served| {
            served.check(now);
            served.done
        })
    }

    /// Resolves when a forward has met the condition that ends the own term.
    pub(crate) async fn done(&self) {
        self.0.done.notified().await;
    }

    /// A message of the cloud for a member.
    pub(crate) fn hand_down(&self, message: Received) {
        let dropped = self.0.down.try_send(Message::new(message.topic, message.payload).qos(1)).is_err();
        self.0.metrics.down(dropped);
    }

    /// Takes these bytes in hand until what is returned is dropped.
    pub(crate) fn take_in_hand(&self, bytes: usize) -> Option<InHand> {
        let before = self.0.in_hand.fetch_add(bytes, Ordering::AcqRel);
        let in_hand = InHand { proxy: self.clone(), bytes };
        (before == 0 || before + bytes <= IN_HAND_MAX).then_some(in_hand)
    }

    /// A connection of a member has come: the cloud is to say to us what it says to the member.
    ///
    /// # Errors
    /// The cloud refuses that.
    pub(crate) async fn member_comes(&self, serving: &Serving, member: &str) -> Result<(), link::SubscribeError> {
        let mut members = self.0.members.lock().await;
        let count = members.entry((serving.number, member.to_owned())).or_default();
        *count += 1;
        self.0.metrics.member(1);
        if *count > 1 {
            return Ok(());
        }
        serving.link.subscribe_all(down_topics(member), Qos::One).await
    }

    /// It has gone.
    pub(crate) async fn member_goes(&self, serving: &Serving, member: &str) {
        let mut members = self.0.members.lock().await;
        self.0.metrics.member(-1);
        let place = (serving.number, member.to_owned());
        let Some(count) = members.get_mut(&place) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        members.remove(&place);
        for topic in down_topics(member) {
            serving.link.unsubscribe(&topic).await;
        }
    }

    pub(crate) fn refused(&self, reason: NotPassed) {
        self.0.metrics.not_passed(reason);
    }
}

/// Bytes in hand.
#[derive(Debug)]
pub(crate) struct InHand {
    proxy: Proxy,
    bytes: usize,
}

impl InHand {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.proxy.0.in_hand.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

fn down_topics(member: &str) -> Vec<String> {
    let Ok(relay) = SegmentName::new(member) else { return Vec::new() };
    Down::ALL.iter().map(|kind| Topic::Down { relay, kind: *kind }.to_string()).collect()
}

impl Downward {
    /// Hands messages to the members' connections until told to stop.
    pub(crate) async fn deliver(mut self, hub: Hub, stop: Stop) {
        let mut messages = Vec::with_capacity(DOWN_AT_ONCE);
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => return,
                count = self.0.recv_many(&mut messages, DOWN_AT_ONCE) => if count == 0 { return },
            }
            hub.publish_all(std::mem::take(&mut messages)).await;
        }
    }
}
