//! What the client gets: subscriptions, deliveries and their window.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use wire::filter::{matches, valid_filter};
use wire::grants::Action;

use super::feeding::{Batch, Feeding};
use super::{DELIVERY_BYTES, End, Session};
use crate::codec::packet::Ack;
use crate::codec::subscribe::{Subscribe, Unsubscribe, Wish};
use crate::codec::write::{self, Delivery};
use crate::core::Core;
use crate::index::{FILTER_LEVELS_MAX, Slot};
use crate::message::{Envelope, is_marker, marker};
use crate::metrics::Reason;
use crate::router::{Arrival, Attachment, Letter, RouterFault};

/// Topics of one subscription whose verdict is remembered; beyond, the memory is emptied.
const KNOWN_MAX: usize = 1_024;

struct Subscription {
    filter: String,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    identifier: Option<u32>,
    /// Place in the slot's log of the last message seen: a jump is a loss.
    last: Option<u64>,
    /// Whether a topic may be delivered, as long as the stamp holds.
    known: FxHashMap<Box<str>, bool>,
    stamp: (u64, u64),
}

/// How far an acknowledged delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    /// QoS 1: PUBACK is due. QoS 2: PUBREC is due.
    Sent(u8),
    /// PUBCOMP is due.
    Released,
}

/// A SUBACK that waits for the router.
struct Answer {
    packet_id: u16,
    codes: Vec<u8>,
    /// Slots that the router has not worked off.
    due: usize,
}

pub(super) struct Outbound {
    core: Arc<Core>,
    /// From the first subscription on that the router serves.
    link: Option<Attachment>,
    pub(super) feeding: Feeding,
    subscriptions: FxHashMap<Slot, Subscription>,
    answers: VecDeque<Answer>,
    flights: FxHashMap<u16, Flight>,
    last_packet_id: u16,
}

impl Outbound {
    fn new(core: Arc<Core>) -> Outbound {
        Outbound {
            core,
            link: None,
            feeding: Feeding::default(),
            subscriptions: FxHashMap::default(),
            answers: VecDeque::new(),
            flights: FxHashMap::default(),
            last_packet_id: 0,
        }
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Next, RouterFault> {
        let Outbound { link, feeding, .. } = self;
        let arrival = async {
            match link {
                Some(link) => link.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrival = arrival => arrival.map(Next::Arrival),
            batch = std::future::poll_fn(|cx| feeding.poll(cx)) => Ok(Next::Batch(batch)),
        }
    }

    /// Whether one more message may be on its way to the client.
    pub(super) fn has_room(&self, window: u16) -> bool {
        self.flights.len() < usize::from(window)
    }

    fn slot(&self, filter: &str) -> Option<Slot> {
        self.subscriptions.iter().find(|(_, subscription)| subscription.filter == filter).map(|(slot, _)| *slot)
    }

    /// Writes one message; from QoS 1 on it counts in the window.
    pub(super) fn hand(&mut self, mut delivery: Delivery<'_>, v5: bool, out: &mut Vec<u8>) {
        if delivery.qos > 0 {
            delivery.packet_id = self.packet_id();
            self.flights.insert(delivery.packet_id, Flight::Sent(delivery.qos));
        }
        delivery.write(out, v5);
    }

    fn packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            // The window is smaller than the number of ids, so one is free.
            if !self.flights.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }
}

/// What comes for the client.
pub(super) enum Next {
    /// From the router.
    Arrival(Arrival),
    /// From a feed.
    Batch(Batch),
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let subscriptions = self.subscriptions.len() + self.feeding.len();
        self.core.metrics.subscribed(-i64::try_from(subscriptions).unwrap_or(0));
        for subscription in self.subscriptions.values() {
            self.core.hub.routing().index.remove(&subscription.filter);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut codes = Vec::with_capacity(subscribe.wishes.len());
        let mut due = 0;
        for wish in subscribe.wishes {
            let refusal = match Self::is_fed(&wish.filter) {
                true => self.open_feed(&wish, subscribe.identifier).err(),
                false => self.refusal(&wish),
            };
            let code = match refusal {
                Some((code, reason)) => {
                    self.core.metrics.subscription_refused(reason);
                    if self.client.v5 { code } else { 0x80 }
                }
                None if Self::is_fed(&wish.filter) => wish.qos,
                None => {
                    let code = wish.qos;
                    due += usize::from(self.keep(wish, subscribe.identifier).await?);
                    code
                }
            };
            codes.push(code);
        }
        let answer = Answer { packet_id: subscribe.packet_id, codes, due };
        match &mut self.outbound {
            Some(outbound) if due > 0 || !outbound.answers.is_empty() => outbound.answers.push_back(answer),
            _ => write::codes(self.io.out(), self.client.v5, 0x90, answer.packet_id, &answer.codes),
        }
        Ok(())
    }

    /// The MQTT 5 code that a filter is refused with.
    fn refusal(&self, wish: &Wish) -> Option<(u8, Reason)> {
        let filter = wish.filter.as_str();
        if filter.starts_with("$share/") {
            return Some((0x9E, Reason::Unsupported));
        }
        if !valid_filter(filter) || filter.split('/').count() > FILTER_LEVELS_MAX {
            return Some((0x8F, Reason::Content));
        }
        let verdict = self.core.policy.verdict(&self.subject(), Action::Subscribe, filter, self.core.clock.now());
        if !verdict.is_allowed() {
            return Some((0x87, Reason::NotAuthorized));
        }
        let outbound = self.outbound.as_ref()?;
        let full = outbound.subscriptions.len() >= self.core.settings.subscriptions_max;
        (full && outbound.slot(filter).is_none()).then_some((0x97, Reason::Quota))
    }

    /// Keeps a subscription. Returns whether the router has to work it off first.
    async fn keep(&mut self, wish: Wish, identifier: Option<u32>) -> Result<bool, End> {
        if self.outbound().link.is_none() {
            let link = self.core.hub.routing().router.attach().await?;
            self.outbound().link = Some(link);
        }
        let outbound = self.outbound();
        if let Some(slot) = outbound.slot(&wish.filter) {
            // Said again: the new options hold from the next message on.
            if let Some(held) = outbound.subscriptions.get_mut(&slot) {
                held.qos = wish.qos;
                held.no_local = wish.no_local;
                held.retain_as_published = wish.retain_as_published;
                held.identifier = identifier;
            }
            return Ok(false);
        }
        let slot = outbound.core.hub.routing().index.add(&wish.filter);
        outbound.core.metrics.subscribed(1);
        let subscription = Subscription {
            filter: wish.filter,
            qos: wish.qos,
            no_local: wish.no_local,
            retain_as_published: wish.retain_as_published,
            identifier,
            last: None,
            known: FxHashMap::default(),
            stamp: (0, 0),
        };
        outbound.subscriptions.insert(slot, subscription);
        if let Some(link) = &mut outbound.link {
            link.subscribe(slot, marker())?;
        }
        Ok(true)
    }

    /// What the client gets, from its first subscription on.
    pub(super) fn outbound(&mut self) -> &mut Outbound {
        self.outbound.get_or_insert_with(|| Box::new(Outbound::new(self.core.clone())))
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Result<(), End> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            if self.outbound.as_mut().is_some_and(|outbound| outbound.feeding.end(filter)) {
                self.core.metrics.subscribed(-1);
                codes.push(0);
                continue;
            }
            let held = self.outbound.as_mut().and_then(|outbound| Some((outbound.slot(filter)?, outbound)));
            let Some((slot, outbound)) = held else {
                codes.push(0x11);
                continue;
            };
            outbound.subscriptions.remove(&slot);
            if let Some(link) = &mut outbound.link {
                link.unsubscribe(slot)?;
            }
            self.core.hub.routing().index.remove(filter);
            self.core.metrics.subscribed(-1);
            codes.push(0);
        }
        write::codes(self.io.out(), self.client.v5, 0xB0, unsubscribe.packet_id, &codes);
        Ok(())
    }

    /// Takes in one arrival, and all that are there already.
    pub(super) async fn arrive(&mut self, first: Arrival) -> Result<(), End> {
        let stamp = (self.core.policy.version(), self.core.hub.routing().seconds());
        let mut next = Some(first);
        let mut delivered = 0;
        while let Some(arrival) = next {
            match arrival {
                Arrival::Message(letter) => delivered += u64::from(self.deliver(&letter, stamp)),
                Arrival::Subscribed => self.answer(),
                Arrival::Paused => {
                    if let Some(link) = self.outbound.as_ref().and_then(|outbound| outbound.link.as_ref()) {
                        link.wake().await?;
                    }
                }
                Arrival::Other => {}
            }
            let room = self.io.unwritten() < DELIVERY_BYTES;
            let outbound = self.outbound.as_mut().filter(|outbound| room && outbound.has_room(self.window));
            let Some(link) = outbound.and_then(|outbound| outbound.link.as_mut()) else { break };
            next = link.next().now_or_never().transpose()?;
        }
        self.core.metrics.delivered(delivered);
        Ok(())
    }

    /// The router has worked off one slot; the oldest SUBACK may be due.
    fn answer(&mut self) {
        let Some(outbound) = &mut self.outbound else { return };
        if let Some(front) = outbound.answers.iter_mut().find(|answer| answer.due > 0) {
            front.due -= 1;
        }
        while let Some(answer) = outbound.answers.pop_front_if(|answer| answer.due == 0) {
            write::codes(self.io.out(), self.client.v5, 0x90, answer.packet_id, &answer.codes);
        }
    }

    /// Writes one message, if it is to be delivered. Returns whether it was.
    fn deliver(&mut self, letter: &Letter, stamp: (u64, u64)) -> bool {
        let Session { core, client, outbound: Some(outbound), io, number, packet_bytes_max, .. } = self else { return false };
        // What was on its way when the client unsubscribed has no subscription any more.
        let Some(subscription) = letter.slot.and_then(|slot| outbound.subscriptions.get_mut(&slot)) else { return false };
        if let Some(place) = letter.place {
            if let Some(lost) = subscription.last.and_then(|last| place.checked_sub(last + 1)).filter(|lost| *lost > 0) {
                tracing::warn!(client = client.id, filter = subscription.filter, lost, "a subscriber that lags lost messages");
                core.metrics.lost(lost);
            }
            subscription.last = Some(place);
        }
        if is_marker(&letter.envelope) {
            return false;
        }
        let Some(envelope) = Envelope::decode(&letter.envelope) else { return false };
        if subscription.no_local && envelope.publisher == *number {
            return false;
        }
        let now = core.hub.routing().seconds();
        let expiry = match envelope.expires_at {
            Some(at) if at <= now => return false,
            Some(at) => Some(u32::try_from(at - now).unwrap_or(u32::MAX)),
            None => None,
        };
        if subscription.stamp != stamp {
            subscription.stamp = stamp;
            subscription.known.clear();
        }
        let allowed = match subscription.known.get(envelope.topic) {
            Some(allowed) => *allowed,
            None => {
                let subject = wire::grants::Subject { user: client.user.as_deref(), client: &client.id };
                // A slot that is used again may still bring a message of its filter before.
                let allowed = matches(&subscription.filter, envelope.topic)
                    && core.policy.delivers(&subject, envelope.topic, core.clock.now());
                if subscription.known.len() >= KNOWN_MAX {
                    subscription.known.clear();
                }
                subscription.known.insert(envelope.topic.into(), allowed);
                allowed
            }
        };
        if !allowed {
            core.metrics.withheld(Reason::NotAuthorized);
            return false;
        }
        let delivery = Delivery {
            qos: envelope.qos.min(subscription.qos),
            retain: envelope.retain && subscription.retain_as_published,
            packet_id: 0,
            topic: envelope.topic,
            payload: envelope.payload,
            properties: envelope.properties,
            expiry,
            identifier: subscription.identifier,
        };
        if delivery.size(client.v5) > *packet_bytes_max {
            core.metrics.withheld(Reason::Quota);
            return false;
        }
        outbound.hand(delivery, client.v5, io.out());
        true
    }

    /// PUBACK. One that was not waited for is ignored, as it does no harm.
    pub(super) fn acknowledged(&mut self, ack: Ack) -> Result<(), End> {
        self.land(ack, Flight::Sent(1))
    }

    /// PUBREC: released, unless the client refused the message.
    pub(super) fn received(&mut self, ack: Ack) -> Result<(), End> {
        let flights = self.outbound.as_mut().map(|outbound| &mut outbound.flights);
        let flight = flights.and_then(|flights| flights.get_mut(&ack.packet_id));
        let known = match flight {
            Some(Flight::Sent(1)) => return Err(crate::codec::Fault::Protocol("PUBREC for a QoS 1 message").into()),
            Some(_) if ack.reason >= 0x80 => {
                return self.land(ack, Flight::Sent(2));
            }
            Some(flight) => {
                *flight = Flight::Released;
                true
            }
            None => false,
        };
        if ack.reason < 0x80 {
            write::ack(self.io.out(), 0x62, ack.packet_id, if known || !self.client.v5 { 0 } else { 0x92 });
        }
        Ok(())
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, ack: Ack) -> Result<(), End> {
        self.land(ack, Flight::Released)
    }

    /// A delivery is done with, if it was waiting for this.
    fn land(&mut self, ack: Ack, expected: Flight) -> Result<(), End> {
        let Some(outbound) = &mut self.outbound else { return Ok(()) };
        match outbound.flights.get(&ack.packet_id) {
            Some(flight) if *flight == expected => {
                outbound.flights.remove(&ack.packet_id);
                Ok(())
            }
            Some(_) => Err(crate::codec::Fault::Protocol("acknowledgement of the wrong kind").into()),
            None => Ok(()),
        }
    }
}
