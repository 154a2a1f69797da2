//! A client of other makers against the cloud: the program from PyPI, over real HTTP, with callbacks.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use chassis::{ManualClock, Span};
use cloud::demand::{Callbacks, Demand, Program};
use cloud::{Config, DemandView, Status};
use serde_json::Value;
use town::{Frame, Town, eventually, folder, guarded};

const SECOND: i64 = 1_000_000_000;

const GRANTS: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
[[grant]]
users = ["home-1"]
actions = ["subscribe"]
topics = ["demand/peak/events"]
[[grant]]
users = ["home-1"]
actions = ["publish"]
topics = ["demand/peak/reports"]
[[grant]]
users = ["operator"]
actions = ["publish", "subscribe", "query"]
topics = ["demand/peak/events", "demand/peak/reports", "demand/clients"]
"#;

/// A Python with the client: as `scripts/openadr-client` finds or installs it.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("FOREBAY_OPENADR_PYTHON").map(PathBuf::from);
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/openadr-client/bin/python"));
    named.into_iter().chain([installed]).find(|python| python.exists())
}

fn demand() -> Demand {
    let mut program = Program::new("peak", "cityA", 10.0);
    (program.interval, program.duration, program.grace) = (Span::seconds(10), Span::seconds(20), Span::seconds(1));
    let mut demand = Demand::new(vec![program]);
    (demand.poll, demand.repeat) = (Span::millis(10), Span::millis(50));
    demand.callbacks = Callbacks { hosts: vec!["127.0.0.1".to_owned()], ..Callbacks::default() };
    demand
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_the_openadr_client_of_other_makers_works_against_the_cloud() {
    let Some(python) = python() else {
        return eprintln!("SKIPPED: no OpenADR client of other makers; scripts/openadr-client installs one");
    };
    let (_dir, path) = folder();
    let clock = Arc::new(ManualClock::new(0));
    let config = Config { demand: Some(demand()), ..guarded(&path, &["relay-1", "home-1", "operator"], GRANTS) };
    let town = Town::start_at(config, clock.clone()).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run("cityA/m1/power/active", 1, &["14"; 9])).await;
    clock.set(11 * SECOND);
    let table = async || -> DemandView {
        let (status, answer) = town.get("operator", "/api/v1/demand").await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_value(answer).unwrap()
    };
    eventually("an event", async || !table().await.events.is_empty()).await;

    let url = format!("http://{}/openadr3/3.1.0", town.http);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/client.py");
    let ran = tokio::task::spawn_blocking(move || {
        Command::new(python).args([script, &url, "home-1", "operator", "peak"]).output().unwrap()
    });
    let ran = tokio::time::timeout(std::time::Duration::from_secs(60), ran).await.expect("the client hangs").unwrap();
    let (said, fault) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}\n{fault}");
    let said: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((said["event"].as_str(), said["asked"].as_f64()), (Some("peak-10000"), Some(-4.0)));

    // What it has said is there as records.
    let shown = table().await;
    let of = |id: &Value| shown.events.iter().find(|event| Some(event.event.as_str()) == id.as_str()).unwrap();
    let (first, by_hand) = (of(&said["event"]), of(&said["by_hand"]));
    assert_eq!((first.parts[0].sensor.as_str(), first.parts[0].promised_kw), ("cityA/home-1", Some(2.5)));
    assert_eq!((by_hand.status, by_hand.asked_kw, by_hand.earlier.len()), (Status::Cancelled, 2.0, 1));
    assert!(by_hand.cancelled.is_some());
    assert!(town.counter("cloud_demand_callbacks_total") >= 4);
    assert_eq!(town.counter("cloud_demand_callbacks_waiting"), 0);
    town.stop().await;
}
