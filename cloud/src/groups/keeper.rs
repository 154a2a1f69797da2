//! The one that keeps the leases of all groups: hears heartbeats, lets the state machines decide, keeps what they decide, tells it.
//!
//! It waits for nothing but its own small database, and for that once a term: answers don't queue behind the archive's commits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Hub, Message};
use chassis::{Clock, Stop};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use wire::group::{Heartbeat, Lease};
use wire::topics::Down;
use wire::{RelayId, Topic};

use super::book::{Book, BookError};
use super::fence::{Fence, Gate};
use super::lease::{Change, Group, Now, Scored};
use super::settings;
use super::view::{GroupView, GroupsView, LimitsView, MemberView, ScoreView};
use crate::metrics::{Beat, Metrics};
use crate::moment;

/// Heartbeats that may wait; one more is refused, and its sender sends another soon.
pub(crate) const HEARD_MAX: usize = 4_096;
/// Heartbeats worked off together.
const TAKEN_MAX: usize = 256;
/// Relays without a group of which the log tells.
const STRANGERS_MAX: usize = 100;
/// Pause after a term could not be kept.
const KEEP_PAUSE: Duration = Duration::from_millis(250);

/// A heartbeat that ingest has let in.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) relay: RelayId,
    /// Whether it came through the relay's own connection, as far as that can be told.
    pub(crate) direct: bool,
    pub(crate) beat: Heartbeat,
}

/// A group, and the gate that shows its term to ingest.
struct Place {
    group: Group,
    gate: Gate,
}

/// The groups, for those who show them.
#[derive(Clone)]
pub(crate) struct Groups {
    places: Arc<Mutex<Vec<Place>>>,
    book: Option<Book>,
    clock: Arc<dyn Clock>,
}

impl Groups {
    /// The groups of the configuration, as `book` remembers them, and the fence for their frames. Without groups there is no book.
    pub(crate) fn open(
        configured: &[settings::Group],
        book: Option<Book>,
        verified: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Fence), BookError> {
        let now = Now { steady: Instant::now(), at: clock.now() };
        let mut places = Vec::new();
        for settings in configured {
            let kept = book.as_ref().map(|book| book.kept(&settings.name)).transpose()?.flatten();
            let group = Group::new(settings.clone(), kept, now);
            let gate = Gate::new(&settings.members, now.steady);
            let (term, holder) = group.standing();
            gate.set(term, holder);
            places.push(Place { group, gate });
        }
        let fence = Fence::new(verified, places.iter().map(|place| &place.gate));
        Ok((Self { places: Arc::new(Mutex::new(places)), book, clock }, fence))
    }

    fn now(&self) -> Now {
        Now { steady: Instant::now(), at: self.clock.now() }
    }

    /// Everything, with the last `terms` terms of each group. Blocks for a few statements.
    pub(crate) fn view(&self, terms: usize) -> Result<GroupsView, BookError> {
        let now = self.now().steady;
        let mut groups: Vec<GroupView> = self.places.lock().iter().map(|place| view(&place.group, now)).collect();
        for group in &mut groups {
            let Some(book) = &self.book else { continue };
            group.terms = book.terms(&group.group, terms)?;
            for score in book.scores(&group.group)? {
                if let Some(member) = group.members.iter_mut().find(|member| member.relay == score.relay) {
                    member.last = Some(score);
                }
            }
        }
        Ok(GroupsView { groups })
    }
}

fn view(group: &Group, now: Instant) -> GroupView {
    let Lease { group: name, term, holder, address, ttl, until, .. } = group.lease(0, now);
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let (round, served) = group.served();
    let members = group.members().iter().map(|(relay, member)| {
        let histogram = member.collected.histogram();
        let score = Some(histogram.score());
        MemberView {
            relay: relay.clone(),
            heard: member.heard.map(|heard| moment::format(heard.at)),
            live: group.is_live(member, now),
            direct: member.direct,
            served: served.contains(relay),
            collected: ScoreView::of(&Scored { relay: relay.clone(), score, histogram }),
            last: None,
        }
    });
    GroupView {
        group: name,
        term,
        holder,
        address,
        since: group.since().map(moment::format),
        ttl_ms: millis(ttl),
        until: LimitsView { time_ms: millis(until.time), bytes: until.bytes, frames: until.frames },
        round,
        members: members.collect(),
        terms: Vec::new(),
    }
}

/// The unit that keeps the leases.
pub(crate) struct Keeper {
    groups: Groups,
    heard: mpsc::Receiver<Heard>,
    paused_until: Option<Instant>,
    /// Relays without a group that were told of in the log.
    strangers: BTreeSet<RelayId>,
    metrics: Metrics,
}

/// A heartbeat that waits for its answer.
#[derive(Clone)]
struct Ask {
    relay: RelayId,
    beat: u64,
    renewed: bool,
}

impl Keeper {
    pub(crate) fn new(groups: Groups, heard: mpsc::Receiver<Heard>, metrics: Metrics) -> Self {
        Self { groups, heard, paused_until: None, strangers: BTreeSet::new(), metrics }
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self, hub: Hub, stop: Stop) {
        let mut taken = Vec::with_capacity(TAKEN_MAX);
        loop {
            let deadline = self.next_deadline();
            let wait = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.stopped() => return,
                count = self.heard.recv_many(&mut taken, TAKEN_MAX) => if count == 0 { return },
                () = wait => {}
            }
            let messages = self.turn(&mut taken).await;
            hub.publish_all(messages).await;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until > now) {
            return self.paused_until;
        }
        self.groups.places.lock().iter().filter_map(|place| place.group.next_deadline(now)).min()
    }

    /// Hears, decides, keeps, and gives what is to be told.
    async fn turn(&mut self, taken: &mut Vec<Heard>) -> Vec<Message> {
        let now = self.groups.now();
        let mut messages = Vec::new();
        let mut asks: Vec<Vec<Ask>> = Vec::new();
        let mut due: Vec<(usize, Change)> = Vec::new();
        let paused = self.paused_until.is_some_and(|until| until > now.steady);
        {
            let mut places = self.groups.places.lock();
            asks.resize(places.len(), Vec::new());
            for place in places.iter_mut() {
                for (relay, at) in place.gate.seen() {
                    place.group.seen(relay, at);
                }
                if let Some(at) = place.gate.carried() {
                    place.group.carried(at);
                }
                if place.gate.is_waiting() {
                    place.group.kept_waiting(now.steady);
                }
            }
            for Heard { relay, direct, beat } in taken.drain(..) {
                let home = places.iter().position(|place| place.group.members().contains_key(&relay));
                let ours = home.filter(|home| places[*home].group.settings().name == beat.group);
                let Some(home) = ours else {
                    self.metrics.heartbeat(Beat::Stranger);
                    if self.strangers.len() < STRANGERS_MAX && self.strangers.insert(relay.clone()) {
                        tracing::warn!(%relay, group = %beat.group, "the relay is not in this group here; add it to group.members, or take the group from its configuration");
                    }
                    messages.push(nobody(&relay, &beat));
                    continue;
                };
                let renewed = places[home].group.hear(&relay, direct, &beat, now);
                self.metrics.heartbeat(if renewed { Beat::Renewed } else { Beat::Answered });
                asks[home].push(Ask { relay, beat: beat.beat, renewed });
            }
            for (index, place) in places.iter().enumerate().filter(|_| !paused) {
                due.extend(place.group.due(now, random()).map(|change| (index, change)));
            }
        }
        let mut changed = vec![false; asks.len()];
        for (index, change) in due {
            changed[index] = self.change(index, change).await;
        }
        let now = self.groups.now().steady;
        let places = self.groups.places.lock();
        for ((place, asks), changed) in places.iter().zip(asks).zip(changed) {
            let group = &place.group;
            if changed {
                // Unasked, so that nobody sends through the old proxy until its next heartbeat.
                let others = group.members().keys().filter(|member| asks.iter().all(|ask| ask.relay != **member));
                messages.extend(others.map(|member| message(member, &group.lease(0, now))));
            }
            messages.extend(asks.iter().map(|ask| {
                let Ask { relay, beat, renewed } = ask;
                message(relay, &group.answer(relay, *beat, *renewed, now))
            }));
        }
        messages
    }

    /// Keeps a change and applies it. Nothing changes if it can't be kept; it is tried again.
    async fn change(&mut self, index: usize, change: Change) -> bool {
        let Some(book) = self.groups.book.clone() else { return false };
        let Some(name) = self.groups.places.lock().get(index).map(|place| place.group.settings().name.clone()) else {
            return false;
        };
        let (group, to_keep) = (name.clone(), change.clone());
        let kept = tokio::task::spawn_blocking(move || book.keep(&group, &to_keep)).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.not_kept(&name, &error),
            Err(error) => return self.not_kept(&name, &error),
        }
        self.paused_until = None;
        let Change { term, holder, reason, round, .. } = &change;
        tracing::info!(group = %name, term, %holder, reason = reason.as_str(), round, "the group has another proxy");
        self.metrics.term(*reason);
        let now = self.groups.now();
        if let Some(place) = self.groups.places.lock().get_mut(index) {
            place.group.apply(change, now);
            let (term, holder) = place.group.standing();
            place.gate.set(term, holder);
        }
        true
    }

    fn not_kept(&mut self, group: &RelayId, error: &(dyn std::error::Error + 'static)) -> bool {
        tracing::error!(%group, error, "ALARM: a new term could not be kept, so nobody is told; tried again");
        self.paused_until = Some(Instant::now() + KEEP_PAUSE);
        false
    }
}

/// The answer to a relay that is in no group here, or in another one: it talks to the cloud directly.
fn nobody(relay: &RelayId, beat: &Heartbeat) -> Message {
    let lease = Lease {
        group: beat.group.clone(),
        beat: beat.beat,
        term: 0,
        holder: None,
        address: String::new(),
        ttl: settings::TTL_DEFAULT.duration(),
        until: wire::group::TermLimits::default(),
    };
    message(relay, &lease)
}

fn message(relay: &RelayId, lease: &Lease) -> Message {
    let topic = Topic::Down { relay: relay.into(), kind: Down::Lease };
    Message::new(topic.to_string(), lease.encode())
}

/// Decides between equals; without randomness the first is as good.
fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}
