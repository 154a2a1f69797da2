//! What the client sends.

use std::collections::HashSet;

use bytes::BytesMut;
use rumqttd::protocol::Packet;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use wire::grants::{Action, Verdict};

use super::acks::{Ack, Batch, PUBACK, PUBREC};
use super::{End, Session};
use crate::codec::connect::Will;
use crate::codec::packet;
use crate::codec::publish::{self, Extras, Publish};
use crate::codec::subscribe::{Subscribe, Unsubscribe};
use crate::codec::{Fault, Framed, check_flags, frame, kind, write};
use crate::hub::Routing;
use crate::index::Route;
use crate::intake::{Offer, Refusal};
use crate::message::Envelope;
use crate::metrics::Reason;

/// Topics whose verdict a connection remembers; beyond, the memory is emptied.
const KNOWN_MAX: usize = 256;
/// Verdicts are asked again after this many seconds at the latest, because grants end.
const KNOWN_SECONDS: u64 = 1;
/// Packets for the router that are gathered before they are handed over within one read.
const ROUTED_MAX: usize = 256;

/// Where a publish to a topic goes.
enum Known {
    /// Nowhere.
    Denied,
    Intake,
    Subscribers(Route),
}

/// What verdicts depend on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    policy: u64,
    index: u64,
    time: u64,
}

#[derive(Default)]
pub(super) struct Inbound {
    known: FxHashMap<Box<[u8]>, Known>,
    stamp: Stamp,
    batch: Batch,
    packets: Vec<Packet>,
    /// QoS 2 packet ids between PUBLISH and PUBREL.
    held: HashSet<u16>,
    /// A publish of a 3.1.1 client was refused: nothing after it is worked off, and the connection closes when what came
    /// before is acknowledged.
    refused: bool,
}

impl Inbound {
    /// Forgets a QoS 2 packet id: its publish was refused.
    pub(super) fn release(&mut self, packet_id: u16) {
        self.held.remove(&packet_id);
    }
}

/// The metric's word for a refusal.
pub(super) fn reason_of(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NotAuthorized => Reason::NotAuthorized,
        Refusal::TopicNameInvalid | Refusal::PayloadFormatInvalid => Reason::Content,
        Refusal::QuotaExceeded => Reason::Quota,
        Refusal::Unavailable => Reason::Unavailable,
    }
}

/// What stopped the working off before its end.
enum Pause {
    /// Nothing whole is left.
    Drained,
    /// A limit of waiting acknowledgements, or the outbox: later.
    Full,
    /// The router is to be fed first.
    Feed,
    Subscribe(Subscribe),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Works off what was read. Returns whether something is left that has to wait, so that nothing more should be read.
    pub(super) async fn work_off(&mut self) -> Result<bool, End> {
        if self.inbound.refused {
            return self.close_after_acks();
        }
        if self.io.inbox.is_empty() {
            return Ok(self.full());
        }
        loop {
            self.refresh();
            let inbox = std::mem::take(&mut self.io.inbox);
            let mut taken = 0;
            let mut published = 0;
            let pause = self.work_through(&inbox, &mut taken, &mut published);
            self.io.inbox = inbox;
            self.io.inbox.drain(..taken);
            self.core.metrics.published(published);
            let fed = self.hand_over().await;
            // What was offered before a fault is still the intake's: its commit is started, though nobody is told.
            self.commit();
            fed?;
            match pause? {
                Pause::Drained => return Ok(self.full()),
                Pause::Full if self.inbound.refused => return self.close_after_acks(),
                Pause::Full => return Ok(true),
                Pause::Feed => {}
                Pause::Subscribe(subscribe) => self.subscribe(subscribe).await?,
            }
        }
    }

    /// The end of a 3.1.1 client whose publish was refused, when everything before it is acknowledged.
    fn close_after_acks(&self) -> Result<bool, End> {
        if self.acks.is_empty() { Err(End::Closed(0x80, Reason::Content)) } else { Ok(true) }
    }

    fn full(&self) -> bool {
        let limits = &self.core.settings;
        self.acks.batches() >= limits.outstanding_batches_max || self.acks.bytes() >= limits.outstanding_bytes_max
    }

    /// Throws away what is remembered when it may no longer hold.
    fn refresh(&mut self) {
        let stamp = Stamp {
            policy: self.core.policy.version(),
            index: self.core.hub.routing().index.generation(),
            time: self.core.hub.routing().seconds() / KNOWN_SECONDS,
        };
        if stamp != self.inbound.stamp {
            self.inbound.stamp = stamp;
            self.inbound.known.clear();
        }
    }

    fn work_through(&mut self, inbox: &[u8], taken: &mut usize, published: &mut u64) -> Result<Pause, End> {
        let limit = self.core.settings.packet_bytes_max;
        if self.full() {
            return Ok(Pause::Full);
        }
        loop {
            let rest = &inbox[*taken..];
            let (first, body, size) = match frame(rest, limit)? {
                Framed::Whole { first, body, size } => (first, body, size),
                Framed::Partial(_) => return Ok(Pause::Drained),
            };
            *taken += size;
            if first >> 4 == kind::PUBLISH {
                *published += 1;
                self.publish(first, body, size)?;
                // Publishes that are committed one by one fill the list of waiting batches within one read.
                if self.inbound.refused || self.full() {
                    return Ok(Pause::Full);
                }
                if self.inbound.packets.len() >= ROUTED_MAX {
                    return Ok(Pause::Feed);
                }
            } else {
                check_flags(first)?;
                if let Some(subscribe) = self.other(first, body)? {
                    return Ok(Pause::Subscribe(subscribe));
                }
                if self.io.unwritten() >= self.core.settings.outbox_bytes_max {
                    return Ok(Pause::Full);
                }
            }
        }
    }

    /// One PUBLISH: the hot path.
    #[inline]
    fn publish(&mut self, first: u8, body: &[u8], size: usize) -> Result<(), End> {
        let v5 = self.client.v5;
        let packet = Publish::parse(first, body, v5)?;
        if packet.retain {
            return Err(End::Closed(0x9A, Reason::Unsupported));
        }
        self.inbound.batch.bytes += size;
        if packet.qos > 0 {
            let waiting = self.acks.count() + self.inbound.batch.acks.len() + self.inbound.held.len();
            if v5 && waiting >= usize::from(self.core.settings.receive_maximum) {
                return Err(End::Closed(0x93, Reason::Protocol));
            }
            if packet.qos == 2 && !self.inbound.held.insert(packet.packet_id) {
                // Said again: it has been taken, and its PUBREC stays behind the commit of the first.
                self.acknowledge(&packet, 0, false);
                return Ok(());
            }
        }
        if !self.inbound.known.contains_key(packet.topic) {
            self.learn(packet.topic)?;
        }
        let extras = if packet.properties.is_empty() { None } else { Some(Extras::read(packet.properties)?) };
        if extras.as_ref().is_some_and(|extras| extras.alias.is_some()) {
            return Err(End::Closed(0x94, Reason::Protocol));
        }
        let Session { inbound, intake, core, number, .. } = self;
        let outcome = match inbound.known.get(packet.topic) {
            None | Some(Known::Denied) => Err(Refusal::NotAuthorized),
            Some(Known::Intake) => {
                let extras = extras.unwrap_or_default();
                // Checked when the topic was learned.
                let topic = std::str::from_utf8(packet.topic).unwrap_or_default();
                let offer = Offer {
                    topic,
                    payload: packet.payload,
                    qos: packet.qos,
                    retain: packet.retain,
                    response_topic: extras.response_topic,
                    correlation_data: extras.correlation_data,
                    user_properties: &extras.user_properties,
                };
                intake.offer(offer).map(|()| true)
            }
            Some(Known::Subscribers(route)) => {
                if !route.is_empty() {
                    let routing = core.hub.routing();
                    route_to(routing, route, &packet, extras.and_then(|extras| extras.expiry), *number, &mut inbound.packets);
                }
                Ok(false)
            }
        };
        match outcome {
            Ok(offered) => {
                self.acknowledge(&packet, 0, offered);
                if offered && self.intake.alone() {
                    self.commit();
                }
            }
            Err(refusal) => self.refuse(&packet, refusal),
        }
        Ok(())
    }

    fn acknowledge(&mut self, packet: &Publish<'_>, reason: u8, offered: bool) {
        if packet.qos > 0 {
            let first = if packet.qos == 1 { PUBACK } else { PUBREC };
            self.inbound.batch.acks.push(Ack { packet_id: packet.packet_id, first, reason, offered });
        }
    }

    #[cold]
    fn refuse(&mut self, packet: &Publish<'_>, refusal: Refusal) {
        self.core.metrics.publish_refused(reason_of(refusal), 1);
        if packet.qos == 2 {
            self.inbound.held.remove(&packet.packet_id);
        }
        if self.client.v5 {
            self.acknowledge(packet, refusal.reason_code(), false);
        } else if packet.qos > 0 {
            self.inbound.refused = true;
        }
    }

    /// Decides about a topic that has not been seen lately.
    #[cold]
    fn learn(&mut self, bytes: &[u8]) -> Result<(), End> {
        let topic = publish::topic(bytes)?;
        if topic.is_empty() && self.client.v5 {
            return Err(End::Closed(0x82, Reason::Protocol));
        }
        if !wire::filter::valid_topic(topic) {
            return Err(End::Closed(0x90, Reason::Protocol));
        }
        let known = match self.core.policy.verdict(&self.subject(), Action::Publish, topic, self.core.clock.now()) {
            Verdict::Denied(denial) => {
                tracing::debug!(client = self.client.id, topic, %denial, "publish refused");
                Known::Denied
            }
            // `$…` is the broker's to say.
            Verdict::Allowed if topic.starts_with('$') => Known::Denied,
            Verdict::Allowed if self.core.intake.claims(topic) => Known::Intake,
            Verdict::Allowed => Known::Subscribers(self.core.hub.routing().index.route(topic)),
        };
        if self.inbound.known.len() >= KNOWN_MAX {
            self.inbound.known.clear();
        }
        self.inbound.known.insert(bytes.into(), known);
        Ok(())
    }

    /// Gives the router what was gathered. Waits while the router has too much in hand.
    async fn hand_over(&mut self) -> Result<(), End> {
        if self.inbound.packets.is_empty() {
            return Ok(());
        }
        let routing = self.core.hub.routing();
        routing.metrics.routed(self.inbound.packets.len() as u64);
        routing.router.feed(&mut self.inbound.packets).await;
        self.inbound.packets = Vec::new();
        Ok(())
    }

    /// Closes the batch of this read: what was offered is committed, the acknowledgements wait for it.
    fn commit(&mut self) {
        let commit = self.intake.commit();
        if commit.is_some() || !self.inbound.batch.acks.is_empty() {
            let mut batch = std::mem::take(&mut self.inbound.batch);
            batch.commit = commit;
            self.acks.push(batch);
        } else {
            self.inbound.batch.bytes = 0;
        }
    }

    /// Every packet but PUBLISH. A SUBSCRIBE is given back: it takes the router.
    fn other(&mut self, first: u8, body: &[u8]) -> Result<Option<Subscribe>, End> {
        let v5 = self.client.v5;
        match first >> 4 {
            kind::PUBACK => self.acknowledged(packet::Ack::parse(body, v5)?)?,
            kind::PUBREC => self.received(packet::Ack::parse(body, v5)?)?,
            kind::PUBCOMP => self.completed(packet::Ack::parse(body, v5)?)?,
            kind::PUBREL => {
                let packet_id = packet::Ack::parse(body, v5)?.packet_id;
                let known = self.inbound.held.remove(&packet_id);
                write::ack(self.io.out(), 0x70, packet_id, if known || !v5 { 0 } else { 0x92 });
            }
            kind::SUBSCRIBE => return Ok(Some(Subscribe::parse(body, v5)?)),
            kind::UNSUBSCRIBE => self.unsubscribe(&Unsubscribe::parse(body, v5)?)?,
            kind::PINGREQ if body.is_empty() => write::pong(self.io.out()),
            kind::DISCONNECT => return Err(self.goodbye(packet::Disconnect::parse(body, v5)?)),
            kind::CONNECT => return Err(Fault::Protocol("second CONNECT").into()),
            _ => return Err(Fault::Protocol("packet that no client sends").into()),
        }
        Ok(None)
    }

    fn goodbye(&mut self, disconnect: packet::Disconnect) -> End {
        if disconnect.session_expiry.is_some_and(|seconds| seconds > 0) {
            // The session was opened to end with the connection; it can't be made to last now.
            return End::Closed(0x82, Reason::Protocol);
        }
        if disconnect.reason == 0 { End::Goodbye } else { End::Gone }
    }

    /// Publishes the will, as the client would have: by its grants, to the intake or to subscribers.
    pub(super) async fn say_will(&mut self, will: Will) {
        self.refresh();
        if self.learn(will.topic.as_bytes()).is_err() {
            return;
        }
        let packet = Publish {
            dup: false,
            qos: will.qos,
            retain: false,
            packet_id: 0,
            topic: will.topic.as_bytes(),
            properties: &will.properties,
            payload: &will.payload,
        };
        match self.inbound.known.get(packet.topic) {
            Some(Known::Intake) => {
                let Ok(extras) = Extras::read(packet.properties) else { return };
                let offer = Offer {
                    topic: &will.topic,
                    payload: &will.payload,
                    qos: will.qos,
                    retain: false,
                    response_topic: extras.response_topic,
                    correlation_data: extras.correlation_data,
                    user_properties: &extras.user_properties,
                };
                if let Err(refusal) = self.intake.offer(offer) {
                    self.core.metrics.publish_refused(reason_of(refusal), 1);
                }
                if let Some(commit) = self.intake.commit()
                    && let Err(refusal) = commit.await
                {
                    self.core.metrics.publish_refused(reason_of(refusal), 1);
                }
            }
            Some(Known::Subscribers(route)) => {
                let routing = self.core.hub.routing();
                let mut packets = Vec::new();
                route_to(routing, route, &packet, will.expiry, self.number, &mut packets);
                routing.metrics.routed(packets.len() as u64);
                routing.router.feed(&mut packets).await;
            }
            None | Some(Known::Denied) => self.core.metrics.publish_refused(Reason::NotAuthorized, 1),
        }
    }
}

/// Puts a publish into its envelope, once for all slots that it goes to.
fn route_to(
    routing: &Routing,
    route: &Route,
    packet: &Publish<'_>,
    expiry: Option<u32>,
    publisher: u64,
    packets: &mut Vec<Packet>,
) {
    let mut copied = Vec::new();
    let properties = if expiry.is_some() {
        publish::copy_without_expiry(packet.properties, &mut copied);
        &copied
    } else {
        packet.properties
    };
    let envelope = Envelope {
        qos: packet.qos,
        retain: packet.retain,
        publisher,
        expires_at: expiry.map(|seconds| routing.seconds() + u64::from(seconds)),
        topic: std::str::from_utf8(packet.topic).unwrap_or_default(),
        properties,
        payload: packet.payload,
    };
    let mut buffer = BytesMut::with_capacity(envelope.encoded_len());
    Routing::pack(&envelope, route, &mut buffer, packets);
}
