//! One member's connection to the proxy: `up/{member}/…` in, the cloud's answers out.
//!
//! Frames of one connection go up in order or not at all: when one did not get through, for whatever reason that another way could
//! mend, the connection is over for frames, and the member sends everything again by another. Otherwise a later frame could overtake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use broker::{Commit, Refusal};
use bytes::Bytes;
use link::{PublishError, Ticket};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use wire::topics::{SegmentName, Topic, Up};

use super::metrics::NotPassed;
use super::proxy::{InHand, Proxy, Serving};

/// Parcels of one connection that wait their turn. The broker lets a connection have fewer without an acknowledgement.
const PARCELS_MAX: usize = 1_024;

type Handed = Result<Ticket, PublishError>;

/// Something on its way from the member to the cloud.
struct Parcel {
    topic: String,
    payload: Bytes,
    handed: oneshot::Sender<Handed>,
}

/// The way from this connection to the cloud.
struct Passage {
    member: String,
    connected: watch::Receiver<bool>,
    parcels: mpsc::Sender<Parcel>,
}

/// What was offered and waits for its commit.
struct Offered {
    frame: bool,
    in_hand: InHand,
    handed: oneshot::Receiver<Handed>,
}

/// Passes on what one connection says.
pub(crate) struct Passing {
    proxy: Proxy,
    passage: Option<Passage>,
    over: Arc<AtomicBool>,
    offered: Option<Offered>,
}

impl Passing {
    /// For a connection that has said nothing yet.
    pub(crate) fn new(proxy: Proxy) -> Self {
        Self { proxy, passage: None, over: Arc::default(), offered: None }
    }

    /// Whether something waits for its commit.
    pub(crate) fn has_offered(&self) -> bool {
        self.offered.is_some()
    }

    fn refuse(&self, reason: NotPassed, refusal: Refusal) -> Refusal {
        self.proxy.refused(reason);
        refusal
    }

    /// Refuses; a frame takes those behind it with it.
    fn end(&self, frame: bool, reason: NotPassed) -> Refusal {
        if frame {
            self.over.store(true, Ordering::Release);
        }
        self.refuse(reason, Refusal::Unavailable)
    }

    /// Takes what a member says. Each is to be committed alone.
    pub(crate) fn offer(&mut self, relay: SegmentName<'_>, kind: Up, payload: &[u8]) -> Result<(), Refusal> {
        let member = relay.as_str();
        if member == self.proxy.me().as_str() || self.passage.as_ref().is_some_and(|passage| passage.member != member) {
            return Err(self.refuse(NotPassed::Member, Refusal::NotAuthorized));
        }
        let frame = kind == Up::Frames;
        if frame && self.over.load(Ordering::Acquire) {
            return Err(self.refuse(NotPassed::Over, Refusal::Unavailable));
        }
        let Some(serving) = self.proxy.serving() else { return Err(self.end(frame, NotPassed::NotProxy)) };
        if self.passage.as_ref().is_some_and(|passage| passage.connected.has_changed().unwrap_or(true)) {
            return Err(self.end(frame, NotPassed::Over));
        }
        let Some(in_hand) = self.proxy.take_in_hand(payload.len()) else { return Err(self.end(frame, NotPassed::Full)) };
        let passage = self.passage.get_or_insert_with(|| open(&self.proxy, serving, member));
        let (hand, handed) = oneshot::channel();
        let topic = Topic::Up { relay, kind }.to_string();
        let parcel = Parcel { topic, payload: Bytes::copy_from_slice(payload), handed: hand };
        match passage.parcels.try_send(parcel) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(self.end(frame, NotPassed::Full)),
            Err(TrySendError::Closed(_)) => return Err(self.end(frame, NotPassed::Lost)),
        }
        self.offered = Some(Offered { frame, in_hand, handed });
        Ok(())
    }

    /// The cloud's answer to what was offered.
    pub(crate) fn commit(&mut self) -> Option<Commit> {
        let Offered { frame, in_hand, handed } = self.offered.take()?;
        let (proxy, over) = (self.proxy.clone(), Arc::clone(&self.over));
        Some(Box::pin(async move {
            let outcome = match handed.await {
                Ok(Ok(ticket)) => ticket.await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(PublishError::Lost),
            };
            let (reason, refusal) = match outcome {
                Ok(()) => {
                    if frame {
                        proxy.metrics().passed(in_hand.bytes() as u64);
                        proxy.passed(in_hand.bytes(), 1, Instant::now());
                    }
                    return Ok(());
                }
                Err(PublishError::Refused { reason_code }) => (NotPassed::Cloud, refusal(reason_code)),
                Err(PublishError::TooLarge { .. } | PublishError::Invalid(_)) => {
                    (NotPassed::Cloud, Refusal::PayloadFormatInvalid)
                }
                Err(PublishError::Lost | PublishError::Closed) => (NotPassed::Lost, Refusal::Unavailable),
            };
            if frame && refusal == Refusal::Unavailable {
                over.store(true, Ordering::Release);
            }
            proxy.refused(reason);
            Err(refusal)
        }))
    }
}

/// The cloud's reason, passed on. That the *proxy* may not speak for the member is the proxy's fault, not the frame's.
fn refusal(reason_code: u8) -> Refusal {
    match reason_code {
        0x90 => Refusal::TopicNameInvalid,
        0x97 => Refusal::QuotaExceeded,
        0x99 => Refusal::PayloadFormatInvalid,
        0x87 => {
            tracing::error!("the cloud does not let this relay speak for the members of its group; grant it up/{{member}}/#");
            Refusal::Unavailable
        }
        _ => Refusal::Unavailable,
    }
}

/// Opens the way for a member. It ends when the connection of either side does.
fn open(proxy: &Proxy, serving: Serving, member: &str) -> Passage {
    let (parcels, waiting) = mpsc::channel(PARCELS_MAX);
    let (connected, member) = (serving.connected.clone(), member.to_owned());
    tokio::spawn(carry(proxy.clone(), serving, member.clone(), waiting));
    Passage { member, connected, parcels }
}

async fn carry(proxy: Proxy, serving: Serving, member: String, waiting: mpsc::Receiver<Parcel>) {
    // Before the first frame, so that its receipt finds the way down.
    match proxy.member_comes(&serving, &member).await {
        Ok(()) => pass_on(&serving, waiting).await,
        Err(error) => {
            tracing::error!(member, %error, "the cloud does not let this relay listen for a member of its group; grant it down/{{member}}/#");
        }
    }
    proxy.member_goes(&serving, &member).await;
}

/// One at a time, so that members and the relay's own frames take turns at the connection's window.
async fn pass_on(serving: &Serving, mut waiting: mpsc::Receiver<Parcel>) {
    let mut connected = serving.connected.clone();
    loop {
        let parcel = tokio::select! {
            biased;
            _ = connected.changed() => return,
            parcel = waiting.recv() => match parcel {
                Some(parcel) => parcel,
                None => return,
            },
        };
        let Parcel { topic, payload, handed } = parcel;
        let outcome = tokio::select! {
            // The link would go on with its next connection, and leave out what was lost with this one.
            biased;
            _ = connected.changed() => return,
            outcome = serving.link.enqueue(topic, payload) => outcome,
        };
        // The member may be gone.
        let _ = handed.send(outcome);
    }
}
