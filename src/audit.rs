//! `forebay audit`: has anybody changed what was anchored? Reads the databases, asks a node of the chain, and changes nothing.

use std::path::PathBuf;
use std::time::Duration;

use anchor::audit::{Account, OnChain, Pinned, Report, Side, audit};
use anchor::{Address, LedgerView};
use anyhow::{Context, bail};
use chassis::Exit;
use cloud::audit::Archived;
use edge_agent::Terminal;
use wire::Epoch;

use crate::host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data folder of an agent.
    #[arg(long, value_name = "DIR", required_unless_present = "cloud")]
    terminal: Option<PathBuf>,
    /// Data folder of the cloud.
    #[arg(long, value_name = "DIR")]
    cloud: Option<PathBuf>,
    /// JSON-RPC address of a node of the chain. It is believed: use your own.
    #[arg(long, value_name = "URL")]
    rpc: String,
    /// The contract that both must have written to; without it each ledger's own word counts.
    #[arg(long, value_name = "ADDRESS")]
    contract: Option<Address>,
    /// The account that must have written for the agent; without it the ledger's own word counts.
    #[arg(long, value_name = "ADDRESS")]
    terminal_account: Option<Address>,
    /// The account that must have written for the cloud.
    #[arg(long, value_name = "ADDRESS")]
    cloud_account: Option<Address>,
    /// One JSON object instead of text; also on what is clean.
    #[arg(long)]
    json: bool,
    /// Tell also what was compared.
    #[arg(long, short)]
    verbose: bool,
}

/// How long one answer of the chain may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One side's databases.
struct Opened<S> {
    ledger: LedgerView,
    store: S,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let terminal = args.terminal.as_ref().map(|folder| {
        let store = Terminal::open(folder).with_context(|| folder.display().to_string())?;
        let ledger = ledger(&store.ledger(), store.origin().epoch)?;
        anyhow::Ok(Opened { ledger, store })
    });
    let cloud = args.cloud.as_ref().map(|folder| {
        let store = Archived::open(folder).with_context(|| folder.display().to_string())?;
        let ledger = ledger(&store.ledger(), store.source())?;
        anyhow::Ok(Opened { ledger, store })
    });
    let (terminal, cloud) = (terminal.transpose()?, cloud.transpose()?);
    let report = host::runtime()?.block_on(compare(&args, terminal.as_ref(), cloud.as_ref()))?;
    show(&args, &report)?;
    Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::Negative })
}

fn ledger(path: &std::path::Path, source: Epoch) -> anyhow::Result<LedgerView> {
    if !path.exists() {
        bail!("{} is not there: this side does not anchor, so nothing can be held against it", path.display());
    }
    LedgerView::open(path, source).with_context(|| path.display().to_string())
}

async fn compare(args: &Args, terminal: Option<&Opened<Terminal>>, cloud: Option<&Opened<Archived>>) -> anyhow::Result<Report> {
    let pinned = |submitter| Pinned { contract: args.contract, submitter };
    let on_terminal = match terminal {
        Some(side) => Some(OnChain::gather(&args.rpc, TIMEOUT, &side.ledger, &pinned(args.terminal_account)).await?),
        None => None,
    };
    let on_cloud = match cloud {
        Some(side) => Some(OnChain::gather(&args.rpc, TIMEOUT, &side.ledger, &pinned(args.cloud_account)).await?),
        None => None,
    };
    let epoch = terminal.map_or(Epoch(0), |side| side.store.origin().epoch);
    let terminal = terminal.zip(on_terminal.as_ref()).map(|(opened, onchain)| Account {
        side: Side::Terminal,
        ledger: &opened.ledger,
        store: &opened.store,
        onchain,
    });
    let cloud = cloud.zip(on_cloud.as_ref()).map(|(opened, onchain)| Account {
        side: Side::Cloud,
        ledger: &opened.ledger,
        store: &opened.store,
        onchain,
    });
    // Reading and hashing, and nobody else is waiting for this runtime.
    Ok(audit(terminal.as_ref(), cloud.as_ref(), epoch)?)
}

fn show(args: &Args, report: &Report) -> anyhow::Result<()> {
    if args.json {
        let report = serde_json::to_value(report).context("the report")?;
        host::print(&format!("{report}\n"))?;
        return Ok(());
    }
    let mut lines: Vec<String> = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    if args.verbose {
        lines.push(format!(
            "compared: {} batches and {} chunks stand to their roots; {} records agree, {} only the terminal anchored, {} only the cloud, {} \
             are not anchored yet\n",
            report.batches, report.chunks, report.agreed, report.terminal_only, report.cloud_only, report.open
        ));
    }
    if !lines.is_empty() {
        host::print(&lines.concat())?;
    }
    Ok(())
}
