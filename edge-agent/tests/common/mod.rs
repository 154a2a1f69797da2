//! What the tests of this crate share: an agent that runs, and a relay that is scripted and remembers records.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::{Cause, Signals, Span, Stopper, Units, UnitsFault};
use edge_agent::config::RelayConfig;
use edge_agent::{Agent, Config, Parts, Progress};
use testkit::{Answer, Peer, Script};
use wire::{FrameView, Operation, Topic};

pub const SOON: Duration = Duration::from_secs(20);

/// A configuration against `relay` that does not wait for anything.
pub fn config(folder: &Path, relay: SocketAddr) -> Config {
    let relay = RelayConfig { name: "relay-1".parse().unwrap(), address: relay.into(), user: None, password: None };
    let mut config = Config::new("cityA/meter-1".parse().unwrap(), folder.to_owned(), relay);
    config.send.backoff_min = Span::millis(5);
    config.send.backoff_max = Span::millis(50);
    config.send.linger = Span::millis(1);
    config.chunk.poll = Span::millis(10);
    config
}

/// An agent with its units.
pub struct Running {
    pub agent: Agent,
    stopper: Stopper,
    units: tokio::task::JoinHandle<Result<Cause, UnitsFault>>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        Self::start_with(config, Parts::default()).await
    }

    pub async fn start_with(config: Config, parts: Parts) -> Self {
        Self::of(edge_agent::start(config, parts).await.unwrap())
    }

    /// Lets an agent work that was opened before.
    pub fn of(agent: Agent) -> Self {
        let mut units = Units::new();
        agent.units(&mut units);
        let stopper = units.stopper();
        let units = tokio::spawn(units.run_until(Signals::none()));
        Self { agent, stopper, units }
    }

    /// Ends in order, and gives the data folder back.
    pub async fn stop(self) -> Progress {
        self.stopper.stop();
        self.units.await.unwrap().unwrap();
        self.agent.progress()
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Progress) -> bool) {
        testkit::wait_until(SOON, what, async || {
            let progress = self.agent.progress();
            if wanted(&progress) { Ok(()) } else { Err(progress) }
        })
        .await;
    }
}

/// One delivery of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub at: i64,
    pub operation: Operation,
    pub payload: Vec<u8>,
}

/// Everything that a relay acknowledged, by key, and the order in which it first came.
#[derive(Debug, Default)]
pub struct Held {
    pub records: BTreeMap<(String, u64, u64), Delivered>,
    pub order: Vec<(String, u64)>,
    pub again: usize,
    pub conflicts: Vec<String>,
    pub secrets: usize,
}

impl Held {
    /// The seqs of one series, in their order.
    pub fn seqs(&self, series: &str) -> Vec<u64> {
        self.records.keys().filter(|key| key.0 == series).map(|key| key.2).collect()
    }

    pub fn take(&mut self, payload: &[u8], topic: &str) {
        let Ok(Topic::Frame { operation, sensor }) = Topic::parse(topic) else { panic!("{topic} is no frame topic") };
        let frame = FrameView::parse(payload).expect("a canonical frame");
        self.secrets += frame.secrets.len();
        for run in frame.runs() {
            assert_eq!(run.operation(), operation, "the topic says one operation, a record another");
            assert!(run.series().starts_with(sensor.as_str()));
            for record in run.records() {
                let key = (record.series.to_owned(), record.epoch.0, record.seq);
                let delivered = Delivered { at: record.at, operation, payload: record.payload.to_vec() };
                match self.records.get(&key) {
                    Some(known) if *known == delivered => self.again += 1,
                    Some(_) => self.conflicts.push(format!("{key:?}")),
                    None => {
                        self.order.push((record.series.to_owned(), record.seq));
                        self.records.insert(key, delivered);
                    }
                }
            }
        }
    }
}

/// A relay that answers as `answer` says (by the number of the publish) and holds what it acknowledged. Probes are acknowledged.
pub async fn relay(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> (Peer, Arc<Mutex<Held>>) {
    let held = Arc::new(Mutex::new(Held::default()));
    let keeps = held.clone();
    let script = Script::default().on_publish(move |number, publish| {
        if publish.topic.starts_with("probe/") {
            return Answer::Ack;
        }
        let answer = answer(number);
        if answer == Answer::Ack {
            keeps.lock().unwrap().take(&publish.payload, &publish.topic);
        }
        answer
    });
    (Peer::start(script).await, held)
}
