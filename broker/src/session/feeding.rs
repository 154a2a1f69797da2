//! Feeds of one client: what they have ready, as far as the client has room for it.

use std::task::{Context, Poll};
use std::vec;

use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use wire::filter::{matches, valid_filter};
use wire::grants::{Action, Subject};

use super::{DELIVERY_BYTES, End, Session};
use crate::codec::subscribe::Wish;
use crate::codec::write::Delivery;
use crate::feeds::{Feed, FeedEnd, FeedRefusal, PREFIX, Seat};
use crate::index::FILTER_LEVELS_MAX;
use crate::message::Message;
use crate::metrics::Reason;

/// Topics of one feed whose verdict is remembered; beyond, the memory is emptied.
const KNOWN_MAX: usize = 1_024;

/// One feed.
pub(super) struct Fed {
    /// As it was subscribed to.
    name: String,
    /// What its topics match.
    filter: String,
    feed: Feed,
    /// Taken from it and not delivered yet.
    waiting: vec::IntoIter<Message>,
    qos: u8,
    identifier: Option<u32>,
    /// Whether a topic may be delivered, as long as the stamp holds.
    known: FxHashMap<Box<str>, bool>,
    stamp: (u64, u64),
    _seat: Seat,
}

/// The feeds of a client.
#[derive(Default)]
pub(super) struct Feeding {
    feeds: Vec<Fed>,
    /// Whose turn it is: all are served in turns.
    turn: usize,
}

/// What came from a feed; `None` when it ended without a word.
pub(super) struct Batch {
    place: usize,
    messages: Option<Result<Vec<Message>, FeedEnd>>,
}

impl Feeding {
    pub(super) fn len(&self) -> usize {
        self.feeds.len()
    }

    /// Places of the feeds, the one whose turn it is first.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let (turn, count) = (self.turn, self.feeds.len());
        (0..count).map(move |step| (turn + step) % count)
    }

    /// Takes from a feed of which nothing is waiting, in turns. Cancel safe.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Batch> {
        for place in self.places() {
            let Some(fed) = self.feeds.get_mut(place).filter(|fed| fed.waiting.as_slice().is_empty()) else { continue };
            if let Poll::Ready(messages) = fed.feed.poll_recv(cx) {
                return Poll::Ready(Batch { place, messages });
            }
        }
        Poll::Pending
    }

    fn put(&mut self, batch: Batch) -> Result<(), FeedEnd> {
        if let Some(fed) = self.feeds.get_mut(batch.place) {
            fed.waiting = batch.messages.unwrap_or(Err(FeedEnd::Unavailable))?.into_iter();
        }
        Ok(())
    }

    /// The next feed that has something waiting, in turns.
    fn next(&mut self) -> Option<&mut Fed> {
        let place = self.places().find(|place| !self.feeds[*place].waiting.as_slice().is_empty())?;
        self.turn = place + 1;
        self.feeds.get_mut(place)
    }

    /// Ends a feed. Says whether there was one of this name.
    pub(super) fn end(&mut self, name: &str) -> bool {
        let before = self.feeds.len();
        self.feeds.retain(|fed| fed.name != name);
        self.feeds.len() < before
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Whether a filter asks for a feed.
    pub(super) fn is_fed(filter: &str) -> bool {
        filter.starts_with(PREFIX)
    }

    /// Opens a feed, or gives the one of this name new options. The error is what MQTT 5 refuses a filter with.
    pub(super) fn open_feed(&mut self, wish: &Wish, identifier: Option<u32>) -> Result<(), (u8, Reason)> {
        let invalid = FeedRefusal::FilterInvalid.answer();
        let (since, filter) = wish.filter[PREFIX.len()..].split_once('/').ok_or(invalid)?;
        if !valid_filter(filter) || filter.split('/').count() > FILTER_LEVELS_MAX {
            return Err(invalid);
        }
        let verdict = self.core.policy.verdict(&self.subject(), Action::Subscribe, filter, self.core.clock.now());
        if !verdict.is_allowed() {
            return Err(FeedRefusal::NotAuthorized.answer());
        }
        let feeds = self.core.feeds.clone().ok_or(invalid)?;
        let feeding = self.outbound.as_mut().map(|outbound| &mut outbound.feeding);
        if let Some(fed) = feeding.and_then(|feeding| feeding.feeds.iter_mut().find(|fed| fed.name == wish.filter)) {
            fed.qos = wish.qos;
            fed.identifier = identifier;
            return Ok(());
        }
        let full = FeedRefusal::QuotaExceeded.answer();
        let limits = &self.core.settings;
        if self.outbound.as_ref().is_some_and(|outbound| outbound.feeding.len() >= limits.feeds_per_client_max) {
            return Err(full);
        }
        let seat = Seat::take(&self.core.feeds_open, limits.feeds_max, &self.core.metrics).ok_or(full)?;
        let feed = feeds.open(&self.client, since, filter).map_err(FeedRefusal::answer)?;
        self.core.metrics.subscribed(1);
        let (name, filter) = (wish.filter.clone(), filter.to_owned());
        self.outbound().feeding.feeds.push(Fed {
            name,
            filter,
            feed,
            waiting: Vec::new().into_iter(),
            qos: wish.qos,
            identifier,
            known: FxHashMap::default(),
            stamp: (0, 0),
            _seat: seat,
        });
        Ok(())
    }

    /// Takes in what came from a feed. A feed that has ended ends the connection.
    pub(super) fn fed(&mut self, batch: Batch) -> Result<(), End> {
        let Some(outbound) = &mut self.outbound else { return Ok(()) };
        outbound.feeding.put(batch).map_err(|end| {
            tracing::info!(client = self.client.id, %end, "a feed has ended, and so does its connection");
            let (code, reason) = end.answer();
            End::Closed(code, reason)
        })
    }

    /// Delivers from the feeds as far as the client has room.
    pub(super) fn feed(&mut self) -> Result<(), End> {
        let Session { core, client, outbound: Some(outbound), io, window, packet_bytes_max, took, .. } = self else {
            return Ok(());
        };
        let stamp = (core.policy.version(), core.hub.routing().seconds());
        let mut delivered = 0;
        while io.unwritten() < DELIVERY_BYTES && outbound.has_room(*window) {
            let Some(fed) = outbound.feeding.next() else { break };
            let Some(message) = fed.waiting.next() else { break };
            if fed.stamp != stamp {
                fed.stamp = stamp;
                fed.known.clear();
            }
            let allowed = match fed.known.get(message.topic()) {
                Some(allowed) => *allowed,
                None => {
                    let subject = Subject { user: client.user.as_deref(), client: &client.id };
                    let allowed = matches(&fed.filter, message.topic())
                        && core.policy.delivers(&subject, message.topic(), core.clock.now());
                    if fed.known.len() >= KNOWN_MAX {
                        fed.known.clear();
                    }
                    fed.known.insert(message.topic().into(), allowed);
                    allowed
                }
            };
            if !allowed {
                core.metrics.delivered(delivered);
                core.metrics.withheld(Reason::NotAuthorized);
                // To go on without it would be a hole.
                let (code, reason) = FeedEnd::NotAuthorized.answer();
                return Err(End::Closed(code, reason));
            }
            let delivery = Delivery {
                qos: message.qos.min(fed.qos),
                retain: false,
                packet_id: 0,
                topic: message.topic(),
                payload: &message.payload,
                properties: &message.properties,
                expiry: None,
                identifier: fed.identifier,
            };
            if delivery.size(client.v5) > *packet_bytes_max {
                core.metrics.withheld(Reason::Quota);
                continue;
            }
            if io.unwritten() == 0 {
                *took = Instant::now();
            }
            outbound.hand(delivery, client.v5, io.out());
            delivered += 1;
        }
        core.metrics.delivered(delivered);
        Ok(())
    }
}
