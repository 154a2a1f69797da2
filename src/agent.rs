//! `forebay agent`.

use std::path::PathBuf;

use chassis::{Exit, Policy, Stop, Units};
use edge_agent::{Config, Parts, Setpoint};
use tokio::sync::watch;

use crate::{host, passphrase};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file; environment variables FOREBAY_AGENT__<KEY> override its keys.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut config: Config = host::configuration(&args.config, "agent")?;
    if let Some(anchor) = &mut config.anchor {
        anchor.passphrase = passphrase::of_role()?;
    }
    host::runtime()?.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<Exit> {
    let admin_at = config.admin.listen;
    let parts = Parts::default();
    let registry = parts.registry.clone();
    let agent = edge_agent::start(config, parts).await?;
    let mut units = Units::new();
    let mut places = Vec::new();
    if let Some(address) = admin_at {
        places.push(("admin", host::admin(&mut units, "agent", address, registry, None).await?));
    }
    agent.units(&mut units);
    if let Some(setpoint) = agent.setpoint() {
        units.add("setpoints", Policy::Fatal, move |stop| say_setpoints(setpoint.clone(), stop));
    }
    host::announce("agent", &places);
    host::live(units).await
}

/// A user terminal says on stdout what may be taken, one JSON object a line, for whatever drives the load; `null` without an event.
async fn say_setpoints(mut setpoint: watch::Receiver<Option<Setpoint>>, stop: Stop) -> Result<(), watch::error::RecvError> {
    loop {
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            changed = setpoint.changed() => changed?,
        }
        let shown = setpoint.borrow_and_update().clone();
        let (max_kw, event) = (shown.as_ref().map(|shown| shown.max_kw), shown.as_ref().map(|shown| shown.event.clone()));
        let until = shown.map(|shown| cloud::moment::format(shown.until));
        let line = serde_json::json!({"type": "setpoint", "max_kw": max_kw, "event": event, "until": until});
        // Nobody has to listen: readings are not held up by it.
        if !matches!(host::print(&format!("{line}\n")), Ok(true)) {
            eprintln!("forebay: stdout is closed; set-points are not said any more");
            return Ok(());
        }
    }
}
