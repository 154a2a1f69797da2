//! Clients of other makers: who may see and write what, and callbacks that come at least once.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "town/issuer.rs"]
mod issuer;
mod town;

use std::path::Path;
use std::sync::Arc;

use chassis::{ManualClock, Span};
use cloud::Config;
use cloud::access::Algorithm;
use cloud::access::config::{Authority, Tokens};
use cloud::demand::{Callbacks, Demand, Program};
use issuer::Issuer;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use town::{DEADLINE, Frame, Town, eventually, folder, guarded, in_seconds};

const SECOND: i64 = 1_000_000_000;

const GRANTS: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
[[grant]]
users = ["u1", "u2", "city:ana"]
actions = ["subscribe"]
topics = ["demand/peak/events"]
[[grant]]
users = ["u1"]
actions = ["publish"]
topics = ["demand/peak/reports"]
[[grant]]
users = ["operator"]
actions = ["publish", "subscribe", "query"]
topics = ["demand/peak/events", "demand/peak/reports", "demand/clients"]
"#;
const USERS: [&str; 5] = ["relay-1", "u1", "u2", "eve", "operator"];

fn config(path: &Path, hosts: &[&str]) -> Config {
    let mut program = Program::new("peak", "cityA", 10.0);
    (program.interval, program.duration, program.grace) = (Span::seconds(10), Span::seconds(20), Span::seconds(1));
    let mut demand = Demand::new(vec![program]);
    (demand.poll, demand.repeat) = (Span::millis(10), Span::millis(50));
    demand.callbacks = Callbacks { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), ..Callbacks::default() };
    Config { demand: Some(demand), ..guarded(path, &USERS, GRANTS) }
}

enum Who<'a> {
    User(&'a str),
    Token(&'a str),
}

async fn ask(town: &Town, who: Who<'_>, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("http://{}/openadr3/3.1.0/{path}", town.http));
    let request = match who {
        Who::User(user) => request.basic_auth(user, Some(user)),
        Who::Token(token) => request.bearer_auth(token),
    };
    let request = if let Some(body) = &body { request.json(body) } else { request };
    let answer = tokio::time::timeout(DEADLINE, request.send()).await.expect("no answer").unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn get(town: &Town, user: &str, path: &str) -> (u16, Value) {
    ask(town, Who::User(user), Method::GET, path, None).await
}

async fn post(town: &Town, user: &str, path: &str, body: Value) -> (u16, Value) {
    ask(town, Who::User(user), Method::POST, path, Some(body)).await
}

fn event(start: &str, targets: &[&str]) -> Value {
    json!({"programID": "peak", "priority": 1, "targets": targets, "intervalPeriod": {"start": start, "duration": "PT20S"},
        "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-2.0]}]}]})
}

const TOMORROW: &str = "1970-01-02T00:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_token_of_the_issuer_is_taken_and_grants_decide() {
    let (_dir, path) = folder();
    let issuer = Issuer::new();
    let keys = path.join("keys.json");
    std::fs::write(&keys, issuer.keys().to_string()).unwrap();
    let tokens = Tokens {
        name: "city".into(),
        issuer: "https://id.city".into(),
        audience: "forebay".into(),
        keys: keys.to_str().unwrap().into(),
        keys_ca: None,
        algorithms: Algorithm::ALL.to_vec(),
        leeway: Span::seconds(0),
        refresh: Span::seconds(300),
    };
    let authority = Authority { tokens: Some(tokens), directory: None };
    let town = Town::start(Config { authority, ..config(&path, &[]) }).await;
    let claims = |name: &str| json!({"iss": "https://id.city", "aud": "forebay", "sub": name, "exp": town::seconds() + 60});
    let (ana, bob) = (issuer.token(&claims("ana")), issuer.token(&claims("bob")));
    let (status, programs) = ask(&town, Who::Token(&ana), Method::GET, "programs", None).await;
    assert_eq!((status, programs.as_array().unwrap().len()), (200, 1), "{programs}");
    assert_eq!(ask(&town, Who::Token(&bob), Method::GET, "programs", None).await, (200, json!([])));
    let (status, problem) = ask(&town, Who::Token(&ana), Method::POST, "events", Some(event(&in_seconds(60), &[]))).await;
    assert_eq!((status, &problem["title"]), (403, &json!("Forbidden")), "{problem}");
    let stranger = Issuer::new().token(&claims("ana"));
    assert_eq!(ask(&town, Who::Token(&stranger), Method::GET, "programs", None).await.0, 401);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_ven_writes_what_is_its_own_and_an_operator_grants_targets() {
    let (_dir, path) = folder();
    let town = Town::start_at(config(&path, &[]), Arc::new(ManualClock::new(0))).await;
    let ven = |name: &str| json!({"objectType": "VEN_VEN_REQUEST", "venName": name});
    let (_, first) = post(&town, "u1", "vens", ven("first")).await;
    let (_, second) = post(&town, "u2", "vens", ven("second")).await;
    let path_of = |ven: &Value| format!("vens/{}", ven["id"].as_str().unwrap());
    assert_eq!(get(&town, "u1", "vens").await.1, json!([first]));
    assert_eq!(get(&town, "operator", "vens").await.1.as_array().unwrap().len(), 2);
    assert_eq!(get(&town, "u2", &path_of(&first)).await.0, 404);
    assert_eq!(ask(&town, Who::User("u2"), Method::DELETE, &path_of(&first), None).await.0, 404);
    // Targets are an operator's to give: a VEN that writes some is refused.
    let grant = |client: &str, name: &str| json!({"objectType": "BL_VEN_REQUEST", "clientID": client, "venName": name, "targets": ["north"]});
    for request in [grant("u1", "first"), json!({"objectType": "VEN_VEN_REQUEST", "venName": "first", "targets": ["north"]})] {
        assert_eq!(ask(&town, Who::User("u1"), Method::PUT, &path_of(&first), Some(request)).await.0, 403);
    }
    let (_, events) = get(&town, "u1", "events").await;
    assert_eq!(events, json!([]));
    let (status, north) = post(&town, "operator", "events", event(TOMORROW, &["north", "big"])).await;
    assert_eq!(status, 201, "{north}");
    let by_id = format!("events/{}", north["id"].as_str().unwrap());
    assert_eq!((get(&town, "u1", &by_id).await.0, get(&town, "operator", &by_id).await.0), (404, 200));
    let put = ask(&town, Who::User("operator"), Method::PUT, &path_of(&first), Some(grant("u1", "first"))).await;
    assert_eq!((put.0, &put.1["targets"]), (200, &json!(["north"])), "{}", put.1);
    let (status, seen) = get(&town, "u1", &by_id).await;
    assert_eq!((status, &seen["targets"]), (200, &json!(["north"])), "the other target stays hidden");
    assert_eq!(get(&town, "u1", "events?targets=big").await.1, json!([]));
    assert_eq!(get(&town, "u1", "events?targets=north&targets=big").await.1.as_array().unwrap().len(), 1);
    assert_eq!(get(&town, "u2", "events").await.1, json!([]));
    // A resource's targets count as well.
    let resource =
        json!({"objectType": "BL_RESOURCE_REQUEST", "resourceName": "pump", "venID": second["id"], "targets": ["big"]});
    assert_eq!(post(&town, "u2", "resources", resource.clone()).await.0, 403);
    assert_eq!(post(&town, "operator", "resources", resource).await.0, 201);
    assert_eq!(get(&town, "u2", "events").await.1[0]["targets"], json!(["big"]));
    let foreign = json!({"objectType": "VEN_RESOURCE_REQUEST", "resourceName": "mine", "venID": first["id"]});
    assert_eq!(post(&town, "u2", "resources", foreign).await.1["field"], "venID");
    // Only who may publish events makes, changes and cancels them.
    for user in ["u1", "eve"] {
        let (status, problem) = post(&town, user, "events", event(TOMORROW, &[])).await;
        assert!(matches!((user, status), ("u1", 403) | ("eve", 400)), "{problem}");
        let status = ask(&town, Who::User(user), Method::DELETE, &by_id, None).await.0;
        assert!(matches!((user, status), ("u1", 403) | ("eve", 404)), "{user} {status}");
    }
    assert_eq!(get(&town, "eve", "vens").await.1, json!([]));
    town.stop().await;
}

/// A server that takes what is posted to it, once it answers well.
struct Hook {
    listener: TcpListener,
}

/// A request that came: head and body.
struct Posted {
    head: String,
    body: Value,
    stream: TcpStream,
}

impl Hook {
    async fn next(&self) -> Posted {
        let accepted = tokio::time::timeout(DEADLINE, self.listener.accept()).await.expect("nobody called");
        let (mut stream, _) = accepted.unwrap();
        let mut read = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let count = tokio::time::timeout(DEADLINE, stream.read(&mut piece)).await.expect("nothing came").unwrap();
            assert!(count > 0, "it ended early: {}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&read);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                let (head, body) = (head.to_owned(), serde_json::from_str(body).unwrap());
                return Posted { head, body, stream };
            }
        }
    }
}

impl Posted {
    async fn answer(mut self, status: &str) {
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:1/\r\nConnection: close\r\n\r\n");
        self.stream.write_all(answer.as_bytes()).await.unwrap();
        self.stream.shutdown().await.ok();
    }

    fn what(&self) -> (&str, &str) {
        (self.body["objectType"].as_str().unwrap(), self.body["operation"].as_str().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_callback_comes_at_least_once_in_order_over_failures_and_a_restart_and_follows_no_redirect() {
    let (_dir, path) = folder();
    let clock = Arc::new(ManualClock::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let hook = Hook { listener };
    let allowing = || config(&path, &[&host]);
    let town = Town::start_at(allowing(), clock.clone()).await;
    let wanted = |url: &str| {
        json!({"clientName": "c", "programID": "peak", "objectOperations": [{"objects": ["EVENT", "REPORT"],
            "operations": ["CREATE", "UPDATE", "DELETE"], "callbackUrl": url, "bearerToken": "s3cret"}]})
    };
    let (status, problem) = post(&town, "u1", "subscriptions", wanted("http://127.0.0.1:1/x")).await;
    assert_eq!((status, &problem["field"]), (400, &json!("objectOperations[0].callbackUrl")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("demand.callbacks.hosts"), "{problem}");
    for (change, field) in [
        (json!({"objectOperations": []}), "objectOperations"),
        (json!({"programID": "other"}), "programID"),
        (json!({"clientName": ""}), "clientName"),
    ] {
        let mut wrong = wanted(&format!("http://{host}/x"));
        let (name, value) = change.as_object().unwrap().iter().next().unwrap();
        wrong[name] = value.clone();
        assert_eq!(post(&town, "u1", "subscriptions", wrong).await.1["field"], field);
    }
    let (status, made) = post(&town, "u1", "subscriptions", wanted(&format!("http://{host}/x"))).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(get(&town, "u2", "subscriptions").await.1, json!([]));
    let seen_by_operator = get(&town, "operator", "subscriptions").await.1;
    assert_eq!(seen_by_operator[0]["objectOperations"][0].get("bearerToken"), None, "somebody else's token");
    let (status, event) = post(&town, "operator", "events", event(TOMORROW, &[])).await;
    assert_eq!(status, 201, "{event}");
    let by_id = format!("events/{}", event["id"].as_str().unwrap());

    let call = hook.next().await;
    assert_eq!((call.what(), &call.body["object"]["id"]), (("EVENT", "CREATE"), &event["id"]));
    assert!(call.head.to_ascii_lowercase().contains("authorization: bearer s3cret"), "{}", call.head);
    call.answer("302 Found").await;
    eventually("a failure", async || town.counter("cloud_demand_callbacks_failed_total") == 1).await;
    // What comes after it waits behind it, also over a restart.
    assert_eq!(ask(&town, Who::User("operator"), Method::DELETE, &by_id, None).await.0, 200);
    let relay = town.client("relay-1").await;
    let report = json!({"eventID": event["id"], "clientName": "c", "resources": []}).to_string();
    relay.send(&Frame::new(1).run("cityA/u1/forebay/demand/peak", 1, &[&report])).await;
    relay.send(&Frame::new(2).run("cityA/u2/forebay/demand/peak", 1, &[&report])).await;
    eventually("what is told", async || town.counter("cloud_demand_callbacks_waiting") >= 2).await;
    town.stop().await;
    let town = Town::start_at(allowing(), clock.clone()).await;
    clock.set(5 * SECOND);
    let call = hook.next().await;
    assert_eq!(call.what(), ("EVENT", "CREATE"), "once more: it was not taken");
    call.answer("200 OK").await;
    let mut rest = Vec::new();
    for _ in 0..2 {
        let call = hook.next().await;
        rest.push((call.what().0.to_owned(), call.what().1.to_owned(), call.body["object"]["clientID"].clone()));
        call.answer("204 No Content").await;
    }
    rest.sort_by_key(|(kind, ..)| kind.clone());
    // The other client's report is not among them.
    let expected = [("EVENT".into(), "DELETE".into(), Value::Null), ("REPORT".into(), "CREATE".into(), json!("u1"))];
    assert_eq!(rest, expected);
    eventually("nothing waits", async || town.counter("cloud_demand_callbacks_waiting") == 0).await;
    assert_eq!(town.counter("cloud_demand_callbacks_total"), 3);
    town.stop().await;

    // A host that is not allowed any more is not called: what waits for it is given up, and counted.
    let town = Town::start_at(config(&path, &[]), clock.clone()).await;
    let again = json!({"programID": "peak", "intervalPeriod": {"start": TOMORROW, "duration": "PT20S"},
        "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-2.0]}]}]});
    assert_eq!(post(&town, "operator", "events", again).await.0, 201);
    eventually("it is dropped", async || town.counter("cloud_demand_callbacks_dropped_total") == 1).await;
    town.stop().await;
}
