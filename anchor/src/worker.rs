//! The worker: rounds of collecting chunks into batches and carrying batches to the chain, beside the business path.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;
use chassis::{Clock, Registry, Stop};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};
use wire::Epoch;

use crate::chain::{AddressFault, Chain};
use crate::collect::Collector;
use crate::config::{Batching, Config, ConfigFault};
use crate::courier::{Courier, Pause, Trouble};
use crate::keys::{Key, KeyError};
use crate::ledger::{Ledger, LedgerError};
use crate::limits;
use crate::metrics::Metrics;
use crate::source::{ChunkSource, StatementSource};
use crate::sponsor::{Gather, Loader, Mail};
use crate::way::{Post, Way};

/// Why a worker can't start. A chain that is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting can't be used.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The chain's address can't be used.
    #[error(transparent)]
    Address(#[from] AddressFault),
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a running worker gave up: its own ledger failed. A supervisor may start it again.
#[derive(Debug, thiserror::Error)]
#[error("anchoring stopped: {0}")]
pub struct WorkerError(#[from] LedgerError);

/// How anchoring is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing was tried yet.
    Starting,
    /// The last round went as it should.
    Fine,
    /// The chain does not answer; batches wait.
    Away(String),
    /// The account can't pay; batches wait.
    NoFunds,
    /// Gas costs more than the configured cap; batches wait.
    FeesTooHigh,
    /// The contract's address holds other code than ours. Nothing is written.
    WrongContract,
    /// The ledger was begun on another chain, or with another contract or key. Nothing is written.
    OtherChain,
    /// The stream's head is one that this ledger never made: somebody else has the key. Nothing is written.
    ForeignHead,
    /// Somebody else has used a nonce of the account since the start. Batches are written under other nonces.
    ForeignNonce,
    /// A node or the contract refuses for another reason; batches wait.
    Refused(String),
}

impl Health {
    /// Whether a person is needed.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        !matches!(self, Self::Starting | Self::Fine | Self::Away(_) | Self::FeesTooHigh)
    }
}

/// What the metrics of a party's worker begin with.
const ROLE: &str = "anchor";

/// Starts workers.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Opens ledger and key and prepares for the chain, without asking it anything. The work is done by
    /// [`Anchoring::run`].
    ///
    /// # Errors
    /// [`StartError`] names what can't be used.
    pub fn start(
        config: Config,
        source: Arc<dyn ChunkSource>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Anchoring, StartError> {
        Self::start_with_statements(config, source, None, clock, registry)
    }

    /// Like [`Worker::start`], for a cloud: what relays state goes into the same batches.
    ///
    /// # Errors
    /// [`StartError`] names what can't be used.
    pub fn start_with_statements(
        config: Config,
        source: Arc<dyn ChunkSource>,
        statements: Option<Arc<dyn StatementSource>>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Anchoring, StartError> {
        if config.sponsor.is_some() {
            return Err(ConfigFault { field: "sponsor", fix: "needs a way to the anchor service" }.into());
        }
        let source_epoch = source.epoch();
        Self::build(config, (Way::Direct, ROLE), source_epoch, clock, registry, |parts| {
            let collector = Collector::new(source, parts.ledger, parts.batch, parts.metrics);
            Intake::Chunks(collector.with_statements(statements))
        })
    }

    /// Like [`Worker::start`], for a party that signs its roots and has the anchor service write them. `config.sponsor` is the account
    /// that the service writes with.
    ///
    /// # Errors
    /// [`StartError`] names what can't be used.
    pub fn start_sponsored(
        config: Config,
        post: Arc<dyn Post>,
        source: Arc<dyn ChunkSource>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Anchoring, StartError> {
        if config.sponsor.is_none() {
            return Err(ConfigFault { field: "sponsor", fix: "must name the account of the anchor service" }.into());
        }
        let source_epoch = source.epoch();
        Self::build(config, (Way::Sponsored(post), ROLE), source_epoch, clock, registry, |parts| {
            Intake::Chunks(Collector::new(source, parts.ledger, parts.batch, parts.metrics))
        })
    }

    /// The anchor service's own worker.
    pub(crate) fn carry(
        config: Config,
        gather: Gather,
        mail: Mail,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Anchoring, StartError> {
        Self::build(config, (Way::Direct, "sponsor"), Epoch(0), clock, registry, |parts| {
            let places = (parts.contract, parts.submitter);
            Intake::Roots(Loader::new(parts.ledger, parts.chain, places, gather, mail, parts.metrics))
        })
    }

    fn build(
        config: Config,
        (way, role): (Way, &str),
        source: Epoch,
        clock: Arc<dyn Clock>,
        registry: &Registry,
        intake: impl FnOnce(IntakeParts) -> Intake,
    ) -> Result<Anchoring, StartError> {
        config.check()?;
        let chain = Chain::new(&config.rpc, config.timeout.duration())?;
        let key = config.unlock.open(&config.key_file)?;
        let ledger = Arc::new(Ledger::open(&config.ledger, &config.party, source)?);
        let metrics = Metrics::new(registry, role);
        let health = Arc::new(watch::Sender::new(Health::Starting));
        let intake = intake(IntakeParts {
            ledger: Arc::clone(&ledger),
            chain: chain.clone(),
            contract: config.contract,
            submitter: key.address(),
            batch: config.batch,
            metrics: metrics.clone(),
        });
        let courier = Courier::new(&config, chain, (key.clone(), way), Arc::clone(&ledger), Arc::clone(&clock), metrics.clone());
        let rounds = Rounds { intake, courier, rest: Backoff::default(), resting_until: None };
        Ok(Anchoring {
            inner: Arc::new(Inner {
                poll: config.poll.duration(),
                key,
                ledger,
                clock,
                metrics,
                health,
                rounds: Mutex::new(rounds),
            }),
        })
    }
}

/// What batches are made from.
enum Intake {
    /// The party's own chunks.
    Chunks(Collector),
    /// Roots of others.
    Roots(Loader),
}

struct IntakeParts {
    ledger: Arc<Ledger>,
    chain: Chain,
    contract: Address,
    submitter: Address,
    batch: Batching,
    metrics: Metrics,
}

struct Inner {
    poll: Duration,
    key: Key,
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    health: Arc<watch::Sender<Health>>,
    rounds: Mutex<Rounds>,
}

struct Rounds {
    intake: Intake,
    courier: Courier,
    rest: Backoff,
    resting_until: Option<Instant>,
}

/// One party's anchoring. A clone is another handle to the same.
#[derive(Clone)]
pub struct Anchoring {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Anchoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Anchoring").field("key", &self.inner.key).finish_non_exhaustive()
    }
}

impl Anchoring {
    /// Works until stopped. Fit for `chassis::Units` with a restart policy:
    /// `units.add("anchor", policy, move |stop| anchoring.run(stop))`.
    ///
    /// # Errors
    /// [`WorkerError`] if the ledger fails; nothing that the chain does ends it.
    pub fn run(&self, stop: Stop) -> impl Future<Output = Result<(), WorkerError>> + Send + 'static {
        let inner = Arc::clone(&self.inner);
        async move {
            loop {
                let until = Instant::now() + inner.poll;
                tokio::select! {
                    // Between any two steps of a round the ledger says where to go on, so a round may be cut off.
                    () = stop.stopped() => return Ok(()),
                    round = inner.round() => round?,
                }
                tokio::select! {
                    () = stop.stopped() => return Ok(()),
                    () = sleep_until(until) => {}
                }
            }
        }
    }

    /// The ledger, for queries. They wait for nothing that the worker does.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// The account that signs.
    #[must_use]
    pub fn address(&self) -> Address {
        self.inner.key.address()
    }

    /// How it is doing, and every change of that.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }
}

impl Inner {
    async fn round(&self) -> Result<(), WorkerError> {
        let rounds = &mut *self.rounds.lock().await;
        match &mut rounds.intake {
            Intake::Chunks(collector) => collector.collect(self.clock.now()).await?,
            Intake::Roots(loader) => loader.collect(self.clock.now()).await?,
        }
        if rounds.resting_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let (health, pause) = match rounds.courier.round().await {
            Ok(pause) => (rounds.courier.health().clone(), pause),
            Err(Trouble::Ledger(error)) => return Err(error.into()),
            Err(Trouble::Chain(error)) => {
                rounds.courier.doubt();
                (Health::Away(error.to_string()), Pause::Rest)
            }
        };
        rounds.resting_until = match pause {
            Pause::Poll => {
                rounds.rest = Backoff::default();
                None
            }
            Pause::Rest => Some(Instant::now() + rounds.rest.next()),
        };
        self.show(health).await
    }

    async fn show(&self, health: Health) -> Result<(), WorkerError> {
        let ledger = Arc::clone(&self.ledger);
        let standing = on_ledger(move || ledger.standing()).await?;
        self.metrics.show(&standing, self.clock.now());
        self.metrics.chain_away.set(matches!(health, Health::Away(_)).into());
        self.metrics.alarm.set(health.is_alarm().into());
        self.health.send_if_modified(|before| {
            let changed = *before != health;
            if changed {
                if health.is_alarm() {
                    tracing::error!(?health, "anchoring needs a person");
                } else {
                    tracing::info!(?health, "anchoring");
                }
                *before = health;
            }
            changed
        });
        Ok(())
    }
}

/// Runs `work`, which reads or writes a database, on a thread that may block.
pub(crate) async fn on_ledger<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

/// Pauses that double up to a limit, each shortened by chance so that a town of agents does not come back at once.
#[derive(Debug, Default)]
struct Backoff {
    pauses: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = limits::BACKOFF_MIN.saturating_mul(1 << self.pauses.min(16)).min(limits::BACKOFF_MAX);
        self.pauses = self.pauses.saturating_add(1);
        let chance = getrandom::u32().unwrap_or(0) % 256;
        pause - pause * chance / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= limits::BACKOFF_MIN && pauses[0] > limits::BACKOFF_MIN / 2);
        assert!(pauses[39] <= limits::BACKOFF_MAX && pauses[39] > limits::BACKOFF_MAX / 2);
    }
}
