//! What can be set about the broker, with the reasons for the defaults.

use std::net::SocketAddr;
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Limits and addresses. Start from `Settings::default()` and set what differs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses to listen at; port 0 takes a free one, see `Broker::addresses`.
    pub listen: Vec<SocketAddr>,
    /// Connections at once, those still shaking hands included. One more gets CONNACK "quota exceeded" and is closed.
    pub connections_max: usize,
    /// From accept to a complete CONNECT; a silent client is closed then.
    pub handshake_deadline: Duration,
    /// The longest keep-alive; a client that asks for more, or for none, is held to this (MQTT 5 clients are told).
    /// Zero: whatever the client asks for.
    pub keep_alive_max: Duration,
    /// The largest packet taken or sent, in bytes.
    pub packet_bytes_max: usize,
    /// QoS 1 and 2 publishes that an MQTT 5 client may have unacknowledged (told as Receive Maximum, enforced).
    pub receive_maximum: u16,
    /// Acknowledgement batches of one connection that may wait for the intake; then its reading waits.
    pub outstanding_batches_max: usize,
    /// Bytes of packets of one connection that may wait for the intake; then its reading waits.
    pub outstanding_bytes_max: usize,
    /// Unacknowledged deliveries to one client, at most (its own Receive Maximum may be smaller); then delivery waits.
    pub inflight_max: u16,
    /// Bytes written for one client and not yet taken by its socket; then delivery and reading wait.
    pub outbox_bytes_max: usize,
    /// How long a socket may take nothing at all before the connection is closed.
    pub write_stall_max: Duration,
    /// Subscriptions of one client.
    pub subscriptions_max: usize,
    /// Feeds (`$from/…`) of one client.
    pub feeds_per_client_max: usize,
    /// Feeds of all clients together.
    pub feeds_max: usize,
    /// What is kept for subscribers that lag, per distinct filter. Beyond it the oldest is dropped, and counted per subscriber.
    /// The router adds about 300 bytes of its own a message.
    pub filter_log_bytes: usize,
    /// How often a probe goes through the router.
    pub probe_interval: Duration,
    /// A probe that has not come back by then means that the router is dead: `Broker::failed` resolves.
    pub probe_deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: Vec::new(),
            connections_max: 20_000,
            handshake_deadline: Duration::from_secs(10),
            keep_alive_max: Duration::ZERO,
            packet_bytes_max: MIB,
            receive_maximum: 4_096,
            outstanding_batches_max: 64,
            outstanding_bytes_max: 2 * MIB,
            inflight_max: 512,
            outbox_bytes_max: 256 * KIB,
            write_stall_max: Duration::from_secs(30),
            subscriptions_max: 1_000,
            feeds_per_client_max: 16,
            feeds_max: 256,
            filter_log_bytes: 16 * MIB,
            probe_interval: Duration::from_secs(1),
            probe_deadline: Duration::from_secs(15),
        }
    }
}
