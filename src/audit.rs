//! `forebay audit`: has anybody changed what was anchored? Reads the databases, asks a node of the chain, and changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anchor::audit::{Account, Audit, Before, Evidence, Finding, Notice, OnChain, Pinned, Side, Sink, Tally, Terms};
use anchor::{Address, LedgerView};
use anyhow::{Context, anyhow, bail};
use chassis::{Clock, Exit, Span, SystemClock};
use cloud::audit::Archived;
use edge_agent::Terminal;
use edge_agent::terminal::{LEDGER_FILE, OUTBOX_FILE};
use serde::Serialize;
use wire::Epoch;

use crate::host;
use crate::node::NodeArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data folder of an agent, or a folder of such folders; may be given several times.
    #[arg(long, value_name = "DIR", required_unless_present = "cloud")]
    terminal: Vec<PathBuf>,
    /// Data folder of the cloud.
    #[arg(long, value_name = "DIR")]
    cloud: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    /// The contract that all must have written to; without it each ledger's own word counts.
    #[arg(long, value_name = "ADDRESS")]
    contract: Option<Address>,
    /// The account that must have written for an agent; with several agents as area/sensor=ADDRESS, once each. Without it the ledger's
    /// own word counts.
    #[arg(long, value_name = "[SENSOR=]ADDRESS", value_parser = pin)]
    terminal_account: Vec<(Option<String>, Address)>,
    /// The account that must have written for the cloud.
    #[arg(long, value_name = "ADDRESS")]
    cloud_account: Option<Address>,
    /// How long a record that an agent anchored may be on its way to the cloud before it counts as withheld.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = span)]
    grace: Span,
    /// One JSON object a line: findings, notices and, at the end, a summary.
    #[arg(long)]
    json: bool,
    /// Tell also what is on one side only for good reasons, and what was compared.
    #[arg(long, short)]
    verbose: bool,
}

/// How long one answer of the chain may take.
const TIMEOUT: Duration = Duration::from_secs(30);

fn pin(text: &str) -> Result<(Option<String>, Address), String> {
    let (sensor, address) = match text.split_once('=') {
        Some((sensor, address)) => (Some(sensor.to_owned()), address),
        None => (None, text),
    };
    Ok((sensor, address.parse().map_err(|fault| format!("{address} is no address: {fault}"))?))
}

fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|fault| format!("{fault}; write 30m, 12h or 1d"))
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut out = Out { json: args.json, verbose: args.verbose, findings: 0, notices: 0, failed: None };
    let (tally, unchecked) = host::runtime()?.block_on(compare(&args, &mut out))?;
    out.end(&tally, unchecked)?;
    Ok(match (out.findings, unchecked) {
        (0, 0) => Exit::Ok,
        (0, _) => Exit::CouldNot,
        _ => Exit::Negative,
    })
}

/// One side's databases, as they were at one moment, between two looks at the chain.
struct Held<S> {
    ledger: LedgerView,
    store: S,
    onchain: OnChain,
}

async fn hold<S>(
    args: &Args,
    ledger: &Path,
    pinned: impl FnOnce(&LedgerView) -> Option<Address>,
    open: impl FnOnce() -> anyhow::Result<(S, Epoch)>,
) -> anyhow::Result<Held<S>> {
    if !ledger.exists() {
        bail!("{} is not there: this side does not anchor, so nothing can be held against it", ledger.display());
    }
    let live = LedgerView::open(ledger, Epoch(0)).with_context(|| ledger.display().to_string())?;
    let pinned = Pinned { contract: args.contract, submitter: pinned(&live) };
    let before = Before::look(args.node.node(), TIMEOUT, &live, pinned).await?;
    // The ledger first: whatever it names is then in the database. Which chunks are the database's own is known behind it.
    let (mut ledger, (store, source)) = (LedgerView::hold(ledger, Epoch(0))?, open()?);
    ledger.look_for(source);
    let onchain = before.gather(&ledger).await?;
    Ok(Held { ledger, store, onchain })
}

/// Says what was compared, and how many of the terminals could not be.
async fn compare(args: &Args, out: &mut Out) -> anyhow::Result<(Tally, u64)> {
    let folders = terminals(&args.terminal)?;
    let cloud = match &args.cloud {
        Some(folder) => {
            let open = || {
                let store = Archived::open(folder).with_context(|| folder.display().to_string())?;
                let source = store.source();
                Ok((store, source))
            };
            Some(hold(args, &Archived::ledger_of(folder), |_| args.cloud_account, open).await?)
        }
        None => None,
    };
    let cloud = cloud.as_ref().map(|held| Account {
        side: Side::Cloud,
        name: held.ledger.party().name.clone(),
        ledger: &held.ledger,
        store: &held.store,
        onchain: &held.onchain,
    });
    let terms = Terms { now: SystemClock.now(), grace: args.grace.duration() };
    let mut audit = Audit::begin(cloud.as_ref(), terms, out)?;
    let mut unchecked = 0;
    for folder in &folders {
        let is_only = folders.len() == 1;
        if let Err(error) = terminal(args, folder, is_only, &mut audit, out).await {
            let error = error.context(format!("{} was not checked", folder.display()));
            if is_only && cloud.is_none() {
                return Err(error);
            }
            eprintln!("forebay: {error:#}");
            unchecked += 1;
        }
    }
    Ok((audit.finish(out)?, unchecked))
}

async fn terminal(args: &Args, folder: &Path, is_only: bool, audit: &mut Audit<'_>, out: &mut Out) -> anyhow::Result<()> {
    let pinned = |ledger: &LedgerView| {
        let is_theirs = |sensor: &Option<String>| match sensor {
            Some(sensor) => *sensor == ledger.party().name,
            None => is_only,
        };
        args.terminal_account.iter().find(|(sensor, _)| is_theirs(sensor)).map(|(_, address)| *address)
    };
    let open = || {
        let store = Terminal::hold(folder)?;
        let source = store.origin().epoch;
        Ok((store, source))
    };
    let held = hold(args, &folder.join(LEDGER_FILE), pinned, open).await?;
    let account = Account {
        side: Side::Terminal,
        name: held.store.sensor().to_owned(),
        ledger: &held.ledger,
        store: &held.store,
        onchain: &held.onchain,
    };
    // Reading and hashing, and nobody else is waiting for this runtime.
    Ok(audit.terminal(&account, held.store.origin().epoch, out)?)
}

/// The data folders among those that were named, and directly below them.
fn terminals(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in named {
        if folder.join(OUTBOX_FILE).exists() {
            found.push(folder.clone());
            continue;
        }
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut below = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| folder.display().to_string())?.path();
            if path.join(OUTBOX_FILE).exists() {
                below.push(path);
            }
        }
        if below.is_empty() {
            return Err(anyhow!("no agent has worked in {} or directly below; give an agent's data folder", folder.display()));
        }
        below.sort();
        found.extend(below);
    }
    Ok(found)
}

/// Prints what is found, as it is found.
struct Out {
    json: bool,
    verbose: bool,
    findings: u64,
    notices: u64,
    /// Why nothing more can be printed.
    failed: Option<anyhow::Error>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    r#type: &'static str,
    #[serde(flatten)]
    what: &'a T,
}

#[derive(Serialize)]
struct Summary<'a> {
    findings: u64,
    notices: u64,
    unchecked: u64,
    #[serde(flatten)]
    tally: &'a Tally,
}

impl Out {
    fn print(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = host::print(line).err();
        }
    }

    fn object<T: Serialize>(&mut self, r#type: &'static str, what: &T) {
        match serde_json::to_string(&Line { r#type, what }) {
            Ok(line) => self.print(&format!("{line}\n")),
            Err(error) => self.failed = Some(error.into()),
        }
    }

    fn end(&mut self, tally: &Tally, unchecked: u64) -> anyhow::Result<()> {
        if self.json {
            let summary = Summary { findings: self.findings, notices: self.notices, unchecked, tally };
            self.object("summary", &summary);
        } else if self.verbose {
            let rows = [
                ("findings", self.findings),
                ("notices", self.notices),
                ("databases not checked", unchecked),
                ("batches as the chain has them", tally.batches),
                ("chunks that make their roots", tally.chunks),
                ("records looked at", tally.records),
                ("records that both sides anchored alike", tally.agreed),
                ("records that only the terminal anchored", tally.terminal_only),
                ("records that only the cloud anchored", tally.cloud_only),
                ("records not anchored yet", tally.open),
            ];
            let table: String = rows.iter().map(|(what, count)| format!("{what:<42}{count:>12}\n")).collect();
            self.print(&table);
        }
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// The time of a record, or of a stretch, in words.
fn when(evidence: &Evidence) -> String {
    match evidence.time {
        Some((from, to)) if from == to => format!(" [{}]", cloud::moment::format(from)),
        Some((from, to)) => format!(" [{} to {}]", cloud::moment::format(from), cloud::moment::format(to)),
        None => String::new(),
    }
}

impl Sink for Out {
    fn finding(&mut self, finding: Finding) {
        self.findings += 1;
        if self.json {
            self.object("finding", &finding);
        } else {
            self.print(&format!("{finding}{}\n", when(&finding.evidence)));
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.notices += 1;
        if self.json {
            self.object("notice", &notice);
        } else if self.verbose {
            self.print(&format!("{notice}{}\n", when(&notice.evidence)));
        }
    }
}
