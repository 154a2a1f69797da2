//! A relay in a folder, a cloud that records what it gets and answers as it is told, and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use broker::{Broker, Client, Commit, Hub, Intake, IntakeSession, Message, Offer, Refusal};
use chassis::{Cause, Registry, Signals, SystemClock, Units, UnitsFault};
use link::{Link, LinkConfig, PublishError};
use parking_lot::Mutex;
use relay::{CloudConfig, Config, Outlet, Parts, Relay};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wire::index::{Index, IndexEntry, Reply};
use wire::{Announcement, Command, Epoch, EpochSecret, Intervals, Operation, Receipt, RunBuilder, UpFrame};

/// Longer than anything here takes; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(15);
pub const RELAY: &str = "relay-dev";

/// A running relay.
pub struct Town {
    pub address: SocketAddr,
    pub archive: archive::Archive,
    pub registry: Registry,
    pub admin: axum::Router,
    pub outlet: Outlet,
    signal: mpsc::Sender<()>,
    running: JoinHandle<Result<Cause, UnitsFault>>,
}

pub fn dev(folder: &Path, cloud: Option<SocketAddr>) -> Config {
    let cloud = cloud.map(|cloud| CloudConfig::anonymous(cloud.ip().to_string(), cloud.port()));
    Config::dev("127.0.0.1:0".parse().unwrap(), folder.join("data"), cloud)
}

impl Town {
    pub async fn start(config: Config) -> Self {
        let registry = Registry::new();
        let relay = Relay::start(config, Parts { clock: Arc::new(SystemClock), registry: registry.clone() }).await.unwrap();
        let (address, archive, admin) = (relay.addresses()[0], relay.archive().clone(), relay.admin_routes());
        let outlet = relay.outlet();
        let mut units = Units::new();
        relay.units(&mut units);
        let (signal, signals) = mpsc::channel(1);
        let running = tokio::spawn(units.run_until(Signals::from_channel(signals)));
        Self { address, archive, registry, admin, outlet, signal, running }
    }

    pub async fn stop(self) {
        self.signal.send(()).await.unwrap();
        let ended = tokio::time::timeout(DEADLINE, self.running).await.expect("the relay did not end").unwrap();
        assert_eq!(ended.unwrap(), Cause::Signal);
    }

    /// An MQTT 5 client; user and password are its name.
    pub async fn client(&self, name: &str) -> Sensor {
        let config = LinkConfig::new(self.address.ip().to_string(), self.address.port(), name).with_credentials(name, name);
        let (link, _) = Link::start(config);
        let mut connected = link.connected();
        tokio::time::timeout(DEADLINE, connected.wait_for(|connected| *connected)).await.expect("no connection").unwrap();
        Sensor { link }
    }

    /// Pages that wait for their receipt.
    pub fn waiting(&self) -> u64 {
        self.archive.stats().waiting_pages
    }

    /// The value of a metric, as its line begins; 0 if it is not there yet.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.registry.encode();
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
    }
}

/// Opens the archive of a relay that does not run.
pub fn reopen(folder: &Path) -> archive::Archive {
    let options = archive::Options::new(RELAY.parse().unwrap(), Arc::new(|| 0));
    archive::Archive::open(&folder.join("data"), options).unwrap().0
}

/// Records of a series that are in the storage area, as payloads.
pub fn stored(archive: &archive::Archive, series: &str) -> Vec<String> {
    let scan = archive::Scan { series: series.parse().unwrap(), from: 0, to: i64::MAX, after: None, limit: 1_000_000 };
    archive.scan(&scan).unwrap().into_iter().map(|entry| String::from_utf8(entry.record.payload).unwrap()).collect()
}

/// A publisher.
pub struct Sensor {
    pub link: Link,
}

impl Sensor {
    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<(), PublishError> {
        let publishing = self.link.publish(topic, payload.into());
        tokio::time::timeout(DEADLINE, publishing).await.expect("no acknowledgement")
    }

    /// The reason code of the refusal.
    pub async fn refused(&self, topic: &str, payload: impl Into<Vec<u8>>) -> u8 {
        match self.publish(topic, payload).await {
            Err(PublishError::Refused { reason_code }) => reason_code,
            other => panic!("{topic} was not refused: {other:?}"),
        }
    }
}

/// A run of an agent.
pub fn run(series: &str, operation: Operation, epoch: u64, first_seq: u64, payloads: &[&str]) -> Vec<u8> {
    let mut builder = RunBuilder::new(series.parse().unwrap(), operation);
    for (index, payload) in payloads.iter().enumerate() {
        builder.push(1_000 + index as i64, payload.as_bytes()).unwrap();
    }
    let mut bytes = Vec::new();
    builder.write(Epoch(epoch), first_seq, &mut bytes);
    bytes
}

/// A frame of an agent.
pub fn frame(secrets: &[(u64, u8)], runs: &[&[u8]]) -> Vec<u8> {
    let secrets: Vec<_> = secrets.iter().map(|(epoch, byte)| (Epoch(*epoch), EpochSecret::new([*byte; 32]))).collect();
    let mut bytes = Vec::new();
    wire::encode_frame(&secrets, runs, &mut bytes);
    bytes
}

/// An uplink frame as the cloud got it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub number: u64,
    pub epoch: Epoch,
    pub historical: bool,
    pub secrets: Vec<Announcement>,
    pub runs: Vec<u8>,
    /// Key and payload of each record.
    pub records: Vec<(String, String)>,
    /// The whole payload.
    pub bytes: Vec<u8>,
}

impl Seen {
    fn read(bytes: &[u8]) -> Self {
        let plain = wire::packed::unpack(bytes, 16 << 20).expect("a relay sends what can be unpacked");
        let frame = UpFrame::parse(&plain).expect("a relay sends valid frames");
        assert_eq!(frame.relay, RELAY);
        let records = frame.runs().flat_map(|run| run.records());
        let key = |record: wire::RecordView<'_>| format!("{}@{}.{}", record.series, record.epoch, record.seq);
        Self {
            number: frame.number,
            epoch: frame.relay_epoch,
            historical: frame.historical,
            records: records.map(|r| (key(r), String::from_utf8_lossy(r.payload).into_owned())).collect(),
            runs: frame.runs.to_vec(),
            secrets: frame.secrets,
            bytes: bytes.to_vec(),
        }
    }
}

type Verdict = Box<dyn FnMut(&Seen) -> Result<(), Refusal> + Send>;

/// A cloud that the test scripts.
pub struct Cloud {
    _broker: Broker,
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    verdict: Mutex<Verdict>,
    /// Whether frames that are taken are receipted at once.
    receipts: Mutex<bool>,
    mirror: Mutex<Mirror>,
    replies: Mutex<Vec<Reply>>,
    hub: OnceLock<Hub>,
}

/// The index as a cloud keeps it.
#[derive(Default)]
struct Mirror {
    entries: BTreeMap<u64, IndexEntry>,
    sums: usize,
    pages: usize,
}

impl Cloud {
    /// Takes everything and receipts it.
    pub async fn start() -> Self {
        Self::with(16 << 20).await
    }

    pub async fn with(packet_bytes_max: usize) -> Self {
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            verdict: Mutex::new(Box::new(|_| Ok(()))),
            receipts: Mutex::new(true),
            mirror: Mutex::default(),
            replies: Mutex::default(),
            hub: OnceLock::new(),
        });
        let settings =
            broker::Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], packet_bytes_max, ..broker::Settings::default() };
        let parts = broker::Parts {
            policy: broker::Policy::anonymous(),
            intake: Arc::new(CloudIntake(shared.clone())),
            feeds: None,
            clock: Arc::new(SystemClock),
            registry: Registry::new(),
        };
        let broker = Broker::start(settings, parts).await.unwrap();
        let _ = shared.hub.set(broker.hub());
        Self { address: broker.addresses()[0], _broker: broker, shared }
    }

    /// The same, but silent: receipts are the test's.
    pub async fn silent() -> Self {
        let cloud = Self::start().await;
        cloud.receipts(false);
        cloud
    }

    pub fn receipts(&self, receipts: bool) {
        *self.shared.receipts.lock() = receipts;
    }

    pub fn verdict(&self, verdict: impl FnMut(&Seen) -> Result<(), Refusal> + Send + 'static) {
        *self.shared.verdict.lock() = Box::new(verdict);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Payloads of all records that were taken, in the order of their coming, each once.
    pub fn payloads(&self) -> Vec<String> {
        let mut known = std::collections::BTreeSet::new();
        let records = self.seen().into_iter().flat_map(|seen| seen.records);
        records.filter(|(key, _)| known.insert(key.clone())).map(|(_, payload)| payload).collect()
    }

    pub async fn seen_until(&self, what: &str, mut holds: impl FnMut(&[Seen]) -> bool) -> Vec<Seen> {
        eventually(what, async || holds(&self.shared.seen.lock())).await;
        self.seen()
    }

    /// The chunks that the relay keeps, as far as this cloud knows.
    pub fn index(&self) -> Vec<IndexEntry> {
        self.shared.mirror.lock().entries.values().cloned().collect()
    }

    /// Messages about the index: sums, pages.
    pub fn index_messages(&self) -> (usize, usize) {
        let mirror = self.shared.mirror.lock();
        (mirror.sums, mirror.pages)
    }

    /// Makes the index wrong.
    pub fn spoil_index(&self, spoil: impl FnOnce(&mut BTreeMap<u64, IndexEntry>)) {
        spoil(&mut self.shared.mirror.lock().entries);
    }

    /// The answer to a command.
    pub async fn reply(&self, command: u64) -> Reply {
        let mut found = None;
        eventually("a reply", async || {
            found = self.shared.replies.lock().iter().find(|reply| reply.command == command).cloned();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub async fn receipt(&self, epoch: Epoch, numbers: &[(u64, u64)]) {
        self.say_receipt(Receipt { relay_epoch: epoch, numbers: numbers.iter().copied().collect() }).await;
    }

    async fn say_receipt(&self, receipt: Receipt) {
        self.say("receipts", receipt.encode()).await;
    }

    pub async fn command(&self, command: Command) {
        self.say("commands", command.encode()).await;
    }

    pub async fn say(&self, kind: &str, payload: Vec<u8>) {
        self.shared.hub.get().unwrap().publish(Message::new(format!("down/{RELAY}/{kind}"), payload).qos(1)).await;
    }
}

struct CloudIntake(Arc<Shared>);

impl Intake for CloudIntake {
    fn claims(&self, topic: &str) -> bool {
        topic.starts_with("up/")
    }

    fn open(&self, _client: &Client) -> Box<dyn IntakeSession> {
        Box::new(CloudIntake(self.0.clone()))
    }
}

impl IntakeSession for CloudIntake {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        match offer.topic.strip_prefix(&format!("up/{RELAY}/")) {
            Some("frames") => {}
            Some("index") => {
                self.note(&Index::parse(offer.payload).expect("a relay says valid things about its index"));
                return Ok(());
            }
            Some("reply") => {
                self.0.replies.lock().push(Reply::parse(offer.payload).expect("a relay sends valid replies"));
                return Ok(());
            }
            _ => panic!("{} is none of a relay's topics", offer.topic),
        }
        let seen = Seen::read(offer.payload);
        let verdict = (self.0.verdict.lock())(&seen);
        if verdict.is_ok() && *self.0.receipts.lock() {
            let receipt = Receipt { relay_epoch: seen.epoch, numbers: Intervals::of(seen.number, seen.number) };
            let hub = self.0.hub.get().unwrap().clone();
            tokio::spawn(async move {
                hub.publish(Message::new(format!("down/{RELAY}/receipts"), receipt.encode()).qos(1)).await;
            });
        }
        self.0.seen.lock().push(seen);
        verdict
    }

    fn commit(&mut self) -> Option<Commit> {
        None
    }
}

impl CloudIntake {
    /// As a cloud does: a page replaces its stretch, sums that differ are asked about.
    fn note(&self, said: &Index) {
        let mirror = &mut *self.0.mirror.lock();
        match said {
            Index::Page { stretch, entries, .. } => {
                mirror.pages += 1;
                mirror.entries.retain(|number, _| !stretch.holds(*number));
                mirror.entries.extend(entries.iter().map(|entry| (entry.chunk, entry.clone())));
            }
            Index::Sums { stretches, .. } => {
                mirror.sums += 1;
                let differs = |stretch: wire::index::Stretch, count: u64, sum: wire::Digest| {
                    let own: Vec<_> = mirror.entries.range(stretch.after + 1..=stretch.through).map(|(_, entry)| entry).collect();
                    own.len() as u64 != count || wire::index::sum(own) != sum
                };
                let stretches: Vec<_> = stretches.iter().filter(|(s, n, sum)| differs(*s, *n, *sum)).map(|(s, ..)| *s).collect();
                if !stretches.is_empty() {
                    let hub = self.0.hub.get().unwrap().clone();
                    let command = Command::Index { id: 1, stretches }.encode();
                    tokio::spawn(async move {
                        hub.publish(Message::new(format!("down/{RELAY}/commands"), command).qos(1)).await;
                    });
                }
            }
        }
    }
}

/// Waits for a condition.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    testkit::wait_until(DEADLINE, what, async move || if holds().await { Ok(()) } else { Err("not yet") })
}
