//! `forebay load`.

use chassis::Exit;

use crate::host;

#[derive(Debug, clap::Args)]
// The one below brings the group of this name.
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    load: ::load::Args,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let json = args.load.json;
    let report = ::load::run(args.load)?;
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    host::print(&text)?;
    Ok(Exit::Ok)
}
