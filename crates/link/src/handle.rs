//! The handle that callers hold.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::connection::FILTERS_MAX;
use crate::driver;
use crate::inbox::{self, Incoming};
use crate::message::{Message, Qos};
use crate::mqtt;
use crate::session::Session;
use crate::shared::{Closing, Shared};
use crate::{LinkConfig, PublishError, SubscribeError};

/// How the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempt is under way, or the connection has just ended. Later attempts show why the last one failed.
    Connecting,
    /// Connected, and every remembered filter is subscribed, save those the peer refused.
    Connected {
        /// Remembered filters that the peer refused on this connection.
        refused_filters: Vec<String>,
    },
    /// No connection; the next attempt comes after a pause.
    Down {
        /// What ended the connection or the attempt.
        reason: String,
    },
    /// The peer answered and does not want us as we are; tried again slowly.
    Refused {
        /// What the peer said.
        reason: String,
    },
    /// Closed by its owner; it will not come back.
    Closed,
}

impl LinkState {
    /// True for [`LinkState::Connected`].
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// One link to one peer; clones share it. It ends with [`Link::close`] or when the last clone is dropped.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
    close: Arc<watch::Sender<bool>>,
}

/// The future of one acknowledgement. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "a publish is done when its ticket says so"]
pub struct Ticket {
    answer: oneshot::Receiver<Result<(), PublishError>>,
}

impl Link {
    /// Starts the link's task on the current tokio runtime; returns at once, connected or not.
    pub fn start(config: LinkConfig) -> (Self, Incoming) {
        let (inbox, incoming) = inbox::inbox(config.incoming_max, config.incoming_bytes_max);
        let shared = Arc::new(Shared::new());
        shared.remember(&config.filters, Qos::One);
        let close = watch::Sender::new(false);
        let closing = Closing(close.subscribe());
        tokio::spawn(driver::drive(config, shared.clone(), inbox, closing));
        let close = Arc::new(close);
        (Self { shared, close }, incoming)
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    pub async fn publish(&self, topic: impl Into<String>, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        self.enqueue(topic, payload).await?.await
    }

    /// Hands a QoS 1 publish over, in order; waits for a connection and for room in the window, not for the PUBACK.
    pub async fn enqueue(&self, topic: impl Into<String>, payload: impl Into<Bytes>) -> Result<Ticket, PublishError> {
        self.send(Message::new(topic, payload)).await
    }

    /// [`Link::enqueue`] for a message with MQTT 5 properties or the retain flag.
    pub async fn send(&self, message: Message) -> Result<Ticket, PublishError> {
        let properties = mqtt::properties(&message).map_err(PublishError::Invalid)?;
        loop {
            let session = self.session().await?;
            let Ok(room) = session.room().await else {
                continue;
            };
            match session.publish(&message, properties.clone(), room) {
                Ok(ticket) => return Ok(ticket),
                Err(Some(fault)) => return Err(fault),
                // Ended in between: nothing was sent, so the next connection may have it.
                Err(None) => {}
            }
        }
    }

    /// Subscribes and remembers the filter. Connected: waits for the SUBACK; a refused filter is not remembered. Not
    /// connected: returns at once, and the filter is subscribed before [`Link::connected`] says true.
    pub async fn subscribe(&self, filter: impl Into<String>, qos: Qos) -> Result<(), SubscribeError> {
        self.subscribe_all(vec![filter.into()], qos).await
    }

    /// [`Link::subscribe`] for several filters in one packet, at most 100. Those that the peer refuses are not remembered, the
    /// others are.
    pub async fn subscribe_all(&self, filters: Vec<String>, qos: Qos) -> Result<(), SubscribeError> {
        for filter in &filters {
            let plain = match filter.strip_prefix("$share/") {
                Some(rest) => rest.split_once('/').map_or("", |(_, filter)| filter),
                None => filter,
            };
            if !wire::filter::valid_filter(plain) {
                let why = "it is empty, too long or has a wildcard where none may be";
                return Err(SubscribeError::Invalid(why));
            }
        }
        if filters.len() > FILTERS_MAX {
            return Err(SubscribeError::Invalid("there are more than 100 of them"));
        }
        if *self.close.borrow() {
            return Err(SubscribeError::Closed);
        }
        let _one = self.shared.subscribing.lock().await;
        let Some(session) = self.shared.remember(&filters, qos) else {
            return Ok(());
        };
        let asked: Vec<_> = filters.iter().map(|filter| (filter.clone(), qos)).collect();
        let Ok(answer) = session.subscribe(&asked) else {
            return Ok(());
        };
        // Without an answer the connection ended: the next one subscribes them.
        let codes = answer.await.unwrap_or_default();
        let mut outcome = Ok(());
        for (filter, reason_code) in filters.iter().zip(codes) {
            if reason_code >= 0x80 {
                self.shared.forget(filter);
                outcome = Err(SubscribeError::Refused { reason_code });
            }
        }
        outcome
    }

    /// Forgets a filter and tells the peer so, if connected; waits for its answer then.
    pub async fn unsubscribe(&self, filter: &str) {
        let _one = self.shared.subscribing.lock().await;
        let Some(session) = self.shared.forget(filter) else { return };
        if let Ok(answer) = session.unsubscribe(filter) {
            // Whatever the answer, what comes on that filter is wanted no more.
            let _ = answer.await;
        }
    }

    /// True while connected and subscribed.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// How the link stands and why.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// Says goodbye to the peer and ends the link for all clones. Tickets without an acknowledgement resolve to
    /// [`PublishError::Lost`]: wait for those you care about first.
    pub async fn close(self) {
        self.close.send_replace(true);
        let mut state = self.shared.state.subscribe();
        // The task never goes without saying so.
        let _ = state.wait_for(|state| *state == LinkState::Closed).await;
    }

    async fn session(&self) -> Result<Arc<Session>, PublishError> {
        let mut current = self.shared.current.subscribe();
        let mut closing = Closing(self.close.subscribe());
        tokio::select! {
            biased;
            () = closing.asked() => Err(PublishError::Closed),
            session = current.wait_for(Option::is_some) => {
                let session = session.ok().and_then(|session| session.clone());
                session.ok_or(PublishError::Closed)
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("Link").field("state", &*state).finish()
    }
}

impl Ticket {
    pub(crate) fn new(answer: oneshot::Receiver<Result<(), PublishError>>) -> Self {
        Self { answer }
    }
}

impl Future for Ticket {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or(Err(PublishError::Lost)))
    }
}
