//! A small town of real processes: one cloud, relays, and whoever talks to them.

use std::collections::HashMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use link::{Incoming, Link, LinkConfig};
use serde_json::Value;
use testkit::{Child, wait_until};

/// The binary under test.
pub const FOREBAY: &str = env!("CARGO_BIN_EXE_forebay");

/// How long a process may take to say that it is ready, on a busy machine.
const READY: Duration = Duration::from_secs(30);
/// How long anything else may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A role's process and the addresses that it announced.
pub struct Role {
    pub child: Child,
    places: HashMap<String, SocketAddr>,
}

impl Role {
    /// Starts `forebay {args}` and waits for its ready line.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_at(&[], args).await
    }

    /// The same, behind a command that runs it elsewhere.
    pub async fn start_at(place: &[&str], args: &[&str]) -> Self {
        let whole: Vec<&str> = place.iter().chain(&[FOREBAY, "--log", "warn"]).chain(args).copied().collect();
        let mut child = Child::spawn(whole[0], &whole[1..], &[]);
        let places = child
            .line(READY, "the ready line", |line| {
                let (_, places) = line.strip_prefix("forebay ")?.split_once(" ready")?;
                places
                    .split_whitespace()
                    .map(|place| place.split_once('=').and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?))))
                    .collect()
            })
            .await;
        Self { child, places }
    }

    /// An address that the role announced.
    pub fn place(&self, name: &str) -> SocketAddr {
        self.places[name]
    }
}

/// A cloud that lets everybody in.
pub async fn cloud(data: &Path) -> Role {
    let data = data.join("cloud");
    Role::start(&["cloud", "--dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", data.to_str().unwrap()]).await
}

/// A relay that lets everybody in. `listen` is a fixed address when the relay shall come back where it was.
pub async fn relay(data: &Path, name: &str, listen: SocketAddr, cloud: Option<SocketAddr>) -> Role {
    let (data, listen) = (data.join(name), listen.to_string());
    let mut args = vec!["relay", "--dev", "--name", name, "--listen", &listen, "--data", data.to_str().unwrap()];
    let cloud = cloud.map(|cloud| cloud.to_string());
    if let Some(cloud) = &cloud {
        args.extend(["--cloud", cloud]);
    }
    Role::start(&args).await
}

/// Any free port of the loopback address.
pub fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// An MQTT 5 client.
pub fn client(id: &str, at: SocketAddr) -> (Link, Incoming) {
    Link::start(LinkConfig::new(at.ip().to_string(), at.port(), id))
}

/// Asks the cloud's HTTP API.
pub async fn get(cloud: &Role, path: &str) -> (u16, Value) {
    let response = reqwest::get(format!("http://{}{path}", cloud.place("http"))).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
}

/// Every record of a series that the cloud holds, page by page.
pub async fn records(cloud: &Role, series: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = get(cloud, &format!("/api/v1/records?series={series}&limit=5000{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        all.extend(page["records"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Waits until the cloud holds at least `count` records of a series.
pub async fn wait_for_records(cloud: &Role, series: &str, count: usize) -> Vec<Value> {
    wait_until(PATIENCE, "the cloud holds the records", async || {
        let held = records(cloud, series).await;
        if held.len() >= count { Ok(held) } else { Err(held.len()) }
    })
    .await
}

/// A file that its owner alone reads; gives its path.
pub fn put(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A role at the level `trace` that writes everything it has to say into a file.
pub fn role(args: &[&str], log: &Path, variables: &[(&str, &str)]) -> Child {
    let script = "log=$1; shift; exec \"$@\" 2>\"$log\"";
    let whole = [&["-c", script, "sh", log.to_str().unwrap(), FOREBAY, "--log", "trace"], args].concat();
    Child::spawn("sh", whole, variables)
}

/// Waits until a role is ready, and gives one of the addresses that it announces.
pub async fn ready(role: &mut Child, place: &str) -> String {
    let start = format!("{place}=");
    role.line(PATIENCE, "the ready line", |line| {
        line.split_whitespace().find_map(|word| word.strip_prefix(&start).map(str::to_owned)).filter(|_| line.contains(" ready"))
    })
    .await
}
