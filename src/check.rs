//! `forebay check`: does a configuration hold? Touches nothing but the file.

use std::path::{Path, PathBuf};

use chassis::{ConfigFault, Exit};

use crate::host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the file configures; without it the file's own keys tell.
    #[arg(value_enum)]
    kind: Option<Kind>,
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
    /// A file of sensors and their tags.
    Sensors,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let file = &args.config;
    match args.kind.map_or_else(|| kind_of(file), Ok)? {
        Kind::Relay => host::configuration::<::relay::Config>(file, "relay")?.check()?,
        Kind::Cloud => host::configuration::<::cloud::Config>(file, "cloud")?.check()?,
        Kind::Agent => host::configuration::<::edge_agent::Config>(file, "agent")?.check()?,
        Kind::Broker => drop(host::configuration::<crate::broker::Config>(file, "broker")?),
        Kind::Grants => check_grants(file)?,
        Kind::Sensors => check_sensors(file)?,
    }
    host::print(&format!("{} holds\n", file.display()))?;
    Ok(Exit::Ok)
}

/// Each kind of file has a key that no other has.
fn kind_of(file: &Path) -> Result<Kind, ConfigFault> {
    let keys: serde_json::Map<String, serde_json::Value> = chassis::load_config(file, "", [])?;
    let kinds = [
        ("relay", Kind::Relay),
        ("sensor", Kind::Agent),
        ("http", Kind::Cloud),
        ("grant", Kind::Grants),
        ("sensors", Kind::Sensors),
        ("grants", Kind::Broker),
    ];
    let found = kinds.into_iter().find(|(key, _)| keys.contains_key(*key)).map(|(_, kind)| kind);
    found
        .ok_or_else(|| ConfigFault::key("", "does not tell what the file configures; name it: forebay check relay --config FILE"))
}

fn check_grants(file: &Path) -> Result<(), ConfigFault> {
    ::broker::read_grants(file).map(drop).map_err(|fault| ConfigFault::key("grant", fault.to_string()))
}

fn check_sensors(file: &Path) -> Result<(), ConfigFault> {
    ::broker::read_sensors(file).map(drop).map_err(|fault| ConfigFault::key("sensors", fault.to_string()))
}
