//! A chain that is away in each way there is, while readings come in: nobody waits for it, and when it is back it gets everything, in order,
//! without a restart and without a person.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anchor::LedgerView;
use anchor::machine::State;
use edge_agent::Terminal;
use link::Link;
use testkit::anvil::Options;
use testkit::{Anvil, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wire::Epoch;

use crate::town::{self, FOREBAY, PATIENCE, Role};

fn key_file(place: &Path, name: &str, key: &str) -> PathBuf {
    let path = place.join(name);
    anchor::keys::import(&path, &wire::digest::from_hex(key.trim_start_matches("0x")).unwrap()).unwrap();
    path
}

/// A node that answers every request with an error.
struct Failing {
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Failing {
    async fn start(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 4096];
                // What was asked does not matter, nor whether all of it has come.
                if client.read(&mut request).await.is_ok_and(|read| read > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = client.write_all(answer.as_bytes()).await;
                }
            }
        });
        Self { asked, task }
    }

    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A cloud and an agent that anchor, the relay between them, and a meter that publishes to the agent through the relay's broker.
struct Place {
    folder: PathBuf,
    cloud: Role,
    agent: Role,
    _relay: Role,
    meter: Link,
}

impl Place {
    async fn new(folder: &Path, rpc: &str, contract: &str, keys: &[String]) -> Self {
        let section = |key: &Path| {
            format!(
                "[anchor]\nrpc = {rpc:?}\ncontract = {contract:?}\nkey_file = {key:?}\npoll = \"50ms\"\nconfirmation = {{ depth = 1 }}\n\
                 batch = {{ chunks_max = 3, age = \"100ms\" }}\n"
            )
        };
        let cloud = format!(
            "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\ndata = {:?}\naccess = \"anonymous\"\n\
             [storage]\nsegment_age = \"200ms\"\n{}",
            folder.join("cloud"),
            section(&key_file(folder, "cloud.key", &keys[1]))
        );
        std::fs::write(folder.join("cloud.toml"), cloud).unwrap();
        let cloud = Role::start(&["cloud", "--config", folder.join("cloud.toml").to_str().unwrap()]).await;
        let relay = town::relay(folder, "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
        let at = relay.place("listen");
        let agent = format!(
            "sensor = \"cityA/meter-1\"\ndata = {:?}\n[[relays]]\nname = \"relay-1\"\naddress = \"{at}\"\n[[stream]]\nmatch = \"#\"\n\
             operation = \"forward\"\n[report]\nenabled = false\n[[input]]\nkind = \"mqtt\"\nname = \"local\"\naddress = \"{at}\"\n\
             filter = \"sensors/#\"\n[chunk]\nrecords_max = 8\nage_max = \"200ms\"\npoll = \"50ms\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{}",
            folder.join("agent"),
            section(&key_file(folder, "agent.key", &keys[0]))
        );
        std::fs::write(folder.join("agent.toml"), agent).unwrap();
        let agent = Role::start(&["agent", "--config", folder.join("agent.toml").to_str().unwrap()]).await;
        let (meter, _) = town::client("meter", at);
        let place = Self { folder: folder.to_owned(), cloud, agent, _relay: relay, meter };
        // Until the agent has subscribed, its meter speaks to nobody.
        wait_until(PATIENCE, "the agent listens to its meter", async || {
            place.meter.publish("sensors/power", "0").await.unwrap();
            if place.taken().await > 0 { Ok(()) } else { Err(()) }
        })
        .await;
        place
    }

    /// Readings while the chain is as it is; the cloud has them all at the end.
    async fn readings(&self, count: u64) {
        let before = self.taken().await;
        for n in 0..count {
            self.meter.publish("sensors/power", n.to_string()).await.unwrap();
        }
        wait_until(PATIENCE, "the cloud has what was taken", async || {
            let (taken, held) = (self.taken().await, metric(&self.cloud, "cloud_records_ingested_total").await);
            if taken >= before + count && held == taken { Ok(()) } else { Err((taken, held)) }
        })
        .await;
    }

    async fn taken(&self) -> u64 {
        metric(&self.agent, "agent_readings_taken_total").await
    }

    /// Both say that the chain is away and for how long already, make batches all the same, and are ready to serve.
    async fn feels_it_away(&self, how: &str) {
        for (name, role) in [("cloud", &self.cloud), ("agent", &self.agent)] {
            let ledger = self.folder.join(name).join("anchor.sqlite");
            wait_until(PATIENCE, &format!("the {name} says that the chain is away: {how}"), async || {
                let seen = metrics(role).await;
                let waiting = LedgerView::open(&ledger, Epoch(0)).unwrap().standing().unwrap().counts.batched;
                let (away, oldest) = (seen["anchor_chain_away"], seen["anchor_oldest_open_seconds"]);
                if away == 1 && oldest >= 1 && waiting >= 1 { Ok(()) } else { Err((away, oldest, waiting)) }
            })
            .await;
            assert_eq!(metric(role, "anchor_alarm").await, 0, "{how}: nobody is needed");
            let ready = reqwest::get(format!("http://{}/ready", role.place("admin"))).await.unwrap();
            assert_eq!(ready.status(), 200, "{how}: the {name} serves");
        }
    }

    /// Everything that was taken is on chain from both sides, as one sequence.
    async fn everything_is_on_chain(&self) {
        let taken = self.taken().await;
        wait_until(PATIENCE, "everything is on chain from both sides", async || {
            let terminal = Terminal::open(&self.folder.join("agent")).unwrap().progress().unwrap().anchored;
            let cloud = self.view("cloud").standing().unwrap().records_final;
            if (terminal, cloud) == (taken, taken) { Ok(()) } else { Err((terminal, cloud, taken)) }
        })
        .await;
        for name in ["agent", "cloud"] {
            let view = self.view(name);
            let (mut next, mut head, mut block) = (1, None, 0);
            for number in 1..=view.last_batch().unwrap() {
                let batch = view.batch(number).unwrap().unwrap();
                let (entry, mined) = (batch.entry().unwrap(), batch.progress.mined.unwrap());
                assert_eq!((batch.progress.state, entry.first_seq), (State::Final, next), "{name}, batch {number}");
                assert!(head.is_none_or(|head| head == entry.prev), "{name}, batch {number} stands on the one before");
                assert!(mined.block_number >= block, "{name}, batch {number} is behind the one before");
                (next, head, block) = (next + entry.count, Some(entry.head()), mined.block_number);
            }
        }
        for role in [&self.cloud, &self.agent] {
            wait_until(PATIENCE, "the metrics say so, too", async || {
                let seen = metrics(role).await;
                let found = (seen["anchor_chain_away"], seen["anchor_oldest_open_seconds"]);
                if found == (0, 0) { Ok(()) } else { Err(found) }
            })
            .await;
        }
    }

    fn view(&self, name: &str) -> LedgerView {
        LedgerView::open(&self.folder.join(name).join("anchor.sqlite"), Epoch(0)).unwrap()
    }
}

/// Metrics without labels.
async fn metrics(role: &Role) -> HashMap<String, u64> {
    let text = reqwest::get(format!("http://{}/metrics", role.place("admin"))).await.unwrap().text().await.unwrap();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

async fn metric(role: &Role, name: &str) -> u64 {
    metrics(role).await.get(name).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_a_chain_that_refuses_fails_and_hangs_gets_everything_in_order_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    // The contract's address follows from its deployer: a chain that comes later gets it at the same.
    let mut before = Anvil::start().await;
    let deployer = anchor::keys::load(&key_file(folder.path(), "deployer", &before.keys()[9])).unwrap();
    let contract = anchor::deploy(&before.rpc(), &deployer, PATIENCE).await.unwrap().contract;
    before.kill_9().await;
    let at: SocketAddr = ([127, 0, 0, 1], before.port()).into();
    let place = Place::new(folder.path(), &before.rpc(), &contract.to_string(), before.keys()).await;

    place.readings(40).await;
    place.feels_it_away("it refuses").await;

    let failing = Failing::start(at).await;
    let asked = failing.asked.clone();
    wait_until(PATIENCE, "the failing node was asked", async || {
        let asked = asked.load(Ordering::SeqCst);
        if asked >= 2 { Ok(()) } else { Err(asked) }
    })
    .await;
    place.readings(40).await;
    place.feels_it_away("it fails").await;
    failing.stop().await;

    let anvil = Anvil::start_with(Options { port: Some(at.port()), block_time: Some(0.2), ..Options::default() }).await;
    assert_eq!(anchor::deploy(&anvil.rpc(), &deployer, PATIENCE).await.unwrap().contract, contract);
    place.readings(40).await;
    place.everything_is_on_chain().await;

    anvil.pause();
    place.readings(40).await;
    place.feels_it_away("it hangs").await;
    place.readings(40).await;
    anvil.resume();
    place.everything_is_on_chain().await;
    let (terminal, cloud) = (folder.path().join("agent"), folder.path().join("cloud"));
    let audit = Command::new(FOREBAY)
        .args(["--log", "error", "audit", "--rpc", &anvil.rpc(), "--terminal"])
        .arg(terminal)
        .arg("--cloud")
        .arg(cloud)
        .output()
        .unwrap();
    assert_eq!((audit.status.code(), audit.stdout.len()), (Some(0), 0), "{audit:?}");
}
