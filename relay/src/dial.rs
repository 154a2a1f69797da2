//! Connections to the cloud and to proxies.

use std::time::Duration;

use link::{Backoff, Credentials, Incoming, Link, LinkConfig, LinkState};
use tokio::sync::watch;

/// A relay that has others to turn to does not wait long for one that does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest pause between attempts of a member: the others may be waiting for it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Makes connections.
#[derive(Debug, Clone)]
pub struct Dial {
    cloud: LinkConfig,
    group: Option<Option<Credentials>>,
    proxies: u64,
}

/// A connection, there or on its way.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) link: Link,
    pub(crate) incoming: Incoming,
    pub(crate) connected: watch::Receiver<bool>,
    pub(crate) state: watch::Receiver<LinkState>,
}

impl Dial {
    /// For a relay that is on its own: nothing but the cloud.
    #[must_use]
    pub fn cloud(cloud: LinkConfig) -> Self {
        Self { cloud, group: None, proxies: 0 }
    }

    /// For a member of a group: the cloud, and other members with these credentials.
    #[must_use]
    pub fn group(mut cloud: LinkConfig, members: Option<Credentials>) -> Self {
        cloud.connect_timeout = CONNECT_TIMEOUT;
        if let Ok(backoff) = Backoff::try_new(Duration::from_millis(200), PAUSE_MAX, 0.5) {
            cloud.backoff = backoff;
        }
        cloud.refused_retry = PAUSE_MAX;
        Self { cloud, group: Some(members), proxies: 0 }
    }

    /// Subscribes these on every connection.
    pub(crate) fn listen(&mut self, topics: &[String]) {
        self.cloud.filters = topics.to_vec();
    }

    /// The relay's own connection to the cloud.
    pub(crate) fn direct(&self) -> Leg {
        Leg::start(self.cloud.clone())
    }

    /// A connection to a proxy at `host:port`.
    pub(crate) fn proxy(&mut self, address: &str) -> Option<Leg> {
        let (host, port) = host_and_port(address)?;
        self.proxies += 1;
        Some(Leg::start(LinkConfig {
            host: host.to_owned(),
            port,
            // The next connection may be to the same proxy: it shall not take over this one before it stands.
            client_id: format!("{}-{}", self.cloud.client_id, self.proxies % 2),
            credentials: self.group.clone().flatten(),
            ..self.cloud.clone()
        }))
    }
}

impl Leg {
    fn start(config: LinkConfig) -> Self {
        let (link, incoming) = Link::start(config);
        let (connected, state) = (link.connected(), link.state());
        Self { link, incoming, connected, state }
    }
}

/// Splits `host:port`; an IPv6 address has brackets.
pub(crate) fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!bare.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(host_and_port("relay-2.north:1883"), Some(("relay-2.north", 1883)));
        assert_eq!(host_and_port("[::1]:1883"), Some(("[::1]", 1883)));
        for wrong in ["", "relay-2", ":1883", "relay-2:", "relay-2:0", "relay-2:70000", "::1:1883", "[]:1", "[::1:1"] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }
}
