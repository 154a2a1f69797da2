//! The meters: 27 edge agents in this process, each with its own outbox, key and connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anchor::{Batching, Confirmation};
use anyhow::Context;
use chassis::{Signals, Span, Stopper, Units};
use edge_agent::config::{AnchorConfig, ChunkConfig, CsvConfig, InputConfig, RelayConfig, Secret, StreamRule};
use edge_agent::{Agent, Config, Parts, Progress, Terminal};

use super::plan::{Meter, Plan, STREAM};
use super::town::{Town, relay_name};

/// How often chunks and chain are looked at.
const POLL: Span = Span::millis(500);

/// Moves that are read back of each meter; in half a minute there are few.
const MOVES_MAX: usize = 1_000;

/// The agents, running.
pub(super) struct Meters {
    agents: Vec<Agent>,
    stopper: Stopper,
    units: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Meters {
    /// Starts an agent a meter; each replays its column within `duration`.
    pub(super) async fn start(town: &Town, plan: &Plan, duration: Duration) -> anyhow::Result<Self> {
        let mut units = Units::new();
        let mut agents = Vec::new();
        for meter in &plan.meters {
            let config = config(town, meter, &plan.file, duration)?;
            let agent =
                edge_agent::start(config, Parts::default()).await.with_context(|| format!("the agent of {}", meter.sensor))?;
            agent.units(&mut units);
            agents.push(agent);
        }
        let stopper = units.stopper();
        let units = tokio::spawn(async move {
            units.run_until(Signals::none()).await?;
            Ok(())
        });
        Ok(Self { agents, stopper, units })
    }

    /// How many records all of them have taken, a relay has acknowledged, and are final on chain.
    pub(super) fn progress(&self) -> Progress {
        let mut sum = Progress::default();
        for one in self.agents.iter().map(Agent::progress) {
            sum.taken += one.taken;
            sum.accepted += one.accepted;
            sum.anchored += one.anchored;
        }
        sum
    }

    /// How often one of them left its relay for another; their first choices do not count.
    pub(super) fn moves(&self, town: &Town, plan: &Plan) -> anyhow::Result<u64> {
        let mut moves = 0;
        for meter in &plan.meters {
            let terminal = Terminal::open(&data_folder(town, meter))?;
            moves += terminal.moves(MOVES_MAX)?.iter().filter(|moved| moved.from.is_some()).count() as u64;
        }
        Ok(moves)
    }

    /// Stops them in order.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stopper.stop();
        self.units.await.context("the agents")?
    }

    /// Whether one of them has failed.
    pub(super) fn have_ended(&self) -> bool {
        self.units.is_finished()
    }
}

/// Where one meter's agent keeps its data.
pub(super) fn data_folder(town: &Town, meter: &Meter) -> PathBuf {
    town.folder().join("agents").join(meter.sensor.sensor())
}

/// What one meter's agent is told.
fn config(town: &Town, meter: &Meter, file: &Path, duration: Duration) -> anyhow::Result<Config> {
    let user = meter.sensor.sensor();
    let relay = |(index, address): (usize, &SocketAddr)| -> anyhow::Result<RelayConfig> {
        Ok(RelayConfig {
            name: relay_name(index).parse().context("the relay's name")?,
            address: (*address).into(),
            user: Some(user.to_owned()),
            password: Some(Secret::new(town.password(user)?)),
        })
    };
    let relays: Vec<RelayConfig> = town.relay_mqtt.iter().enumerate().map(relay).collect::<anyhow::Result<_>>()?;
    let first = relays.first().context("a relay")?.clone();
    let mut config = Config::new(meter.sensor.clone(), data_folder(town, meter), first);
    config.relays = relays;
    config.streams = vec![StreamRule { filter: "#".to_owned(), operation: meter.operation }];
    config.inputs = vec![InputConfig::Csv(CsvConfig {
        name: "simbench".to_owned(),
        path: file.to_owned(),
        time: "time".to_owned(),
        columns: BTreeMap::from([(meter.column.clone(), STREAM.to_owned())]),
        speed: None,
        duration: Some(Span(duration)),
    })];
    config.chunk = ChunkConfig { age_max: Span::seconds(2), poll: POLL, ..ChunkConfig::default() };
    config.report.enabled = true;
    config.send.backoff_max = Span::seconds(1);
    config.anchor = Some(AnchorConfig {
        poll: POLL,
        batch: Batching { age: Span::seconds(4), ..Batching::default() },
        confirmation: Confirmation::Finalized,
        ..AnchorConfig::new(
            town.rpc.clone(),
            town.contract.parse().context("the contract's address")?,
            town.key_file(meter.sensor.as_str()),
        )
    });
    Ok(config)
}
