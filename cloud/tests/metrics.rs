//! The page of metrics lists what the programs register, under the names that they show.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::collections::BTreeSet;

use chassis::Span;
use cloud::groups::settings::{Group, TTL_DEFAULT, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use town::{Frame, Town, eventually, folder, guarded};
use wire::group::Heartbeat;

const SERIES: &str = "cityA/meter-1/power";

const GRANTS: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
"#;

const READER: &str = r#"
[[grant]]
users = ["ana", "eva"]
actions = ["subscribe", "query"]
areas = ["cityA"]
"#;

/// Name and type of a metric.
type Metric = (String, String);

/// The rows of the page.
fn page() -> BTreeSet<Metric> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

/// What the text shows.
fn shown(town: &Town) -> BTreeSet<Metric> {
    let metric = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind.to_owned()))
    };
    town.registry.encode().lines().filter_map(metric).collect()
}

/// Whatever has labels shows itself with its first event only, so each of those happens here.
async fn everything_happens(town: &Town, path: &std::path::Path) {
    let relay = town.client("relay-1").await;
    // The cloud refuses a payload; and a question is answered.
    relay.refused("up/relay-1/frames", b"no frame".to_vec()).await;
    assert_eq!(town.get("ana", &format!("/api/v1/records?series={SERIES}")).await.0, 200);
    // A member of a group is heard, and becomes its proxy.
    let beat = Heartbeat {
        group: "north".parse().unwrap(),
        relay_epoch: wire::Epoch(1),
        beat: 1,
        term: 0,
        address: "relay-1:1883".into(),
        done: false,
        period: std::time::Duration::from_secs(60),
        collected: vec![],
    };
    relay.publish("up/relay-1/stats", beat.encode()).await.unwrap();
    // A connection is refused for its bytes, another closed for them.
    let mut refused = TcpStream::connect(town.mqtt).await.unwrap();
    refused.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    refused.read_to_end(&mut Vec::new()).await.unwrap();
    let mut closed = TcpStream::connect(town.mqtt).await.unwrap();
    closed.write_all(b"\x10\x19\0\x04MQTT\x04\xc2\0\0\0\x03raw\0\x03ana\0\x03ana").await.unwrap();
    let mut accepted = [0; 4];
    closed.read_exact(&mut accepted).await.unwrap();
    assert_eq!(accepted, [0x20, 2, 0, 0]);
    closed.write_all(b"\xff\xff\xff\xff\xff\xff").await.unwrap();
    closed.read_to_end(&mut Vec::new()).await.unwrap();
    // A subscription is refused, and two are held whose grant goes; one of them is fed.
    let ana = town.client("ana").await;
    ana.link.subscribe("data/cityB/#", link::Qos::One).await.unwrap_err();
    ana.subscribe("data/cityA/#").await;
    let eva = town.client("eva").await;
    eva.subscribe("$from/0/data/cityA/#").await;
    std::fs::write(path.join("grants.toml"), GRANTS).unwrap();
    eventually("the revocation", async || town.get("ana", &format!("/api/v1/records?series={SERIES}")).await.0 == 403).await;
    relay.send(&Frame::new(1).run(SERIES, 1, &["1"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_metrics_lists_what_cloud_broker_and_anchor_worker_show() {
    let (_dir, path) = folder();
    anchor::keys::create(&path.join("key")).unwrap();
    let rpc = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let mut config = guarded(&path, &["relay-1", "ana", "eva"], &format!("{GRANTS}{READER}"));
    let name = "north".parse().unwrap();
    let members = vec!["relay-1".parse().unwrap()];
    config.groups = vec![Group { name, members, ttl: TTL_DEFAULT, term: Term::default() }];
    config.anchor = Some(cloud::config::Anchoring {
        batch: anchor::Batching::default(),
        confirmation: anchor::Confirmation::Depth(1),
        poll: Span::millis(50),
        timeout: Span::seconds(2),
        ..cloud::config::Anchoring::new(rpc, format!("0x{}", "11".repeat(20)), path.join("key"))
    });
    let town = Town::start(config).await;
    everything_happens(&town, &path).await;
    let ours = |metric: &Metric| ["cloud_", "broker_", "anchor_"].iter().any(|role| metric.0.starts_with(role));
    let listed: BTreeSet<Metric> = page().into_iter().filter(ours).collect();
    assert!(listed.len() > 20, "{listed:?}");
    let waited = tokio::time::timeout(town::DEADLINE, async {
        while shown(&town) != listed {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    if waited.await.is_err() {
        let shown = shown(&town);
        let (unlisted, unshown): (Vec<_>, Vec<_>) = (shown.difference(&listed).collect(), listed.difference(&shown).collect());
        panic!("docs/metrics.md does not list {unlisted:?}, and lists {unshown:?}, which nobody shows");
    }
    town.stop().await;
}
