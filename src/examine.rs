//! `forebay examine`: are the chunks in this folder what was written? Reads only, beside a relay or a cloud that may be running.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ::relay::{Stored, Why};
use anchor::{Content, LedgerView};
use anyhow::Context;
use chassis::Exit;
use wire::digest::to_hex;
use wire::{Epoch, Statement};

use crate::host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the database: `data` of the relay's or the cloud's configuration.
    folder: PathBuf,
    /// The cloud's anchor ledger: compare also with what the relay has stated and the cloud has anchored of its chunks. Somebody who changed
    /// a chunk together with its root is found by this alone.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// One JSON object a line for each chunk that was changed, instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let examined = ::relay::examine(&args.folder).with_context(|| args.folder.display().to_string())?;
    let mut text = String::new();
    for unsound in &examined.faults {
        if args.json {
            let mut line = serde_json::json!({
                "chunk": unsound.chunk, "series": unsound.series, "epoch": unsound.epoch.to_string(), "why": unsound.why.to_string(),
            });
            if let Why::Root { written, found } = &unsound.why {
                line["root_written"] = to_hex(written).into();
                line["root_found"] = to_hex(found).into();
            }
            writeln!(text, "{line}")?;
        } else {
            writeln!(text, "chunk {} of {}, epoch {}: {}", unsound.chunk, unsound.series, unsound.epoch, unsound.why)?;
        }
    }
    let stated = args.ledger.as_deref().map(|ledger| compare(&args, ledger, &mut text)).transpose()?.unwrap_or_default();
    host::print(&text)?;
    if !args.json {
        eprintln!(
            "forebay: {} chunks, {} records in sound ones, {} without a root, {} unsound",
            examined.chunks, examined.records, examined.without_root, examined.unsound
        );
        if args.ledger.is_some() {
            eprintln!("forebay: {} chunks are what was stated, {} are not", stated.same, stated.other);
        }
    }
    Ok(if examined.unsound == 0 && stated.other == 0 { Exit::Ok } else { Exit::Negative })
}

/// Chunks that are what their relay stated, and those that are not.
#[derive(Debug, Default)]
struct Stated {
    same: u64,
    other: u64,
}

/// Compares the folder's chunks with what the cloud has in batches of their relay's word. A chunk that is not there any more was handed over.
fn compare(args: &Args, ledger: &Path, text: &mut String) -> anyhow::Result<Stated> {
    let stored = Stored::open(&args.folder).with_context(|| args.folder.display().to_string())?;
    // Statements say themselves whose they are.
    let view = LedgerView::open(ledger, Epoch(0)).with_context(|| ledger.display().to_string())?;
    let mut stated = Stated::default();
    for batch in 1..=view.last_batch()? {
        for leaf in view.leaves(batch)? {
            let Content::Statement(said) = leaf.content()? else { continue };
            if said.relay_epoch != stored.epoch() {
                continue;
            }
            let why = match judge(&stored, &said) {
                Verdict::Gone => continue,
                Verdict::Same => {
                    stated.same += 1;
                    continue;
                }
                Verdict::Other(why) => why,
            };
            stated.other += 1;
            let Statement { relay, chunk, header, .. } = &said;
            if args.json {
                let line = serde_json::json!({
                    "relay": relay, "chunk": chunk, "series": header.series, "epoch": header.epoch.to_string(), "why": why,
                    "batch": batch, "root_stated": to_hex(&header.root),
                });
                writeln!(text, "{line}")?;
            } else {
                writeln!(
                    text,
                    "chunk {chunk} of {}, epoch {}: {why}; {relay} stated it, batch {batch}",
                    header.series, header.epoch
                )?;
            }
        }
    }
    Ok(stated)
}

/// What became of a chunk that was stated.
enum Verdict {
    /// It is what was stated.
    Same,
    /// It is not here any more.
    Gone,
    /// It is another one, in this way.
    Other(String),
}

fn judge(stored: &Stored, said: &Statement) -> Verdict {
    let Ok(id) = i64::try_from(said.chunk) else { return Verdict::Gone };
    let chunk = match stored.chunk(id) {
        Ok(Some(chunk)) => chunk,
        Ok(None) => return Verdict::Gone,
        Err(error) => return Verdict::Other(format!("it can't be read: {error}")),
    };
    let header = &said.header;
    if chunk.root != Some(header.root) {
        let root = chunk.root.map_or("none".to_owned(), |root| to_hex(&root));
        return Verdict::Other(format!("its root is {root}, and {} was stated", to_hex(&header.root)));
    }
    let same = (&chunk.series, chunk.epoch, &chunk.seqs) == (&header.series, header.epoch, &header.intervals)
        && (chunk.at_min, chunk.at_max) == (header.at_min, header.at_max);
    match same {
        true => Verdict::Same,
        false => Verdict::Other("its series, numbers or times are not those that were stated".to_owned()),
    }
}
