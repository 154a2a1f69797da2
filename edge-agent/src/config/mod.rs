//! What an agent is told. `config/agent.toml` is the manual: every key with its default and its reason.

mod checks;
mod demand;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use chassis::{Size, Span};
use serde::Deserialize;
use wire::{Operation, RelayId, SensorId};

pub use demand::{DemandConfig, Kind, Unit};

/// Everything an agent is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The sensor beside it.
    pub sensor: SensorId,
    /// What it is beside.
    #[serde(default)]
    pub kind: Kind,
    /// Its data folder: outbox and anchor ledger.
    pub data: PathBuf,
    /// The relays it may send to.
    pub relays: Vec<RelayConfig>,
    /// How it sends.
    #[serde(default)]
    pub send: SendConfig,
    /// How it chooses its relay.
    #[serde(default)]
    pub probe: ProbeConfig,
    /// What it says about itself.
    #[serde(default)]
    pub report: ReportConfig,
    /// What it keeps until a relay has it.
    #[serde(default)]
    pub outbox: OutboxConfig,
    /// How accepted records become chunks.
    #[serde(default)]
    pub chunk: ChunkConfig,
    /// Operations by stream; the first rule that matches decides, without one it is `store`.
    #[serde(default, rename = "stream")]
    pub streams: Vec<StreamRule>,
    /// Where readings come from.
    #[serde(default, rename = "input")]
    pub inputs: Vec<InputConfig>,
    /// Anchoring with an own key; without it nothing is anchored.
    #[serde(default)]
    pub anchor: Option<AnchorConfig>,
    /// How a user terminal takes part in demand response.
    #[serde(default)]
    pub demand: Option<DemandConfig>,
    /// The admin port.
    #[serde(default)]
    pub admin: AdminConfig,
}

/// One relay.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// Its name.
    pub name: RelayId,
    /// Its MQTT address, `host:port`.
    pub address: Address,
    /// User name there; anonymous without one.
    #[serde(default)]
    pub user: Option<String>,
    /// Password of the user.
    #[serde(default)]
    pub password: Option<Secret>,
}

/// How frames are made and sent.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SendConfig {
    /// A frame is closed at so many records.
    pub frame_records_max: u64,
    /// A frame is closed at so many bytes.
    pub frame_bytes_max: Size,
    /// How long a frame that is not full waits for more.
    pub linger: Span,
    /// Frames that may wait for their acknowledgement at once.
    pub inflight_max: u16,
    /// An idle connection is checked this often.
    pub keep_alive: Span,
    /// First pause after a relay said that it can't take more, or after a failed connection.
    pub backoff_min: Span,
    /// Longest such pause.
    pub backoff_max: Span,
    /// Pause after a relay said that the agent may not send there: only its operator can change that.
    pub refused_retry: Span,
}

impl Default for SendConfig {
    fn default() -> Self {
        Self {
            frame_records_max: 1000,
            frame_bytes_max: Size(512 << 10),
            linger: Span::millis(5),
            inflight_max: 8,
            keep_alive: Span::seconds(20),
            backoff_min: Span::millis(200),
            backoff_max: Span::seconds(30),
            refused_retry: Span::seconds(30),
        }
    }
}

/// When relays are probed, and how. With one relay nothing is.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// A send that takes longer has all relays probed again.
    pub rtt_limit: Span,
    /// Probes a relay and round; their median counts.
    pub count: u32,
    /// How long a relay has for connecting and all its probes.
    pub timeout: Span,
    /// Least time between two rounds.
    pub distance: Span,
    /// A target without a connection for so long is gone.
    pub gone_after: Span,
    /// Round-trip times that differ by no more are a tie.
    pub tie: Span,
    /// While a relay does not answer, or was left because it refused, all are probed again after about this time, then ever more rarely.
    pub look_again: Span,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            rtt_limit: Span::millis(500),
            count: 5,
            timeout: Span::seconds(2),
            distance: Span::seconds(10),
            gone_after: Span::seconds(1),
            tie: Span::millis(1),
            look_again: Span::seconds(120),
        }
    }
}

/// What the agent says about itself, as records under `forebay/`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportConfig {
    /// Whether it says anything.
    pub enabled: bool,
    /// How often the target is repeated.
    pub every: Span,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self { enabled: true, every: Span::seconds(600) }
    }
}

/// What is kept until a relay has it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Payloads that no relay has acknowledged, with what they cost around them. When it is full, inputs wait or are refused.
    pub bytes_max: Size,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self { bytes_max: Size::mib(256) }
    }
}

/// When accepted records become chunks.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChunkConfig {
    /// At so many records.
    pub records_max: u64,
    /// When the oldest was accepted this long ago.
    pub age_max: Span,
    /// How often it is looked at.
    pub poll: Span,
    /// Leaves kept for proofs; the oldest that are on chain go first. They can be made again from the records at the cloud.
    pub leaves_bytes_max: Size,
}

impl Default for ChunkConfig {
    fn default() -> Self {
        Self { records_max: 1024, age_max: Span::seconds(60), poll: Span::seconds(1), leaves_bytes_max: Size::gib(1) }
    }
}

/// What is to be done with the records of some streams.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRule {
    /// A filter as in MQTT, over the stream part of the series: `power/#`.
    #[serde(rename = "match")]
    pub filter: String,
    /// What the relay shall do.
    pub operation: Operation,
}

/// One input.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum InputConfig {
    /// Replays a CSV file.
    Csv(CsvConfig),
    /// Lines of stdin: `<stream> <value> [<RFC 3339 time>]`.
    Lines(LinesConfig),
    /// A topic of a local MQTT broker.
    Mqtt(MqttConfig),
}

/// A CSV file that is replayed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// Name of the input: its position is kept under it.
    pub name: String,
    /// The file; its first line names the columns.
    pub path: PathBuf,
    /// The column with the RFC 3339 time of each row.
    #[serde(default = "time_column")]
    pub time: String,
    /// Column to stream. Other columns are left out, and so are empty cells.
    pub columns: BTreeMap<String, String>,
    /// So many times faster than it was recorded.
    #[serde(default)]
    pub speed: Option<f64>,
    /// The whole file in this time. Without `speed` and `duration` it goes as fast as the outbox takes it.
    #[serde(default)]
    pub duration: Option<Span>,
}

fn time_column() -> String {
    "time".to_owned()
}

/// Lines of stdin.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinesConfig {
    /// Name of the input, for logs.
    pub name: String,
}

/// A topic of a local broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Name of the input, for logs and the client id.
    pub name: String,
    /// The broker, `host:port`.
    pub address: Address,
    /// What is subscribed to. It ends in `#` and has no other wildcard: the stream is what `#` stands for.
    pub filter: String,
    /// User name there; anonymous without one.
    #[serde(default)]
    pub user: Option<String>,
    /// Password of the user.
    #[serde(default)]
    pub password: Option<Secret>,
}

/// Anchoring with an own key, which pays, or signs for the anchor service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorConfig {
    /// The chain's JSON-RPC address. It may be away for as long as it likes.
    pub rpc: anchor::Node,
    /// File with the authorities (PEM) that alone vouch for the node; without it those of the machine do.
    #[serde(default)]
    pub rpc_ca: Option<PathBuf>,
    /// Address of the registry contract.
    pub contract: anchor::Address,
    /// File with the private key, mode 0600; `forebay keys new` makes one.
    pub key_file: PathBuf,
    /// File whose first line is the key's passphrase; it goes before `passphrase`.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// The passphrase of an encrypted key, which the environment tells and no file.
    #[serde(skip)]
    pub passphrase: Option<anchor::keys::Passphrase>,
    /// How often chunks and chain are looked at.
    #[serde(default = "anchor_poll")]
    pub poll: Span,
    /// When a batch is closed.
    #[serde(default)]
    pub batch: anchor::Batching,
    /// When a batch counts as on chain for good.
    #[serde(default)]
    pub confirmation: anchor::Confirmation,
    /// The anchor service, for an agent whose key has no funds: it signs, and the service writes.
    #[serde(default)]
    pub sponsor: Option<SponsorConfig>,
}

/// The anchor service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SponsorConfig {
    /// The account that it writes with; what another one writes does not count.
    pub account: anchor::Address,
    /// The MQTT address of the cloud that it works at, `host:port`.
    pub address: Address,
    /// User name there; anonymous without one.
    #[serde(default)]
    pub user: Option<String>,
    /// Password of the user.
    #[serde(default)]
    pub password: Option<Secret>,
}

fn anchor_poll() -> Span {
    Span::seconds(1)
}

impl AnchorConfig {
    /// With every default.
    #[must_use]
    pub fn new(rpc: impl Into<anchor::Node>, contract: anchor::Address, key_file: PathBuf) -> Self {
        Self {
            rpc: rpc.into(),
            rpc_ca: None,
            contract,
            key_file,
            passphrase_file: None,
            passphrase: None,
            poll: anchor_poll(),
            batch: anchor::Batching::default(),
            confirmation: anchor::Confirmation::default(),
            sponsor: None,
        }
    }
}

/// The admin port.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where `/live`, `/ready`, `/metrics` and `/version` are; without it there is no such port.
    pub listen: Option<SocketAddr>,
}

/// `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() && port != 0 => {
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(format!("{text:?} is not an address; write host:port, like \"127.0.0.1:1883\"")),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

/// A password; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Keeps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself, to be sent and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl InputConfig {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Csv(input) => &input.name,
            Self::Lines(input) => &input.name,
            Self::Mqtt(input) => &input.name,
        }
    }
}

impl Config {
    /// A configuration with every default: one sensor, one folder, one relay, no input, and silent about itself.
    pub fn new(sensor: SensorId, data: PathBuf, relay: RelayConfig) -> Self {
        Self {
            sensor,
            kind: Kind::default(),
            data,
            relays: vec![relay],
            send: SendConfig::default(),
            probe: ProbeConfig::default(),
            report: ReportConfig { enabled: false, ..ReportConfig::default() },
            outbox: OutboxConfig::default(),
            chunk: ChunkConfig::default(),
            streams: Vec::new(),
            inputs: Vec::new(),
            anchor: None,
            demand: None,
            admin: AdminConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests;
