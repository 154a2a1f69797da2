//! `forebay verify`: is this proof true? Needs the file and the address of a chain node, nothing else.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anchor::verify::{Believed, Depth, Options, Shown, Verified, VerifyError};
use anchor::{Address, Node, PROOF_BYTES_MAX};
use anyhow::Context;
use chassis::Exit;
use wire::Digest;
use wire::digest::{from_hex, to_hex};

use crate::host;
use crate::node::NodeArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The proof.
    file: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
    /// The account that must have written it; without it anybody may have, and the account is told.
    #[arg(long, value_name = "ADDRESS")]
    submitter: Option<Address>,
    /// The account whose key must have made the root; where an anchor service wrote it, that is not the one that wrote.
    #[arg(long, value_name = "ADDRESS")]
    signer: Option<Address>,
    /// The hash of a block of the chain that you know from elsewhere. Then the node is believed nothing: the batch must be in that block, or
    /// in the contract's state at it, for which a proof made with --up-to-head is needed as soon as other batches follow.
    #[arg(long, value_name = "HASH", value_parser = block_hash, conflicts_with = "depth")]
    block_hash: Option<Digest>,
    /// Accept a batch that so many blocks follow, where the chain knows no finality.
    #[arg(long, value_name = "BLOCKS")]
    depth: Option<u64>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// How long one answer of the chain may take.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let options =
        Options { submitter: args.submitter, signer: args.signer, depth: args.depth, block: args.block_hash, timeout: TIMEOUT };
    match host::runtime()?.block_on(check(&args.file, args.node.node(), &options))? {
        Ok(verified) => {
            host::print(&if args.json {
                format!("{}\n", json(&verified))
            } else {
                text(&verified, &args.node.node().to_string())
            })?;
            Ok(Exit::Ok)
        }
        Err(error) => {
            if args.json {
                let refusal = serde_json::json!({ "type": "refusal", "verified": false, "reason": error.to_string() });
                host::print(&format!("{refusal}\n"))?;
            }
            eprintln!("forebay: {}: {error}", args.file.display());
            Ok(if matches!(error, VerifyError::NotVerified(_)) { Exit::Negative } else { Exit::CouldNot })
        }
    }
}

/// Reads a proof and verifies it. The outer error: the file can't be read.
pub(crate) async fn check(
    file: &Path,
    node: impl Into<Node>,
    options: &Options,
) -> anyhow::Result<Result<Verified, VerifyError>> {
    let opened = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    // Whatever the file is: no more is read than what is too much.
    let mut bytes = Vec::new();
    opened.take(PROOF_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(|| file.display().to_string())?;
    Ok(anchor::verify_file(&bytes, node, options).await)
}

fn depth(depth: Depth) -> String {
    match depth {
        Depth::Finalized => "final".to_owned(),
        Depth::Blocks(blocks) => format!("{blocks} blocks deep"),
        Depth::Known => "the one that you know".to_owned(),
    }
}

fn block_hash(text: &str) -> Result<Digest, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    from_hex(&digits).map_err(|_| "expected the 64 hex digits of a block's hash".to_owned())
}

/// What the answer rests on, beside arithmetic.
fn believed(verified: &Verified, rpc: &str) -> String {
    let (number, hash) = (verified.block_number, to_hex(&verified.block_hash));
    match &verified.believed {
        Believed::Nothing => {
            format!("nothing of what {rpc} says: all was computed from the hash of block {number} that you know")
        }
        Believed::Block => format!(
            "{rpc}, that block {number} with hash 0x{hash} is on the chain and {}; all else was computed from that hash. Compare it \
             elsewhere, or give one that you know with --block-hash",
            depth(verified.depth)
        ),
        Believed::Node { why } => format!("{rpc}, in all that it says about block {number}; it could not be computed: {why}"),
    }
}

fn text(verified: &Verified, rpc: &str) -> String {
    let record = &verified.record;
    let demanded = if verified.submitter_demanded { "as demanded" } else { "compare it with the account that you trust" };
    [
        format!("verified: {}", record.key),
        format!(
            "  reading     {:?} ({}), generated at {} ns",
            String::from_utf8_lossy(&record.payload),
            record.operation,
            record.at
        ),
        match &verified.stated {
            None => format!("  held by     the party, in a chunk of {} records", verified.chunk.count),
            Some(stated) => format!(
                "  held by     relay {}, in chunk {} of its database {}, by the party's word: it took the relay's statement in at {} ns",
                stated.relay, stated.chunk, stated.relay_epoch, stated.at
            ),
        },
        format!("  party       {} {}, by its own word", verified.party.kind.as_str(), verified.party.name),
        match verified.signer == verified.submitter {
            true => format!("  account     {} ({demanded})", verified.submitter),
            false => {
                format!("  account     {} ({demanded}), written by the anchor service {}", verified.signer, verified.submitter)
            }
        },
        format!("  chain       {} at contract {}", verified.identity.chain_id, verified.contract),
        match verified.shown {
            Shown::Log => format!("  transaction 0x{}", to_hex(&verified.tx)),
            Shown::State => format!(
                "  transaction 0x{}, by the proof's word: the contract's state commits to the batch",
                to_hex(&verified.tx)
            ),
        },
        format!(
            "  block       {} ({}), {} seconds since 1970",
            verified.block_number,
            depth(verified.depth),
            verified.block_time
        ),
        format!("  believed    {}\n", believed(verified, rpc)),
    ]
    .join("\n")
}

fn json(verified: &Verified) -> serde_json::Value {
    serde_json::json!({
        "type": "verified",
        "verified": true,
        "key": verified.record.key,
        "party": verified.party,
        "stated": verified.stated.as_ref().map(|stated| serde_json::json!({
            "relay": stated.relay, "relay_epoch": stated.relay_epoch.to_string(), "chunk": stated.chunk, "at": stated.at.to_string(),
        })),
        "submitter": verified.submitter.to_string(),
        "signer": verified.signer.to_string(),
        "submitter_demanded": verified.submitter_demanded,
        "chain_id": verified.identity.chain_id,
        "contract": verified.contract.to_string(),
        "transaction": format!("0x{}", to_hex(&verified.tx)),
        "block": verified.block_number,
        "block_hash": format!("0x{}", to_hex(&verified.block_hash)),
        "believed": match verified.believed { Believed::Nothing => "nothing", Believed::Block => "block", Believed::Node { .. } => "node" },
        "block_time": verified.block_time,
        "depth": depth(verified.depth),
        "shown_by": match verified.shown { Shown::Log => "log", Shown::State => "state" },
    })
}
