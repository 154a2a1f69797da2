//! A user terminal against a scripted cloud and a scripted relay.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]

mod common;

use std::sync::{Arc, Mutex};

use chassis::{Clock, SystemClock};
use common::{Held, Running, SOON, config, relay};
use edge_agent::config::{DemandConfig, Kind};
use edge_agent::{Agent, Reading};
use testkit::{Answer, Peer, Publish, Script, wait_until};
use wire::Operation;
use wire::openadr::{self, BASELINE, DEMAND, LOAD_SHED_DELTA_AVAILABLE, ReportRequest};

const STREAM: &str = "cityA/meter-1/forebay/demand/peak";

fn event(id: &str, start: i64, seconds: i64) -> Vec<u8> {
    serde_json::json!({"id": id, "createdDateTime": "2026-01-01T00:00:00Z", "modificationDateTime": "2026-01-01T00:00:00Z",
        "objectType": "EVENT", "programID": "peak", "priority": 0, "targets": [],
        "intervalPeriod": {"start": openadr::time_text(start), "duration": format!("PT{seconds}S")},
        "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-5.0]}]}]})
    .to_string()
    .into_bytes()
}

async fn take(agent: &Agent, kw: &str) {
    let series = "cityA/meter-1/power/active".parse().unwrap();
    let reading = Reading::new(series, Operation::Forward, SystemClock.now(), kw).unwrap();
    agent.outbox().take(vec![reading], None).await.unwrap();
}

fn reports(held: &Arc<Mutex<Held>>) -> Vec<ReportRequest> {
    let held = held.lock().unwrap();
    let of = held.records.iter().filter(|(key, _)| key.0 == STREAM);
    of.map(|(_, delivered)| serde_json::from_slice(&delivered.payload).unwrap()).collect()
}

/// Says an event to the terminal until the condition holds: as the cloud does, again and again.
async fn said_until(cloud: &Peer, event: &[u8], what: &str, mut holds: impl FnMut() -> bool) {
    wait_until(SOON, what, async || {
        cloud.publish(Publish { topic: "demand/peak/events".to_owned(), payload: event.to_vec().into(), ..Publish::default() });
        if holds() { Ok(()) } else { Err(()) }
    })
    .await;
}

#[tokio::test]
async fn b6_an_event_that_is_said_again_is_answered_once_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let cloud = Peer::start(Script::default()).await;
    let mut config = config(folder.path(), peer.address());
    config.kind = Kind::User;
    let mut demand = DemandConfig::new(cloud.address().into(), vec!["peak".to_owned()], 2.0);
    demand.minimum_kw = 1.0;
    config.demand = Some(demand);
    let running = Running::start(config.clone()).await;
    let begins = SystemClock.now();
    let said = event("peak-1", begins, 8);
    // Without a reading it does not know its load, so it says nothing.
    wait_until(SOON, "the subscription", async || if cloud.filters(0).is_empty() { Err(()) } else { Ok(()) }).await;
    assert_eq!(cloud.filters(0), ["demand/peak/events"]);
    cloud.publish(Publish { topic: "demand/peak/events".to_owned(), payload: said.clone().into(), ..Publish::default() });
    take(&running.agent, "4.5").await;
    said_until(&cloud, &said, "the promise", || !reports(&held).is_empty()).await;
    let promise = &reports(&held)[0];
    assert_eq!((promise.number(LOAD_SHED_DELTA_AVAILABLE), promise.number(BASELINE)), (Some(2.0), Some(4.5)));
    let mut setpoint = running.agent.setpoint().unwrap();
    let shown = tokio::time::timeout(SOON, setpoint.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert_eq!((shown.event.as_str(), shown.max_kw, shown.until), ("peak-1", 2.5, begins + 8_000_000_000));
    running.stop().await;
    // The next run goes on with the response, and knows the event when it is said again.
    let running = Running::start(config).await;
    let mut setpoint = running.agent.setpoint().unwrap();
    tokio::time::timeout(SOON, setpoint.wait_for(Option::is_some)).await.unwrap().unwrap();
    take(&running.agent, "2.5").await;
    said_until(&cloud, &said, "the result", || reports(&held).len() >= 2).await;
    tokio::time::timeout(SOON, setpoint.wait_for(Option::is_none)).await.unwrap().unwrap();
    // The event is over, and another one is answered: nothing more was said about the first.
    said_until(&cloud, &event("peak-2", SystemClock.now(), 60), "another promise", || reports(&held).len() >= 3).await;
    running.stop().await;
    let said: Vec<_> =
        reports(&held).iter().map(|report| (report.event_id.clone(), report.report_name.clone().unwrap())).collect();
    let pair = |event: &str, name: &str| (event.to_owned(), name.to_owned());
    assert_eq!(said, [pair("peak-1", "promise"), pair("peak-1", "result"), pair("peak-2", "promise")]);
    let result = &reports(&held)[1];
    assert_eq!((result.number(BASELINE), result.number(DEMAND)), (Some(4.5), Some(2.5)));
}
