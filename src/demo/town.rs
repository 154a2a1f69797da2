//! The town: a chain, a cloud, three relays, and the files that say who may do what. Everything lives in one folder.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anchor::keys::{Key, Passphrase};
use anyhow::{Context, ensure};
use wire::digest::to_hex;

use super::homes::{self, HOMES, PROGRAM};
use super::plan::Plan;
use super::process::Process;

/// The first account of anvil's well-known development mnemonic. It owns test money on a chain that ends with the demonstration.
const ANVIL_ACCOUNT_0: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// What every party's account gets: 100 ether, in wei, hex.
const TEST_MONEY: &str = "0x56bc75e2d63100000";
/// How long one answer of the chain may take.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many relays there are.
pub(super) const RELAYS: usize = 3;
/// The group that they share one way up in.
pub(super) const GROUP: &str = "town";
/// How long one of them is the proxy.
const TERM: &str = "4s";
/// What a relay's storage area may hold, and what of it must be free: one kilobyte may be used, so that it spills before our eyes.
const STORAGE: &str = "budget = \"64MiB\"\nfree_min = \"65535KiB\"";

/// Name of a relay, its user and its log.
pub(super) fn relay_name(index: usize) -> String {
    format!("relay-{}", index + 1)
}

/// Files, chain and processes.
pub(super) struct Town {
    folder: PathBuf,
    forebay: PathBuf,
    pub rpc: String,
    pub contract: String,
    chain: Process,
    cloud: Option<Process>,
    pub cloud_mqtt: SocketAddr,
    pub cloud_http: SocketAddr,
    relays: Vec<Option<Process>>,
    pub relay_mqtt: Vec<SocketAddr>,
    relay_admin: Vec<SocketAddr>,
}

impl Town {
    /// Builds everything, in the order in which one needs the other.
    pub(super) async fn build(folder: &Path, plan: &Plan, anvil: &Path) -> anyhow::Result<Self> {
        for name in ["logs", "keys", "passwords"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let forebay = std::env::current_exe().context("the path of this program")?;
        let (chain, rpc) = start_chain(folder, anvil).await?;
        let contract = deploy(folder, &rpc, plan).await?;
        write_access(folder, plan)?;
        let (cloud, cloud_mqtt, cloud_http) = start_cloud(folder, &forebay, &rpc, &contract).await?;
        let mut town = Self {
            folder: folder.to_owned(),
            forebay,
            rpc,
            contract,
            chain,
            cloud: Some(cloud),
            cloud_mqtt,
            cloud_http,
            relays: Vec::new(),
            relay_mqtt: Vec::new(),
            relay_admin: Vec::new(),
        };
        for index in 0..RELAYS {
            let listen = free_address()?;
            let (process, admin) = town.start_relay(index, listen).await?;
            town.relays.push(Some(process));
            town.relay_mqtt.push(listen);
            town.relay_admin.push(admin);
        }
        Ok(town)
    }

    /// The folder with everything.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A party's key file.
    pub(super) fn key_file(&self, party: &str) -> PathBuf {
        key_file(&self.folder, party)
    }

    /// The file with a user's password.
    pub(super) fn password_file(&self, user: &str) -> PathBuf {
        self.folder.join("passwords").join(user)
    }

    /// A user's password.
    pub(super) fn password(&self, user: &str) -> anyhow::Result<String> {
        let file = self.password_file(user);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    async fn start_relay(&self, index: usize, listen: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
        let (name, listen) = (relay_name(index), listen.to_string());
        let config = format!(
            "relay = {name:?}\nlisten = [{listen:?}]\nadmin = \"127.0.0.1:0\"\ndata = {:?}\n\n[access.files]\nusers = {:?}\ngrants = {:?}\n\n\
             [cloud]\nhost = \"127.0.0.1\"\nport = {}\nuser = {name:?}\npassword_file = {:?}\n\n\
             [group]\nname = {GROUP:?}\nadvertise = {listen:?}\nheartbeat = \"300ms\"\nperiod = \"1s\"\n\n\
             [storage]\nsegment_age = \"1s\"\n{STORAGE}\n",
            self.folder.join(&name),
            self.folder.join("users"),
            self.folder.join("grants.toml"),
            self.cloud_mqtt.port(),
            self.folder.join("passwords").join(&name),
        );
        let file = self.folder.join(format!("{name}.toml"));
        fs::write(&file, config)?;
        let mut process = start_role(&self.folder, &self.forebay, "relay", &name, &file)?;
        let places = process.ready().await?;
        let admin = *places.get("admin").context("the relay's admin port")?;
        Ok((process, admin))
    }

    /// Kills a relay as if its power had failed.
    pub(super) async fn kill_relay(&mut self, index: usize) -> anyhow::Result<()> {
        self.relays[index].take().context("the relay runs")?.kill_9().await
    }

    /// Starts a killed relay again, where it was.
    pub(super) async fn revive_relay(&mut self, index: usize) -> anyhow::Result<()> {
        let (process, admin) = self.start_relay(index, self.relay_mqtt[index]).await?;
        self.relays[index] = Some(process);
        self.relay_admin[index] = admin;
        Ok(())
    }

    /// The sum over all relays of a counter, since each of them was started.
    pub(super) async fn relays_count(&self, metric: &str) -> anyhow::Result<u64> {
        let mut sum = 0;
        for admin in &self.relay_admin {
            let metrics = reqwest::get(format!("http://{admin}/metrics")).await?.text().await?;
            let value = metrics.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
            sum += value.with_context(|| format!("{metric} of a relay"))?.trim().parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Stops relays and cloud in order; the chain goes on.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for relay in self.relays.iter_mut().filter_map(Option::take) {
            relay.stop().await?;
        }
        match self.cloud.take() {
            Some(cloud) => cloud.stop().await,
            None => Ok(()),
        }
    }

    /// Stops the chain.
    pub(super) async fn stop_chain(self) -> anyhow::Result<()> {
        self.chain.stop().await
    }
}

/// An address that nobody listens at now: what a relay tells the others must be known before it listens.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn key_file(folder: &Path, party: &str) -> PathBuf {
    folder.join("keys").join(party.replace('/', "_"))
}

fn passphrase_file(folder: &Path) -> PathBuf {
    folder.join("passwords").join("cloud.key")
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn start_role(folder: &Path, forebay: &Path, role: &str, name: &str, config: &Path) -> anyhow::Result<Process> {
    let args = ["--log", "info", role, "--config", &config.to_string_lossy()].map(str::to_owned);
    Process::start(name, forebay, &args, &folder.join("logs"))
}

async fn start_chain(folder: &Path, anvil: &Path) -> anyhow::Result<(Process, String)> {
    // A block a second and a short way to finality: what takes a quarter of an hour on a real chain takes seconds here.
    let args = ["--port", "0", "--block-time", "1", "--slots-in-an-epoch", "1"].map(str::to_owned);
    let mut chain = Process::start("anvil", anvil, &args, &folder.join("logs"))?;
    let address = chain.line(|line| line.trim().strip_prefix("Listening on ").map(str::to_owned)).await?;
    Ok((chain, format!("http://{address}")))
}

/// Deploys the contract, makes a key for every party and gives each some test money.
async fn deploy(folder: &Path, rpc: &str, plan: &Plan) -> anyhow::Result<String> {
    let deployer = Key::of_hex(ANVIL_ACCOUNT_0).context("the development key")?;
    let deployed = anchor::deploy(rpc, &deployer, CHAIN_TIMEOUT).await.context("the contract can't be deployed")?;
    let parties = plan.meters.iter().map(|meter| meter.sensor.to_string()).chain(["cloud".to_owned()]);
    for party in parties {
        let file = key_file(folder, &party);
        // Behind a passphrase is the cloud's; to open one for each of the meters, all in one process, would take as long as their month.
        let key = match party.as_str() {
            "cloud" => {
                let (key, passphrase) = (Key::random()?, to_hex(&rand::random::<[u8; 16]>()));
                write_private(&passphrase_file(folder), &passphrase)?;
                anchor::keys::keep(&file, &key, &Passphrase::new(passphrase, "the demonstration")?)?;
                key
            }
            _ => anchor::keys::create(&file)?,
        };
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": 1, "method": "anvil_setBalance", "params": [key.address().to_string(), TEST_MONEY],
        });
        let answer: serde_json::Value = reqwest::Client::new().post(rpc).json(&request).send().await?.json().await?;
        ensure!(answer.get("error").is_none(), "anvil refused to set a balance: {answer}");
    }
    Ok(deployed.contract.to_string())
}

/// Users with random passwords, and their grants.
fn write_access(folder: &Path, plan: &Plan) -> anyhow::Result<()> {
    let users = folder.join("users");
    let relays: Vec<String> = (0..RELAYS).map(relay_name).collect();
    let homes = HOMES.map(|(name, ..)| name.to_owned());
    let meters: Vec<String> = plan.meters.iter().map(|meter| meter.sensor.sensor().to_owned()).chain(homes.clone()).collect();
    let people = ["analyst".to_owned(), "operator".to_owned()];
    for user in relays.iter().chain(&meters).chain(&people) {
        let password = to_hex(&rand::random::<[u8; 16]>());
        broker::users::set_password(&users, user, password.as_bytes())?;
        fs::write(folder.join("passwords").join(user), password)?;
    }
    let up: Vec<String> = relays.iter().map(|relay| format!("up/{relay}/#")).collect();
    let down: Vec<String> = relays.iter().map(|relay| format!("down/{relay}/#")).collect();
    // One file for all: as proxy a relay speaks at the cloud for its whole group.
    let grants = format!(
        r#"[[grant]]
users = {meters:?}
actions = ["publish"]
topics = ["op/+/+/%u", "probe/+/%u"]

[[grant]]
users = {relays:?}
actions = ["publish"]
topics = {up:?}

[[grant]]
users = {relays:?}
actions = ["subscribe"]
topics = {down:?}

[[grant]]
users = ["analyst"]
actions = ["subscribe", "query"]
areas = ["cityA"]

[[grant]]
users = ["operator"]
actions = ["query"]
topics = ["status", "data/#", "demand/#"]

[[grant]]
users = ["operator"]
actions = ["publish"]
topics = ["down/+/commands"]

[[grant]]
users = {homes:?}
actions = ["subscribe"]
topics = ["demand/{PROGRAM}/events"]
"#
    );
    fs::write(folder.join("grants.toml"), grants)?;
    Ok(())
}

async fn start_cloud(
    folder: &Path,
    forebay: &Path,
    rpc: &str,
    contract: &str,
) -> anyhow::Result<(Process, SocketAddr, SocketAddr)> {
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\n\n[access.files]\nusers = {:?}\ngrants = {:?}\n\n\
         [storage]\nsegment_age = \"1s\"\n\n[[group]]\nname = {GROUP:?}\nmembers = {:?}\nterm = {{ time = {TERM:?} }}\n\n[anchor]\nrpc = {rpc:?}\ncontract = {contract:?}\nkey_file = {:?}\npassphrase_file = {:?}\npoll = \"250ms\"\n\n\
         [anchor.batch]\nage = \"2s\"\n\n{}",
        folder.join("cloud"),
        folder.join("users"),
        folder.join("grants.toml"),
        (0..RELAYS).map(relay_name).collect::<Vec<_>>(),
        key_file(folder, "cloud"),
        passphrase_file(folder),
        homes::program(),
    );
    let file = folder.join("cloud.toml");
    fs::write(&file, config)?;
    let mut cloud = start_role(folder, forebay, "cloud", "cloud", &file)?;
    let places = cloud.ready().await?;
    let listen = *places.get("listen").context("the cloud's MQTT address")?;
    let http = *places.get("http").context("the cloud's HTTP address")?;
    Ok((cloud, listen, http))
}
