//! What relays keep is found by whoever asks, brought once, and named where it can't be had: real processes, real storage areas.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use link::Link;
use serde_json::{Value, json};
use testkit::wait_until;

use crate::town::{self, FOREBAY, PATIENCE, Role};

/// A relay whose segments are small and close soon.
async fn relay(folder: &Path, listen: SocketAddr, cloud: SocketAddr) -> Role {
    let file = folder.join("relay.toml");
    let config = format!(
        "relay = \"relay-1\"\nlisten = [\"{listen}\"]\ndata = {:?}\naccess = \"anonymous\"\n\n\
         [cloud]\nhost = \"{}\"\nport = {}\n\n[storage]\nsegment_records = 500\nsegment_age = \"300ms\"\n",
        folder.join("relay-1"),
        cloud.ip(),
        cloud.port(),
    );
    std::fs::write(&file, config).unwrap();
    Role::start(&["relay", "--config", file.to_str().unwrap()]).await
}

/// Stores readings `first..=last` at a relay; each is its number.
async fn store(link: &Link, series: &str, first: u64, last: u64) {
    let mut tickets = Vec::new();
    for number in first..=last {
        tickets.push(link.enqueue(format!("op/store/{series}"), number.to_string()).await.unwrap());
    }
    for ticket in tickets {
        tokio::time::timeout(PATIENCE, ticket).await.expect("no acknowledgement").unwrap();
    }
}

async fn held(cloud: &Role) -> u64 {
    town::get(cloud, "/api/v1/status").await.1["records"]["held"].as_u64().unwrap()
}

fn query(cloud: &Role, args: &[&str]) -> Output {
    let url = format!("http://{}", cloud.place("http"));
    Command::new(FOREBAY).args(["query", "--cloud", &url, "--format", "json", "--limit", "100000"]).args(args).output().unwrap()
}

/// Payloads of an answer as numbers, in its order.
fn numbers(output: &Output) -> Vec<u64> {
    let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["payload"].as_str().unwrap().parse().unwrap();
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a13_what_a_relay_stored_is_found_brought_once_and_then_the_clouds_alone() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = town::cloud(folder.path()).await;
    let mut role = relay(folder.path(), town::any_port(), cloud.place("listen")).await;
    let listen = role.place("listen");
    let (link, _incoming) = town::client("meter", listen);
    let series = ["cityA/meter-1/power", "cityA/meter-2/power", "cityA/meter-2/volt"];
    for series in series {
        store(&link, series, 1, 60).await;
    }
    // The index comes by itself; no record does before somebody asks.
    let whole = wait_until(PATIENCE, "the answer has everything", async || {
        let output = query(&cloud, &[series[0]]);
        if numbers(&output).len() == 60 { Ok(output) } else { Err(numbers(&output).len()) }
    })
    .await;
    assert_eq!(whole.status.code(), Some(0), "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(numbers(&whole), (1..=60).collect::<Vec<_>>());
    assert_eq!(held(&cloud).await, 60, "only what was asked for came");
    let (status, page) = town::get(&cloud, &format!("/api/v1/records?series={}&limit=1", series[0])).await;
    let key = page["records"][0]["key"].as_str().unwrap_or_else(|| panic!("{status} {page}")).to_owned();
    let last = format!("/api/v1/where/{}", key.replace("meter-1", "meter-2").replace(".1", ".60"));
    wait_until(PATIENCE, "the index names what is kept", async || {
        let (_, place) = town::get(&cloud, &last).await;
        if place["absent"]["reason"] == "at-relay" { Ok(()) } else { Err(place) }
    })
    .await;
    // Without its relay nobody knows whether it has taken more of one series, and what it stated of the others is named.
    role.child.kill_9().await;
    wait_until(PATIENCE, "the relay may hold more", async || {
        let output = query(&cloud, &[series[0]]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("what relay-1 has taken since") && numbers(&output).len() == 60 { Ok(()) } else { Err(said) }
    })
    .await;
    let without = wait_until(PATIENCE, "the relay is known to be gone", async || {
        let output = query(&cloud, &["--filter", "cityA/+/power"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("relay-1 keeps them and can't be reached") { Ok(output) } else { Err(said) }
    })
    .await;
    assert_eq!((without.status.code(), numbers(&without).len()), (Some(1), 60));
    let (_, page) = town::get(&cloud, "/api/v1/records?series=cityA/meter-2/power").await;
    let missing = &page["completeness"]["missing"][0];
    assert_eq!(
        (&missing["reason"], &missing["from_seq"], &missing["to_seq"]),
        (&json!("relay-unreachable"), &json!(1), &json!(60))
    );
    // It comes back with what it kept.
    let _role = relay(folder.path(), listen, cloud.place("listen")).await;
    wait_until(PATIENCE, "both series are complete again", async || {
        let output = query(&cloud, &["--filter", "cityA/+/power"]);
        match (output.status.code(), numbers(&output).len()) {
            (Some(0), 120) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(held(&cloud).await, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_a_relay_that_is_killed_during_pulls_loses_and_doubles_nothing() {
    const READINGS: u64 = 3_000;
    const SERIES: &str = "cityA/meter-1/power";
    let folder = tempfile::tempdir().unwrap();
    let cloud = town::cloud(folder.path()).await;
    let mut role = relay(folder.path(), town::any_port(), cloud.place("listen")).await;
    let listen = role.place("listen");
    let (link, _incoming) = town::client("meter", listen);
    store(&link, SERIES, 1, READINGS).await;
    for round in 0..5 {
        let path = format!("/api/v1/records?series={SERIES}&limit=1");
        let asking = town::get(&cloud, &path);
        let killing = async {
            tokio::time::sleep(Duration::from_millis(3 + 17 * round)).await;
            role.child.kill_9().await;
        };
        let ((status, _), ()) = tokio::join!(asking, killing);
        assert_eq!(status, 200);
        role = relay(folder.path(), listen, cloud.place("listen")).await;
    }
    let output = wait_until(PATIENCE, "the answer is complete", async || {
        let output = query(&cloud, &[SERIES]);
        if output.status.code() == Some(0) && numbers(&output).len() as u64 >= READINGS {
            Ok(output)
        } else {
            Err((output.status.code(), numbers(&output).len()))
        }
    })
    .await;
    assert_eq!(numbers(&output), (1..=READINGS).collect::<Vec<_>>());
    assert_eq!(held(&cloud).await, READINGS);
}
