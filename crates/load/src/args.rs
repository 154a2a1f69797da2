//! The command line, and the plan that is left of it once everything in it was checked.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use wire::{Operation, Series};

use crate::Error;
use crate::mqtt::Version;
use crate::session::{Endpoint, Login};

/// Puts load on an MQTT broker of this machine and reports what it carried.
#[derive(Clone, Debug, ClapArgs)]
#[non_exhaustive]
pub struct Args {
    /// The broker, HOST:PORT; loopback only. Connections are spread over several, separated by commas.
    #[arg(long, default_value = "127.0.0.1:1883", value_delimiter = ',')]
    pub address: Vec<String>,
    /// Publishing connections.
    #[arg(long, default_value_t = 10)]
    pub connections: u16,
    /// Messages in flight per connection.
    #[arg(long, default_value_t = 200)]
    pub window: u16,
    /// Messages a second over all connections, sent on a fixed timetable; 0 = as fast as acknowledgements come.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Payload bytes of a reading; from 20 on it carries send time and number, from 8 on the send time.
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Topic; %i is the number of the connection.
    #[arg(long, default_value = "op/forward/bench/meter-%i/power")]
    pub topic: String,
    /// QoS of the publishes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub qos: u8,
    /// End after that many messages over all connections.
    #[arg(long)]
    pub messages: Option<u64>,
    /// End after that many seconds behind the warm-up [default: 5, or 60 with --messages; for --idle the time to settle, 2].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds at the beginning that do not count [default: 1, or 0 with --messages].
    #[arg(long)]
    pub warmup: Option<f64>,
    /// Seconds to wait for acknowledgements, and for the next delivery, after the last message.
    #[arg(long, default_value_t = 5.0)]
    pub drain: f64,
    /// Speak MQTT 3.1.1 instead of 5.0.
    #[arg(long)]
    pub v3: bool,
    /// Subscribing connections.
    #[arg(long, default_value_t = 0)]
    pub subscribers: usize,
    /// The broker of the subscribers [default: that of the publishers].
    #[arg(long)]
    pub subscribe_address: Option<String>,
    /// What they subscribe to [default: the topic with + for each level that has a %i].
    #[arg(long)]
    pub filter: Option<String>,
    /// QoS that they ask for [default: that of the publishes].
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub subscribe_qos: Option<u8>,
    /// Most records between publishers and subscribers; 0 = no bound. Measures what a chain carries, not what it queues.
    #[arg(long, default_value_t = 0)]
    pub lead: u64,
    /// Publish frames of that many records, as an edge agent does, to op/OPERATION/AREA/SENSOR of the topic.
    #[arg(long, default_value_t = 0)]
    pub frames: u64,
    /// Frames that never tell the secret of their epoch: nobody can compute digests of their records, and what is measured is the rest.
    #[arg(long, requires = "frames")]
    pub unannounced: bool,
    /// Open that many connections that say nothing, and report the memory that --pid takes for each.
    #[arg(long, conflicts_with_all = ["disk", "subscribers", "frames", "messages"])]
    pub idle: Option<usize>,
    /// The broker's process, for --idle.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Time a 4 KiB write and fdatasync in that directory; speaks to no broker.
    #[arg(long, conflicts_with_all = ["idle", "subscribers", "frames", "messages"])]
    pub disk: Option<PathBuf>,
    /// User name for every connection.
    #[arg(long, requires = "password")]
    pub user: Option<String>,
    /// Password for every connection.
    #[arg(long, requires = "user", env = "FOREBAY_LOAD_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

const CONNECTIONS_MAX: u16 = 10_000;
const IDLE_MAX: usize = 100_000;
const SUBSCRIBERS_MAX: usize = 64;
const SIZE_MAX: usize = 256 * 1024;
const FRAME_BYTES_MAX: usize = 1024 * 1024;
const FRAME_RECORDS_MAX: u64 = 10_000;
const RATE_MAX: u64 = 100_000_000;
const SECONDS_MAX: f64 = 3_600.0;

/// What one run does.
#[derive(Debug)]
pub(crate) enum Plan {
    Traffic(Box<Traffic>),
    Idle { endpoint: Endpoint, count: usize, pid: Option<u32>, settle: Duration },
    Disk { directory: PathBuf, seconds: Duration },
}

/// A checked plan of publishing.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// At least one; connections take them in turn.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connections: u16,
    pub(crate) window: u16,
    pub(crate) rate: u64,
    pub(crate) size: usize,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) messages: Option<u64>,
    pub(crate) seconds: Duration,
    pub(crate) warmup: Duration,
    pub(crate) drain: Duration,
    pub(crate) subscribers: usize,
    pub(crate) subscribe_to: Endpoint,
    pub(crate) filter: String,
    pub(crate) subscribe_qos: u8,
    pub(crate) lead: u64,
    pub(crate) frames: Option<u64>,
    pub(crate) announced: bool,
}

impl Traffic {
    /// The broker of a connection.
    pub(crate) fn endpoint(&self, connection: u16) -> &Endpoint {
        &self.endpoints[usize::from(connection) % self.endpoints.len()]
    }
}

impl Args {
    /// Checks everything; touches no network.
    pub(crate) fn plan(self) -> Result<Plan, Error> {
        let version = if self.v3 { Version::V3 } else { Version::V5 };
        let login = self.user.clone().zip(self.password.clone()).map(|(user, password)| Login { user, password });
        if let Some(directory) = self.disk {
            let seconds = seconds("seconds", self.seconds.unwrap_or(2.0))?;
            return Ok(Plan::Disk { directory, seconds });
        }
        let endpoint = |address: &String| Ok(Endpoint { address: loopback("address", address)?, version, login: login.clone() });
        let endpoints = self.address.iter().map(endpoint).collect::<Result<Vec<_>, Error>>()?;
        let first = endpoints.first().cloned().ok_or_else(|| Error::option("address", "must be given"))?;
        if let Some(count) = self.idle {
            let count = within("idle", count, 1, IDLE_MAX)?;
            let settle = seconds("seconds", self.seconds.unwrap_or(2.0))?;
            return match endpoints.len() {
                1 => Ok(Plan::Idle { endpoint: first, count, pid: self.pid, settle }),
                _ => Err(Error::option("address", "must be one with --idle: the memory of one process is measured")),
            };
        }
        let subscribe_to = match &self.subscribe_address {
            Some(address) => Endpoint { address: loopback("subscribe-address", address)?, ..first },
            None => first,
        };
        if self.lead > 0 && self.subscribers == 0 {
            return Err(Error::option("lead", "needs --subscribers: it is bounded by what they receive"));
        }
        check_topic(&self.topic)?;
        let frames = (self.frames > 0).then_some(self.frames);
        if let Some(records) = frames {
            within("frames", records, 1, FRAME_RECORDS_MAX)?;
            within("frames x size", records as usize * self.size, 0, FRAME_BYTES_MAX)?;
            series(&self.topic, 0)?;
        }
        if self.lead > 0 && self.lead < self.frames {
            return Err(Error::option("lead", "is smaller than one frame"));
        }
        let counted = self.messages.is_some();
        Ok(Plan::Traffic(Box::new(Traffic {
            connections: within("connections", self.connections, 1, CONNECTIONS_MAX)?,
            window: within("window", self.window, 1, u16::MAX - 1)?,
            rate: within("rate", self.rate, 0, RATE_MAX)?,
            size: within("size", self.size, 0, SIZE_MAX)?,
            qos: self.qos,
            messages: self.messages.map(|messages| within("messages", messages, 1, u64::MAX)).transpose()?,
            seconds: seconds("seconds", self.seconds.unwrap_or(if counted { 60.0 } else { 5.0 }))?,
            warmup: seconds("warmup", self.warmup.unwrap_or(if counted { 0.0 } else { 1.0 }))?,
            drain: seconds("drain", self.drain)?,
            subscribers: within("subscribers", self.subscribers, 0, SUBSCRIBERS_MAX)?,
            filter: self.filter.unwrap_or_else(|| filter_of(&self.topic)),
            subscribe_qos: self.subscribe_qos.unwrap_or(self.qos),
            topic: self.topic,
            lead: self.lead,
            endpoints,
            subscribe_to,
            frames,
            announced: !self.unannounced,
        })))
    }
}

/// The topic of one connection.
pub(crate) fn topic_of(pattern: &str, connection: usize) -> String {
    pattern.replace("%i", &connection.to_string())
}

/// The series and operation of one connection's frames.
pub(crate) fn series(pattern: &str, connection: usize) -> Result<(Operation, Series), Error> {
    let topic = topic_of(pattern, connection);
    let wrong = || Error::option("topic", "must be op/store/AREA/SENSOR/STREAM or op/forward/AREA/SENSOR/STREAM with --frames");
    let (operation, series) = topic.strip_prefix("op/").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let operation = match operation {
        "store" => Operation::Store,
        "forward" => Operation::Forward,
        _ => return Err(wrong()),
    };
    Ok((operation, series.parse().map_err(|_| wrong())?))
}

fn filter_of(pattern: &str) -> String {
    let levels: Vec<&str> = pattern.split('/').map(|level| if level.contains("%i") { "+" } else { level }).collect();
    levels.join("/")
}

fn check_topic(pattern: &str) -> Result<(), Error> {
    if pattern.is_empty() || pattern.len() > 1_000 || pattern.contains(['+', '#', '\0']) {
        return Err(Error::option("topic", "must have 1 to 1000 bytes and no + or #"));
    }
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Display>(option: &'static str, value: T, least: T, most: T) -> Result<T, Error> {
    if value < least || value > most {
        return Err(Error::option(option, &format!("must be from {least} to {most}")));
    }
    Ok(value)
}

fn seconds(option: &'static str, value: f64) -> Result<Duration, Error> {
    if !(0.0..=SECONDS_MAX).contains(&value) {
        return Err(Error::option(option, &format!("must be from 0 to {SECONDS_MAX} seconds")));
    }
    Ok(Duration::from_secs_f64(value))
}

/// Resolves an address and refuses any that leaves this machine.
fn loopback(option: &'static str, text: &str) -> Result<SocketAddr, Error> {
    let found = text.to_socket_addrs().map_err(|_| Error::option(option, "must be HOST:PORT, such as 127.0.0.1:1883"))?;
    let found: Vec<SocketAddr> = found.collect();
    match found.first() {
        Some(first) if found.iter().all(|address| address.ip().is_loopback()) => {
            // A name such as localhost may have both; brokers under test listen on the older one.
            Ok(*found.iter().find(|address| address.is_ipv4()).unwrap_or(first))
        }
        _ => Err(Error::NotLoopback { option, address: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> Result<Plan, Error> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().args.plan()
    }

    #[test]
    fn the_defaults_hold() {
        let Plan::Traffic(traffic) = plan("").unwrap() else { panic!("no traffic") };
        assert_eq!(traffic.filter, "op/forward/bench/+/power");
        assert_eq!(topic_of(&traffic.topic, 7), "op/forward/bench/meter-7/power");
        assert_eq!(traffic.seconds, Duration::from_secs(5));
    }

    #[test]
    fn only_this_machine_is_loaded() {
        for line in
            ["--address 192.0.2.1:1883", "--address 0.0.0.0:1883", "--subscribe-address 192.0.2.1:1", "--idle 5 --address [::]:1"]
        {
            assert!(matches!(plan(line), Err(Error::NotLoopback { .. })), "{line}");
        }
        assert!(plan("--address 127.9.9.9:1883").is_ok());
        assert!(plan("--address [::1]:1883").is_ok());
        assert!(plan("--address localhost:1883").is_ok());
    }

    #[test]
    fn a_refused_option_is_named() {
        for (line, name) in [
            ("--connections 0", "--connections"),
            ("--window 0", "--window"),
            ("--seconds -1", "--seconds"),
            ("--seconds NaN", "--seconds"),
            ("--lead 5", "--lead"),
            ("--topic a/#", "--topic"),
            ("--topic a/b --frames 5", "--topic"),
            ("--topic op/forward/a/b --frames 5", "--topic"),
            ("--frames 10000 --size 1000", "--frames"),
            ("--address nonsense", "--address"),
            ("--address 127.0.0.1:1,nonsense", "--address"),
            ("--address 127.0.0.1:1,127.0.0.1:2 --idle 5", "--address"),
        ] {
            let line = line.replace("--seconds -1", "--seconds=-1");
            let message = plan(&line).unwrap_err().to_string();
            assert!(message.starts_with(name), "{line}: {message}");
        }
    }
}
