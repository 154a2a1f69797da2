//! `forebay load`.

use chassis::Exit;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    load: ::load::Args,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let json = args.load.json;
    let report = ::load::run(args.load)?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(Exit::Ok)
}
