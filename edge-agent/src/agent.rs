//! An agent as a whole: what it opens, and the units it lives by.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anchor::{Anchoring, Party};
use chassis::{Clock, ConfigFault, Policy as Restarts, Registry, Stop, SystemClock, Units};
use link::LinkConfig;
use rand::RngExt;
use rand::rngs::StdRng;
use store::{Fault, Lock, LockError};
use tokio::sync::watch;
use wire::{SensorId, Series};

use crate::anchoring::Chunks;
use crate::chunker::Chunker;
use crate::config::{Config, InputConfig};
use crate::demand::gauge::Gauge;
use crate::demand::policy::Policy;
use crate::demand::{Responder, Setpoint};
use crate::inputs::lines::Lines;
use crate::inputs::{self, InputError};
use crate::metrics::Metrics;
use crate::outbox::{Fresh, Outbox, OutboxError};
use crate::progress::Progress;
use crate::reporter::Reporter;
use crate::rules::Rules;
use crate::sender::Sender;
use crate::sponsor::Mail;
use crate::terminal::{LEDGER_FILE, OUTBOX_FILE};

/// A unit that may fail a few times before the agent gives up.
const AGAIN: Restarts = Restarts::Restart { times: 10, within: Duration::from_secs(60) };

/// What an agent is given from outside.
pub struct Parts {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where it counts. Agents that share a process each have their own, or their counts could not be told apart.
    pub registry: Registry,
    /// Makes the epoch and its secret: of cryptographic quality outside of tests.
    pub rng: StdRng,
    /// What the input of lines reads; stdin unless a test gives something else.
    pub lines: Option<Box<dyn Read + Send>>,
}

impl Default for Parts {
    /// The machine's clock and randomness, a registry of its own, and stdin.
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), registry: Registry::new(), rng: rand::make_rng(), lines: None }
    }
}

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not hold.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The data folder can't be made.
    #[error("can't make the data folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The password of a user terminal can't be read.
    #[error("demand.password_file: can't read {}: {source}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process works in the data folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The outbox can't be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// Anchoring can't be prepared.
    #[error("anchoring can't be set up")]
    Anchor(#[from] anchor::StartError),
    /// An input can't begin.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No thread for stdin.
    #[error("can't read lines: {0}")]
    Lines(#[source] std::io::Error),
}

/// An agent whose data folder is open. It works while the units it gave are running.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    outbox: Outbox,
    anchoring: Option<Anchoring>,
    /// The way to the anchor service, if the agent only signs.
    mail: Option<Mail>,
    desk: inputs::Desk,
    lines: Option<Lines>,
    responder: Option<Responder>,
    /// Inputs that have not come to their end.
    inputs_open: watch::Sender<usize>,
    quarantined: Option<PathBuf>,
    seeds: Mutex<StdRng>,
    _lock: Lock,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("sensor", &self.inner.config.sensor).finish_non_exhaustive()
    }
}

/// Opens an agent. Nothing is sent or read before its units run.
///
/// # Errors
/// [`StartError`] says what is missing, and what to do.
pub async fn start(config: Config, parts: Parts) -> Result<Agent, StartError> {
    config.check()?;
    let opened = tokio::task::spawn_blocking(move || open(config, parts)).await;
    match opened {
        Ok(agent) => agent,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

fn open(config: Config, mut parts: Parts) -> Result<Agent, StartError> {
    std::fs::create_dir_all(&config.data).map_err(|source| StartError::Folder { path: config.data.clone(), source })?;
    let lock = Lock::take(&config.data.join("lock"))?;
    let (outbox, quarantined) = open_outbox(&config, &mut parts)?;
    let metrics = Metrics::new(&parts.registry);
    let (outbox, responder) = open_responder(&config, outbox, &metrics, &mut parts)?;
    let mail =
        config.anchor.as_ref().and_then(|anchor| anchor.sponsor.as_ref()).map(|sponsor| Mail::new(sponsor, &config.sensor));
    let anchoring = open_anchoring(&config, &outbox, mail.clone(), &parts)?;
    let reads_lines = config.inputs.iter().any(|input| matches!(input, InputConfig::Lines(_)));
    let lines = match reads_lines {
        true => Some(Lines::of(parts.lines.unwrap_or_else(|| Box::new(std::io::stdin()))).map_err(StartError::Lines)?),
        false => None,
    };
    let rules = Rules::new(config.sensor.clone(), config.streams.clone());
    let desk = inputs::Desk { outbox: outbox.clone(), rules, clock: parts.clock, metrics };
    for input in &config.inputs {
        if let InputConfig::Csv(csv) = input {
            inputs::csv::check(csv, &desk)?;
        }
    }
    let inputs_open = watch::Sender::new(config.inputs.len());
    let seeds = Mutex::new(parts.rng);
    let inner = Inner { config, outbox, anchoring, mail, desk, lines, responder, inputs_open, quarantined, seeds, _lock: lock };
    Ok(Agent { inner: Arc::new(inner) })
}

/// A damaged outbox is put aside, and a fresh one, with an epoch of its own, goes on: a sensor must not fall silent over it.
fn open_outbox(config: &Config, parts: &mut Parts) -> Result<(Outbox, Option<PathBuf>), OutboxError> {
    let path = config.data.join(OUTBOX_FILE);
    let fresh = Fresh { epoch: parts.rng.random(), secret: parts.rng.random(), now: parts.clock.now() };
    let bytes_max = config.outbox.bytes_max.bytes();
    match Outbox::open(&path, &config.sensor, bytes_max, &fresh, parts.clock.clone()) {
        Err(OutboxError::Open(store::OpenError::Corrupt { detail, .. })) => {
            let aside = store::quarantine(&path).map_err(OutboxError::Quarantine)?;
            let sensor = &config.sensor;
            tracing::error!(%sensor, detail, aside = %aside.display(), "the outbox was damaged; a fresh one with a new epoch goes on");
            Ok((Outbox::open(&path, sensor, bytes_max, &fresh, parts.clock.clone())?, Some(aside)))
        }
        opened => Ok((opened?, None)),
    }
}

fn open_anchoring(config: &Config, outbox: &Outbox, mail: Option<Mail>, parts: &Parts) -> Result<Option<Anchoring>, StartError> {
    let Some(settings) = &config.anchor else { return Ok(None) };
    let party = Party::terminal(config.sensor.as_str());
    let ledger = config.data.join(LEDGER_FILE);
    let node = settings.rpc.clone().trusting(settings.rpc_ca.clone());
    let mut told = anchor::Config::new(node, settings.contract, settings.key_file.clone(), ledger, party);
    told.unlock =
        anchor::keys::Unlock { passphrase_file: settings.passphrase_file.clone(), passphrase: settings.passphrase.clone() };
    told.poll = settings.poll;
    told.batch = settings.batch;
    told.confirmation = settings.confirmation;
    let source = Arc::new(Chunks(outbox.clone()));
    told.sponsor = settings.sponsor.as_ref().map(|sponsor| sponsor.account);
    let (clock, registry) = (parts.clock.clone(), &parts.registry);
    Ok(Some(match mail {
        Some(mail) => anchor::Worker::start_sponsored(told, Arc::new(mail), source, clock, registry)?,
        None => anchor::Worker::start(told, source, clock, registry)?,
    }))
}

/// Of a user terminal: what it responds with. Its outbox shows what is taken to the gauge.
fn open_responder(
    config: &Config,
    outbox: Outbox,
    metrics: &Metrics,
    parts: &mut Parts,
) -> Result<(Outbox, Option<Responder>), StartError> {
    let Some(demand) = &config.demand else { return Ok((outbox, None)) };
    let client = format!("user-{}-{}", config.sensor.area(), config.sensor.sensor());
    let mut link = LinkConfig::new(&demand.cloud.host, demand.cloud.port, client);
    if let Some(user) = &demand.user {
        let password = match &demand.password_file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| StartError::Password { path: path.clone(), source })?
                .trim()
                .to_owned(),
        };
        link = link.with_credentials(user, &password);
    }
    link.keep_alive = config.send.keep_alive.duration();
    let series = Series::new(&config.sensor, &demand.stream)
        .map_err(|fault| ConfigFault::key("demand.stream", format!("is not the name of a stream: {fault}")))?;
    let baseline = i64::try_from(demand.baseline.duration().as_nanos()).unwrap_or(i64::MAX);
    let gauge = Arc::new(Gauge::new(series, demand.unit.kilowatts(), baseline));
    let outbox = outbox.with_gauge(gauge.clone());
    let responder = Responder {
        outbox: outbox.clone(),
        sensor: config.sensor.clone(),
        link,
        programs: demand.programs.clone(),
        targets: demand.targets.clone(),
        opt_out_file: demand.opt_out_file.clone(),
        policy: Policy { curtailable_kw: demand.curtailable_kw, minimum_kw: demand.minimum_kw },
        gauge,
        baseline,
        setpoint: Arc::new(watch::Sender::new(None)),
        metrics: metrics.clone(),
        clock: parts.clock.clone(),
        seed: parts.rng.random(),
    };
    Ok((outbox, Some(responder)))
}

impl Agent {
    /// Adds what the agent lives by. What takes readings comes last, so that it stops first.
    pub fn units(&self, units: &mut Units) {
        let sensor = &self.inner.config.sensor;
        let outbox = self.inner.outbox.clone();
        units.add(format!("{sensor} outbox"), Restarts::Fatal, move |stop| guard(outbox.clone(), stop));
        if let Some(mail) = self.inner.mail.clone() {
            units.add(format!("{sensor} sponsor"), AGAIN, move |stop| mail.clone().run(stop));
        }
        if let Some(anchoring) = self.inner.anchoring.clone() {
            units.add(format!("{sensor} anchor"), AGAIN, move |stop| {
                let anchoring = anchoring.clone();
                async move { anchoring.run(stop).await }
            });
        }
        let chunker = self.chunker();
        units.add(format!("{sensor} chunker"), AGAIN, move |stop| chunker.clone().run(stop));
        let agent = self.clone();
        units.add(format!("{sensor} sender"), AGAIN, move |stop| agent.sender().run(stop));
        if self.inner.config.report.enabled {
            let reporter = self.reporter();
            units.add(format!("{sensor} reporter"), AGAIN, move |stop| reporter.clone().run(stop));
        }
        if let Some(responder) = self.inner.responder.clone() {
            units.add(format!("{sensor} responder"), AGAIN, move |stop| responder.clone().run(stop));
        }
        for index in 0..self.inner.config.inputs.len() {
            let name = format!("{sensor} input {}", self.inner.config.inputs[index].name());
            let agent = self.clone();
            units.add(name, AGAIN, move |stop| agent.clone().input(index, stop));
        }
    }

    /// The counts, now.
    pub fn progress(&self) -> Progress {
        self.inner.outbox.progress()
    }

    /// The counts, as they change.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.inner.outbox.watch()
    }

    /// The sensor beside it.
    pub fn sensor(&self) -> &SensorId {
        &self.inner.config.sensor
    }

    /// The outbox, to take readings that come from nowhere else.
    pub fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    /// Of a user terminal: what may be taken now, while an event runs. Whoever drives the load follows it.
    pub fn setpoint(&self) -> Option<watch::Receiver<Option<Setpoint>>> {
        self.inner.responder.as_ref().map(|responder| responder.setpoint.subscribe())
    }

    /// The anchoring, if it is configured.
    pub fn anchoring(&self) -> Option<&Anchoring> {
        self.inner.anchoring.as_ref()
    }

    /// Where the damaged outbox was put that was found at the start.
    pub fn quarantined(&self) -> Option<&Path> {
        self.inner.quarantined.as_deref()
    }

    /// Resolves when every input has come to its end and a relay has answered for every record. Inputs that have no end,
    /// like MQTT, never come to it.
    pub async fn drained(&self) {
        let mut open = self.inner.inputs_open.subscribe();
        let mut progress = self.watch();
        // Neither sender goes before the agent does.
        let _ = open.wait_for(|open| *open == 0).await;
        let _ = progress.wait_for(|progress| progress.pending() == 0).await;
    }

    fn sender(&self) -> Sender {
        let config = &self.inner.config;
        let seed = self.inner.seeds.lock().unwrap_or_else(PoisonError::into_inner).random();
        Sender {
            outbox: self.inner.outbox.clone(),
            sensor: config.sensor.clone(),
            relays: config.relays.clone(),
            probe: config.probe,
            report: config.report.enabled,
            settings: config.send,
            // Checked with the configuration.
            backoff: config.backoff().unwrap_or_default(),
            metrics: self.inner.desk.metrics.clone(),
            clock: self.inner.desk.clock.clone(),
            seed,
        }
    }

    fn reporter(&self) -> Reporter {
        let config = &self.inner.config;
        Reporter {
            outbox: self.inner.outbox.clone(),
            sensor: config.sensor.clone(),
            every: config.report.every.duration(),
            clock: self.inner.desk.clock.clone(),
        }
    }

    fn chunker(&self) -> Chunker {
        Chunker {
            outbox: self.inner.outbox.clone(),
            settings: self.inner.config.chunk,
            ledger: self.inner.anchoring.as_ref().map(|anchoring| anchoring.ledger().clone()),
            metrics: self.inner.desk.metrics.clone(),
            clock: self.inner.desk.clock.clone(),
        }
    }

    async fn input(self, index: usize, stop: Stop) -> Result<(), InputError> {
        let inner = &self.inner;
        let desk = inner.desk.clone();
        match (&inner.config.inputs[index], &inner.lines) {
            (InputConfig::Csv(csv), _) => inputs::csv::run(csv.clone(), desk, stop.clone()).await?,
            (InputConfig::Mqtt(mqtt), _) => inputs::mqtt::run(mqtt, desk, stop.clone()).await?,
            (InputConfig::Lines(lines), Some(queue)) => {
                inputs::lines::run(lines.name.clone(), queue.clone(), desk, stop.clone()).await?;
            }
            (InputConfig::Lines(_), None) => {}
        }
        if !stop.is_stopped() {
            inner.inputs_open.send_modify(|open| *open -= 1);
        }
        Ok(())
    }
}

/// The writer thread is not a task, so somebody watches it: without it nothing that is taken is safe.
async fn guard(outbox: Outbox, stop: Stop) -> Result<(), Fault> {
    tokio::select! {
        fault = outbox.failed() => Err(fault),
        () = stop.stopped() => Ok(()),
    }
}
