//! `forebay agent`.

use std::path::PathBuf;

use chassis::{Exit, Units};
use edge_agent::{Config, Parts};

use crate::host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file; environment variables FOREBAY_AGENT__<KEY> override its keys.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let config: Config = host::configuration(&args.config, "agent")?;
    host::runtime()?.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<Exit> {
    let admin_at = config.admin.listen;
    let parts = Parts::default();
    let registry = parts.registry.clone();
    let agent = edge_agent::start(config, parts).await?;
    let mut units = Units::new();
    let mut places = Vec::new();
    if let Some(address) = admin_at {
        places.push(("admin", host::admin(&mut units, "agent", address, registry, None).await?));
    }
    agent.units(&mut units);
    host::announce("agent", &places);
    host::live(units).await
}
