//! `forebay anchor`: the contract, and how the batches stand.

use std::path::PathBuf;
use std::time::Duration;

use anchor::LedgerView;
use anchor::keys::KeyFile;
use anchor::machine::State;
use anyhow::Context;
use chassis::Exit;

use crate::cost::{self, Cost};
use crate::host;
use crate::node::NodeArgs;
use crate::passphrase::KnownPassphrase;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put the contract on a chain; prints its address.
    Deploy {
        #[command(flatten)]
        node: NodeArgs,
        /// Key file of the account that pays.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        #[command(flatten)]
        passphrase: KnownPassphrase,
    },
    /// Show how the batches of a ledger stand.
    Status {
        /// The ledger: anchor.sqlite in the data folder of a cloud or an agent.
        ledger: PathBuf,
    },
    /// Show what anchoring takes: final batches, their records and their gas, a line a ledger.
    Cost {
        /// Ledgers: anchor.sqlite in the data folder of a cloud or an agent.
        #[arg(required = true)]
        ledgers: Vec<PathBuf>,
        /// One JSON object a ledger instead of a table.
        #[arg(long)]
        json: bool,
    },
}

/// The states of batches are the same for every source of chunks.
const NO_SOURCE: wire::Epoch = wire::Epoch(0);
/// How long a deployment may take.
const DEPLOY_WITHIN: Duration = Duration::from_secs(120);

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::Deploy { node, key_file, passphrase } => {
            let key = passphrase.open(KeyFile::read(&key_file)?)?;
            let deployed = host::runtime()?.block_on(anchor::deploy(node.node(), &key, DEPLOY_WITHIN))?;
            host::print(&format!("{}\n", deployed.contract))?
        }
        Command::Cost { ledgers, json } => host::print(&costs(&ledgers, json)?)?,
        Command::Status { ledger } => {
            let standing = LedgerView::open(&ledger, NO_SOURCE)?.standing()?;
            let rows = State::ALL.map(|state| format!("{:<10} {:>8}\n", state.as_str(), standing.counts.of(state)));
            host::print(&rows.concat())?
        }
    };
    Ok(Exit::Ok)
}

/// Gas is of batches behind the first one, which pays for the party's place in the contract's state.
fn costs(ledgers: &[PathBuf], json: bool) -> anyhow::Result<String> {
    let mut text = String::new();
    if !json {
        text += &format!("{:>8} {:>12} {:>12} {:>13}  ledger\n", "batches", "records", "gas a batch", "gas a record");
    }
    for ledger in ledgers {
        let mut cost = Cost::default();
        cost.add(ledger).with_context(|| ledger.display().to_string())?;
        text += &match json {
            true => format!("{}\n", serde_json::to_string(&cost)?),
            false => format!(
                "{:>8} {:>12} {:>12} {:>13}  {}\n",
                cost.batches,
                cost.records,
                cost::shown(cost.steady_gas_a_batch(), 0),
                cost::shown(cost.gas_a_record(), 1),
                ledger.display()
            ),
        };
    }
    Ok(text)
}
