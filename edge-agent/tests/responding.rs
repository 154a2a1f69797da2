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
use wire::openadr::{self, BASELINE, DEMAND, Event, LOAD_SHED_DELTA_AVAILABLE, ReportRequest};

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

/// An event with a priority, as it was changed at a time.
fn asking(id: &str, priority: u32, kw: f64, (start, seconds): (i64, i64), modified: i64) -> Event {
    let mut event: Event = serde_json::from_slice(&event(id, start, seconds)).unwrap();
    event.priority = Some(priority);
    event.modification_date_time = openadr::time_text(modified);
    event.intervals.as_mut().unwrap()[0].payloads[0].values = vec![(-kw).into()];
    event
}

fn bytes(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).unwrap()
}

/// What was promised to an event, in order.
fn promised(held: &Arc<Mutex<Held>>, event: &str) -> Vec<f64> {
    let of = reports(held).into_iter().filter(|report| report.event_id == event);
    of.filter_map(|report| report.number(LOAD_SHED_DELTA_AVAILABLE)).collect()
}

#[tokio::test]
async fn b6_c13_a_terminal_follows_priorities_changes_cancellations_and_a_user_who_opts_out() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let cloud = Peer::start(Script::default()).await;
    let out = folder.path().join("opted-out");
    let mut config = config(folder.path(), peer.address());
    config.kind = Kind::User;
    let mut demand = DemandConfig::new(cloud.address().into(), vec!["peak".to_owned()], 3.0);
    (demand.minimum_kw, demand.targets, demand.opt_out_file) = (1.0, vec!["north".to_owned()], Some(out.clone()));
    config.demand = Some(demand);
    let running = Running::start(config).await;
    take(&running.agent, "6").await;
    let mut setpoint = running.agent.setpoint().unwrap();
    let mut shows = async |what: &str, event: Option<&str>, kw: f64| {
        let holds = |shown: &Option<edge_agent::Setpoint>| {
            shown.as_ref().map(|shown| shown.event.as_str()) == event && shown.as_ref().is_none_or(|shown| shown.max_kw == kw)
        };
        let waited = tokio::time::timeout(SOON, setpoint.wait_for(holds)).await;
        waited.unwrap_or_else(|_| panic!("{what}")).unwrap();
    };
    // It was offline when this was published; the cloud says it again.
    let begun = SystemClock.now() - 1_000_000_000;
    let low = asking("low", 5, 2.5, (begun, 600), 1);
    said_until(&cloud, &bytes(&low), "a promise", || promised(&held, "low") == [2.5]).await;
    shows("the event is held", Some("low"), 3.5).await;
    // A more important one takes its part first, and the other is told less.
    let high = asking("high", 0, 2.0, (begun, 600), 1);
    said_until(&cloud, &bytes(&high), "both promises", || promised(&held, "low") == [2.5, 1.0]).await;
    said_until(&cloud, &bytes(&high), "the important one", || promised(&held, "high") == [2.0]).await;
    shows("both are held", Some("high"), 3.0).await;
    // It changes: it is answered again, once.
    let changed = asking("high", 0, 0.5, (begun, 600), 2);
    said_until(&cloud, &bytes(&changed), "an answer to the change", || promised(&held, "high") == [2.0, 0.5]).await;
    shows("what was changed", Some("high"), 3.0).await;
    said_until(&cloud, &bytes(&high), "what the other gets", || promised(&held, "low") == [2.5, 1.0, 2.5]).await;
    // It is cancelled: what ran is reported.
    let result = |event: &str| {
        reports(&held).into_iter().find(|report| {
            report.event_id == event && report.number(BASELINE).is_some() && report.text(openadr::DATA_QUALITY).is_some()
        })
    };
    said_until(&cloud, &bytes(&changed.withdrawn(3)), "the result", || result("high").is_some()).await;
    shows("the other is held", Some("low"), 3.5).await;
    // One that has not begun is taken back, one for others is left alone.
    let later = asking("later", 9, 1.0, (begun + 3_600_000_000_000, 600), 1);
    said_until(&cloud, &bytes(&later), "another promise", || promised(&held, "later") == [1.0]).await;
    said_until(&cloud, &bytes(&later.withdrawn(2)), "taken back", || promised(&held, "later") == [1.0, 0.0]).await;
    let mut foreign = asking("foreign", 0, 1.0, (begun, 600), 1);
    foreign.targets = Some(vec!["south".to_owned()]);
    let mut meant = asking("meant", 9, 1.0, (begun, 600), 1);
    meant.targets = Some(vec!["north".to_owned()]);
    cloud.publish(Publish { topic: "demand/peak/events".to_owned(), payload: bytes(&foreign).into(), ..Publish::default() });
    said_until(&cloud, &bytes(&meant), "what is left", || promised(&held, "meant") == [0.5]).await;
    assert_eq!(promised(&held, "foreign"), [0.0; 0]);
    // The user takes no part: what runs is let go, what comes is answered with that.
    std::fs::write(&out, "").unwrap();
    wait_until(SOON, "opting out", async || {
        if promised(&held, "low").last() == Some(&0.0) { Ok(()) } else { Err(promised(&held, "low")) }
    })
    .await;
    shows("the set-point is gone", None, 0.0).await;
    let refused = asking("refused", 0, 1.0, (begun, 600), 1);
    said_until(&cloud, &bytes(&refused), "no promise", || promised(&held, "refused") == [0.0]).await;
    let states = reports(&held).into_iter().filter(|report| report.text(openadr::OPERATING_STATE) == Some(openadr::OPTED_OUT));
    let mut states: Vec<String> = states.map(|report| report.event_id).collect();
    states.sort();
    assert_eq!(states, ["low", "meant", "refused"]);
    running.stop().await;
}
