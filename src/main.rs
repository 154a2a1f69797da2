//! The one binary of Forebay: every role and every tool is a subcommand.
//!
//! Results go to stdout, logs to stderr. Exit codes: 0 done, or the answer is yes; 1 the answer is no; 2 it could not be done
//! (also a wrong command line); 78 the configuration does not hold.

mod access;
mod agent;
mod anchor;
mod audit;
mod broker;
mod check;
mod cloud;
mod cost;
mod demand;
mod demo;
mod examine;
mod flush;
mod gaps;
mod groups;
mod host;
mod http;
mod keys;
mod load;
mod node;
mod passphrase;
mod place;
mod proof;
mod query;
mod relay;
mod tail;
mod targets;
mod user;
mod verify;

use chassis::Exit;
use clap::{Parser, Subcommand};

/// A durable, anchored MQTT edge platform for power telemetry.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 120)]
struct Cli {
    /// What is logged: error, warn, info, debug, trace, or target=level,…
    #[arg(long, global = true, env = "FOREBAY_LOG", default_value = "info")]
    log: String,
    /// How log lines look: text or json.
    #[arg(long, global = true, env = "FOREBAY_LOG_FORMAT", default_value = "text")]
    log_format: chassis::logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the cloud: ingest, archive, live delivery, history and access.
    Cloud(cloud::Args),
    /// Run a relay: takes readings, keeps or forwards them.
    Relay(relay::Args),
    /// Run an edge agent beside a sensor.
    Agent(agent::Args),
    /// Work with the chain: deploy the contract, show the state of batches and what they cost.
    Anchor(anchor::Args),
    /// Make and keep the private keys that anchoring signs with.
    Keys(keys::Args),
    /// Run the bare broker, without storage.
    Broker(broker::Args),
    /// Show everything on real data: a cloud, three relays, 27 agents, a chain, and a crash in the middle.
    Demo(demo::Args),
    /// Ask the cloud for past readings.
    Query(query::Args),
    /// Print readings as they arrive at the cloud.
    Tail(tail::Args),
    /// Show how far a record has come: at the cloud, in a batch, on chain. Exit code 1 if the cloud does not hold it.
    Where(place::Args),
    /// Show which records are missing at the cloud. Exit code 1 if there are any.
    Gaps(gaps::Args),
    /// Ask for access to data, decide about requests, read the audit trail.
    Access(access::Args),
    /// Show each group's proxy, its members' scores and the last terms. Exit code 1 if a group has no proxy.
    Groups(groups::Args),
    /// Show which relay an agent sends to, and why; or, from the cloud, which relay each of them does.
    Targets(targets::Args),
    /// Show what was asked of the areas, promised and measured.
    Demand(demand::Args),
    /// Ask the cloud to have a relay hand over everything that it keeps.
    Flush(flush::Args),
    /// Write the proof of one record to a file.
    Proof(proof::Args),
    /// Check a proof with nothing but the address of a chain node.
    Verify(verify::Args),
    /// Check that the chunks in a relay's or a cloud's folder are what was written. Exit code 1 if any was changed.
    Examine(examine::Args),
    /// Compare what an agent and the cloud hold with what each of them anchored. Exit code 1 if anything was changed.
    Audit(audit::Args),
    /// Check a configuration file without starting anything.
    Check(check::Args),
    /// Add, change or remove a user of a users file.
    User(user::Args),
    /// Load a broker and measure it. Loopback addresses only.
    Load(load::Args),
}

fn main() -> Exit {
    let cli = Cli::parse();
    chassis::web::install_provider();
    // rumqttd logs every packet; it is silent unless somebody asks for it by name.
    let level = if cli.log.contains("rumqttd") { cli.log } else { format!("{},rumqttd=off", cli.log) };
    if let Err(fault) = chassis::logging::init(cli.log_format, &level) {
        eprintln!("forebay: {fault}");
        return Exit::Config;
    }
    let outcome = match cli.command {
        Command::Cloud(args) => cloud::run(args),
        Command::Relay(args) => relay::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Anchor(args) => anchor::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Query(args) => query::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Targets(args) => targets::run(args),
        Command::Where(args) => place::run(args),
        Command::Access(args) => access::run(args),
        Command::Gaps(args) => gaps::run(args),
        Command::Groups(args) => groups::run(args),
        Command::Demand(args) => demand::run(args),
        Command::Flush(args) => flush::run(args),
        Command::Proof(args) => proof::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Examine(args) => examine::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Check(args) => check::run(args),
        Command::User(args) => user::run(args),
        Command::Load(args) => load::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("forebay: {error:#}");
        host::exit_of(&error)
    })
}
