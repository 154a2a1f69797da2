//! The broker as a whole: start, addresses, failure, stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Registry, Stopper};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::Core;
use crate::feeds::Feeds;
use crate::hub::{Hub, Routing};
use crate::index::Index;
use crate::intake::Intake;
use crate::listener;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::router::Router;
use crate::settings::Settings;
use crate::watchdog;

/// What a broker is put together from.
pub struct Parts {
    /// Users and grants.
    pub policy: Policy,
    /// Where published data goes; [`crate::NoIntake`] routes everything.
    pub intake: Arc<dyn Intake>,
    /// Who feeds subscriptions to `$from/…`; without it they are refused.
    pub feeds: Option<Arc<dyn Feeds>>,
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
    core: Arc<Core>,
    stopper: Stopper,
    /// One a listener; each holds its connections.
    listeners: JoinSet<()>,
    failure: watch::Receiver<Option<Failure>>,
    _watchdog: JoinSet<()>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Broker {
    /// Binds all addresses, starts the router and listens.
    ///
    /// # Errors
    /// An address can't be bound, or the router does not come up. Nothing is left listening then.
    pub async fn start(settings: Settings, parts: Parts) -> Result<Broker, StartError> {
        let mut bound = Vec::with_capacity(settings.listen.len());
        for address in &settings.listen {
            let bind = |source| StartError::Bind { address: *address, source };
            let listener = TcpListener::bind(address).await.map_err(bind)?;
            bound.push((listener.local_addr().map_err(bind)?, listener));
        }
        let (subscribers, log_bytes) = (settings.connections_max, settings.filter_log_bytes);
        let router = tokio::task::spawn_blocking(move || Router::start(subscribers, log_bytes))
            .await
            .map_err(|fault| StartError::Router(fault.to_string()))?
            .map_err(|fault| StartError::Router(fault.to_string()))?;
        let metrics = Metrics::register(&parts.registry);
        let routing =
            Routing { index: Index::default(), router: router.clone(), metrics: metrics.clone(), started: Instant::now() };
        let (interval, deadline) = (settings.probe_interval, settings.probe_deadline);
        let hub = Hub::new(Arc::new(routing));
        let core = Arc::new(Core::new(settings, parts.policy, parts.intake, parts.feeds, parts.clock, metrics, hub));
        let stopper = Stopper::new();
        let mut listeners = JoinSet::new();
        let mut addresses = Vec::with_capacity(bound.len());
        for (address, listener) in bound {
            addresses.push(address);
            listeners.spawn(listener::listen(core.clone(), listener, stopper.token()));
        }
        let (tell, failure) = watch::channel(None);
        let mut watchdog = JoinSet::new();
        watchdog.spawn(async move {
            let failure = watchdog::watch(router, interval, deadline).await;
            tell.send_replace(Some(failure));
        });
        Ok(Broker { addresses, core, stopper, listeners, failure, _watchdog: watchdog })
    }

    /// The addresses that are listened at, with the ports that were really bound, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle for publishing from inside the process.
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.core.hub.clone()
    }

    /// The broker's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// Resolves when the broker can't go on. A supervisor awaits it and ends the process. The future holds nothing of the
    /// broker, so it can be moved into a task.
    pub fn failed(&self) -> impl Future<Output = Failure> + Send + 'static {
        let mut failure = self.failure.clone();
        async move {
            if let Ok(told) = failure.wait_for(Option::is_some).await
                && let Some(failure) = told.clone()
            {
                return failure;
            }
            std::future::pending().await
        }
    }

    /// Stops accepting, lets every connection finish the packets in hand (acknowledgements of what was offered included), says
    /// goodbye with reason 0x8B and returns when all are closed or the deadline has passed.
    pub async fn stop(mut self, deadline: Duration) {
        self.stopper.stop();
        self.core.sessions.stop_all();
        let finished = async { while self.listeners.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, finished).await.is_err() {
            let left = self.core.metrics.connections();
            tracing::warn!(left, "connections had not finished by the deadline and are cut");
        }
    }
}
