//! The relay: durable intake, storage area and uplink.
//!
//! A relay is one archive with a broker in front and an uplink behind. Sensors and agents publish to the broker; the
//! [intake](RelayIntake) gives everything to the archive and lets the broker acknowledge when it is committed. What is to be
//! forwarded lies in the archive's live lane until the cloud's receipt; what is to be stored becomes chunks, and moves to the
//! backlog lane when the cloud asks for it. The [uplink](Uplink) only reads the two lanes, so it may stop and start at any moment.

mod announcing;
mod area;
mod candidate;
mod config;
mod dial;
mod ears;
mod group;
mod handover;
mod index;
mod intake;
mod lane;
mod metrics;
mod outlet;
mod pace;
mod rate;
mod receipts;
mod room;
mod sender;
mod share;
mod telling;
mod tickets;
mod traffic;
mod uplink;
mod way;
mod window;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{Archive, Selection};
use broker::{Broker, Watch};
use chassis::{Clock, Policy, Registry, Units};
use tokio::task::JoinError;
use wire::packed::Packer;

use crate::group::proxy::Downward;
use crate::group::{Proxy, Pulse, Volume};
use crate::intake::Grouped;

pub use announcing::Announcing;
pub use archive::{ExamineError, Examined, Unsound, View as Stored, Why, examine};
pub use area::{Threshold, ThresholdFault};
pub use broker::Access;
pub use config::{BrokerLimits, CloudConfig, Config, ConfigError, GroupConfig, Storage};
pub use dial::Dial;
pub use group::{GroupMetrics, Member};
pub use handover::{Handover, HandoverError};
pub use intake::RelayIntake;
pub use metrics::Metrics;
pub use outlet::Outlet;
pub use room::Room;
pub use sender::Backlog;
pub use traffic::Traffic;
pub use uplink::{Uplink, UplinkError};
pub use window::{Limits, Window};

/// A page that the cloud refuses for good is tried again after this time at first.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// The largest packet of another member: a frame with a page as large as a page gets, as the cloud takes it.
const MEMBER_PACKET_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The proxy's connection has room for the windows of so many members.
const SHARED_WINDOWS: u16 = 4;
/// How long connections may take to finish the packets in hand.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a relay is given from outside.
#[derive(Clone)]
pub struct Parts {
    /// Gives raw readings their time.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub registry: Registry,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database can't be opened.
    #[error("the archive in {} can't be opened", data.display())]
    Archive {
        /// The folder.
        data: PathBuf,
        /// Why.
        #[source]
        source: archive::OpenError,
    },
    /// Users or grants can't be read.
    #[error("access can't be set up")]
    Access(#[from] broker::PolicyFault),
    /// The broker does not start.
    #[error("the broker does not start")]
    Broker(#[from] broker::StartError),
    /// The password file can't be read.
    #[error("{section}.password_file = {}: can't be read", path.display())]
    Password {
        /// Where it is named.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A relay that listens. [`Relay::units`] keeps it alive.
pub struct Relay {
    broker: Broker,
    archive: Archive,
    handover: Arc<Handover>,
    outlet: Outlet,
    metrics: Metrics,
    downward: Option<Downward>,
    uplink: Option<Uplink>,
    policy: broker::Policy,
    watch: Watch,
    keeper: area::Keeper,
}

impl Relay {
    /// Opens the archive and starts to listen.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        config.check()?;
        let logins = Logins::read(&config)?;
        let (policy, watch) = config.access.open()?;
        let archive = {
            let (config, clock) = (config.clone(), Arc::clone(&parts.clock));
            blocking(move || open_archive(&config, clock)).await?
        };
        let metrics = Metrics::register(&parts.registry);
        let room = Room::new(archive.clone(), budgets(&config.storage), metrics.clone());
        let announcing = Announcing::default();
        let outlet = Outlet::new(config.relay.clone());
        let joined = config.group.as_ref().map(|group| join(group, &config, &archive, &parts.registry));
        let (grouped, member, downward) = match joined {
            Some((grouped, member, downward)) => (Some(grouped), Some(member), Some(downward)),
            None => (None, None, None),
        };
        let intake =
            RelayIntake::new(archive.clone(), Arc::clone(&parts.clock), metrics.clone(), room.clone(), announcing.clone())
                .in_group(grouped);
        let settings = broker::Settings {
            listen: config.listen.clone(),
            connections_max: config.broker.connections_max,
            packet_bytes_max: match &config.group {
                Some(_) => MEMBER_PACKET_BYTES_MAX,
                None => config.broker.packet_bytes_max.bytes() as usize,
            },
            ..broker::Settings::default()
        };
        let broker = Broker::start(
            settings,
            broker::Parts {
                policy: policy.clone(),
                intake: Arc::new(intake),
                feeds: None,
                clock: Arc::clone(&parts.clock),
                registry: parts.registry.clone(),
            },
        )
        .await?;
        let handover = Arc::new(Handover::new(archive.clone(), config.storage.outgoing_budget.bytes(), metrics.clone()));
        let uplink = config.cloud.as_ref().map(|cloud| {
            let limits = Limits {
                frames_max: cloud.window_frames,
                bytes_max: cloud.window_bytes.bytes() as usize,
                receipt_timeout: cloud.receipt_timeout.duration(),
            };
            Uplink {
                relay: config.relay.clone(),
                archive: archive.clone(),
                dial: logins.dial(&config, cloud, &archive),
                member,
                window: Window::new(limits),
                refused_retry: REFUSED_RETRY,
                backlog: Backlog {
                    bytes_per_second: cloud.backlog_rate.map(|rate| rate.bytes()),
                    late_after: cloud.late_after.duration(),
                },
                handover: Arc::clone(&handover),
                announcing,
                packer: cloud.compress.then(Packer::new),
                outlet: outlet.clone(),
                clock: Arc::clone(&parts.clock),
                metrics: metrics.clone(),
            }
        });
        let keeper = area::Keeper::new(area::Parts {
            archive: archive.clone(),
            folder: config.data.clone(),
            storage: config.storage.clone(),
            has_cloud: uplink.is_some(),
            room,
            clock: parts.clock,
            metrics: metrics.clone(),
        });
        Ok(Self { broker, archive, handover, outlet, metrics, downward, uplink, policy, watch, keeper })
    }

    /// Addresses that the broker listens at.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.broker.addresses()
    }

    /// The relay's archive.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Hands stored records over to the cloud.
    pub fn handover(&self) -> Arc<Handover> {
        Arc::clone(&self.handover)
    }

    /// Says something to the cloud by whatever way is in force.
    pub fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// Users and grants. The relay's units reload them when their files change.
    pub fn policy(&self) -> broker::Policy {
        self.policy.clone()
    }

    /// Routes for the admin port: `POST /flush` hands everything stored over to the cloud and answers with the number of records.
    pub fn admin_routes(&self) -> axum::Router {
        let handover = self.handover();
        let flush = move || async move {
            match handover.hand_over(Selection::All).await {
                Ok(handed) => (axum::http::StatusCode::OK, format!("{{\"records\":{}}}\n", handed.moved)),
                Err(error) => (axum::http::StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            }
        };
        axum::Router::new().route("/flush", axum::routing::post(flush))
    }

    /// Adds the relay's units. Stopped in reverse order: the broker finishes its packets, then the uplink ends, then the archive
    /// is closed.
    pub fn units(self, units: &mut Units) {
        let Self { broker, archive, handover, outlet, metrics, downward, uplink, watch, keeper, .. } = self;
        let owner = archive.clone();
        units.add("archive", Policy::Fatal, move |stop| {
            let archive = owner.clone();
            async move {
                tokio::select! {
                    failure = archive.failed() => Err(failure),
                    () = stop.stopped() => {
                        stop_archive(archive).await;
                        Ok(())
                    }
                }
            }
        });
        let mut keeper = Some(keeper);
        units.add("segments", Policy::Fatal, move |stop| {
            let keeper = keeper.take().expect("a fatal unit starts once");
            keeper.run(stop)
        });
        if uplink.is_some() {
            let mut index = Some(index::Sender {
                archive,
                outlet: outlet.clone(),
                asked: handover.asked(),
                progress: handover.progress(),
                metrics,
            });
            units.add("index", Policy::Fatal, move |stop| {
                let index = index.take().expect("a fatal unit starts once");
                index.run(stop)
            });
            units.add("handover", Policy::Fatal, move |stop| {
                let (handover, outlet) = (Arc::clone(&handover), outlet.clone());
                async move { handover.run(outlet, stop).await }
            });
        }
        let mut watch = Some(watch);
        units.add("access", Policy::Fatal, move |stop| {
            let watch = watch.take().expect("a fatal unit starts once");
            async move {
                watch.run(stop).await;
                Ok::<_, Infallible>(())
            }
        });
        let (mut downward, hub) = (downward, broker.hub());
        if downward.is_some() {
            units.add("proxy", Policy::Fatal, move |stop| {
                let (downward, hub) = (downward.take().expect("a fatal unit starts once"), hub.clone());
                async move {
                    downward.deliver(hub, stop).await;
                    Ok::<_, Infallible>(())
                }
            });
        }
        let mut uplink = uplink;
        if uplink.is_some() {
            units.add("uplink", Policy::Fatal, move |stop| {
                let uplink = uplink.take().expect("a fatal unit starts once");
                uplink.run(stop)
            });
        }
        let mut broker = Some(broker);
        units.add("broker", Policy::Fatal, move |stop| {
            let broker = broker.take().expect("a fatal unit starts once");
            async move {
                tokio::select! {
                    failure = broker.failed() => Err(failure),
                    () = stop.stopped() => {
                        broker.stop(GOODBYE).await;
                        Ok(())
                    }
                }
            }
        });
    }
}

/// Commits what is queued and closes the database, on a thread that may block.
async fn stop_archive(archive: Archive) {
    blocking(move || archive.stop()).await;
}

/// Runs work that blocks, away from the runtime's threads. Dropped, it is not waited for, but goes on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is ending, and this task with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

fn budgets(storage: &Storage) -> archive::Budgets {
    archive::Budgets { store_bytes_max: storage.budget.bytes(), outgoing_bytes_max: storage.outgoing_budget.bytes() }
}

fn open_archive(config: &Config, clock: Arc<dyn Clock>) -> Result<Archive, StartError> {
    let fault = |source| StartError::Archive { data: config.data.clone(), source };
    let storage = &config.storage;
    let now = move || clock.now();
    let options = archive::Options {
        ahead: config.cloud.is_some(),
        segment: archive::Segment {
            records_max: storage.segment_records,
            bytes_max: storage.segment_bytes.bytes(),
            age_max: storage.segment_age.duration(),
        },
        budgets: budgets(storage),
        writer: store::Limits { group_wait: storage.commit_wait.duration(), ..store::Limits::default() },
        ..archive::Options::new(config.relay.clone(), Arc::new(now))
    };
    let (archive, recovered) = Archive::open(&config.data, options).map_err(fault)?;
    tracing::info!(relay = %config.relay, epoch = %archive.epoch(), ?recovered, "the archive is open");
    Ok(archive)
}

/// What the intake, the uplink and the broker of a member of a group have in common.
fn join(group: &GroupConfig, config: &Config, archive: &Archive, registry: &Registry) -> (Grouped, Member, Downward) {
    let volume = Volume::new(group.period.duration());
    let (proxy, downward) = Proxy::new(config.relay.clone(), GroupMetrics::register(registry));
    let interval = group.heartbeat.duration();
    let address = group.advertise.clone();
    let pulse = Pulse::new(group.name.clone(), archive.epoch(), address, interval, volume.clone(), Instant::now());
    let packet_bytes_max = config.broker.packet_bytes_max.bytes() as usize;
    (Grouped { volume, proxy: proxy.clone(), packet_bytes_max }, Member { pulse, proxy }, downward)
}

/// Who the relay is at the cloud and at other members.
struct Logins {
    cloud: Option<link::Credentials>,
    members: Option<link::Credentials>,
}

impl Logins {
    fn read(config: &Config) -> Result<Self, StartError> {
        let cloud = match &config.cloud {
            Some(cloud) => login("cloud", &cloud.user, &cloud.password_file)?,
            None => None,
        };
        let members = match &config.group {
            Some(group) => login("group", &group.user, &group.password_file)?.or_else(|| cloud.clone()),
            None => None,
        };
        Ok(Self { cloud, members })
    }

    fn dial(self, config: &Config, cloud: &CloudConfig, archive: &Archive) -> Dial {
        let client = format!("relay-{}-{}", config.relay, archive.epoch());
        let mut settings = link::LinkConfig::new(cloud.host.clone(), cloud.port, client);
        settings.credentials = self.cloud;
        settings.inflight_max = u16::try_from(cloud.window_frames).unwrap_or(u16::MAX);
        if config.group.is_none() {
            return Dial::cloud(settings);
        }
        settings.inflight_max = settings.inflight_max.saturating_mul(SHARED_WINDOWS);
        Dial::group(settings, self.members)
    }
}

fn login(section: &'static str, user: &Option<String>, file: &Option<PathBuf>) -> Result<Option<link::Credentials>, StartError> {
    let (Some(user), Some(path)) = (user, file) else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|source| StartError::Password { section, path: path.clone(), source })?;
    let password = text.lines().next().unwrap_or_default().to_owned();
    Ok(Some(link::Credentials { user: user.clone(), password }))
}
