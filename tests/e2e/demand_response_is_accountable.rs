//! Demand response from end to end, in one process: meters over the limit, an event, user terminals that answer, a load that falls, a
//! settlement; and every record of it on chain.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Registry, Signals, Span, Stopper, SystemClock, Units};
use cloud::demand::{Demand, Program};
use cloud::{Cloud, DemandView, EventView, Rung, Status};
use edge_agent::config::{AnchorConfig, DemandConfig, Kind, RelayConfig};
use edge_agent::terminal::Standing;
use edge_agent::{Agent, Reading, State, Terminal};
use relay::{CloudConfig, Relay};
use testkit::anvil::{Anvil, Options};
use testkit::wait_until;
use wire::Operation;

use crate::town::PATIENCE;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const TICK: Duration = Duration::from_millis(50);

/// Units that run until told to stop.
struct Running(Stopper, tokio::task::JoinHandle<()>);

impl Running {
    fn start(units: Units) -> Self {
        let stopper = units.stopper();
        let running = tokio::spawn(async move {
            units.run_until(Signals::none()).await.unwrap();
        });
        Self(stopper, running)
    }

    async fn stop(self) {
        self.0.stop();
        self.1.await.unwrap();
    }
}

fn parts() -> (Arc<dyn Clock>, Registry) {
    (Arc::new(SystemClock), Registry::new())
}

/// Limit 14 kW; what is above it in a second is asked for two seconds later, for four.
fn demand() -> Demand {
    let mut program = Program::new("peak", "cityA", 14.0);
    (program.interval, program.grace) = (Span::seconds(1), Span::seconds(3));
    (program.notice, program.duration) = (Span::seconds(2), Span::seconds(4));
    let mut demand = Demand::new(vec![program]);
    (demand.poll, demand.repeat) = (Span::millis(50), Span::millis(300));
    demand
}

/// The contract's address, and a key file for each party with money on it.
async fn chain(folder: &Path, parties: usize) -> (Anvil, anchor::Address, Vec<std::path::PathBuf>) {
    let anvil = Anvil::start_with(Options { block_time: Some(1.0), slots_in_an_epoch: Some(1), ..Options::default() }).await;
    let bytes = |key: &String| wire::digest::from_hex(key.trim_start_matches("0x")).unwrap();
    let deployer = anchor::keys::Key::of_bytes(&bytes(&anvil.keys()[0])).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &deployer, PATIENCE).await.unwrap().contract;
    let files = anvil.keys()[1..=parties].iter().enumerate().map(|(index, key)| {
        let file = folder.join(format!("key-{index}"));
        anchor::keys::import(&file, &bytes(key)).unwrap();
        file
    });
    let files = files.collect();
    (anvil, contract, files)
}

fn agent(folder: &Path, sensor: &str, relay: SocketAddr) -> edge_agent::Config {
    let relay = RelayConfig { name: "relay-dev".parse().unwrap(), address: relay.into(), user: None, password: None };
    let data = folder.join(sensor.replace('/', "-"));
    let mut config = edge_agent::Config::new(sensor.parse().unwrap(), data, relay);
    (config.chunk.poll, config.chunk.age_max) = (Span::millis(100), Span::seconds(1));
    config
}

/// What takes `kw`, and no more than the set-point while there is one.
async fn load(agent: Agent, kw: f64) {
    let series: wire::Series = format!("{}/power/active", agent.sensor()).parse().unwrap();
    let setpoint = agent.setpoint();
    loop {
        let allowed = setpoint.as_ref().and_then(|setpoint| setpoint.borrow().as_ref().map(|setpoint| setpoint.max_kw));
        let now = allowed.map_or(kw, |allowed| allowed.min(kw));
        let reading = Reading::new(series.clone(), Operation::Forward, SystemClock.now(), now.to_string()).unwrap();
        agent.outbox().take(vec![reading], None).await.unwrap();
        tokio::time::sleep(TICK).await;
    }
}

/// The first event, once there is one.
async fn first(http: SocketAddr) -> Option<EventView> {
    let answer = reqwest::get(format!("http://{http}/api/v1/demand")).await.unwrap();
    let view: DemandView = answer.json().await.unwrap();
    view.events.into_iter().last()
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_b6_c13_meters_over_the_limit_make_terminals_take_less_and_every_part_of_it_is_on_chain() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (anvil, contract, keys) = chain(folder, 2).await;

    let mut config = cloud::Config::dev(LOCAL, LOCAL, folder.join("cloud"));
    config.demand = Some(demand());
    config.storage.segment_age = Span::seconds(1);
    let anchoring = format!(
        "rpc = {:?}\ncontract = \"{contract}\"\nkey_file = {:?}\nbatch = {{ chunks_max = 4096, age = \"1s\" }}\n",
        anvil.rpc(),
        keys[0]
    );
    config.anchor = Some(toml::from_str(&anchoring).unwrap());
    let (clock, registry) = parts();
    let cloud = Cloud::start(config, cloud::Parts { clock, registry }).await.unwrap();
    let (mqtt, http) = (cloud.addresses()[0], cloud.http());
    let mut units = Units::new();
    cloud.units(&mut units);
    let cloud = Running::start(units);

    let uplink = CloudConfig::anonymous("127.0.0.1", mqtt.port());
    let (clock, registry) = parts();
    let relay = Relay::start(relay::Config::dev(LOCAL, folder.join("relay"), Some(uplink)), relay::Parts { clock, registry })
        .await
        .unwrap();
    let intake = relay.addresses()[0];
    let mut units = Units::new();
    relay.units(&mut units);
    let relay = Running::start(units);

    let mut agents = Vec::new();
    let mut loads = Vec::new();
    for (sensor, kw, curtailable) in
        [("cityA/meter-1", 8.0, None), ("cityA/user-1", 6.0, Some(3.0)), ("cityA/user-2", 4.0, Some(1.0))]
    {
        let mut config = agent(folder, sensor, intake);
        if let Some(curtailable) = curtailable {
            config.kind = Kind::User;
            let mut demand = DemandConfig::new(mqtt.into(), vec!["peak".to_owned()], curtailable);
            demand.minimum_kw = 1.0;
            config.demand = Some(demand);
        }
        if sensor == "cityA/user-1" {
            config.anchor = Some(AnchorConfig {
                poll: Span::millis(200),
                batch: anchor::Batching { chunks_max: 4096, age: Span::seconds(1) },
                confirmation: anchor::Confirmation::default(),
                ..AnchorConfig::new(anvil.rpc(), contract, keys[1].clone())
            });
        }
        let agent = edge_agent::start(config, edge_agent::Parts::default()).await.unwrap();
        let mut units = Units::new();
        agent.units(&mut units);
        agents.push(Running::start(units));
        loads.push(tokio::spawn(load(agent, kw)));
    }

    let settled = wait_until(PATIENCE, "the first event's settlement", async || match first(http).await {
        Some(event) if event.status == Status::Settled => Ok(event),
        other => Err(other),
    })
    .await;
    assert_eq!((settled.area.as_str(), settled.area_before_kw, settled.asked_kw), ("cityA", 18.0, 4.0));
    assert_eq!(settled.promised_kw, 4.0, "3 of user-1, 1 of user-2");
    assert!(settled.measured_kw > 2.0 && settled.measured_kw < 4.001, "{settled:?}");
    assert!(settled.area_during_kw < 16.0, "{settled:?}");
    let promises: Vec<_> = settled.parts.iter().map(|part| (part.sensor.as_str(), part.promised_kw)).collect();
    assert_eq!(promises, [("cityA/user-1", Some(3.0)), ("cityA/user-2", Some(1.0))]);

    let anchored = wait_until(PATIENCE, "every record of the event on chain", async || {
        let event = first(http).await.unwrap();
        let of_parts = event.parts.iter().flat_map(|part| [part.promise.clone(), part.result.clone()]);
        let receipts: Vec<_> = [Some(event.asked.clone()), event.settled.clone()].into_iter().chain(of_parts).collect();
        let done = receipts.iter().all(|receipt| receipt.as_ref().is_some_and(|receipt| receipt.rung == Rung::OnChain));
        if done { Ok(event) } else { Err(receipts) }
    })
    .await;
    // What the cloud itself has written is proven like everything else.
    for key in [&anchored.asked.key, &anchored.settled.as_ref().unwrap().key, &anchored.parts[0].promise.as_ref().unwrap().key] {
        let proof = reqwest::get(format!("http://{http}/api/v1/proofs/{key}")).await.unwrap();
        let proof = proof.error_for_status().unwrap().bytes().await.unwrap();
        let options = anchor::verify::Options::default();
        let verified = anchor::verify_file(&proof, &anvil.rpc(), &options).await.unwrap();
        assert_eq!(verified.record.key, *key);
    }
    // The terminal has anchored its promise with a key of its own.
    let promise = anchored.parts[0].promise.clone().unwrap().key;
    wait_until(PATIENCE, "the promise on chain at the terminal", async || {
        let terminal = Terminal::open(&folder.join("cityA-user-1")).unwrap();
        match terminal.standing(&promise).unwrap() {
            Some(Standing { state: State::OnChain, .. }) => Ok(()),
            other => Err(other),
        }
    })
    .await;

    loads.iter().for_each(tokio::task::JoinHandle::abort);
    for running in agents.into_iter().chain([relay, cloud]) {
        running.stop().await;
    }
    anvil.end().await;
}
