//! What can be set about a relay. `config/relay.toml` is the manual.

use std::net::SocketAddr;
use std::path::PathBuf;

use broker::Access;
use chassis::{Size, Span};
use serde::Deserialize;
use wire::RelayId;
use wire::group::ADDRESS_BYTES_MAX;

use crate::dial::host_and_port;

use crate::area::Threshold;

/// The largest MQTT packet that may be taken. A page holds up to 1 MiB and one run of an agent's frame, and in its uplink frame, with secrets
/// beside it, it must fit the 16 MiB that a cloud takes.
const PACKET_BYTES_MAX: Size = Size::mib(14);

/// Everything a relay is told at its start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The relay's name, unique at its cloud.
    pub relay: RelayId,
    /// Where sensors and agents connect.
    pub listen: Vec<SocketAddr>,
    /// Admin port (/live, /ready, /metrics, /version, /flush); without it there is none.
    pub admin: Option<SocketAddr>,
    /// Folder of the relay's database; made if it is missing.
    pub data: PathBuf,
    /// Who may connect and what they may do.
    pub access: Access,
    /// The cloud; without it the relay keeps everything.
    pub cloud: Option<CloudConfig>,
    /// The group that the relay belongs to; without it the relay is on its own.
    pub group: Option<GroupConfig>,
    /// Limits of the storage.
    #[serde(default)]
    pub storage: Storage,
    /// Limits of the broker.
    #[serde(default)]
    pub broker: BrokerLimits,
}

/// How the relay reaches the cloud.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudConfig {
    /// Host name or IP address.
    pub host: String,
    /// MQTT port.
    pub port: u16,
    /// User name; without it the relay connects anonymously.
    pub user: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Frames on their way and not receipted, at most.
    #[serde(default = "window_frames")]
    pub window_frames: usize,
    /// Bytes on their way and not receipted, at most.
    #[serde(default = "window_bytes")]
    pub window_bytes: Size,
    /// A frame without receipt is sent again after this time.
    #[serde(default = "receipt_timeout")]
    pub receipt_timeout: Span,
    /// Bytes that the backlog and late pages may send a second, at most; without it they take what live pages leave.
    pub backlog_rate: Option<Size>,
    /// A page that has waited for so long is late: it is marked historical, and what comes in is sent beside it and not behind.
    #[serde(default = "late_after")]
    pub late_after: Span,
    /// Whether frames are compressed for the way.
    #[serde(default = "compress")]
    pub compress: bool,
}

fn window_frames() -> usize {
    256
}

fn late_after() -> Span {
    Span::seconds(5)
}

fn window_bytes() -> Size {
    Size::mib(16)
}

fn receipt_timeout() -> Span {
    Span::seconds(10)
}

fn compress() -> bool {
    true
}

impl CloudConfig {
    /// A cloud at `host:port` that asks for no password, with default limits.
    pub fn anonymous(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            user: None,
            password_file: None,
            window_frames: window_frames(),
            window_bytes: window_bytes(),
            receipt_timeout: receipt_timeout(),
            backlog_rate: None,
            late_after: late_after(),
            compress: compress(),
        }
    }
}

/// The relay's place among others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// The group's name, unique at the cloud.
    pub name: RelayId,
    /// Where the other members reach this one, `host:port`; without it the relay is never proxy.
    #[serde(default)]
    pub advertise: String,
    /// Time between heartbeats.
    #[serde(default = "heartbeat")]
    pub heartbeat: Span,
    /// What is collected from sensors is counted by periods of this length.
    #[serde(default = "period")]
    pub period: Span,
    /// User name at the other members; that at the cloud if it is left out.
    pub user: Option<String>,
    /// File whose first line is the password there.
    pub password_file: Option<PathBuf>,
}

fn heartbeat() -> Span {
    Span::millis(250)
}

fn period() -> Span {
    Span::seconds(60)
}

impl GroupConfig {
    /// A member of the group `name` that others reach at `advertise`, with default times.
    pub fn new(name: RelayId, advertise: impl Into<String>) -> Self {
        let (heartbeat, period) = (heartbeat(), period());
        Self { name, advertise: advertise.into(), heartbeat, period, user: None, password_file: None }
    }
}

/// Limits of the storage.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Bytes that the storage area may hold, buffer and chunks; above it `store` publishes are refused with "quota exceeded".
    pub budget: Size,
    /// Free room in it, in bytes or as a share of the budget, below which everything in the storage area is sent to the cloud before the
    /// next segment moves in (A6).
    pub free_min: Threshold,
    /// The same for the file system of `data`, whoever fills it.
    pub disk_free_min: Size,
    /// Bytes that may wait for the cloud's receipt; above it `forward` publishes are refused with "quota exceeded".
    pub outgoing_budget: Size,
    /// A segment of the buffer area closes at this many records.
    pub segment_records: u64,
    /// A segment of the buffer area closes at this size.
    pub segment_bytes: Size,
    /// A segment of the buffer area closes at this age.
    pub segment_age: Span,
    /// How long a commit, and so the acknowledgements of its readings, waits for company.
    pub commit_wait: Span,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            budget: Size::gib(8),
            free_min: Threshold::Percent(10),
            disk_free_min: Size::mib(256),
            outgoing_budget: Size::gib(8),
            segment_records: 1_000_000,
            segment_bytes: Size::mib(64),
            segment_age: Span::seconds(60),
            commit_wait: Span::millis(0),
        }
    }
}

/// Limits of the broker; see `broker::Settings` for the rest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Largest MQTT packet.
    pub packet_bytes_max: Size,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self { connections_max: 20_000, packet_bytes_max: PACKET_BYTES_MAX }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Anonymous access is for one's own machine only.
    #[error("{field} = {address}: anonymous access is only allowed on loopback addresses; use 127.0.0.1 or set access.files")]
    NotLoopback {
        /// The key.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// Nothing to listen at.
    #[error("listen is empty; give at least one address, like [\"0.0.0.0:1883\"]")]
    NoListener,
    /// One of the pair is missing.
    #[error("{section}.user and {section}.password_file belong together; give both or neither")]
    HalfCredentials {
        /// Where.
        section: &'static str,
    },
    /// Nothing for the group to share.
    #[error("there is a [group] and no [cloud]; add [cloud], or leave [group] out")]
    NoCloud,
    /// The others could not connect there.
    #[error("group.advertise = {given:?} is not host:port; give the address of a listener as the other members reach it")]
    Advertise {
        /// Its value.
        given: String,
    },
    /// A limit that would stop everything.
    #[error("{field} is zero; give a positive value")]
    Zero {
        /// The key.
        field: &'static str,
    },
    /// Every segment would be sent to the cloud.
    #[error("storage.free_min = {given} is all of storage.budget; give less, like \"10%\"")]
    ThresholdTooHigh {
        /// Its value.
        given: Threshold,
    },
    /// A page with such a packet in it could not be sent on.
    #[error("broker.packet_bytes_max is {given}; give at most {PACKET_BYTES_MAX}, so that a page fits a packet of the cloud")]
    PacketTooLarge {
        /// Its value.
        given: Size,
    },
}

impl Config {
    /// A relay for trying things out on one's own machine: anonymous, with generous budgets.
    pub fn dev(listen: SocketAddr, data: PathBuf, cloud: Option<CloudConfig>) -> Self {
        Self {
            relay: "relay-dev".parse().expect("the name is valid"),
            listen: vec![listen],
            admin: None,
            data,
            access: Access::Anonymous,
            cloud,
            group: None,
            storage: Storage::default(),
            broker: BrokerLimits::default(),
        }
    }

    /// Checks what the types can't say. Binds and opens nothing.
    ///
    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        if matches!(self.access, Access::Anonymous) {
            let open = self.listen.iter().map(|address| ("listen", address)).chain(self.admin.iter().map(|a| ("admin", a)));
            for (field, address) in open {
                if !address.ip().is_loopback() {
                    return Err(ConfigError::NotLoopback { field, address: *address });
                }
            }
        }
        if let Some(cloud) = &self.cloud {
            if cloud.user.is_some() != cloud.password_file.is_some() {
                return Err(ConfigError::HalfCredentials { section: "cloud" });
            }
            not_zero("cloud.port", u64::from(cloud.port))?;
            not_zero("cloud.window_frames", cloud.window_frames as u64)?;
            not_zero("cloud.window_bytes", cloud.window_bytes.bytes())?;
            not_zero("cloud.receipt_timeout", cloud.receipt_timeout.duration().as_millis() as u64)?;
            not_zero("cloud.late_after", cloud.late_after.duration().as_millis() as u64)?;
            if let Some(rate) = cloud.backlog_rate {
                not_zero("cloud.backlog_rate", rate.bytes())?;
            }
        }
        if let Some(group) = &self.group {
            if self.cloud.is_none() {
                return Err(ConfigError::NoCloud);
            }
            if group.user.is_some() != group.password_file.is_some() {
                return Err(ConfigError::HalfCredentials { section: "group" });
            }
            let advertised = host_and_port(&group.advertise).is_some() && group.advertise.len() <= ADDRESS_BYTES_MAX;
            if !group.advertise.is_empty() && !advertised {
                return Err(ConfigError::Advertise { given: group.advertise.clone() });
            }
            not_zero("group.heartbeat", group.heartbeat.duration().as_millis() as u64)?;
            not_zero("group.period", group.period.duration().as_millis() as u64)?;
        }
        let storage = &self.storage;
        for (field, value) in [
            ("storage.budget", storage.budget.bytes()),
            ("storage.outgoing_budget", storage.outgoing_budget.bytes()),
            ("storage.segment_records", storage.segment_records),
            ("storage.segment_bytes", storage.segment_bytes.bytes()),
            ("storage.segment_age", storage.segment_age.duration().as_millis() as u64),
            ("broker.connections_max", self.broker.connections_max as u64),
            ("broker.packet_bytes_max", self.broker.packet_bytes_max.bytes()),
        ] {
            not_zero(field, value)?;
        }
        if storage.free_min.of(storage.budget) >= storage.budget.bytes() {
            return Err(ConfigError::ThresholdTooHigh { given: storage.free_min });
        }
        match self.broker.packet_bytes_max {
            given if given > PACKET_BYTES_MAX => Err(ConfigError::PacketTooLarge { given }),
            _ => Ok(()),
        }
    }
}

fn not_zero(field: &'static str, value: u64) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::Zero { field }) } else { Ok(()) }
}
