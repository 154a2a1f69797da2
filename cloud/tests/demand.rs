//! Demand response at the cloud: meters over the limit, an event, promises, and what was measured, each a record.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::path::Path;
use std::sync::Arc;

use chassis::{ManualClock, Span};
use cloud::demand::baseline::{self, Baseline};
use cloud::demand::sums::Coverage;
use cloud::demand::{Demand, Program};
use cloud::{Config, DemandView, Rung, Status};
use reqwest::Method;
use serde_json::{Value, json};
use town::{DEADLINE, Frame, Town, dev, eventually, folder, guarded};
use wire::openadr::{Event, LOAD_SHED_DELTA_AVAILABLE};

const SECOND: i64 = 1_000_000_000;

/// Limit 10 kW in city A; intervals of 10 s, events of 20 s.
fn demand() -> Demand {
    let mut program = Program::new("peak", "cityA", 10.0);
    (program.interval, program.duration) = (Span::seconds(10), Span::seconds(20));
    program.grace = Span::seconds(1);
    let mut demand = Demand::new(vec![program]);
    (demand.poll, demand.repeat) = (Span::millis(10), Span::millis(50));
    demand
}

fn with_demand(config: Config) -> Config {
    Config { demand: Some(demand()), ..config }
}

fn promise(event: &str, kw: f64) -> String {
    json!({"objectType": "REPORT", "eventID": event, "clientName": "u1", "resources": [
        {"resourceName": "load", "intervals": [{"id": 0, "payloads": [{"type": LOAD_SHED_DELTA_AVAILABLE, "values": [kw]}]}]}]})
    .to_string()
}

/// Readings of a sensor at the seconds `from..to`, all with one value. Record n is at n seconds.
fn steady(frame: Frame, sensor: &str, seconds: std::ops::Range<u64>, kw: &str) -> Frame {
    let values = vec![kw; (seconds.end - seconds.start) as usize];
    frame.run(&format!("{sensor}/power/active"), seconds.start, &values)
}

async fn table(town: &Town, user: &str) -> DemandView {
    let (status, answer) = town.get(user, "/api/v1/demand").await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_value(answer).unwrap()
}

/// A cloud that has just asked 4 kW of city A, where m1 takes 8 and u1 takes 6.
async fn asked(config: Config, clock: &Arc<ManualClock>, relay: &str) -> (Town, town::Client) {
    let town = Town::start_at(config, clock.clone()).await;
    let relay = town.client(relay).await;
    let frame = steady(steady(Frame::new(1), "cityA/m1", 1..10, "8"), "cityA/u1", 1..10, "6.0");
    // Another area, another stream, and what is no number: none of them counts.
    let frame =
        steady(frame, "cityB/m1", 1..10, "99").run("cityA/m1/power/reactive", 1, &["99"]).run("cityA/m2/power/active", 5, &["?"]);
    relay.send(&frame).await;
    clock.set(11 * SECOND);
    (town, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_c13_over_the_limit_is_asked_promised_measured_and_settled_and_a_restart_changes_nothing() {
    let (_dir, path) = folder();
    let clock = Arc::new(ManualClock::new(0));
    let (town, relay) = asked(with_demand(dev(&path)), &clock, "relay-1").await;
    let mut terminal = town.client("terminal").await;
    terminal.subscribe("demand/peak/events").await;
    let heard = terminal.next().await;
    let event: Event = serde_json::from_slice(&heard.payload).unwrap();
    assert_eq!(
        (event.id.as_str(), event.number("DISPATCH_SETPOINT_RELATIVE"), event.priority),
        ("peak-10000", Some(-4.0), Some(0))
    );
    let period = event.interval_period.unwrap();
    assert_eq!((period.start.as_str(), period.duration.as_deref()), ("1970-01-01T00:00:11Z", Some("PT20S")));
    let key = town::property(&heard, "key").unwrap().to_owned();
    // Who comes late hears of it too.
    let mut late = town.client("late").await;
    late.subscribe("demand/+/events").await;
    assert_eq!(late.next().await.topic, "demand/peak/events");
    relay.send(&Frame::new(2).run("cityA/u1/forebay/demand/peak", 12, &[&promise("peak-10000", 3.5)])).await;
    let now = table(&town, "").await;
    let running = &now.events[0];
    assert_eq!((running.status, running.promised_kw, running.asked.key.to_string()), (Status::Active, 3.5, key));
    // The promise is kept: u1 takes 2.5 instead of 6.
    relay.send(&steady(steady(Frame::new(3), "cityA/m1", 10..32, "8"), "cityA/u1", 11..31, "2.5")).await;
    clock.set(33 * SECOND);
    eventually("the settlement", async || table(&town, "").await.events[0].status == Status::Settled).await;
    let settled = table(&town, "").await;
    let event = &settled.events[0];
    assert_eq!((event.asked_kw, event.promised_kw, event.measured_kw), (4.0, 3.5, 3.5));
    assert_eq!((event.area_before_kw, event.area_during_kw), (14.0, 10.5));
    let part = &event.parts[0];
    assert_eq!((part.sensor.as_str(), part.promised_kw, part.measured_kw), ("cityA/u1", Some(3.5), Some(3.5)));
    // There is no day before this: the interval before stands for the baseline. m2 never said a number.
    assert_eq!(part.baseline, Some(Baseline { kw: 6.0, method: baseline::Method::IntervalBefore }));
    assert_eq!(event.coverage_during, Coverage { meters: 3, reported: 2, estimated: 0, missing: 1 });
    assert_eq!((event.quality.as_str(), event.missing[0].as_str()), ("MISSING", "cityA/m2"));
    assert_eq!(part.promise.as_ref().unwrap().key.to_string(), "cityA/u1/forebay/demand/peak@e.12");
    assert_eq!(part.promise.as_ref().unwrap().rung, Rung::CloudDurable);
    town.stop().await;
    let town = Town::start_at(with_demand(dev(&path)), clock.clone()).await;
    assert_eq!(table(&town, "").await, settled);
    // The interval of before is over the limit still in the archive, and is not asked for again.
    eventually("looks", async || {
        let (_, page) = town.get("", &format!("/api/v1/records/{}", settled.events[0].settled.as_ref().unwrap().key)).await;
        page["payload"].as_str().is_some_and(|text| text.contains("FOREBAY_SETTLEMENT"))
    })
    .await;
    assert_eq!(table(&town, "").await.events.len(), 1);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_within_the_limit_nothing_is_asked_and_nobody_else_speaks_on_the_topic() {
    let (_dir, path) = folder();
    let clock = Arc::new(ManualClock::new(0));
    let town = Town::start_at(with_demand(dev(&path)), clock.clone()).await;
    let relay = town.client("relay-1").await;
    relay.send(&steady(Frame::new(1), "cityA/m1", 1..10, "10")).await;
    clock.set(11 * SECOND);
    relay.send(&steady(Frame::new(2), "cityA/m1", 10..20, "10.5")).await;
    clock.set(21 * SECOND);
    eventually("an event of the second interval", async || !table(&town, "").await.events.is_empty()).await;
    let events = table(&town, "").await.events;
    assert_eq!((events.len(), events[0].event.as_str(), events[0].asked_kw), (1, "peak-20000", 0.5));
    assert_eq!(relay.refused("demand/peak/events", b"{}".to_vec()).await, 0x87);
    assert_eq!(relay.refused("demand/peak/reports", b"{}".to_vec()).await, 0x87);
    town.stop().await;
}

const GRANTS: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
[[grant]]
users = ["u1", "u2"]
actions = ["subscribe"]
topics = ["demand/peak/events"]
[[grant]]
users = ["u1"]
actions = ["publish"]
topics = ["demand/peak/reports"]
[[grant]]
users = ["operator"]
actions = ["query"]
topics = ["demand/+/events", "demand/+/reports"]
"#;

/// A client of another maker: what it sends and reads is written by hand.
struct Foreign<'a> {
    town: &'a Town,
    token: String,
}

impl<'a> Foreign<'a> {
    async fn login(town: &'a Town, user: &str) -> Self {
        let url = format!("http://{}/openadr3/3.1.0/auth/token", town.http);
        let request = reqwest::Client::new().post(url).basic_auth(user, Some(user));
        let request = request.header("Content-Type", "application/x-www-form-urlencoded").body("grant_type=client_credentials");
        let answer: Value = tokio::time::timeout(DEADLINE, request.send()).await.unwrap().unwrap().json().await.unwrap();
        assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3600)));
        Self { town, token: answer["access_token"].as_str().unwrap().to_owned() }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("http://{}/openadr3/3.1.0/{path}", self.town.http);
        let mut request = reqwest::Client::new().request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = tokio::time::timeout(DEADLINE, request.send()).await.expect("no answer").unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }
}

async fn guarded_town(path: &Path, clock: &Arc<ManualClock>) -> Town {
    let config = with_demand(guarded(path, &["relay-1", "u1", "u2", "eve", "operator"], GRANTS));
    let (town, _relay) = asked(config, clock, "relay-1").await;
    eventually("an event", async || !table(&town, "operator").await.events.is_empty()).await;
    town
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_foreign_openadr_client_reads_events_and_posts_reports_that_become_records() {
    let (_dir, path) = folder();
    let clock = Arc::new(ManualClock::new(0));
    let town = guarded_town(&path, &clock).await;
    let ven = Foreign::login(&town, "u1").await;
    let (status, programs) = ven.get("programs?skip=0&limit=50").await;
    assert_eq!((status, &programs[0]["id"], &programs[0]["objectType"]), (200, &json!("peak"), &json!("PROGRAM")), "{programs}");
    for member in ["createdDateTime", "modificationDateTime", "programName", "payloadDescriptors", "targets"] {
        assert!(programs[0].get(member).is_some(), "{member} in {programs}");
    }
    let (status, events) = ven.get("events?programID=peak&skip=0&limit=50").await;
    assert_eq!((status, &events[0]["id"], &events[0]["programID"]), (200, &json!("peak-10000"), &json!("peak")), "{events}");
    assert_eq!(events[0]["intervals"][0]["payloads"][0], json!({"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-4.0]}));
    assert_eq!(events[0]["intervalPeriod"], json!({"start": "1970-01-01T00:00:11Z", "duration": "PT20S"}));
    assert_eq!(ven.get("events?programID=other").await.1, json!([]));
    assert_eq!(ven.get("events/peak-10000").await.1, events[0]);
    // As openleadr's client writes it.
    let report = json!({"objectType": "REPORT", "eventID": "peak-10000", "clientName": "u1", "reportName": "mine", "payloadDescriptors": [
        {"objectType": "REPORT_PAYLOAD_DESCRIPTOR", "payloadType": "LOAD_SHED_DELTA_AVAILABLE", "units": "KW"}], "resources": [
        {"resourceName": "AGGREGATED_REPORT", "intervals": [{"id": 0, "payloads": [{"type": "LOAD_SHED_DELTA_AVAILABLE", "values": [2.5]}]}]}]});
    let (status, posted) = ven.ask(Method::POST, "reports", Some(report.clone())).await;
    assert_eq!((status, &posted["clientID"], &posted["eventID"]), (201, &json!("u1"), &json!("peak-10000")), "{posted}");
    for member in ["id", "createdDateTime", "modificationDateTime", "clientName", "resources"] {
        assert!(posted.get(member).is_some(), "{member} in {posted}");
    }
    assert_eq!(ven.get("reports?eventID=peak-10000").await.1, json!([posted]));
    assert_eq!(ven.get(&format!("reports/{}", posted["id"].as_str().unwrap())).await, (200, posted));
    let shown = table(&town, "operator").await;
    let part = &shown.events[0].parts[0];
    assert_eq!((part.sensor.as_str(), part.promised_kw), ("cityA/u1", Some(2.5)));
    // The cloud is the origin of this record.
    assert_eq!(part.promise.as_ref().unwrap().key.epoch, town.archive.epoch());
    assert_eq!(part.promise.as_ref().unwrap().rung, Rung::CloudDurable);
    let (status, made) = ven.ask(Method::POST, "vens", Some(json!({"objectType": "VEN_VEN_REQUEST", "venName": "home"}))).await;
    assert_eq!((status, &made["venName"], &made["clientID"]), (201, &json!("home"), &json!("u1")), "{made}");
    assert_eq!(ven.get("vens?venName=home").await.1, json!([made]));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_programs_events_and_reports_are_a_matter_of_grants() {
    let (_dir, path) = folder();
    let clock = Arc::new(ManualClock::new(0));
    let town = guarded_town(&path, &clock).await;
    let (u1, u2, eve) =
        (Foreign::login(&town, "u1").await, Foreign::login(&town, "u2").await, Foreign::login(&town, "eve").await);
    let report: Value = serde_json::from_str(&promise("peak-10000", 1.0)).unwrap();
    assert_eq!(u1.ask(Method::POST, "reports", Some(report.clone())).await.0, 201);
    assert_eq!(u2.get("events").await.1.as_array().unwrap().len(), 1);
    assert_eq!(u2.get("reports").await.1, json!([]), "the reports of others");
    assert_eq!(u2.ask(Method::POST, "reports", Some(report.clone())).await.0, 403);
    for path in ["programs", "events", "reports"] {
        assert_eq!(eve.get(path).await, (200, json!([])), "{path}");
    }
    assert_eq!(eve.get("events/peak-10000").await.0, 404);
    assert_eq!(eve.ask(Method::POST, "reports", Some(report)).await.1["field"], "eventID");
    let unknown: Value = serde_json::from_str(&promise("peak-1", 1.0)).unwrap();
    assert_eq!(u1.ask(Method::POST, "reports", Some(unknown)).await.0, 400);
    assert_eq!(u1.ask(Method::POST, "reports", Some(json!({"eventID": 7}))).await.0, 400);
    let nobody = Foreign { town: &town, token: "x".into() };
    assert_eq!(nobody.get("programs").await.0, 401);
    assert_eq!(town.get("", "/openadr3/3.1.0/programs").await.0, 401);
    assert_eq!(town.get("u1", "/openadr3/3.1.0/programs").await.0, 200, "Basic credentials do as well");
    assert_eq!(town.get("eve", "/api/v1/demand?program=peak").await.0, 403);
    assert_eq!(Foreign::login(&town, "operator").await.get("reports").await.1.as_array().unwrap().len(), 1);
    town.stop().await;
}

const DAY: i64 = 86_400 * SECOND;

/// A frame of readings of a sensor at any times.
fn readings(number: u64, sensor: &str, first_seq: u64, values: &[(i64, &str)]) -> Frame {
    let mut frame = Frame::new(number);
    let mut run = wire::RunBuilder::new(format!("{sensor}/power/active").parse().unwrap(), wire::Operation::Forward);
    values.iter().for_each(|(at, kw)| run.push(*at, kw.as_bytes()).unwrap());
    run.write(wire::Epoch(0xe), first_seq, &mut frame.runs);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_settlement_takes_the_days_before_as_the_baseline_and_leaves_out_those_with_an_event() {
    let (_dir, path) = folder();
    // Six weekdays with the same hour, the third of them with an event: 1970-01-05 is a Monday.
    let (monday, clock) = (4 * DAY, Arc::new(ManualClock::new(0)));
    let town = Town::start_at(with_demand(dev(&path)), clock.clone()).await;
    let relay = town.client("relay-1").await;
    let days = [0, 1, 2, 3, 4, 7].map(|day| monday + day * DAY);
    let (mut seq, mut number) = (1, 1);
    for (day, kw) in days.into_iter().zip(["5", "6", "1", "7", "8", "6"]) {
        // Half a minute before, and half a minute from the start on.
        let before = (0..3).map(|step| (day + step * 10 * SECOND, "3"));
        let during = (3..6).map(|step| (day + step * 10 * SECOND, kw));
        let values: Vec<_> = before.chain(during).collect();
        relay.send(&readings(number, "cityA/u1", seq, &values)).await;
        (seq, number) = (seq + 6, number + 1);
    }
    let event = |start: i64| {
        json!({"programID": "peak", "intervalPeriod": {"start": wire::openadr::time_text(start), "duration": "PT20S"},
            "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-2.0]}]}]})
    };
    let post = async |start: i64| {
        let request = reqwest::Client::new().post(format!("http://{}/openadr3/3.1.0/events", town.http)).json(&event(start));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["id"].as_str().unwrap().to_owned()
    };
    clock.set(days[2] + 20 * SECOND);
    post(days[2] + 30 * SECOND).await;
    let today = monday + 8 * DAY;
    let before: Vec<_> = (0..3).map(|step| (today + step * 10 * SECOND, "3.3")).collect();
    relay.send(&readings(number, "cityA/u1", seq, &before)).await;
    clock.set(today + 31 * SECOND);
    let id = post(today + 32 * SECOND).await;
    let mut said = Frame::new(number + 1);
    let mut run = wire::RunBuilder::new("cityA/u1/forebay/demand/peak".parse().unwrap(), wire::Operation::Forward);
    run.push(today + 31 * SECOND, promise(&id, 2.0).as_bytes()).unwrap();
    run.write(wire::Epoch(0xe), 1, &mut said.runs);
    relay.send(&said).await;
    let during: Vec<_> = (3..6).map(|step| (today + step * 10 * SECOND, "4")).collect();
    relay.send(&readings(number + 2, "cityA/u1", seq + 3, &during)).await;
    clock.set(today + 60 * SECOND);
    let now = async || table(&town, "").await.events.into_iter().find(|event| event.event == id).unwrap();
    eventually("the settlement", async || now().await.status == Status::Settled).await;
    let event = now().await;
    let found = event.parts[0].baseline.unwrap();
    // Of 6, 8, 7, 6 and 5 the four highest, a tenth more than on those days: 3.3 instead of 3 just before.
    assert!(
        matches!(found.method, baseline::Method::HighDays { days: 4, of: 5, factor } if (factor - 1.1).abs() < 1e-9),
        "{found:?}"
    );
    assert!((found.kw - 6.75 * 1.1).abs() < 1e-9, "{found:?}");
    let measured = event.parts[0].measured_kw.unwrap();
    assert!((measured - (6.75 * 1.1 - 4.0)).abs() < 1e-9, "{measured}");
    town.stop().await;
}
