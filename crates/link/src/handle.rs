//! The handle that callers hold.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{LinkConfig, Message, PublishError, Qos, Received, SubscribeError};

/// How the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// An attempt is under way, or the first one is still to come.
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
#[derive(Debug, Clone)]
pub struct Link {
    state: Arc<watch::Sender<LinkState>>,
    connected: Arc<watch::Sender<bool>>,
}

/// What the peer sends us, in order. The queue is bounded by count and bytes; when it is full the connection waits up
/// to the keep-alive time for room and is then ended, because a reader that stands still would also hold up acknowledgements.
#[derive(Debug)]
pub struct Incoming {
    queue: mpsc::Receiver<Received>,
}

/// The future of one acknowledgement.
#[derive(Debug)]
#[must_use = "a publish is done when its ticket says so"]
pub struct Ticket {
    answer: oneshot::Receiver<Result<(), PublishError>>,
}

impl Link {
    /// Starts the link's task on the current tokio runtime; returns at once, connected or not.
    pub fn start(_config: LinkConfig) -> (Self, Incoming) {
        let (_, queue) = mpsc::channel(1);
        let state = Arc::new(watch::Sender::new(LinkState::Connecting));
        let connected = Arc::new(watch::Sender::new(false));
        (Self { state, connected }, Incoming { queue })
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    pub async fn publish(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<(), PublishError> {
        self.enqueue(topic, payload).await?.await
    }

    /// Hands a QoS 1 publish over, in order; waits for a connection and for room in the window, not for the PUBACK.
    pub async fn enqueue(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<Ticket, PublishError> {
        self.send(Message::new(topic, payload)).await
    }

    /// [`Link::enqueue`] for a message with MQTT 5 properties or the retain flag.
    pub async fn send(&self, _message: Message) -> Result<Ticket, PublishError> {
        Err(PublishError::Closed)
    }

    /// Subscribes and remembers the filter. Connected: waits for the SUBACK. Not connected: returns at once, and the
    /// filter is subscribed before [`Link::connected`] says true.
    pub async fn subscribe(
        &self,
        _filter: impl Into<String>,
        _qos: Qos,
    ) -> Result<(), SubscribeError> {
        Err(SubscribeError::Closed)
    }

    /// True while connected and subscribed.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// How the link stands and why.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Says goodbye to the peer and ends the link; unacknowledged tickets resolve to [`PublishError::Lost`].
    pub async fn close(self) {}
}

impl Incoming {
    /// The next message; `None` when the link was closed.
    pub async fn next(&mut self) -> Option<Received> {
        self.queue.recv().await
    }
}

impl Future for Ticket {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(PublishError::Lost)))
    }
}
