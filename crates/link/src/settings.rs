//! What a link needs to know before it starts.

use std::fmt;
use std::time::Duration;

use crate::Backoff;

/// The smallest keep-alive that the MQTT client underneath takes; shorter ones are raised to it.
pub const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// Everything a [`crate::Link`] is told at its start.
#[derive(Clone)]
pub struct LinkConfig {
    /// Host name or IP address of the peer.
    pub host: String,
    /// TCP port of the peer.
    pub port: u16,
    /// MQTT client id; never empty.
    pub client_id: String,
    /// User name and password; `None` connects anonymously.
    pub credentials: Option<Credentials>,
    /// How often an idle peer is pinged; a peer silent for one and a half of it is dead.
    /// Raised to [`KEEP_ALIVE_MIN`]; a server's own keep-alive overrides it.
    pub keep_alive: Duration,
    /// How many publishes may wait for their acknowledgement at once. The peer's receive maximum lowers it.
    pub inflight_max: u16,
    /// The largest packet that is accepted from the peer. What may be sent is the peer's decision.
    pub packet_bytes_max: u32,
    /// How long TCP connect, CONNECT, CONNACK and the re-subscription may take together.
    pub connect_timeout: Duration,
    /// A peer that acknowledges nothing for this long, while publishes wait for it, is taken for dead.
    pub ack_timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Pause (before jitter) after the peer refused us by name: wrong password, not authorised, banned, taken over.
    pub refused_retry: Duration,
    /// Messages kept for [`crate::Incoming`] when it isn't read; then the connection waits, see [`crate::Incoming`].
    pub incoming_max: usize,
    /// Payload bytes kept for [`crate::Incoming`] when it isn't read; then the connection waits.
    pub incoming_bytes_max: usize,
    /// Filters that are subscribed at QoS 1 on every connection from the first one on.
    pub filters: Vec<String>,
    /// Seed of the jitter; `None` takes one from the operating system. Tests give one.
    pub seed: Option<u64>,
}

impl LinkConfig {
    /// A link to `host:port` with the defaults of this crate.
    pub fn new(host: impl Into<String>, port: u16, client_id: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            client_id: client_id.into(),
            credentials: None,
            keep_alive: Duration::from_secs(20),
            inflight_max: 200,
            packet_bytes_max: 16 * 1024 * 1024 + 64 * 1024,
            connect_timeout: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(60),
            backoff: Backoff::default(),
            refused_retry: Duration::from_secs(30),
            incoming_max: 1024,
            incoming_bytes_max: 64 * 1024 * 1024,
            filters: Vec::new(),
            seed: None,
        }
    }

    /// The same with a user name and a password.
    #[must_use]
    pub fn with_credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials { user: user.into(), password: password.into() });
        self
    }

    /// `host:port`, with the brackets that an IPv6 address needs.
    pub fn address(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("address", &self.address())
            .field("client_id", &self.client_id)
            .field("credentials", &self.credentials)
            .field("inflight_max", &self.inflight_max)
            .finish_non_exhaustive()
    }
}

/// User name and password; `Debug` shows only the name.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// MQTT user name.
    pub user: String,
    /// MQTT password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:***", self.user)
    }
}
