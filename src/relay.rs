//! `forebay relay`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use chassis::{Exit, Registry, SystemClock, Units};
use relay::{CloudConfig, Config, Parts, Relay};

use crate::host::{self, Dev, Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    dev: Dev,
    /// With --dev: the cloud; without it the relay keeps everything.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    cloud: Option<String>,
    /// With --dev: the relay's name.
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    name: Option<wire::RelayId>,
}

impl Args {
    fn config(&self) -> anyhow::Result<Config> {
        if let Some(path) = &self.source.config {
            return Ok(host::configuration(path, "relay")?);
        }
        let (listen, data) = self.dev.parts()?;
        let cloud = self.cloud.as_deref().map(cloud_address).transpose()?;
        let mut config = Config::dev(listen, data, cloud);
        if let Some(name) = &self.name {
            config.relay = name.clone();
        }
        Ok(config)
    }
}

fn cloud_address(text: &str) -> anyhow::Result<CloudConfig> {
    let (host, port) = text.rsplit_once(':').with_context(|| format!("--cloud {text}: give HOST:PORT, like 127.0.0.1:1884"))?;
    let port = port.parse().with_context(|| format!("--cloud {text}: {port:?} is not a port"))?;
    Ok(CloudConfig::anonymous(host.trim_matches(['[', ']']), port))
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let config = args.config()?;
    host::runtime()?.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<Exit> {
    let registry = Registry::new();
    let admin_at = config.admin;
    let relay = Relay::start(config, Parts { clock: Arc::new(SystemClock), registry: registry.clone() }).await?;
    let mut places: Vec<(&str, SocketAddr)> = relay.addresses().iter().map(|address| ("listen", *address)).collect();
    let mut units = Units::new();
    if let Some(address) = admin_at {
        places.push(("admin", host::admin(&mut units, "relay", address, registry, Some(relay.admin_routes())).await?));
    }
    relay.units(&mut units);
    host::announce("relay", &places);
    host::live(units).await
}
