//! `forebay cloud`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use chassis::{Exit, Registry, SystemClock, Units};
use cloud::{Cloud, Config, Parts};

use crate::host::{self, Dev, Source};
use crate::passphrase;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    dev: Dev,
    /// With --dev: where the HTTP interface listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    http: Option<SocketAddr>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut config: Config = match &args.source.config {
        Some(path) => host::configuration(path, "cloud")?,
        None => {
            let (listen, data) = args.dev.parts()?;
            let http = args.http.context("--dev needs --http ADDRESS:PORT")?;
            Config::dev(listen, http, data)
        }
    };
    if let Some(anchor) = &mut config.anchor {
        anchor.passphrase = passphrase::of_role()?;
    }
    host::runtime()?.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<Exit> {
    let registry = Registry::new();
    let admin_at = config.admin;
    let cloud = Cloud::start(config, Parts { clock: Arc::new(SystemClock), registry: registry.clone() }).await?;
    let mut places: Vec<(&str, SocketAddr)> = cloud.addresses().iter().map(|address| ("listen", *address)).collect();
    places.push(("http", cloud.http()));
    let mut units = Units::new();
    if let Some(address) = admin_at {
        places.push(("admin", host::admin(&mut units, "cloud", address, registry, None).await?));
    }
    cloud.units(&mut units);
    host::announce("cloud", &places);
    host::live(units).await
}
