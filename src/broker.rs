//! `forebay broker`: the MQTT face alone. Messages go to subscribers and nowhere else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use broker::{Broker, NoIntake, Parts, Policy as Access, Settings};
use chassis::{Exit, Policy, Registry, Size, SystemClock, Units};
use serde::Deserialize;

use crate::host::{self, Dev, Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    dev: Dev,
}

/// `config/broker.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    listen: Vec<SocketAddr>,
    users: PathBuf,
    grants: PathBuf,
    #[serde(default = "connections_max")]
    connections_max: usize,
    #[serde(default = "packet_bytes_max")]
    packet_bytes_max: Size,
}

fn connections_max() -> usize {
    Settings::default().connections_max
}

fn packet_bytes_max() -> Size {
    Size(Settings::default().packet_bytes_max as u64)
}

/// How long connections may take to finish the packets in hand.
const GOODBYE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let (settings, access) = match &args.source.config {
        Some(path) => {
            let config: Config = host::configuration(path, "broker")?;
            let settings = Settings {
                listen: config.listen,
                connections_max: config.connections_max,
                packet_bytes_max: config.packet_bytes_max.bytes() as usize,
                ..Settings::default()
            };
            (settings, Access::open(&config.users, &config.grants)?)
        }
        None => {
            let (listen, _) = args.dev.parts()?;
            ensure!(
                listen.ip().is_loopback(),
                "--listen {listen}: --dev lets everybody do everything, so use a loopback address"
            );
            (Settings { listen: vec![listen], ..Settings::default() }, Access::anonymous())
        }
    };
    host::runtime()?.block_on(serve(settings, access))
}

async fn serve(settings: Settings, policy: Access) -> anyhow::Result<Exit> {
    let parts =
        Parts { policy, intake: Arc::new(NoIntake), feeds: None, clock: Arc::new(SystemClock), registry: Registry::new() };
    let broker = Broker::start(settings, parts).await?;
    let places: Vec<(&str, SocketAddr)> = broker.addresses().iter().map(|address| ("listen", *address)).collect();
    let mut units = Units::new();
    let mut broker = Some(broker);
    units.add("broker", Policy::Fatal, move |stop| {
        let broker = broker.take().expect("a fatal unit starts once");
        async move {
            tokio::select! {
                failure = broker.failed() => Err(failure),
                () = stop.stopped() => {
                    broker.stop(GOODBYE).await;
                    Ok(())
                }
            }
        }
    });
    host::announce("broker", &places);
    host::live(units).await
}
