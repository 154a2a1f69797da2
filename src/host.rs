//! What the long-running subcommands share: the runtime, the ready line, the end.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use chassis::{Admin, AdminParts, ConfigFault, Exit, Policy, Readiness, Registry, Routes, Units};
use clap::Args;
use serde::de::DeserializeOwned;

/// Where a role takes its configuration from: a file, or nothing at all.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Source {
    /// Configuration file; environment variables FOREBAY_<ROLE>__<KEY> override its keys.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run without a file: anonymous access to everything, on loopback addresses only.
    #[arg(long, requires = "data", requires = "listen")]
    pub dev: bool,
}

/// The addresses and folder of a role that runs without a file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Dev {
    /// With --dev: where to listen for MQTT; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    pub listen: Option<SocketAddr>,
    /// With --dev: folder for the data; made if it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub data: Option<PathBuf>,
}

impl Dev {
    /// The address and the folder, which clap requires with --dev.
    pub(crate) fn parts(&self) -> anyhow::Result<(SocketAddr, PathBuf)> {
        let listen = self.listen.context("--dev needs --listen ADDRESS:PORT")?;
        let data = self.data.clone().context("--dev needs --data DIR")?;
        Ok((listen, data))
    }
}

/// Reads a role's file with the environment over it.
pub(crate) fn configuration<T: DeserializeOwned>(path: &std::path::Path, role: &str) -> Result<T, ConfigFault> {
    chassis::load_config(path, &format!("FOREBAY_{}", role.to_uppercase()), std::env::vars())
}

/// A runtime with all threads of the machine.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime does not start")
}

/// Writes a result to stdout. Says whether somebody still reads: a closed pipe is no error, the reader has seen enough.
pub(crate) fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("stdout can't be written"),
    }
}

/// Tells, in one line on stdout, that the role works and where: `forebay relay ready listen=127.0.0.1:1883`.
pub(crate) fn announce(role: &str, places: &[(&str, SocketAddr)]) {
    let mut line = format!("forebay {role} ready");
    for (name, address) in places {
        line.push_str(&format!(" {name}={address}"));
    }
    line.push('\n');
    // Nobody may be reading: that is no reason to end.
    let _ = print(&line);
}

/// Opens a role's admin port and adds it as a unit; call it first, so that it is the last to go.
pub(crate) async fn admin(
    units: &mut Units,
    name: &'static str,
    address: SocketAddr,
    registry: Registry,
    routes: Option<Routes>,
) -> anyhow::Result<SocketAddr> {
    let parts = AdminParts {
        name,
        version: env!("CARGO_PKG_VERSION"),
        registry,
        readiness: Readiness::new(),
        routes: routes.unwrap_or_default(),
    };
    let admin = Admin::bind(address, parts).await?;
    let address = admin.address();
    let mut admin = Some(admin);
    units.add("admin", Policy::Fatal, move |stop| admin.take().expect("a fatal unit starts once").serve(stop));
    Ok(address)
}

/// Runs the units to their end.
pub(crate) async fn live(units: Units) -> anyhow::Result<Exit> {
    units.run().await?;
    Ok(Exit::Ok)
}

/// The exit code of an error: a configuration that does not hold is told apart from everything else. A role's key that does not open
/// is part of it: starting again is no use.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    use ::anchor::StartError::{Address, Config, Key};
    let of_anchoring = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<::anchor::StartError>(), Some(Address(_) | Config(_) | Key(_)))
    };
    let is_config = error.chain().any(|cause| {
        let of_role = cause.is::<ConfigFault>() || cause.is::<::relay::ConfigError>() || cause.is::<::cloud::ConfigError>();
        of_role || of_anchoring(cause)
    });
    if is_config { Exit::Config } else { Exit::CouldNot }
}
