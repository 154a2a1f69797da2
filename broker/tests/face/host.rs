//! A broker under test, and an intake whose commits the test resolves by hand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Broker, Client, Commit, Feeds, Intake, IntakeSession, Message, NoIntake, Offer, Parts, Policy, Refusal, Settings};
use chassis::{ManualClock, Registry};
use tokio::sync::oneshot;

use crate::peer::PATIENCE;

pub struct Host {
    pub broker: Broker,
    pub address: SocketAddr,
    pub registry: Registry,
    pub clock: Arc<ManualClock>,
}

pub fn settings() -> Settings {
    Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Settings::default() }
}

pub async fn host(settings: Settings, policy: Policy, intake: Arc<dyn Intake>) -> Host {
    host_with(settings, policy, intake, None).await
}

pub async fn host_with(settings: Settings, policy: Policy, intake: Arc<dyn Intake>, feeds: Option<Arc<dyn Feeds>>) -> Host {
    let (registry, clock) = (Registry::new(), Arc::new(ManualClock::new(1)));
    let parts = Parts { policy, intake, feeds, clock: clock.clone(), registry: registry.clone() };
    let broker = Broker::start(settings, parts).await.unwrap();
    Host { address: broker.addresses()[0], broker, registry, clock }
}

/// A broker that lets everybody do everything and routes everything.
pub async fn open_host() -> Host {
    host(settings(), Policy::anonymous(), Arc::new(NoIntake)).await
}

impl Host {
    /// The value of a line of the metrics, 0 if it is not there.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.registry.encode();
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Host) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come true:\n{}", self.registry.encode());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Proves that the broker still serves others: a message goes round.
    pub async fn still_serves(&self) {
        use crate::peer::{Peer, hello};
        let mut peer = Peer::join(self.address, hello(true, "witness")).await;
        assert_eq!(peer.subscribe("witness/t", 1).await, 1);
        self.broker.hub().publish(Message::new("witness/t", "alive")).await;
        assert_eq!(peer.recv().await.publish(true).4, b"alive");
    }
}

/// Claims `op/…`. Refuses payloads that name a refusal. Every commit waits for the test.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    offered: Vec<(String, Vec<u8>, u8)>,
    commits: VecDeque<oneshot::Sender<Result<(), Refusal>>>,
}

impl Held {
    pub fn offered(&self) -> usize {
        self.0.lock().unwrap().offered.len()
    }

    pub fn offers(&self) -> Vec<(String, Vec<u8>, u8)> {
        self.0.lock().unwrap().offered.clone()
    }

    pub fn waiting(&self) -> usize {
        self.0.lock().unwrap().commits.len()
    }

    /// Resolves the oldest commit (or, with `newest`, the newest).
    pub fn resolve(&self, newest: bool, outcome: Result<(), Refusal>) {
        let mut inside = self.0.lock().unwrap();
        let commit = if newest { inside.commits.pop_back() } else { inside.commits.pop_front() };
        commit.expect("a commit waits").send(outcome).expect("somebody waits for it");
    }
}

impl Intake for Held {
    fn claims(&self, topic: &str) -> bool {
        topic.starts_with("op/")
    }
    fn open(&self, _client: &Client) -> Box<dyn IntakeSession> {
        Box::new(HeldSession { held: self.clone(), fresh: false })
    }
}

struct HeldSession {
    held: Held,
    fresh: bool,
}

impl IntakeSession for HeldSession {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        match offer.payload {
            b"NotAuthorized" => return Err(Refusal::NotAuthorized),
            b"TopicNameInvalid" => return Err(Refusal::TopicNameInvalid),
            b"PayloadFormatInvalid" => return Err(Refusal::PayloadFormatInvalid),
            b"QuotaExceeded" => return Err(Refusal::QuotaExceeded),
            b"Unavailable" => return Err(Refusal::Unavailable),
            _ => {}
        }
        self.fresh = true;
        self.held.0.lock().unwrap().offered.push((offer.topic.to_owned(), offer.payload.to_vec(), offer.qos));
        Ok(())
    }

    fn alone(&self) -> bool {
        self.held.0.lock().unwrap().offered.last().is_some_and(|(topic, ..)| topic.starts_with("op/alone/"))
    }

    fn commit(&mut self) -> Option<Commit> {
        if !std::mem::take(&mut self.fresh) {
            return None;
        }
        let (resolve, resolved) = oneshot::channel();
        self.held.0.lock().unwrap().commits.push_back(resolve);
        Some(Box::pin(async move { resolved.await.unwrap_or(Err(Refusal::Unavailable)) }))
    }
}
