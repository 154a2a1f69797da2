//! `forebay check`: does a configuration hold? Touches nothing but the file.

use std::path::{Path, PathBuf};

use chassis::{ConfigFault, Exit};

use crate::host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the file configures.
    #[arg(value_enum)]
    kind: Kind,
    /// The file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A relay.
    Relay,
    /// A cloud.
    Cloud,
    /// An edge agent.
    Agent,
    /// The bare broker.
    Broker,
    /// A file of grants.
    Grants,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let file = &args.config;
    match args.kind {
        Kind::Relay => host::configuration::<::relay::Config>(file, "relay")?.check()?,
        Kind::Cloud => host::configuration::<::cloud::Config>(file, "cloud")?.check()?,
        Kind::Agent => host::configuration::<::edge_agent::Config>(file, "agent")?.check()?,
        Kind::Broker => drop(host::configuration::<crate::broker::Config>(file, "broker")?),
        Kind::Grants => check_grants(file)?,
    }
    host::print(&format!("{} holds\n", file.display()))?;
    Ok(Exit::Ok)
}

fn check_grants(file: &Path) -> Result<(), ConfigFault> {
    ::broker::read_grants(file).map(drop).map_err(|fault| ConfigFault::key("grant", fault.to_string()))
}
