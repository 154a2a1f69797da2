//! A real chain under test: Foundry's anvil on a free loopback port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Child;

/// The variable that names an anvil binary.
pub const VARIABLE: &str = "FOREBAY_ANVIL";
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How the chain behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A block each so many seconds (fractions allowed); `None` makes one for each transaction.
    pub block_time: Option<f64>,
    /// Slots in an epoch: the finalized tag is two epochs behind. Anvil's own default is 32.
    pub slots_in_an_epoch: Option<u64>,
    /// How many funded accounts; anvil's own default is 10.
    pub accounts: Option<u16>,
    /// File that the state is loaded from and saved to.
    pub state: Option<PathBuf>,
    /// Chain id; anvil's own default is 31337.
    pub chain_id: Option<u64>,
    /// A fixed port, for a chain that comes back where it was; `None` takes a free one.
    pub port: Option<u16>,
    /// More arguments of anvil.
    pub more: Vec<String>,
}

/// A running chain; killed when dropped.
pub struct Anvil {
    child: Child,
    port: u16,
    addresses: Vec<String>,
    keys: Vec<String>,
}

/// There is no anvil on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no anvil binary found (looked at the variable {VARIABLE}, at PATH, and under target/npm); run scripts/anvil, which installs one"
)]
pub struct NoAnvil;

impl Anvil {
    /// Starts a chain with anvil's defaults.
    ///
    /// # Panics
    /// When there is no anvil or it does not start.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts a chain.
    ///
    /// # Panics
    /// When there is no anvil or it does not start.
    pub async fn start_with(options: Options) -> Self {
        let binary = binary().unwrap_or_else(|fault| panic!("{fault}"));
        let mut child = Child::spawn(binary, options.arguments(), &[]);
        let port = child
            .line(START_DEADLINE, "Listening on", |line| {
                line.strip_prefix("Listening on ")?.rsplit(':').next()?.trim().parse().ok()
            })
            .await;
        let lines = child.stdout();
        Self { child, port, addresses: numbered(&lines, "Available Accounts"), keys: numbered(&lines, "Private Keys") }
    }

    /// Address of its JSON-RPC, e.g. `http://127.0.0.1:40123`.
    pub fn rpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Addresses of the funded accounts, `0x…`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Private keys of the funded accounts, `0x…`, in the order of the addresses. Everybody knows them.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Stands still: takes connections, answers nothing.
    pub fn pause(&self) {
        self.child.pause();
    }

    /// Goes on.
    pub fn resume(&self) {
        self.child.resume();
    }

    /// Ends at once, without saving its state.
    pub async fn kill_9(&mut self) {
        self.child.kill_9().await;
    }

    /// Ends in order; saves its state when it was given a file.
    pub async fn end(mut self) {
        self.child.terminate();
        self.child.wait(Duration::from_secs(10)).await;
    }
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--host".to_owned(), "127.0.0.1".to_owned()];
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                arguments.extend([name.to_owned(), value]);
            }
        };
        add("--port", Some(self.port.unwrap_or(0).to_string()));
        add("--block-time", self.block_time.map(|t| t.to_string()));
        add("--slots-in-an-epoch", self.slots_in_an_epoch.map(|n| n.to_string()));
        add("--accounts", self.accounts.map(|n| n.to_string()));
        add("--chain-id", self.chain_id.map(|n| n.to_string()));
        add("--state", self.state.as_ref().map(|path| path.display().to_string()));
        arguments.extend(self.more.iter().cloned());
        arguments
    }
}

/// Finds the real binary: the variable, PATH, then what `scripts/anvil` installed.
pub fn binary() -> Result<PathBuf, NoAnvil> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|folder| folder.join("anvil"));
    named.into_iter().chain(on_path).chain(installed()).find(|path| path.is_file()).ok_or(NoAnvil)
}

/// `target/npm/node_modules/@foundry-rs/anvil-linux-*/bin/anvil` of this workspace.
fn installed() -> Vec<PathBuf> {
    let Some(root) = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2) else {
        return Vec::new();
    };
    let packages = root.join("target/npm/node_modules/@foundry-rs");
    let Ok(packages) = std::fs::read_dir(packages) else {
        return Vec::new();
    };
    packages
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("anvil-"))
        .map(|entry| entry.path().join("bin/anvil"))
        .collect()
}

/// The `(0) 0x…` lines that follow a heading.
fn numbered(lines: &[String], heading: &str) -> Vec<String> {
    lines
        .iter()
        .skip_while(|line| line.trim() != heading)
        .skip(3) // the heading, its underline and an empty line
        .map_while(|line| {
            let word = line.strip_prefix('(')?.split_once(") ")?.1;
            let end = word.find([' ', '\t']).unwrap_or(word.len());
            Some(word[..end].to_owned())
        })
        .collect()
}
