//! `forebay examine`: are the chunks in this folder what was written? Reads only, beside a relay or a cloud that may be running.

use std::fmt::Write;
use std::path::PathBuf;

use ::relay::Why;
use anyhow::Context;
use chassis::Exit;
use wire::digest::to_hex;

use crate::host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the database: `data` of the relay's or the cloud's configuration.
    folder: PathBuf,
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
    host::print(&text)?;
    if !args.json {
        eprintln!(
            "forebay: {} chunks, {} records in sound ones, {} without a root, {} unsound",
            examined.chunks, examined.records, examined.without_root, examined.unsound
        );
    }
    Ok(if examined.unsound == 0 { Exit::Ok } else { Exit::Negative })
}
