//! A town whose three relays are one group: users, grants and a link to the cloud for each that can be cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud::groups::view::{GroupView, GroupsView};
use link::{Link, LinkConfig, Qos};
use testkit::{CutLink, wait_until};
use tokio::task::JoinHandle;
use wire::RelayId;

use crate::town::{self, PATIENCE, Role};

/// Its relays.
pub const RELAYS: [&str; 3] = ["relay-1", "relay-2", "relay-3"];

/// Each user's password is the name. The grants are those of `config/grants.toml` for a group.
const GRANTS: &str = r#"
[[grant]]
users = ["relay-1", "relay-2", "relay-3"]
actions = ["publish"]
topics = ["up/relay-1/#", "up/relay-2/#", "up/relay-3/#"]

[[grant]]
users = ["relay-1", "relay-2", "relay-3"]
actions = ["subscribe"]
topics = ["down/relay-1/#", "down/relay-2/#", "down/relay-3/#"]

[[grant]]
users = ["operator"]
actions = ["query", "subscribe"]
topics = ["status", "data/#"]
"#;

/// What a member does besides.
pub struct Settings {
    /// The group's `term`, as in `cloud.toml`.
    pub term: &'static str,
    /// The life of a lease.
    pub ttl: &'static str,
    /// Length of a period.
    pub period: &'static str,
}

/// One relay of the group.
pub struct Member {
    pub role: Role,
    /// Its way to the cloud.
    pub link: CutLink,
    listen: SocketAddr,
}

/// The town.
pub struct GroupTown {
    folder: PathBuf,
    pub cloud: Role,
    pub members: BTreeMap<RelayId, Member>,
    period: &'static str,
    http: reqwest::Client,
}

/// An address of this machine that nobody listens at.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl GroupTown {
    pub async fn start(folder: &Path, settings: &Settings) -> Self {
        let path = |name: &str| folder.join(name);
        for user in RELAYS.iter().chain(&["operator"]) {
            broker::users::set_password(&path("users"), user, user.as_bytes()).unwrap();
            std::fs::write(path(&format!("{user}.password")), user).unwrap();
        }
        std::fs::write(path("grants.toml"), GRANTS).unwrap();
        let Settings { term, ttl, period } = settings;
        let config = format!(
            "listen = [\"{}\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\n\n[access.files]\nusers = {:?}\ngrants = {:?}\n\n\
             [[group]]\nname = \"north\"\nmembers = {RELAYS:?}\nttl = \"{ttl}\"\nterm = {term}\n",
            free(),
            path("cloud"),
            path("users"),
            path("grants.toml"),
        );
        std::fs::write(path("cloud.toml"), config).unwrap();
        let cloud = start_cloud(folder).await;
        let mut town = Self { folder: folder.to_owned(), cloud, members: BTreeMap::new(), period, http: reqwest::Client::new() };
        for name in RELAYS {
            let link = CutLink::start(town.cloud.place("listen")).await;
            let listen = free();
            let role = town.start_relay(name, listen, &link).await;
            town.members.insert(name.parse().unwrap(), Member { role, link, listen });
        }
        town
    }

    async fn start_relay(&self, name: &str, listen: SocketAddr, link: &CutLink) -> Role {
        let path = |name: String| self.folder.join(name);
        let config = format!(
            "relay = {name:?}\nlisten = [\"{listen}\"]\ndata = {:?}\naccess = \"anonymous\"\n\n\
             [cloud]\nhost = \"127.0.0.1\"\nport = {}\nuser = {name:?}\npassword_file = {:?}\n\n\
             [group]\nname = \"north\"\nadvertise = \"{listen}\"\nperiod = \"{}\"\n",
            path(name.to_owned()),
            link.address().port(),
            path(format!("{name}.password")),
            self.period,
        );
        let file = path(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        Role::start(&["relay", "--config", file.to_str().unwrap()]).await
    }

    pub fn member(&self, relay: &RelayId) -> &Member {
        &self.members[relay]
    }

    /// SIGKILL.
    pub async fn kill(&mut self, relay: &RelayId) {
        self.members.get_mut(relay).unwrap().role.child.kill_9().await;
    }

    /// Starts a relay again that was killed, where it was.
    pub async fn revive(&mut self, relay: &RelayId) {
        let Member { link, listen, .. } = &self.members[relay];
        let role = self.start_relay(relay.as_str(), *listen, link).await;
        self.members.get_mut(relay).unwrap().role = role;
    }

    /// SIGKILL for the cloud, and a new one over the same files.
    pub async fn kill_cloud(&mut self) {
        self.cloud.child.kill_9().await;
        self.cloud = start_cloud(&self.folder).await;
    }

    /// Asks the cloud's HTTP API as the operator.
    pub async fn get(&self, path: &str) -> serde_json::Value {
        let url = format!("http://{}{path}", self.cloud.place("http"));
        let answer = self.http.get(url).basic_auth("operator", Some("operator")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// The group as the cloud shows it.
    pub async fn group(&self) -> GroupView {
        let view: GroupsView = serde_json::from_value(self.get("/api/v1/groups?terms=1000").await).unwrap();
        view.groups.into_iter().next().unwrap()
    }

    /// Waits until all members are heard, and all but the proxy through it. Gives the proxy and its term.
    pub async fn settled(&self) -> (RelayId, u64) {
        wait_until(PATIENCE, "everybody goes through the proxy", async || {
            let group = self.group().await;
            let on_its_way = |name: &RelayId| group.holder.as_ref() == Some(name);
            let settled = group.members.iter().all(|member| member.live && member.direct == on_its_way(&member.relay));
            match group.holder.clone() {
                Some(holder) if settled => Ok((holder, group.term)),
                _ => Err(summary(&group)),
            }
        })
        .await
    }

    /// Every number that the cloud holds of a series, in the order of its records.
    pub async fn numbers(&self, series: &str) -> Vec<u64> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/api/v1/records?series={series}&limit=5000{cursor}")).await;
            let number = |record: &serde_json::Value| record["payload"].as_str().unwrap().parse::<u64>().unwrap();
            all.extend(page["records"].as_array().unwrap().iter().map(number));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }
}

async fn start_cloud(folder: &Path) -> Role {
    Role::start(&["cloud", "--config", folder.join("cloud.toml").to_str().unwrap()]).await
}

/// A group in one line, for messages.
pub fn summary(group: &GroupView) -> String {
    let members = group.members.iter().map(|member| (member.relay.as_str(), member.live, member.direct));
    format!("term {} of {:?}: {:?} (member, live, direct)", group.term, group.holder, members.collect::<Vec<_>>())
}

/// Sensors that publish to all relays, and a reader at the cloud.
pub struct Load {
    stop: Arc<AtomicBool>,
    publishers: HashMap<String, JoinHandle<Vec<u64>>>,
    live: Arc<Mutex<HashMap<String, Vec<u64>>>>,
    _reading: JoinHandle<()>,
}

impl Load {
    /// `sensors` a relay; each publishes `burst` readings, waits for their acknowledgements and `pause`, and so on.
    pub async fn start(town: &GroupTown, sensors: usize, burst: impl Fn(&str) -> u64, pause: Duration) -> Self {
        let (live, reading) = read(town.cloud.place("listen")).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut publishers = HashMap::new();
        for (relay, member) in &town.members {
            for number in 0..sensors {
                let name = format!("{relay}-meter-{number}");
                let task = publish(member.listen, name.clone(), burst(relay.as_str()), pause, stop.clone());
                publishers.insert(format!("cityA/{name}/power"), tokio::spawn(task));
            }
        }
        Self { stop, publishers, live, _reading: reading }
    }

    /// Stops, and checks that the cloud holds what was acknowledged: nothing lost, nothing doubled, in order for each series, live too.
    /// Gives the number of readings.
    pub async fn check(self, town: &GroupTown) -> usize {
        let live = self.live.clone();
        let held = self.stop(town).await;
        for series in held.keys() {
            // Live delivery of the last ones may be under way, and readings whose acknowledgement was lost too.
            wait_until(PATIENCE, "live delivery has brought the same", async || {
                let held = town.numbers(series).await;
                in_order(&held, series);
                let seen = live.lock().unwrap().get(series).cloned().unwrap_or_default();
                in_order(&seen, &format!("{series}, live"));
                if seen == held { Ok(()) } else { Err(format!("{series}: {} of {} seen live", seen.len(), held.len())) }
            })
            .await;
        }
        held.values().map(Vec::len).sum()
    }

    /// The same without live delivery, which a cloud that is killed interrupts.
    pub async fn check_history(self, town: &GroupTown) -> usize {
        self.stop(town).await.values().map(Vec::len).sum()
    }

    /// Stops, and gives what the cloud holds of each series when that is all that was acknowledged.
    async fn stop(self, town: &GroupTown) -> HashMap<String, Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = HashMap::new();
        for (series, publisher) in self.publishers {
            let acknowledged = tokio::time::timeout(PATIENCE, publisher).await.expect("a publisher ends").unwrap();
            assert!(!acknowledged.is_empty(), "{series}: no acknowledgement at all");
            let held = wait_until(PATIENCE, "the cloud holds every acknowledged reading", async || {
                let held = town.numbers(&series).await;
                let known: BTreeSet<u64> = held.iter().copied().collect();
                let missing: Vec<_> = acknowledged.iter().filter(|number| !known.contains(number)).collect();
                if missing.is_empty() {
                    Ok(held)
                } else {
                    Err(format!("{series}: {} lost, like {:?}", missing.len(), missing[0]))
                }
            })
            .await;
            in_order(&held, &series);
            all.insert(series, held);
        }
        all
    }
}

fn in_order(numbers: &[u64], series: &str) {
    let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(wrong, None, "{series}: doubled or out of order");
}

/// A reader of everything: the numbers of each series in the order in which they came.
async fn read(at: SocketAddr) -> (Arc<Mutex<HashMap<String, Vec<u64>>>>, JoinHandle<()>) {
    let config = LinkConfig::new(at.ip().to_string(), at.port(), "operator").with_credentials("operator", "operator");
    let (link, mut readings) = Link::start(config);
    let mut connected = link.connected();
    connected.wait_for(|up| *up).await.unwrap();
    link.subscribe("data/#", Qos::One).await.unwrap();
    let seen: Arc<Mutex<HashMap<String, Vec<u64>>>> = Arc::default();
    let filled = seen.clone();
    let reading = tokio::spawn(async move {
        // The link ends with the last of its handles.
        let _link = link;
        while let Some(reading) = readings.next().await {
            let series = reading.topic.strip_prefix("data/").unwrap().to_owned();
            let number = std::str::from_utf8(&reading.payload).unwrap().parse().unwrap();
            filled.lock().unwrap().entry(series).or_default().push(number);
        }
    });
    (seen, reading)
}

/// One sensor: numbers its readings, never sends one twice, and gives those that were acknowledged.
async fn publish(at: SocketAddr, name: String, burst: u64, pause: Duration, stop: Arc<AtomicBool>) -> Vec<u64> {
    let (link, _incoming) = town::client(&name, at);
    let topic = format!("op/forward/cityA/{name}/power");
    let (mut acknowledged, mut number) = (Vec::new(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let mut window = Vec::new();
        for _ in 0..burst {
            number += 1;
            match link.enqueue(topic.as_str(), number.to_string()).await {
                Ok(ticket) => window.push((number, ticket)),
                // The connection is gone: the reading was not sent, and the next one waits for the relay to come back.
                Err(_) => break,
            }
        }
        for (number, ticket) in window {
            if ticket.await.is_ok() {
                acknowledged.push(number);
            }
        }
        tokio::time::sleep(pause).await;
    }
    acknowledged
}
