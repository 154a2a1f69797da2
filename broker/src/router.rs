//! rumqttd's router behind a wall: links are made, fed and ended here and nowhere else.
//!
//! What must hold, because the router ends (a panic on its only thread) or loses messages otherwise:
//! - Only slot names and opaque payloads without properties go in, at QoS 0, never retained, with no will, on clean sessions.
//! - A link is ended by `Packet::Disconnect`, by its owner, once; `wake` is never called after that.
//! - A link's name is used again only after its Disconnect was sent, so that the router's memory of names stays bounded.
//! - Nothing blocks a runtime thread: `build` runs on a blocking one; the router's queue of 1,000 events can't fill up,
//!   because a link has at most a few of them outstanding.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, Publish};
use rumqttd::{Notification, RouterConfig};
use tokio::sync::Semaphore;

use crate::index::{Slot, slot_name, slot_of};

/// Links made at the same time: each takes a thread for as long as the router takes to answer.
const ATTACHING_MAX: usize = 64;

/// Messages that wait for the router on the publishers' link; beyond, publishers wait. The router takes all that wait before it
/// delivers again, so more of them than it delivers at once would starve the subscribers.
const PUBLISHER_QUEUE_MAX: usize = 512;
/// Messages that the router hands to a link at once.
const FORWARDS_MAX: u64 = 1_024;
const _: () = assert!(PUBLISHER_QUEUE_MAX < FORWARDS_MAX as usize);
/// The router keeps at least this many segments a slot, so that dropping the oldest drops a small part.
const SEGMENTS: usize = 16;
/// The smallest segment that the router takes is 1 KiB.
const SEGMENT_BYTES_MIN: usize = 16 * 1024;

type Build = dyn for<'a> Fn(&'a str) -> LinkBuilder<'a> + Send + Sync;

/// The router did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the router does not answer: {0}")]
pub(crate) struct RouterFault(String);

/// A message on its way in.
pub(crate) fn publish(slot: bytes::Bytes, envelope: bytes::Bytes) -> Packet {
    Packet::Publish(Publish::new(slot, envelope, false), None)
}

pub(crate) struct Router {
    build: Arc<Build>,
    names: Mutex<Names>,
    /// Links made at the same time.
    attaching: Semaphore,
    /// One link carries everybody's publishes, so the order of each publisher is kept.
    publisher: Mutex<Publisher>,
}

#[derive(Default)]
struct Names {
    free: Vec<u32>,
    used: u32,
}

struct Publisher {
    tx: LinkTx,
    _rx: LinkRx,
}

impl Router {
    /// Starts the router's thread. Blocks for the time of a few messages between threads.
    pub(crate) fn start(connections_max: usize, log_bytes: usize) -> Result<Arc<Router>, RouterFault> {
        let config = RouterConfig {
            max_connections: connections_max + 2,
            max_outgoing_packet_count: FORWARDS_MAX,
            max_segment_size: (log_bytes / SEGMENTS).max(SEGMENT_BYTES_MIN),
            max_segment_count: SEGMENTS,
            custom_segment: None,
            initialized_filters: None,
            shared_subscriptions_strategy: rumqttd::Strategy::default(),
        };
        let events = rumqttd::Router::new(0, config).spawn();
        let build: Arc<Build> = Arc::new(move |name| LinkBuilder::new(name, events.clone()));
        let (tx, rx, _) = build("p").build().map_err(|fault| RouterFault(fault.to_string()))?;
        let publisher = Mutex::new(Publisher { tx, _rx: rx });
        Ok(Arc::new(Router { build, names: Mutex::default(), attaching: Semaphore::new(ATTACHING_MAX), publisher }))
    }

    /// Hands messages over, in order. `false`: the router has too much in hand, nothing was taken, try again in a moment.
    pub(crate) fn offer(&self, packets: &mut Vec<Packet>) -> bool {
        if packets.is_empty() {
            return true;
        }
        let mut publisher = self.publisher.lock();
        let first = {
            let mut queue = publisher.tx.buffer();
            if queue.len() > PUBLISHER_QUEUE_MAX {
                return false;
            }
            let first = queue.is_empty();
            queue.extend(packets.drain(..));
            first
        };
        // With a queue that was not empty the router has been told already and has not come yet. To leave a filter that
        // nobody has is the one harmless packet whose sending tells the router and does not need a runtime.
        if first && let Err(fault) = publisher.tx.unsubscribe("-") {
            tracing::error!(%fault, "the router takes nothing more");
        }
        true
    }

    /// As [`Router::offer`], and waits for room.
    pub(crate) async fn feed(&self, packets: &mut Vec<Packet>) {
        while !self.offer(packets) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A link for a subscriber.
    pub(crate) async fn attach(self: &Arc<Self>) -> Result<Attachment, RouterFault> {
        let _turn = self.attaching.acquire().await.map_err(|fault| RouterFault(fault.to_string()))?;
        let router = self.clone();
        let (made, answer) = tokio::sync::oneshot::channel();
        // A thread of its own and none of the runtime's: a router that has died never answers, and a runtime waits for its own
        // threads before it ends.
        let thread = std::thread::Builder::new().name("attach".to_owned()).spawn(move || {
            // Whoever asked may have gone; the attachment then ends with its drop.
            let _ = made.send(router.link());
        });
        thread.map_err(|fault| RouterFault(fault.to_string()))?;
        answer.await.map_err(|fault| RouterFault(fault.to_string()))?
    }

    /// Makes a link; blocks until the router answers.
    fn link(self: Arc<Self>) -> Result<Attachment, RouterFault> {
        let number = {
            let mut names = self.names.lock();
            names.free.pop().unwrap_or_else(|| {
                names.used += 1;
                names.used
            })
        };
        let (tx, rx, _) = (self.build)(&format!("c{number}")).build().map_err(|fault| RouterFault(fault.to_string()))?;
        Ok(Attachment { tx, rx, number, router: self })
    }
}

/// A message as it comes out of the router.
pub(crate) struct Letter {
    /// `None` for a name that no slot has.
    pub(crate) slot: Option<Slot>,
    /// Its place in the slot's log; grows by one from message to message.
    pub(crate) place: Option<u64>,
    pub(crate) envelope: bytes::Bytes,
}

/// What came through a link.
pub(crate) enum Arrival {
    Message(Letter),
    /// The router has worked off one [`Attachment::subscribe`].
    Subscribed,
    /// Nothing more comes until [`Attachment::wake`].
    Paused,
    /// Something of no interest.
    Other,
}

/// A subscriber's link. Ends in the router when it is dropped.
pub(crate) struct Attachment {
    tx: LinkTx,
    rx: LinkRx,
    number: u32,
    router: Arc<Router>,
}

impl Attachment {
    /// Asks for a slot; [`Arrival::Subscribed`] follows. Behind it goes a message that says where in the slot's log this
    /// subscription begins, so that a loss shows even if it comes before the first delivery.
    pub(crate) fn subscribe(&mut self, slot: Slot, marker: bytes::Bytes) -> Result<(), RouterFault> {
        self.tx.subscribe(slot_name(slot)).map_err(|fault| RouterFault(fault.to_string()))?;
        self.tx.publish(slot_name(slot), marker).map_err(|fault| RouterFault(fault.to_string()))?;
        Ok(())
    }

    pub(crate) fn unsubscribe(&mut self, slot: Slot) -> Result<(), RouterFault> {
        self.tx.unsubscribe(slot_name(slot)).map(drop).map_err(|fault| RouterFault(fault.to_string()))
    }

    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Arrival, RouterFault> {
        Ok(match self.rx.next().await.map_err(|fault| RouterFault(fault.to_string()))? {
            Some(Notification::Forward(forward)) => Arrival::Message(Letter {
                slot: slot_of(&forward.publish.topic),
                place: forward.cursor.map(|(_, place)| place),
                envelope: forward.publish.payload,
            }),
            Some(Notification::DeviceAck(ack)) => subscribed(&ack),
            Some(Notification::Unschedule) => Arrival::Paused,
            Some(Notification::Disconnect(..)) => return Err(RouterFault("it ended the link".into())),
            _ => Arrival::Other,
        })
    }

    /// To be called once after each [`Arrival::Paused`].
    pub(crate) async fn wake(&self) -> Result<(), RouterFault> {
        self.rx.wake().await.map_err(|fault| RouterFault(fault.to_string()))
    }
}

/// The type of an acknowledgement has no public name; as a packet it has.
fn subscribed(ack: &(impl Clone + Into<Packet>)) -> Arrival {
    match ack.clone().into() {
        Packet::SubAck(..) => Arrival::Subscribed,
        _ => Arrival::Other,
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let goodbye = Packet::Disconnect(Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection }, None);
        // Ready at once: the link's `send` has no await point.
        if let Some(Err(fault)) = self.tx.send(goodbye).now_or_never() {
            tracing::debug!(%fault, "the router was gone before the link");
        }
        self.router.names.lock().free.push(self.number);
    }
}

#[cfg(test)]
impl Attachment {
    /// Does what must never be done (pitfall K7): it ends the router's thread.
    pub(crate) async fn kill_the_router(mut self) {
        let goodbye = Packet::Disconnect(Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection }, None);
        self.tx.send(goodbye).await.unwrap();
        self.rx.wake().await.unwrap();
    }
}
