//! `forebay proof`: one file that shows anybody, years later, that a record was not changed.

use std::fs;
use std::path::{Path, PathBuf};

use anchor::{Evidence, LedgerView, prove};
use anyhow::{Context, bail};
use chassis::Exit;
use edge_agent::Terminal;
use edge_agent::terminal::Place;
use reqwest::Method;
use wire::{Record, RecordKey};

use crate::host;
use crate::http::Trust;
use crate::user::Login;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The record, like cityA/meter-0017/power/active@9f3c.1029.
    key: RecordKey,
    /// The cloud's proof, from its HTTP address, like http://127.0.0.1:8080. Of a record that only a relay keeps it is the proof of what
    /// the relay stated; the record stays there.
    #[arg(long, value_name = "URL", env = "FOREBAY_CLOUD", required_unless_present = "terminal")]
    cloud: Option<String>,
    /// The terminal's proof, from an agent's data folder. The reading itself comes from --cloud, if the agent has forgotten it.
    #[arg(long, value_name = "DIR")]
    terminal: Option<PathBuf>,
    /// Add all later batches of the party, so that the proof holds also where nodes have thrown old logs away, until the next batch.
    #[arg(long)]
    up_to_head: bool,
    /// Where the proof is written; - is stdout.
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    login: Login,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let proof = match &args.terminal {
        Some(folder) => terminal_proof(&args, folder)?,
        None => host::runtime()?.block_on(fetch(&args, "proofs", args.up_to_head.then_some("?up_to_head=true")))?,
    };
    if args.output == Path::new("-") {
        host::print(&format!("{proof}\n"))?;
    } else {
        fs::write(&args.output, proof).with_context(|| args.output.display().to_string())?;
    }
    Ok(Exit::Ok)
}

/// Asks the cloud about the record.
async fn fetch(args: &Args, what: &str, query: Option<&str>) -> anyhow::Result<String> {
    let address = args.cloud.clone().context("--cloud is needed")?;
    let cloud = crate::http::Cloud { cloud: address, trust: args.trust.clone(), login: args.login.clone() };
    let request = cloud.request(Method::GET, &format!("/api/v1/{what}/{}{}", args.key, query.unwrap_or_default()))?;
    Ok(cloud.send(request).await?.text().await?)
}

/// Builds the proof from what the agent keeps: leaves of the chunk, salt, ledger.
fn terminal_proof(args: &Args, folder: &Path) -> anyhow::Result<String> {
    let terminal = Terminal::open(folder)?;
    let standing = terminal.standing(&args.key)?.with_context(|| format!("{} has no record {}", folder.display(), args.key))?;
    let Place::Chunk { chunk, index } = standing.place else {
        bail!("{} is in no chunk yet: its state is {:?}", args.key, standing.state);
    };
    let leaves =
        terminal.leaves(chunk.id)?.context("the agent has given up the leaves of this chunk; ask the cloud for its proof")?;
    let record = host::runtime()?.block_on(reading(args))?;
    let ledger = LedgerView::open(&terminal.ledger(), terminal.origin().epoch)?;
    let evidence =
        Evidence { chunk: chunk.id, leaves: &leaves, index: index as usize, record: &record, salt: terminal.salt(&args.key) };
    let proof = prove(&ledger, &evidence)?;
    Ok(if args.up_to_head { proof.up_to_head(&ledger)? } else { proof }.to_json())
}

/// The record as the cloud has it. If the cloud changed it, its leaf is not the terminal's, and no proof comes out.
async fn reading(args: &Args) -> anyhow::Result<Record> {
    let answer = fetch(args, "records", None).await.context("the reading itself")?;
    let reading: cloud::Reading = serde_json::from_str(&answer).context("the cloud's answer can't be read")?;
    Ok(reading.into_record()?)
}
