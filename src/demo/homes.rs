//! Demand response: three homes above the limit of their area. The cloud asks, they promise, take less, and are measured.

use std::time::Duration;

use anyhow::Context;
use chassis::{Clock, Signals, Span, Stopper, SystemClock, Units};
use cloud::{DemandView, EventView, Status};
use edge_agent::config::{DemandConfig, Kind, RelayConfig, Secret};
use edge_agent::{Agent, Config, Parts, Reading};
use tokio::task::JoinSet;
use wire::{Operation, SensorId, Series};

use super::plan::STREAM;
use super::readers::Reader;
use super::town::{Town, relay_name};

/// Their area.
const AREA: &str = "cityD";
/// The program that they take part in; its limit is in the cloud's configuration, 14 kW.
pub(super) const PROGRAM: &str = "cityD-peak";
/// Who they are, what they take in kilowatts, and how much of that they can do without.
pub(super) const HOMES: [(&str, f64, f64); 3] = [("home-1", 8.0, 2.0), ("home-2", 6.0, 3.0), ("home-3", 4.0, 1.0)];
/// How often each says what it takes.
const EVERY: Duration = Duration::from_millis(100);
/// How long the settlement may take after the replay.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the cloud is told of the program.
pub(super) fn program() -> String {
    format!(
        "[demand]\npoll = \"100ms\"\nrepeat = \"1s\"\n\n[[demand.program]]\nname = {PROGRAM:?}\narea = {AREA:?}\nstream = {STREAM:?}\n\
         unit = \"kW\"\nlimit_kw = 14.0\ninterval = \"2s\"\ngrace = \"3s\"\nnotice = \"2s\"\nduration = \"4s\"\n"
    )
}

/// The homes' terminals, running.
pub(super) struct Homes {
    agents: Vec<Agent>,
    loads: JoinSet<()>,
    stopper: Stopper,
    units: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Homes {
    /// Starts a terminal and a load for each.
    pub(super) async fn start(town: &Town) -> anyhow::Result<Self> {
        let (mut units, mut agents, mut loads) = (Units::new(), Vec::new(), JoinSet::new());
        for (index, (name, kw, curtailable)) in HOMES.into_iter().enumerate() {
            let config = config(town, index, name, curtailable)?;
            let agent = edge_agent::start(config, Parts::default()).await.with_context(|| format!("the terminal of {name}"))?;
            agent.units(&mut units);
            loads.spawn(load(agent.clone(), kw));
            agents.push(agent);
        }
        let stopper = units.stopper();
        let units = tokio::spawn(async move {
            units.run_until(Signals::none()).await?;
            Ok(())
        });
        Ok(Self { agents, loads, stopper, units })
    }

    /// Records that they have taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.agents.iter().map(|agent| agent.progress().taken).sum()
    }

    /// Waits for an event's settlement and ends the loads: from then on the homes say no more than what they have promised.
    pub(super) async fn settled(&mut self, operator: &Reader) -> anyhow::Result<EventView> {
        let settled = async {
            loop {
                let view: DemandView = serde_json::from_value(operator.get("/api/v1/demand?limit=100").await?)?;
                if let Some(event) = view.events.into_iter().rev().find(|event| event.status == Status::Settled) {
                    return anyhow::Ok(event);
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        let event = tokio::time::timeout(PATIENCE, settled).await.context("no demand response event was settled in time")??;
        self.loads.shutdown().await;
        Ok(event)
    }

    /// Stops them in order.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stopper.stop();
        self.units.await.context("the homes' terminals")?
    }
}

/// What takes `kw`, and no more than the set-point while there is one.
async fn load(agent: Agent, kw: f64) {
    let Ok(series) = Series::new(agent.sensor(), STREAM) else { return };
    let setpoint = agent.setpoint();
    loop {
        let allowed = setpoint.as_ref().and_then(|setpoint| setpoint.borrow().as_ref().map(|setpoint| setpoint.max_kw));
        let now = allowed.map_or(kw, |allowed| allowed.min(kw)).to_string();
        if let Ok(reading) = Reading::new(series.clone(), Operation::Forward, SystemClock.now(), now) {
            // An outbox that is full or closed says so itself.
            let _ = agent.outbox().take(vec![reading], None).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn config(town: &Town, index: usize, name: &str, curtailable: f64) -> anyhow::Result<Config> {
    let relay = index % town.relay_mqtt.len();
    let relay = RelayConfig {
        name: relay_name(relay).parse().context("the relay's name")?,
        address: town.relay_mqtt[relay].into(),
        user: Some(name.to_owned()),
        password: Some(Secret::new(town.password(name)?)),
    };
    let sensor = SensorId::new(AREA, name).context("the home's name")?;
    let mut config = Config::new(sensor, town.folder().join("agents").join(name), relay);
    config.kind = Kind::User;
    config.send.backoff_max = Span::seconds(1);
    let mut demand = DemandConfig::new(town.cloud_mqtt.into(), vec![PROGRAM.to_owned()], curtailable);
    (demand.user, demand.password_file) = (Some(name.to_owned()), Some(town.password_file(name)));
    (demand.baseline, demand.minimum_kw) = (Span::seconds(2), 0.5);
    config.demand = Some(demand);
    Ok(config)
}
