//! A group of relays before a cloud that grants leases as the test says, fences what is stale, and remembers what came by whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use broker::{Broker, Client, Commit, Hub, Intake, IntakeSession, Message, Offer, Refusal};
use chassis::{Registry, SystemClock};
use parking_lot::Mutex;
use relay::{Config, GroupConfig};
use tempfile::TempDir;
use testkit::CutLink;
use wire::group::{Heartbeat, Lease, TermLimits};
use wire::topics::Up;
use wire::{Intervals, Receipt, Topic, UpFrame};

use crate::town::{Sensor, Town, dev};

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct Came {
    pub relay: String,
    pub term: u64,
    /// Client id of the connection by which it came.
    pub by: String,
    /// Series, sequence number and payload of each record.
    pub records: Vec<(String, u64, String)>,
    pub at: std::time::Instant,
    pub refused: bool,
}

type Verdict = Box<dyn FnMut(&Came) -> Result<(), Refusal> + Send>;

#[derive(Default)]
struct Book {
    term: u64,
    holder: String,
    address: String,
    until: TermLimits,
    /// Frames of a lower term are refused.
    fence: u64,
    came: Vec<Came>,
    beats: BTreeMap<String, Vec<Heartbeat>>,
    open: BTreeMap<String, usize>,
    verdict: Option<Verdict>,
}

struct Shared {
    book: Mutex<Book>,
    hub: OnceLock<Hub>,
}

/// The cloud.
pub struct Cloud {
    _broker: Broker,
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Cloud {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared { book: Mutex::default(), hub: OnceLock::new() });
        let settings = broker::Settings {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            packet_bytes_max: 16 << 20,
            ..broker::Settings::default()
        };
        let parts = broker::Parts {
            policy: broker::Policy::anonymous(),
            intake: Arc::new(CloudIntake(shared.clone())),
            clock: Arc::new(SystemClock),
            registry: Registry::new(),
            feeds: None,
        };
        let broker = Broker::start(settings, parts).await.unwrap();
        let _ = shared.hub.set(broker.hub());
        Self { address: broker.addresses()[0], _broker: broker, shared }
    }

    /// The next lease. Members hear of it by their next heartbeats.
    pub fn grant(&self, holder: &str, address: SocketAddr, until: TermLimits) -> u64 {
        let mut book = self.shared.book.lock();
        book.term += 1;
        book.fence = book.term;
        book.holder = holder.to_owned();
        book.address = address.to_string();
        book.until = until;
        book.term
    }

    /// Frames of all terms so far are refused, and nobody is told.
    pub fn fence(&self) {
        let mut book = self.shared.book.lock();
        book.fence = book.term + 1;
    }

    pub fn verdict(&self, verdict: impl FnMut(&Came) -> Result<(), Refusal> + Send + 'static) {
        self.shared.book.lock().verdict = Some(Box::new(verdict));
    }

    pub fn came(&self) -> Vec<Came> {
        self.shared.book.lock().came.clone()
    }

    /// Whether this frame was taken by any way.
    pub fn taken(&self, holds: impl Fn(&Came) -> bool) -> bool {
        self.shared.book.lock().came.iter().any(|came| !came.refused && holds(came))
    }

    pub fn beats(&self, relay: &str) -> Vec<Heartbeat> {
        self.shared.book.lock().beats.get(relay).cloned().unwrap_or_default()
    }

    /// Client ids that are connected.
    pub fn connected(&self) -> Vec<String> {
        self.shared.book.lock().open.keys().cloned().collect()
    }

    /// Payloads of a series in the order of their first coming, with the sequence numbers checked to rise.
    pub fn in_order(&self, series: &str) -> Vec<String> {
        let mut seen = std::collections::BTreeSet::new();
        let mut last = 0;
        let mut payloads = Vec::new();
        for came in self.came().into_iter().filter(|came| !came.refused) {
            for (_, seq, payload) in came.records.into_iter().filter(|(own, ..)| own == series) {
                if seen.insert(seq) {
                    assert!(seq > last, "{series}: {seq} came after {last}");
                    last = seq;
                    payloads.push(payload);
                }
            }
        }
        payloads
    }
}

struct CloudIntake(Arc<Shared>);

impl Intake for CloudIntake {
    fn claims(&self, topic: &str) -> bool {
        topic.starts_with("up/")
    }

    fn open(&self, client: &Client) -> Box<dyn IntakeSession> {
        *self.0.book.lock().open.entry(client.id.clone()).or_default() += 1;
        Box::new(CloudSession { shared: self.0.clone(), client: client.id.clone() })
    }
}

struct CloudSession {
    shared: Arc<Shared>,
    client: String,
}

impl Drop for CloudSession {
    fn drop(&mut self) {
        let mut book = self.shared.book.lock();
        let count = book.open.get_mut(&self.client).unwrap();
        *count -= 1;
        if *count == 0 {
            book.open.remove(&self.client);
        }
    }
}

impl CloudSession {
    fn say(&self, topic: String, payload: Vec<u8>) {
        let hub = self.shared.hub.get().unwrap().clone();
        tokio::spawn(async move { hub.publish(Message::new(topic, payload).qos(1)).await });
    }

    fn frame(&self, payload: &[u8]) -> Result<(), Refusal> {
        let plain = wire::packed::unpack(payload, 16 << 20).expect("a relay sends what can be unpacked");
        let frame = UpFrame::parse(&plain).expect("a relay sends valid frames");
        let mut records = Vec::new();
        for record in frame.runs().flat_map(|run| run.records().collect::<Vec<_>>()) {
            records.push((record.series.to_owned(), record.seq, String::from_utf8_lossy(record.payload).into_owned()));
        }
        let mut came = Came {
            relay: frame.relay.to_owned(),
            term: frame.term,
            by: self.client.clone(),
            records,
            at: std::time::Instant::now(),
            refused: false,
        };
        let mut book = self.shared.book.lock();
        let mut verdict = if came.term != 0 && came.term < book.fence { Err(Refusal::Unavailable) } else { Ok(()) };
        if let Some(own) = &mut book.verdict {
            verdict = verdict.and_then(|()| own(&came));
        }
        came.refused = verdict.is_err();
        book.came.push(came);
        drop(book);
        if verdict.is_ok() {
            let receipt = Receipt { relay_epoch: frame.relay_epoch, numbers: Intervals::of(frame.number, frame.number) };
            self.say(format!("down/{}/receipts", frame.relay), receipt.encode());
        }
        verdict
    }

    fn heartbeat(&self, relay: &str, payload: &[u8]) {
        let beat = Heartbeat::parse(payload).expect("a relay sends valid heartbeats");
        let mut book = self.shared.book.lock();
        let lease = Lease {
            group: beat.group.clone(),
            beat: beat.beat,
            term: book.term,
            holder: book.holder.parse().ok(),
            address: book.address.clone(),
            ttl: Duration::from_secs(2),
            until: book.until,
        };
        book.beats.entry(relay.to_owned()).or_default().push(beat);
        drop(book);
        self.say(format!("down/{relay}/lease"), lease.encode());
    }
}

impl IntakeSession for CloudSession {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        match Topic::parse(offer.topic) {
            Ok(Topic::Up { kind: Up::Frames, .. }) => self.frame(offer.payload),
            Ok(Topic::Up { relay, kind: Up::Stats }) => {
                self.heartbeat(relay.as_str(), offer.payload);
                Ok(())
            }
            // The index and replies are no matter of groups.
            Ok(Topic::Up { .. }) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self) -> Option<Commit> {
        None
    }
}

/// A member of the group.
pub struct Member {
    pub name: String,
    pub town: Town,
    /// The link of the others to this one.
    pub near: CutLink,
    /// Its own link to the cloud.
    pub far: CutLink,
    pub sensor: Sensor,
    _folder: TempDir,
}

impl Member {
    pub async fn start(name: &str, cloud: &Cloud, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free until the relay takes it a moment later.
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let near = CutLink::start(listen).await;
        let far = CutLink::start(cloud.address).await;
        let mut config = dev(folder.path(), Some(far.address()));
        config.relay = name.parse().unwrap();
        config.listen = vec![listen];
        config.group = Some(GroupConfig::new("north".parse().unwrap(), near.address().to_string()));
        change(&mut config);
        let town = Town::start(config).await;
        let sensor = town.client("meter").await;
        Self { name: name.to_owned(), town, near, far, sensor, _folder: folder }
    }

    pub fn series(&self) -> String {
        format!("city/{}/power", self.name)
    }

    pub async fn publish(&self, payload: impl Into<Vec<u8>>) {
        self.sensor.publish(&format!("op/forward/{}", self.series()), payload).await.unwrap();
    }

    /// Where the others reach it.
    pub fn address(&self) -> SocketAddr {
        self.near.address()
    }
}

/// Members `r1`, `r2`, …
pub async fn members(cloud: &Cloud, count: usize) -> Vec<Member> {
    let mut members = Vec::new();
    for number in 1..=count {
        members.push(Member::start(&format!("r{number}"), cloud, |_| {}).await);
    }
    members
}
