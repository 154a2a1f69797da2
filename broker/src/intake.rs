//! The hook through which published data leaves the broker and becomes durable.
//!
//! The face calls [`IntakeSession::offer`] for every authorised PUBLISH to a claimed topic that one socket read brought, then
//! [`IntakeSession::commit`] once. The acknowledgements of that batch are written, in order, when the returned future
//! resolves; nothing else in this crate sends one for a claimed topic.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

/// Who is connected.
#[derive(Debug, Clone)]
pub struct Client {
    /// The client id, any valid UTF-8.
    pub id: String,
    /// The user that the password was checked for; `None` where the policy lets anybody in.
    pub user: Option<String>,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// Whether the client speaks MQTT 5 and so can be told why.
    pub v5: bool,
}

/// One PUBLISH, borrowed from the read buffer.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The topic as published, already checked to be a valid topic name.
    pub topic: &'a str,
    /// The payload.
    pub payload: &'a [u8],
    /// 0, 1 or 2. With 0 nobody learns of a refusal.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// MQTT 5 response topic.
    pub response_topic: Option<&'a str>,
    /// MQTT 5 correlation data.
    pub correlation_data: Option<&'a [u8]>,
    /// MQTT 5 user properties, in order.
    pub user_properties: &'a [(String, String)],
}

/// Why a publish is not taken. MQTT 5 clients get the code; a 3.1.1 client is disconnected after the acknowledgements before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The publisher may not say this.
    #[error("not authorised")]
    NotAuthorized,
    /// The topic is not one that is taken here.
    #[error("topic name invalid")]
    TopicNameInvalid,
    /// The payload is not what this topic carries.
    #[error("payload format invalid")]
    PayloadFormatInvalid,
    /// A budget is used up; later it may work.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// The store can't take anything now.
    #[error("unavailable")]
    Unavailable,
}

impl Refusal {
    /// The MQTT 5 reason code.
    #[must_use]
    pub fn reason_code(self) -> u8 {
        match self {
            Refusal::NotAuthorized => 0x87,
            Refusal::TopicNameInvalid => 0x90,
            Refusal::PayloadFormatInvalid => 0x99,
            Refusal::QuotaExceeded => 0x97,
            Refusal::Unavailable => 0x83,
        }
    }
}

/// Resolves when everything offered before it is durable, or says why it is not.
pub type Commit = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// What takes published data in.
pub trait Intake: Send + Sync + 'static {
    /// Whether publishes to `topic` go to this intake (and only there) instead of being routed to subscribers. Pure and cheap:
    /// the answer is cached per topic.
    fn claims(&self, topic: &str) -> bool;

    /// A client has connected; its offers come through the session returned.
    fn open(&self, client: &Client) -> Box<dyn IntakeSession>;
}

/// The intake's side of one connection. Dropped when the connection ends.
pub trait IntakeSession: Send {
    /// Takes one publish, or refuses it alone. Must not block.
    ///
    /// # Errors
    /// The reason that the publisher is told.
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal>;

    /// Hands all offered since the last call to the store. `None`: there is nothing to wait for.
    fn commit(&mut self) -> Option<Commit>;

    /// Whether what was offered last is to be committed by itself, not together with what the same read brings behind it, so that it
    /// gets an answer of its own. Asked after each offer that was taken.
    fn alone(&self) -> bool {
        false
    }
}

/// An intake that claims nothing: every publish is routed. For a bare broker.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoIntake;

impl Intake for NoIntake {
    fn claims(&self, _topic: &str) -> bool {
        false
    }
    fn open(&self, _client: &Client) -> Box<dyn IntakeSession> {
        Box::new(NoIntake)
    }
}

impl IntakeSession for NoIntake {
    fn offer(&mut self, _offer: Offer<'_>) -> Result<(), Refusal> {
        Err(Refusal::TopicNameInvalid)
    }
    fn commit(&mut self) -> Option<Commit> {
        None
    }
}
