//! rumqttd's router behind a wall: links are made, fed and ended here and nowhere else.
//!
//! What must hold, because the router ends (a panic on its only thread) or loses messages otherwise:
//! - Only slot names and opaque payloads without properties go in, at QoS 0, never retained, with no will, on clean sessions.
//! - A link is ended by `Packet::Disconnect`, once, when the router has come past all its wakes (see [`farewell`]).
//! - A link's name is used again only after its Disconnect was sent, so that the router's memory of names stays bounded.
//! - Nothing blocks a runtime thread: `build` runs on a blocking one; the router's queue of 1,000 events can't fill up,
//!   because a link has at most a few of them outstanding.

mod farewell;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{Packet, Publish};
use rumqttd::{Notification, RouterConfig};
use tokio::sync::Semaphore;

use crate::index::{Slot, slot_name, slot_of};
use farewell::{Farewells, Link};

/// Links made at the same time: each takes a thread for as long as the router takes to answer.
const ATTACHING_MAX: usize = 64;

/// Links that end may be in the router still when new ones come; so many more than connections fit in.
const LEAVING_MAX: usize = 1_024;

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
    names: Arc<Mutex<Names>>,
    farewells: Farewells,
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
            max_connections: connections_max + LEAVING_MAX + 2,
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
        let names = Arc::new(Mutex::new(Names::default()));
        let (tx, rx, _) = build("f").build().map_err(|fault| RouterFault(fault.to_string()))?;
        let farewells = Farewells::start(tx, rx, names.clone())?;
        Ok(Arc::new(Router { build, names, farewells, attaching: Semaphore::new(ATTACHING_MAX), publisher }))
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
        Ok(Attachment { link: Some(Link { tx, rx, number }), router: self })
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

/// A subscriber's link. Ends in the router soon after it is dropped.
pub(crate) struct Attachment {
    /// `None` only while it is dropped.
    link: Option<Link>,
    router: Arc<Router>,
}

impl Attachment {
    fn tx(&mut self) -> Result<&mut LinkTx, RouterFault> {
        self.link.as_mut().map(|link| &mut link.tx).ok_or_else(ended)
    }

    /// Asks for a slot; [`Arrival::Subscribed`] follows. Behind it goes a message that says where in the slot's log this
    /// subscription begins, so that a loss shows even if it comes before the first delivery.
    pub(crate) fn subscribe(&mut self, slot: Slot, marker: bytes::Bytes) -> Result<(), RouterFault> {
        let tx = self.tx()?;
        tx.subscribe(slot_name(slot)).map_err(|fault| RouterFault(fault.to_string()))?;
        tx.publish(slot_name(slot), marker).map_err(|fault| RouterFault(fault.to_string()))?;
        Ok(())
    }

    pub(crate) fn unsubscribe(&mut self, slot: Slot) -> Result<(), RouterFault> {
        self.tx()?.unsubscribe(slot_name(slot)).map(drop).map_err(|fault| RouterFault(fault.to_string()))
    }

    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Arrival, RouterFault> {
        let rx = self.link.as_mut().map(|link| &mut link.rx).ok_or_else(ended)?;
        Ok(match rx.next().await.map_err(|fault| RouterFault(fault.to_string()))? {
            Some(Notification::Forward(forward)) => Arrival::Message(Letter {
                slot: slot_of(&forward.publish.topic),
                place: forward.cursor.map(|(_, place)| place),
                envelope: forward.publish.payload,
            }),
            Some(Notification::DeviceAck(ack)) => subscribed(&ack),
            Some(Notification::Unschedule) => Arrival::Paused,
            Some(Notification::Disconnect(..)) => return Err(ended()),
            _ => Arrival::Other,
        })
    }

    /// To be called once after each [`Arrival::Paused`].
    pub(crate) async fn wake(&self) -> Result<(), RouterFault> {
        let link = self.link.as_ref().ok_or_else(ended)?;
        link.rx.wake().await.map_err(|fault| RouterFault(fault.to_string()))
    }
}

fn ended() -> RouterFault {
    RouterFault("it ended the link".into())
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
        if let Some(link) = self.link.take() {
            self.router.farewells.bid(link);
        }
    }
}

#[cfg(test)]
impl Attachment {
    /// Does what must never be done (pitfall K7): it ends the router's thread.
    pub(crate) async fn kill_the_router(mut self) {
        farewell::goodbye(self.tx().unwrap());
        self.wake().await.unwrap();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const FLOODED: Slot = 1;
    const LINKS: usize = 4;
    const ROUNDS: usize = 500;

    /// Pitfall K7: with a packet on its way that the router has not taken up yet, the goodbye of a link could overtake the wake
    /// before it, and a wake for a link that is gone ends the router.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn links_that_are_woken_and_left_at_once_do_not_end_the_router() {
        let router = Router::start(2 * LINKS, 1 << 20).unwrap();
        let flooding = router.clone();
        let flood = tokio::spawn(async move {
            loop {
                let message = || publish(slot_name(FLOODED).into(), Bytes::from_static(&[7; 100]));
                flooding.feed(&mut (0..400).map(|_| message()).collect()).await;
                tokio::task::yield_now().await;
            }
        });
        let leavers: Vec<_> = (0..LINKS)
            .map(|_| {
                let router = router.clone();
                tokio::spawn(async move {
                    for _ in 0..ROUNDS {
                        let mut link = router.attach().await?;
                        link.subscribe(FLOODED, Bytes::from_static(b"marker"))?;
                        while !matches!(link.next().await?, Arrival::Paused) {}
                        link.unsubscribe(FLOODED)?;
                        link.wake().await?;
                    }
                    Ok::<(), RouterFault>(())
                })
            })
            .collect();
        for leaver in leavers {
            tokio::time::timeout(Duration::from_secs(120), leaver).await.expect("the router answers").unwrap().unwrap();
        }
        flood.abort();
        let mut link = router.attach().await.unwrap();
        link.subscribe(FLOODED + 1, Bytes::from_static(b"marker")).unwrap();
        while !matches!(link.next().await.unwrap(), Arrival::Subscribed) {}
    }
}
