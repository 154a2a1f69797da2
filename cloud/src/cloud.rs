//! The cloud as a whole: what is started, in which order it lives and how it stops.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anchor::worker::{Anchoring, Worker};
use archive::Archive;
use axum::Router;
use broker::{Broker, Hub, Watch};
use chassis::{Clock, Policy, Registry, Stop, Units};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::access::{self, Registrar};
use crate::anchoring::{self, Anchored, Chunks};
use crate::answers::{self, Desk, Question};
use crate::catchup::CatchUp;
use crate::commands::Commands;
use crate::config::{Config, ConfigError};
use crate::demand::{self, Service};
use crate::groups::{Book, BookError, Fence, Groups, HEARD_MAX, Keeper};
use crate::history::History;
use crate::http::identity::Identities;
use crate::http::{self, Api};
use crate::index::{self, Index, Statements};
use crate::ingest::{self, CloudIntake, Seen};
use crate::late::Late;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::proving::Proving;
use crate::pull::{self, Pulls};
use crate::receipts::{self, Batcher, COMMITTED_MAX, Committed};
use crate::sponsor;

/// Answers over MQTT that are worked on at the same time, for each reader: most of them wait for relays, not for the archive.
const ANSWERS_A_READER: usize = 16;
/// How often the archive is asked to close what is due.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// How long connections may take to finish the packets in hand.
const GOODBYE: Duration = Duration::from_secs(5);
/// Failures of the anchor worker that are forgiven within [`ANCHOR_WITHIN`]: it does not serve, so it may try for long.
const ANCHOR_FAILURES: u32 = 20;
/// See [`ANCHOR_FAILURES`].
const ANCHOR_WITHIN: Duration = Duration::from_secs(60);

/// What a cloud is given from outside.
#[derive(Clone)]
pub struct Parts {
    /// The time of day, for grants that end and segments that close.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub registry: Registry,
}

/// Why a cloud does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Users or grants can't be read.
    #[error("access can't be set up")]
    Access(#[from] broker::PolicyFault),
    /// Requests for access can't be served.
    #[error("access requests can't be served")]
    Authority(#[from] access::AuthorityFault),
    /// The database can't be opened.
    #[error("the archive in {} can't be opened", data.display())]
    Archive {
        /// The folder.
        data: PathBuf,
        /// Why.
        #[source]
        source: archive::OpenError,
    },
    /// The terms of groups can't be read.
    #[error("groups can't be set up")]
    Groups(#[from] BookError),
    /// The index can't be opened.
    #[error("the index in {} can't be opened", data.display())]
    Index {
        /// The folder.
        data: PathBuf,
        /// Why.
        #[source]
        source: index::OpenError,
    },
    /// Anchoring can't be set up.
    #[error("anchoring can't be set up")]
    Anchor(#[from] anchor::worker::StartError),
    /// Demand response can't be set up.
    #[error("demand response can't be set up")]
    Demand(#[from] demand::OpenFault),
    /// The HTTP address can't be listened at.
    #[error("http: can't bind {address}; choose a free address")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The broker does not start.
    #[error("the broker does not start")]
    Broker(#[from] broker::StartError),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random(#[from] getrandom::Error),
}

/// A cloud that listens. [`Cloud::units`] keeps it alive.
pub struct Cloud {
    archive: Archive,
    broker: Broker,
    http: Arc<TcpListener>,
    http_address: SocketAddr,
    http_connections_max: usize,
    routes: Router,
    history: History,
    answers_at_once: usize,
    questions: mpsc::Receiver<Question>,
    committed: mpsc::Receiver<Committed>,
    batcher: Batcher,
    live: Live,
    keeper: Keeper,
    watch: Watch,
    registrar: Registrar,
    keys_refresh: Duration,
    anchoring: Option<Anchoring>,
    sponsor: Option<sponsor::Service>,
    demand: Option<(Service, broker::Policy)>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Cloud {
    /// Opens the databases and starts to listen.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        config.check()?;
        let Parts { clock, registry } = parts;
        let (policy, watch) = config.access.open()?;
        let metrics = Metrics::register(&registry);
        let late = Late::default();
        let live = Live::new(bytes(config.live.queue), late.clone(), metrics.clone());
        let archive = open_archive(&config, &clock, &live).await?;
        // Before anybody is let in: what is granted is in force from the first moment.
        let (authority, requests) = (&config.authority, config.requests.clone());
        let registrar =
            Registrar::open(&config.data, authority, requests, policy.clone(), clock.clone(), metrics.clone()).await?;
        let keys_refresh = authority.tokens.as_ref().map_or(Duration::MAX, |tokens| tokens.refresh.duration());
        let commands = Commands::new(clock.now());
        let index = open_index(&config, &clock, &commands, &metrics).await?;
        let anchoring = match &config.anchor {
            None => None,
            Some(section) => {
                let (source, stated) = (Arc::new(Chunks(archive.clone())), Arc::new(Statements(index.clone())));
                let config = section.config(&config.name, &config.data)?;
                Some(Worker::start_with_statements(config, source, Some(stated), clock.clone(), &registry)?)
            }
        };
        let sponsor = sponsor::open(&config, clock.clone(), &registry)?;
        let limits = pull::Limits {
            all_max: config.history.pulls_max,
            relay_max: config.history.pulls_relay_max,
            wait: config.history.pull_wait.duration(),
        };
        let proving = Proving::new(commands.clone(), limits.wait, metrics.clone());
        let pulls = Pulls::new(limits, commands.clone(), archive.clone(), metrics.clone());
        let stored = (index.clone(), pulls.clone());
        let history = History::new(archive.clone(), stored, policy.clone(), clock.clone(), &config.history);
        let (desk, questions) = Desk::new(history.clone(), policy.clone(), clock.clone(), config.history.waiting_max);
        let (receipts, committed) = mpsc::channel(COMMITTED_MAX);
        let seen = Seen::default();
        let (groups, fence) = open_groups(&config, &clock).await?;
        let (heard, beats) = mpsc::channel(HEARD_MAX);
        let intake = Arc::new(CloudIntake::new(ingest::Shared {
            archive: archive.clone(),
            desk,
            receipts,
            late,
            live: live.clone(),
            fence,
            heard,
            index,
            pulls,
            proving: proving.clone(),
            sponsor: sponsor.as_ref().map(|(door, _)| door.clone()),
            seen: seen.clone(),
            metrics: metrics.clone(),
        }));
        let demand = open_demand(&config, &archive, &clock).await?;
        let bind_fault = |source| StartError::Http { address: config.http, source };
        let http = TcpListener::bind(config.http).await.map_err(bind_fault)?;
        let http_address = http.local_addr().map_err(bind_fault)?;
        let identities = Identities::new(policy.clone())?;
        let settings = broker::Settings {
            listen: config.listen.clone(),
            connections_max: config.broker.connections_max,
            packet_bytes_max: bytes(config.broker.packet_bytes_max),
            feeds_max: config.feeds.max,
            feeds_per_client_max: config.feeds.per_client_max,
            ..broker::Settings::default()
        };
        let feeds = CatchUp::new(history.clone(), policy.clone(), clock.clone(), metrics.clone(), &config.feeds);
        let feeds: Option<Arc<dyn broker::Feeds>> = Some(Arc::new(feeds));
        let broker_parts = broker::Parts { policy: policy.clone(), intake, feeds, clock: clock.clone(), registry };
        let broker = Broker::start(settings, broker_parts).await?;
        commands.through(broker.hub());
        let api = Api {
            history: history.clone(),
            policy: policy.clone(),
            clock: clock.clone(),
            hub: broker.hub(),
            seen,
            groups: groups.clone(),
            metrics: metrics.clone(),
            anchored: anchoring.as_ref().map(|anchoring| Anchored(anchoring.ledger().clone())),
            identities,
            commands,
            proving,
            demand: demand.clone(),
            tokens: http::openadr::Tokens::default(),
            registrar: registrar.clone(),
        };
        Ok(Self {
            archive,
            broker,
            http: Arc::new(http),
            http_address,
            http_connections_max: config.history.connections_max,
            routes: http::routes(Arc::new(api)),
            history,
            answers_at_once: ANSWERS_A_READER * config.history.readers,
            questions,
            committed,
            batcher: Batcher::new(config.receipts.wait.duration(), config.receipts.frames_max),
            live,
            keeper: Keeper::new(groups, beats, metrics.clone()),
            watch,
            registrar,
            keys_refresh,
            anchoring,
            sponsor: sponsor.map(|(_, service)| service),
            demand: demand.map(|demand| (demand, policy)),
            clock,
            metrics,
        })
    }

    /// Addresses that the broker listens at.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.broker.addresses()
    }

    /// Address that the HTTP interface listens at.
    pub fn http(&self) -> SocketAddr {
        self.http_address
    }

    /// The cloud's archive.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The anchor worker, if the cloud anchors.
    pub fn anchoring(&self) -> Option<&Anchoring> {
        self.anchoring.as_ref()
    }

    /// Publishes to the cloud's subscribers from inside the process.
    pub fn hub(&self) -> Hub {
        self.broker.hub()
    }

    /// Adds the cloud's units. They stop in reverse order: first HTTP finishes its answers, then the broker its packets, then
    /// what serves the two ends, and the archive is closed last. All but anchoring are fatal: a cloud without one of them would
    /// acknowledge or answer wrongly, or not at all.
    pub fn units(self, units: &mut Units) {
        let hub = self.broker.hub();
        let archive = self.archive.clone();
        units.add("archive", Policy::Fatal, move |stop| keep(archive.clone(), stop));
        let (archive, index) = (self.archive.clone(), self.history.index().clone());
        units.add("index", Policy::Fatal, move |stop| keep_index(index.clone(), archive.clone(), stop));
        if let Some(anchoring) = &self.anchoring {
            let (anchored, archive) = (Anchored(anchoring.ledger().clone()), self.archive.clone());
            let policy = Policy::Restart { times: ANCHOR_FAILURES, within: ANCHOR_WITHIN };
            units.add("states", policy, move |stop| anchoring::follow(anchored.clone(), archive.clone(), HOUSEKEEPING, stop));
        }
        let (archive, clock) = (self.archive, self.clock);
        if let Some((demand, policy)) = self.demand {
            let (hub, clock, metrics) = (hub.clone(), clock.clone(), self.metrics.clone());
            let callbacks = (demand.book.settings().callbacks.clone(), clock.clone(), metrics.clone());
            add_once(units, "callbacks", demand.clients.clone(), move |clients, stop| {
                demand::call(clients, callbacks.0, callbacks.1, callbacks.2, stop)
            });
            add_once(units, "demand", demand, |demand, stop| demand::run(demand, policy, hub, clock, metrics, stop));
        }
        units.add("segments", Policy::Fatal, move |stop| close_segments(archive.clone(), clock.clone(), stop));
        add_once(units, "access", self.watch, |watch, stop| async move { watch.run(stop).await });
        let refresh = self.keys_refresh;
        add_once(units, "authority", self.registrar, move |registrar, stop| access::watch(registrar, refresh, stop));
        let policy = Policy::Restart { times: ANCHOR_FAILURES, within: ANCHOR_WITHIN };
        if let Some(service) = self.sponsor {
            service.units(units, policy, hub.clone());
        }
        if let Some(anchoring) = self.anchoring {
            units.add("anchor", policy, move |stop| {
                let anchoring = anchoring.clone();
                async move { anchoring.run(stop).await }
            });
        }
        let (batcher, receipts_hub, metrics) = (self.batcher, hub.clone(), self.metrics.clone());
        add_once(units, "receipts", (self.committed, batcher), |(committed, batcher), stop| {
            receipts::send(committed, batcher, receipts_hub, metrics, stop)
        });
        add_once(units, "hearing", self.history.hearing().clone(), |hearing, stop| hearing.run(stop));
        let (history, at_once, answers_hub, metrics) = (self.history, self.answers_at_once, hub.clone(), self.metrics);
        add_once(units, "answers", self.questions, move |questions, stop| {
            answers::answer(questions, at_once, history, answers_hub, metrics, stop)
        });
        let leases_hub = hub.clone();
        add_once(units, "leases", self.keeper, |keeper, stop| keeper.run(leases_hub, stop));
        add_once(units, "live", self.live, |live, stop| live.deliver(hub, stop));
        let mut broker = Some(self.broker);
        units.add("broker", Policy::Fatal, move |stop| {
            let broker = broker.take();
            async move {
                let broker = broker.ok_or(Twice)?;
                tokio::select! {
                    failure = broker.failed() => return Err(chassis::BoxError::from(failure)),
                    () = stop.stopped() => {}
                }
                broker.stop(GOODBYE).await;
                Ok(())
            }
        });
        let (listener, connections_max, routes) = (self.http, self.http_connections_max, self.routes);
        units.add("http", Policy::Fatal, move |stop| {
            let serving = http::serve(listener.clone(), connections_max, routes.clone(), stop);
            async move {
                serving.await;
                Ok::<(), Twice>(())
            }
        });
    }
}

/// A unit that can't be started again was.
#[derive(Debug, thiserror::Error)]
#[error("a fatal unit is started once")]
struct Twice;

/// Adds a fatal unit that owns `part`.
fn add_once<P, F, Fut>(units: &mut Units, name: &str, part: P, run: F)
where
    P: Send + 'static,
    F: FnOnce(P, Stop) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut owned = Some((part, run));
    units.add(name, Policy::Fatal, move |stop| {
        let owned = owned.take();
        async move {
            let (part, run) = owned.ok_or(Twice)?;
            run(part, stop).await;
            Ok::<(), Twice>(())
        }
    });
}

/// Closes the archive when told to stop; until then its failure is everybody's.
async fn keep(archive: Archive, stop: Stop) -> Result<(), chassis::BoxError> {
    tokio::select! {
        failure = archive.failed() => return Err(failure.into()),
        () = stop.stopped() => {}
    }
    // Stopping waits for the last commit.
    tokio::task::spawn_blocking(move || archive.stop()).await.map_err(Into::into)
}

/// Compares what comes with the index until told to stop, and closes it then; until then its failure is everybody's.
async fn keep_index(index: Index, archive: Archive, stop: Stop) -> Result<(), chassis::BoxError> {
    tokio::select! {
        failure = index.failed() => return Err(failure.into()),
        () = index::compare_left(index.clone(), archive, stop) => {}
    }
    tokio::task::spawn_blocking(move || index.stop()).await.map_err(Into::into)
}

/// Closes segments that are due, until told to stop.
async fn close_segments(archive: Archive, clock: Arc<dyn Clock>, stop: Stop) -> Result<(), chassis::BoxError> {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let (archive, now) = (archive.clone(), clock.now());
        if let Err(error) = tokio::task::spawn_blocking(move || archive.close_due(now)).await? {
            // Nothing is lost, and the next round tries again; a writer that can't go on ends the archive's own unit.
            tracing::error!(%error, "a segment could not be closed");
        }
    }
}

/// Reads back what was asked of the areas before.
async fn open_demand(config: &Config, archive: &Archive, clock: &Arc<dyn Clock>) -> Result<Option<Service>, StartError> {
    let Some(settings) = config.demand.clone() else { return Ok(None) };
    let (name, data, archive, now) = (config.name.clone(), config.data.clone(), archive.clone(), clock.now());
    let opening = tokio::task::spawn_blocking(move || Service::open(&name, &data, settings, archive, now));
    let opened = opening.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
    Ok(Some(opened?))
}

/// Opens the archive, which may take a while after a crash; what it finds new goes to `live`.
async fn open_archive(config: &Config, clock: &Arc<dyn Clock>, live: &Live) -> Result<Archive, StartError> {
    let fault = |source| StartError::Archive { data: config.data.clone(), source };
    let name =
        config.name.parse().map_err(|fault: wire::IdFault| ConfigError::Range { field: "name", fix: fault.to_string() })?;
    let (clock, live) = (clock.clone(), live.clone());
    let storage = &config.storage;
    let options = archive::Options {
        observer: Some(Arc::new(move |fresh| live.take_in(fresh))),
        segment: archive::Segment {
            records_max: storage.segment_records,
            bytes_max: storage.segment_bytes.bytes(),
            age_max: storage.segment_age.duration(),
        },
        budgets: archive::Budgets { store_bytes_max: storage.budget.bytes(), ..archive::Budgets::default() },
        readers_max: config.history.readers + config.feeds.readers,
        writer: store::Limits { group_wait: storage.commit_wait.duration(), ..store::Limits::default() },
        ..archive::Options::new(name, Arc::new(move || clock.now()))
    };
    let data = config.data.clone();
    let opening = tokio::task::spawn_blocking(move || Archive::open(&data, options));
    let opened = opening.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
    let (archive, recovered) = opened.map_err(fault)?;
    if let Some(aside) = &recovered.quarantined {
        tracing::error!(aside = %aside.display(), "ALARM: the archive was damaged; it was put aside, and a fresh one was started");
    }
    tracing::info!(cloud = %config.name, epoch = %archive.epoch(), ?recovered, "the archive is open");
    Ok(archive)
}

/// Reads what is remembered of the groups. A cloud without groups keeps no book.
async fn open_groups(config: &Config, clock: &Arc<dyn Clock>) -> Result<(Groups, Fence), BookError> {
    let verified = !matches!(config.access, broker::Access::Anonymous);
    let (configured, data, clock) = (config.groups.clone(), config.data.clone(), clock.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let book = if configured.is_empty() { None } else { Some(Book::open(&data)?) };
        Groups::open(&configured, book, verified, clock)
    });
    opening.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

/// Opens the index.
async fn open_index(
    config: &Config,
    clock: &Arc<dyn Clock>,
    commands: &Commands,
    metrics: &Metrics,
) -> Result<Index, StartError> {
    let (data, clock, commands, metrics) = (config.data.clone(), clock.clone(), commands.clone(), metrics.clone());
    let scope = index::Scope {
        entries_max: config.history.index_entries_max,
        readers: config.history.readers,
        is_anchored: config.anchor.is_some(),
    };
    let opening =
        tokio::task::spawn_blocking(move || Index::open(&data, Arc::new(move || clock.now()), scope, commands, metrics));
    let opened = opening.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
    opened.map_err(|source| StartError::Index { data: config.data.clone(), source })
}

fn bytes(size: chassis::Size) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}
