//! Stock rumqttd 0.20 for `scripts/bench`: MQTT 5 and 3.1.1 on two loopback ports, everything in memory.
//!
//! ```text
//! stock_rumqttd PORT [PORT_OF_3.1.1]
//! ```
//!
//! Settings are those of the `rumqttd.toml` that it ships, with a longer read batch (500 instead of 100), which makes it
//! faster with many messages in flight, and without the pause between two accepted connections.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

fn main() -> anyhow::Result<()> {
    let mut ports = std::env::args().skip(1).map(|port| port.parse::<u16>());
    let v5 = ports.next().context("usage: stock_rumqttd PORT [PORT_OF_3.1.1]")??;
    let v4 = ports.next().transpose()?;
    let config = Config {
        id: 0,
        router: RouterConfig {
            max_connections: 20_000,
            max_outgoing_packet_count: 200,
            max_segment_size: 100 * 1024 * 1024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([server("v5", v5)])),
        v4: v4.map(|port| HashMap::from([server("v4", port)])),
        ws: None,
        cluster: None,
        console: None,
        bridge: None,
        prometheus: None,
        metrics: None,
    };
    Broker::new(config).start().context("rumqttd ended")
}

fn server(name: &str, port: u16) -> (String, ServerSettings) {
    let settings = ServerSettings {
        name: name.to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 1024 * 1024,
            max_inflight_count: 500,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    (name.to_owned(), settings)
}
