//! What can be set about a cloud. `config/cloud.toml` is the manual.

mod anchoring;

use std::net::SocketAddr;
use std::path::PathBuf;

use broker::Access;
use chassis::{Size, Span};
use serde::Deserialize;

use crate::access;
use crate::demand::Demand;
pub use anchoring::Anchoring;
pub(crate) use anchoring::LEDGER_FILE;

/// The smallest storage budget: below it the archive would refuse within minutes what relays send.
pub const BUDGET_MIN: Size = Size::mib(64);
/// The largest page of history: it must fit an MQTT packet and an HTTP client's patience.
pub const PAGE_RECORDS_MAX: usize = 100_000;

/// What an answer may need beside `history.page_bytes`: the one record that may be above it, topics and properties.
const ANSWER_SPARE: Size = Size::mib(1);

/// Everything a cloud is told at its start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The cloud's name: its party on the chain is `server/{name}`.
    #[serde(default = "name")]
    pub name: String,
    /// Where relays and readers connect with MQTT.
    pub listen: Vec<SocketAddr>,
    /// Where the HTTP interface listens.
    pub http: SocketAddr,
    /// Admin port (/live, /ready, /metrics, /version); without it there is none.
    pub admin: Option<SocketAddr>,
    /// Folder of the cloud's databases; made if it is missing.
    pub data: PathBuf,
    /// Who may connect and what they may do.
    pub access: Access,
    /// Who vouches for those who ask for access; without it nobody can ask.
    #[serde(default)]
    pub authority: access::config::Authority,
    /// Limits of requests for access, and rules by which they are approved.
    #[serde(default)]
    pub requests: access::config::Requests,
    /// Limits of the archive.
    #[serde(default)]
    pub storage: Storage,
    /// Limits of the MQTT face.
    #[serde(default)]
    pub broker: BrokerLimits,
    /// How receipts are batched.
    #[serde(default)]
    pub receipts: Receipts,
    /// Limits of live delivery.
    #[serde(default)]
    pub live: Live,
    /// Limits of queries.
    #[serde(default)]
    pub history: History,
    /// Relays that share one way up; a relay in no group talks to the cloud itself.
    #[serde(default, rename = "group")]
    pub groups: Vec<crate::groups::settings::Group>,
    /// Limits of catch-up subscriptions.
    #[serde(default)]
    pub feeds: Feeds,
    /// Anchoring on a chain; without it nothing is anchored.
    pub anchor: Option<Anchoring>,
    /// Demand response; without it there are no programs.
    pub demand: Option<Demand>,
}

fn name() -> String {
    "cloud".to_owned()
}

/// Limits of the archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Bytes that the archive may hold; above it frames are refused with "quota exceeded", and the relays keep them.
    pub budget: Size,
    /// An open segment becomes chunks at this many records.
    pub segment_records: u64,
    /// An open segment becomes chunks at this size.
    pub segment_bytes: Size,
    /// An open segment becomes chunks at this age.
    pub segment_age: Span,
    /// How long the commit of a frame waits for other frames; live delivery does not wait for it.
    pub commit_wait: Span,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            budget: Size::gib(64),
            segment_records: 1_000_000,
            segment_bytes: Size::mib(64),
            segment_age: Span::seconds(60),
            commit_wait: Span::millis(2),
        }
    }
}

/// Limits of the MQTT face.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Largest MQTT packet; at least what the relays' frames need.
    pub packet_bytes_max: Size,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self { connections_max: 20_000, packet_bytes_max: Size::mib(16) }
    }
}

/// How receipts are batched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receipts {
    /// How long a committed frame waits for others before its relay hears of it.
    pub wait: Span,
    /// Frames in one receipt, at most.
    pub frames_max: u64,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { wait: Span::millis(2), frames_max: 64 }
    }
}

/// Limits of live delivery.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Live {
    /// Bytes of new records that may wait for delivery; beyond it new ones are dropped from the live stream (never from the
    /// archive) and counted.
    pub queue: Size,
}

impl Default for Live {
    fn default() -> Self {
        Self { queue: Size::mib(64) }
    }
}

/// Limits of catch-up subscriptions, `$from/…`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Feeds {
    /// Feeds of all clients together; one more is refused with "quota exceeded".
    pub max: usize,
    /// Feeds of one client.
    pub per_client_max: usize,
    /// What the account of one feed may cost: which numbers of which series it has sent. A feed that needs more is ended.
    pub memory: Size,
    /// Feeds that read the archive at the same time; the others wait.
    pub readers: usize,
}

impl Default for Feeds {
    fn default() -> Self {
        Self { max: 256, per_client_max: 16, memory: Size::mib(16), readers: 2 }
    }
}

/// Limits of queries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Records of one page, at most.
    pub page_records_max: usize,
    /// Bytes of one page as JSON, at most; at least one record is always in it.
    pub page_bytes: Size,
    /// Queries that read the archive at the same time; the others wait.
    pub readers: usize,
    /// Queries over MQTT that may wait; one more is refused with "quota exceeded".
    pub waiting_max: usize,
    /// HTTP connections at once; one more waits to be accepted.
    pub connections_max: usize,
    /// How long a page waits for relays to bring what they keep; a relay that was asked in vain is left alone for as long.
    pub pull_wait: Span,
    /// Pulls under way at the same time; the others wait.
    pub pulls_max: usize,
    /// Pulls under way at one relay; the others wait.
    pub pulls_relay_max: usize,
    /// How long after its time a reading may reach its relay. A question about times that were over longer ago than this, when a relay last said
    /// what it holds, asks it no more, and does not name it if it is gone.
    pub late_max: Span,
    /// Entries of the index, at most: chunks of all relays. A page above it is refused with "quota exceeded".
    pub index_entries_max: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            page_records_max: 10_000,
            page_bytes: Size::mib(4),
            readers: 4,
            waiting_max: 256,
            connections_max: 1_024,
            pull_wait: Span::seconds(5),
            pulls_max: 64,
            pulls_relay_max: 4,
            late_max: Span::seconds(30 * 24 * 60 * 60),
            index_entries_max: 10_000_000,
        }
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
    /// A limit outside its range.
    #[error("{field} {fix}")]
    Range {
        /// The key.
        field: &'static str,
        /// What it must be.
        fix: String,
    },
    /// The `[anchor]` section can't be used.
    #[error("anchor.{0}")]
    Anchor(String),
    /// The `[demand]` section can't be used.
    #[error("demand.{0}")]
    Demand(String),
}

impl Config {
    /// A cloud for trying things out on one's own machine: anonymous, with generous budgets, not anchored.
    pub fn dev(listen: SocketAddr, http: SocketAddr, data: PathBuf) -> Self {
        Self {
            name: name(),
            listen: vec![listen],
            http,
            admin: None,
            data,
            access: Access::Anonymous,
            authority: access::config::Authority::default(),
            requests: access::config::Requests::default(),
            storage: Storage::default(),
            broker: BrokerLimits::default(),
            receipts: Receipts::default(),
            live: Live::default(),
            history: History::default(),
            groups: Vec::new(),
            feeds: Feeds::default(),
            anchor: None,
            demand: None,
        }
    }

    /// Checks what the types can't say. Binds and opens nothing.
    ///
    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |field, fix: &str| Err(ConfigError::Range { field, fix: fix.to_owned() });
        if self.listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        if matches!(self.access, Access::Anonymous) {
            let addresses = self.listen.iter().map(|address| ("listen", address));
            let addresses = addresses.chain([("http", &self.http)]).chain(self.admin.iter().map(|admin| ("admin", admin)));
            for (field, address) in addresses {
                if !address.ip().is_loopback() {
                    return Err(ConfigError::NotLoopback { field, address: *address });
                }
            }
        }
        if wire::topics::SegmentName::new(&self.name).is_err() {
            return range("name", "must be 1 to 64 characters of A-Z a-z 0-9 _ . -");
        }
        if self.storage.budget < BUDGET_MIN {
            return Err(ConfigError::Range { field: "storage.budget", fix: format!("must be at least {BUDGET_MIN}") });
        }
        for (field, value) in [
            ("storage.segment_records", self.storage.segment_records),
            ("storage.segment_bytes", self.storage.segment_bytes.bytes()),
            ("storage.segment_age", u64::from(!self.storage.segment_age.duration().is_zero())),
            ("broker.connections_max", self.broker.connections_max as u64),
            ("receipts.frames_max", self.receipts.frames_max),
            ("live.queue", self.live.queue.bytes()),
            ("feeds.max", self.feeds.max as u64),
            ("feeds.per_client_max", self.feeds.per_client_max as u64),
            ("feeds.memory", self.feeds.memory.bytes()),
            ("feeds.readers", self.feeds.readers as u64),
            ("history.page_bytes", self.history.page_bytes.bytes()),
            ("history.readers", self.history.readers as u64),
            ("history.waiting_max", self.history.waiting_max as u64),
            ("history.connections_max", self.history.connections_max as u64),
            ("history.pull_wait", u64::from(!self.history.pull_wait.duration().is_zero())),
            ("history.pulls_max", self.history.pulls_max as u64),
            ("history.pulls_relay_max", self.history.pulls_relay_max as u64),
            ("history.late_max", u64::from(!self.history.late_max.duration().is_zero())),
            ("history.index_entries_max", self.history.index_entries_max),
        ] {
            if value == 0 {
                return range(field, "must not be zero");
            }
        }
        if !(1..=PAGE_RECORDS_MAX).contains(&self.history.page_records_max) {
            let fix = format!("must be 1 to {PAGE_RECORDS_MAX}");
            return Err(ConfigError::Range { field: "history.page_records_max", fix });
        }
        if self.broker.packet_bytes_max < Size(self.history.page_bytes.bytes().saturating_add(ANSWER_SPARE.bytes())) {
            let fix =
                format!("must be at least {ANSWER_SPARE} less than broker.packet_bytes_max, so that an answer fits a packet");
            return Err(ConfigError::Range { field: "history.page_bytes", fix });
        }
        crate::groups::settings::check(&self.groups)?;
        if let Some(demand) = &self.demand {
            demand.check(&self.name)?;
        }
        self.authority.check()?;
        self.requests.check()?;
        if let Some(anchoring) = &self.anchor {
            let config = anchoring.config(&self.name, &self.data)?;
            config.check().map_err(|fault| ConfigError::Anchor(fault.to_string()))?;
            crate::sponsor::check(anchoring)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/cloud.toml");

    fn dev() -> Config {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        Config::dev(local, local, PathBuf::from("data"))
    }

    #[test]
    fn the_shipped_configuration_holds_and_shows_the_defaults() {
        let config: Config = chassis::load_config(SHIPPED.as_ref(), "FOREBAY_CLOUD", []).unwrap();
        config.check().unwrap();
        assert!(matches!(config.access, Access::Files { .. }));
        assert!(config.anchor.is_none());
        let shown =
            format!("{:?}", (&config.storage, &config.broker, &config.receipts, &config.live, &config.history, &config.feeds));
        let defaults = dev();
        let expected = format!(
            "{:?}",
            (&defaults.storage, &defaults.broker, &defaults.receipts, &defaults.live, &defaults.history, &defaults.feeds)
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn a7_the_commented_group_section_holds_too() {
        let text = std::fs::read_to_string(SHIPPED).unwrap();
        let (before, after) = text.split_once("#[[group]]").unwrap();
        let (section, _) = after.split_once("\n\n").unwrap();
        let section: String = section.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud.toml");
        std::fs::write(&file, format!("{before}[[group]]{section}")).unwrap();
        let config: Config = chassis::load_config(&file, "FOREBAY_CLOUD", []).unwrap();
        config.check().unwrap();
        assert_eq!((config.groups[0].members.len(), config.groups[0].ttl), (3, crate::groups::settings::TTL_DEFAULT));
    }

    #[test]
    fn the_commented_anchor_section_holds_too() {
        let text = std::fs::read_to_string(SHIPPED).unwrap();
        let (before, section) = text.split_once("#[anchor]").unwrap();
        let (section, _) = section.split_once("\n# Demand").unwrap();
        let section: String = section.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud.toml");
        std::fs::write(&file, format!("{before}[anchor]{section}")).unwrap();
        let config: Config = chassis::load_config(&file, "FOREBAY_CLOUD", []).unwrap();
        config.check().unwrap();
        assert_eq!(config.anchor.unwrap().poll, Span::seconds(1));
    }

    #[test]
    fn the_commented_demand_section_holds_and_shows_the_defaults() {
        let text = std::fs::read_to_string(SHIPPED).unwrap();
        let (before, section) = text.split_once("#[demand]").unwrap();
        let section: String = section.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud.toml");
        let load = |section: &str| -> Config {
            std::fs::write(&file, format!("{before}[demand]{section}")).unwrap();
            chassis::load_config(&file, "FOREBAY_CLOUD", []).unwrap()
        };
        let config = load(&section);
        config.check().unwrap();
        let expected = Demand::new(vec![crate::demand::Program::new("cityA-peak", "cityA", 500.0)]);
        assert_eq!(format!("{:?}", config.demand.unwrap()), format!("{expected:?}"));
        for (from, to, key) in [
            ("limit_kw = 500.0", "limit_kw = 0.0", "demand.program[0].limit_kw"),
            ("randomize_start = \"0s\"", "randomize_start = \"15m\"", "demand.program[0].duration"),
            ("name = \"cityA-peak\"", "name = \"a.b\"", "demand.program[0].name"),
            ("stream = \"power/active\"", "stream = \"power/#\"", "demand.program[0].stream"),
            ("interval = \"15m\"", "interval = \"0s\"", "demand.program[0].interval"),
        ] {
            assert!(section.contains(from), "{from}");
            let fault = load(&section.replacen(from, to, 1)).check().unwrap_err().to_string();
            assert!(fault.starts_with(key), "{fault}");
        }
    }

    #[test]
    fn anonymous_access_stays_on_the_loopback_address_and_has_room() {
        dev().check().unwrap();
        assert!(dev().storage.budget >= Size::gib(8));
        let open: SocketAddr = "0.0.0.0:1883".parse().unwrap();
        for (field, config) in [
            ("listen", Config { listen: vec![open], ..dev() }),
            ("http", Config { http: open, ..dev() }),
            ("admin", Config { admin: Some(open), ..dev() }),
        ] {
            let fault = config.check().unwrap_err().to_string();
            assert!(fault.starts_with(field) && fault.contains("127.0.0.1"), "{fault}");
        }
    }

    #[test]
    fn each_limit_out_of_range_is_named() {
        let mut config = dev();
        config.history.page_records_max = 0;
        assert!(config.check().unwrap_err().to_string().starts_with("history.page_records_max"));
        let mut config = dev();
        config.broker.packet_bytes_max = Size::mib(1);
        assert!(config.check().unwrap_err().to_string().starts_with("history.page_bytes"));
        let mut config = dev();
        config.storage.budget = Size::mib(1);
        assert!(config.check().unwrap_err().to_string().contains("64MiB"));
        let config = Config { name: "a/b".into(), ..dev() };
        assert!(config.check().unwrap_err().to_string().starts_with("name"));
        assert_eq!(Config { listen: vec![], ..dev() }.check(), Err(ConfigError::NoListener));
    }
}
