//! A cloud with real sockets and files, and those who talk to it: a scripted relay, readers, a browser.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test file uses another part of it")]

pub mod keeper;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::{Cause, Registry, Signals, SystemClock, Units, UnitsFault};
use cloud::{Access, Cloud, Config, Page, Parts};
use link::{Incoming, Link, LinkConfig, PublishError, Qos, Received};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wire::index::{Outcome, Reply};
use wire::{Announcement, Epoch, EpochSecret, Operation, Receipt, RunBuilder, UpFrame};

/// Longer than anything here takes; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Messages that wait for a client of the tests.
const INBOX_MAX: usize = 65_536;

/// A running cloud.
pub struct Town {
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
    pub registry: Registry,
    pub archive: archive::Archive,
    pub hub: broker::Hub,
    signal: mpsc::Sender<()>,
    running: JoinHandle<Result<Cause, UnitsFault>>,
}

pub fn dev(dir: &Path) -> Config {
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Config::dev(local, local, dir.join("data"))
}

/// A configuration with users (their password is their name) and grants.
pub fn guarded(dir: &Path, users: &[&str], grants: &str) -> Config {
    let files = (dir.join("users"), dir.join("grants.toml"));
    for user in users {
        broker::users::set_password(&files.0, user, user.as_bytes()).unwrap();
    }
    std::fs::write(&files.1, grants).unwrap();
    Config { access: Access::Files { users: files.0, grants: files.1, sensors: None }, ..dev(dir) }
}

impl Town {
    pub async fn start(config: Config) -> Self {
        Self::start_at(config, Arc::new(SystemClock)).await
    }

    /// With a clock of the test's own.
    pub async fn start_at(config: Config, clock: Arc<dyn chassis::Clock>) -> Self {
        let registry = Registry::new();
        testkit::tls::install_provider();
        let cloud = Cloud::start(config, Parts { clock, registry: registry.clone() }).await.unwrap();
        Self::of(cloud, registry)
    }

    /// Lets a cloud work that was opened before.
    pub fn of(cloud: Cloud, registry: Registry) -> Self {
        let (mqtt, http, archive) = (cloud.addresses()[0], cloud.http(), cloud.archive().clone());
        let hub = cloud.hub();
        let mut units = Units::new();
        cloud.units(&mut units);
        let (signal, signals) = mpsc::channel(1);
        let running = tokio::spawn(units.run_until(Signals::from_channel(signals)));
        Self { mqtt, http, registry, archive, hub, signal, running }
    }

    pub async fn stop(self) {
        self.signal.send(()).await.unwrap();
        assert_eq!(self.ended().await.unwrap(), Cause::Signal);
    }

    /// How it ends by itself.
    pub async fn ended(self) -> Result<Cause, UnitsFault> {
        tokio::time::timeout(DEADLINE, self.running).await.expect("the cloud did not end").unwrap()
    }

    /// Connects a client; in a guarded town the user is the client's name.
    pub async fn client(&self, name: &str) -> Client {
        Client::connect(self.mqtt, name).await
    }

    /// A GET as `user`; nobody if it is empty.
    pub async fn get(&self, user: &str, path: &str) -> (u16, serde_json::Value) {
        self.request(reqwest::Method::GET, user, path).await
    }

    pub async fn request(&self, method: reqwest::Method, user: &str, path: &str) -> (u16, serde_json::Value) {
        let request = reqwest::Client::new().request(method, format!("http://{}{path}", self.http));
        let request = if user.is_empty() { request } else { request.basic_auth(user, Some(user)) };
        let answer = tokio::time::timeout(DEADLINE, request.send()).await.expect("no answer").unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// All records of a series, page by page.
    pub async fn walk(&self, user: &str, series: &str, limit: usize) -> Vec<cloud::Reading> {
        let (mut readings, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = self.get(user, &format!("/api/v1/records?series={series}&limit={limit}{cursor}")).await;
            assert_eq!(status, 200, "{page}");
            let page: Page = serde_json::from_value(page).unwrap();
            assert!(page.records.len() <= limit);
            readings.extend(page.records);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return readings,
            }
        }
    }

    /// The value of a counter in the metrics text.
    pub fn counter(&self, line: &str) -> u64 {
        let text = self.registry.encode();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {text}"))
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come true"));
}

/// A client over the link: a relay or a reader.
pub struct Client {
    pub name: String,
    pub link: Link,
    pub incoming: Inbox,
    /// What it answers when it is asked what it holds and has not stated.
    pub says: Arc<Mutex<Says>>,
}

/// What came, but for what is answered at once.
pub struct Inbox(mpsc::Receiver<Received>, JoinHandle<()>);

impl Inbox {
    pub async fn next(&mut self) -> Option<Received> {
        self.0.recv().await
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // And with it the connection.
        self.1.abort();
    }
}

/// What a scripted relay says of what it has not stated.
pub struct Says {
    pub epoch: Epoch,
    /// `None`: it does not answer.
    pub unstated: Option<(wire::Intervals, wire::Unstated)>,
    pub times: u64,
}

impl Client {
    /// Connects to a cloud, which may be another process.
    pub async fn connect(mqtt: SocketAddr, name: &str) -> Self {
        let config = LinkConfig::new(mqtt.ip().to_string(), mqtt.port(), name).with_credentials(name, name);
        let (link, incoming) = Link::start(config);
        let mut connected = link.connected();
        tokio::time::timeout(DEADLINE, connected.wait_for(|connected| *connected)).await.expect("no connection").unwrap();
        Self::new(name, link, incoming)
    }

    pub fn new(name: &str, link: Link, mut incoming: Incoming) -> Self {
        let unstated = Some(Default::default());
        let says = Arc::new(Mutex::new(Says { epoch: Epoch(1), unstated, times: 0 }));
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        let (answers, own, commands) = (link.clone(), says.clone(), format!("down/{name}/commands"));
        let reply_topic = format!("up/{name}/reply");
        let answering = tokio::spawn(async move {
            while let Some(received) = incoming.next().await {
                let asked = (received.topic == commands).then(|| wire::Command::parse(&received.payload));
                let Some(Ok(wire::Command::Unstated { id, .. })) = asked else {
                    let _ = sender.send(received).await;
                    continue;
                };
                let said = {
                    let mut says = own.lock().unwrap();
                    says.times += 1;
                    says.unstated.clone().map(|(frames, unstated)| (says.epoch, Outcome::Unstated { frames, unstated }))
                };
                if let Some((relay_epoch, outcome)) = said {
                    let reply = Reply { relay_epoch, command: id, outcome };
                    let _ = answers.publish(reply_topic.as_str(), reply.encode()).await;
                }
            }
        });
        Self { name: name.to_owned(), link, incoming: Inbox(receiver, answering), says }
    }

    pub async fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        tokio::time::timeout(DEADLINE, self.link.publish(topic, payload)).await.expect("no acknowledgement")
    }

    /// The reason code of the refusal.
    pub async fn refused(&self, topic: &str, payload: Vec<u8>) -> u8 {
        match self.publish(topic, payload).await {
            Err(PublishError::Refused { reason_code }) => reason_code,
            other => panic!("{topic} was not refused: {other:?}"),
        }
    }

    /// Sends a frame as the relay of the client's name, and waits for the acknowledgement.
    pub async fn send(&self, frame: &Frame) {
        self.publish(&format!("up/{}/frames", self.name), frame.encode(&self.name)).await.unwrap();
    }

    pub async fn subscribe(&self, filter: &str) {
        self.link.subscribe(filter, Qos::One).await.unwrap();
    }

    pub async fn next(&mut self) -> Received {
        tokio::time::timeout(DEADLINE, self.incoming.next()).await.expect("nothing came").expect("the link ended")
    }

    /// The next receipt, as frame numbers.
    pub async fn receipt(&mut self) -> Vec<(u64, u64)> {
        let received = self.next().await;
        assert_eq!(received.topic, format!("down/{}/receipts", self.name));
        Receipt::parse(&received.payload).unwrap().numbers.as_slice().to_vec()
    }

    /// Receipts until they name all of `numbers`.
    pub async fn receipts_until(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        let mut held = wire::Intervals::new();
        while !held.covers(*numbers.start(), *numbers.end()) {
            for (low, high) in self.receipt().await {
                held.insert(low, high);
            }
        }
    }
}

/// A frame of a scripted relay.
#[derive(Clone)]
pub struct Frame {
    pub number: u64,
    pub term: u64,
    pub historical: bool,
    pub runs: Vec<u8>,
    pub secrets: Vec<Announcement>,
}

impl Frame {
    pub fn new(number: u64) -> Self {
        Self { number, term: 0, historical: false, runs: Vec::new(), secrets: Vec::new() }
    }

    /// Announces the secret of the epoch that all frames here have.
    pub fn announcing(mut self, scope: Option<&str>) -> Self {
        let scope = scope.map(|sensor| sensor.parse().unwrap());
        self.secrets.push(Announcement { epoch: Epoch(0xe), scope, secret: EpochSecret::new([7; 32]) });
        self
    }

    /// Adds records `first_seq..` of a series; the time of record n is n seconds, its payload is given.
    pub fn run(mut self, series: &str, first_seq: u64, payloads: &[&str]) -> Self {
        let mut builder = RunBuilder::new(series.parse().unwrap(), Operation::Forward);
        for (index, payload) in payloads.iter().enumerate() {
            builder.push((first_seq as i64 + index as i64) * 1_000_000_000, payload.as_bytes()).unwrap();
        }
        builder.write(Epoch(0xe), first_seq, &mut self.runs);
        self
    }

    pub fn encode(&self, relay: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Self { number, term, historical, runs, secrets } = self.clone();
        let frame = UpFrame { relay, relay_epoch: Epoch(1), number, term, historical, secrets, runs: &runs };
        frame.encode(&mut bytes);
        bytes
    }
}

/// The value of a user property.
pub fn property<'a>(received: &'a Received, name: &str) -> Option<&'a str> {
    received.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A folder that outlives the clouds in it.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}

/// Seconds since 1970.
pub fn seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub fn in_seconds(more: i64) -> String {
    jiff::Timestamp::from_second(seconds() + more).unwrap().to_string()
}

/// The return code of a 3.1.1 CONNECT: 0 is yes, 4 bad user name or password.
pub async fn connack(town: &Town, user: &str, password: &str) -> u8 {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
    let body = [text("MQTT"), vec![4, 0b1100_0010, 0, 60], text("probe"), text(user), text(password)].concat();
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let more = left / 128 > 0;
        packet.push((left % 128) as u8 | if more { 0x80 } else { 0 });
        left /= 128;
        if !more {
            break;
        }
    }
    packet.extend(body);
    let mut stream = TcpStream::connect(town.mqtt).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let mut answer = [0; 4];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await.expect("no CONNACK").unwrap();
    answer[3]
}
