//! A scripted relay that keeps chunks, states them and is asked for them.

use chassis::Span;
use cloud::Config;
use serde_json::{Value, json};
use wire::index::{Index, IndexEntry, Outcome, Reply, Stretch, sum};
use wire::{Command, Digest, Epoch, EpochSecret, Intervals, Operation, RecordView, merkle};

use super::{Client, Town, dev};

pub const SERIES: &str = "cityA/meter-1/power";
pub const SECOND: i64 = 1_000_000_000;

/// The root that an honest relay announces for records of [`Frame::run`].
pub fn root(series: &str, first_seq: u64, payloads: &[&str]) -> Digest {
    let secret = EpochSecret::new([7; 32]);
    let leaves: Vec<Digest> = (first_seq..)
        .zip(payloads)
        .map(|(seq, payload)| {
            secret.leaf(&RecordView {
                series,
                epoch: Epoch(0xe),
                seq,
                at: seq as i64 * SECOND,
                operation: Operation::Forward,
                payload: payload.as_bytes(),
            })
        })
        .collect();
    merkle::root(&leaves)
}

pub fn entry(chunk: u64, series: &str, first_seq: u64, payloads: &[&str]) -> IndexEntry {
    let last = first_seq + payloads.len() as u64 - 1;
    IndexEntry {
        chunk,
        series: series.parse().unwrap(),
        epoch: Epoch(0xe),
        at_min: first_seq as i64 * SECOND,
        at_max: last as i64 * SECOND,
        records: payloads.len() as u64,
        seqs: Intervals::of(first_seq, last),
        root: root(series, first_seq, payloads),
    }
}

/// A scripted relay.
pub struct Relay {
    pub client: Client,
    pub epoch: Epoch,
}

impl Relay {
    pub async fn start(town: &Town, name: &str) -> Self {
        let client = town.client(name).await;
        client.subscribe(&format!("down/{name}/commands")).await;
        Self { client, epoch: Epoch(1) }
    }

    pub async fn states(&self, after: u64, through: u64, entries: Vec<IndexEntry>) {
        self.client.says.lock().unwrap().epoch = self.epoch;
        let page = Index::Page { relay_epoch: self.epoch, stretch: Stretch { after, through }, entries };
        self.client.publish(&format!("up/{}/index", self.client.name), page.encode()).await.unwrap();
    }

    pub async fn sums(&self, sums: &[(u64, u64, &[IndexEntry])]) {
        self.client.says.lock().unwrap().epoch = self.epoch;
        let stretch = |(after, through, entries): &(u64, u64, &[IndexEntry])| {
            (Stretch { after: *after, through: *through }, entries.len() as u64, sum(*entries))
        };
        let sums = Index::Sums { relay_epoch: self.epoch, stretches: sums.iter().map(stretch).collect() };
        self.client.publish(&format!("up/{}/index", self.client.name), sums.encode()).await.unwrap();
    }

    pub async fn command(&mut self) -> Command {
        let received = self.client.next().await;
        assert_eq!(received.topic, format!("down/{}/commands", self.client.name));
        Command::parse(&received.payload).unwrap()
    }

    /// The next pull: number, series, from, to.
    pub async fn pull(&mut self) -> (u64, String, i64, i64) {
        match self.command().await {
            Command::Pull { id, series, from, to } => (id, series.to_string(), from, to),
            other => panic!("{other:?}"),
        }
    }

    pub async fn reply(&self, command: u64, outcome: Outcome) {
        let reply = Reply { relay_epoch: self.epoch, command, outcome };
        self.client.publish(&format!("up/{}/reply", self.client.name), reply.encode()).await.unwrap();
    }

    pub async fn done(&self, command: u64, frames: &[(u64, u64)]) {
        let frames = frames.iter().copied().collect();
        self.reply(command, Outcome::Done { frames, records: 1 }).await;
    }
}

pub fn quick(path: &std::path::Path) -> Config {
    let mut config = dev(path);
    config.history.pull_wait = Span::millis(700);
    config
}

pub async fn ask(town: &Town, query: &str) -> Value {
    let (status, page) = town.get("", &format!("/api/v1/records?{query}")).await;
    assert_eq!(status, 200, "{page}");
    page
}

pub fn payloads(page: &Value) -> Vec<&str> {
    page["records"].as_array().unwrap().iter().map(|record| record["payload"].as_str().unwrap()).collect()
}

pub fn missing(from: u64, to: u64, reason: &str, relay: &str) -> Value {
    json!({"epoch": "e", "from_seq": from, "to_seq": to, "reason": reason, "relay": relay})
}
