//! `forebay flush`: the cloud asks a relay to hand over everything that it keeps.

use chassis::Exit;
use reqwest::Method;

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The relay.
    relay: wire::RelayId,
    #[command(flatten)]
    cloud: Cloud,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(async {
        let request = args.cloud.request(Method::POST, &format!("/api/v1/relays/{}/flush", args.relay))?;
        args.cloud.send(request).await?;
        Ok(Exit::Ok)
    })
}
