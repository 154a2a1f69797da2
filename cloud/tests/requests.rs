//! Somebody asks for access, an authority vouches for him, a rule or an operator approves, and he sees that and nothing else until
//! it ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "town/issuer.rs"]
mod issuer;
mod town;

use std::path::Path;
use std::time::{Duration, Instant};

use broker::Message;
use chassis::Span;
use cloud::access::audit::{self, Entry};
use cloud::access::config::{Authority, Rule, Tokens};
use cloud::{Access, Config};
use issuer::Issuer;
use link::{Link, LinkConfig, SubscribeError};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use town::{Client, DEADLINE, Frame, Town, connack, eventually, folder, guarded, in_seconds, seconds};

const NOT_AUTHORIZED: u8 = 0x87;
const ISSUER: &str = "https://id.city";

const GRANTS: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]

[[grant]]
users = ["oscar"]
actions = ["query", "publish"]
topics = ["access"]

[[grant]]
users = ["vera"]
actions = ["query"]
topics = ["access"]

[[grant]]
users = ["*"]
actions = ["subscribe"]
topics = ["notices"]
"#;

const SENSORS: &str =
    "[sensors]\n\"cityA/home\" = [\"residential\"]\n\"cityA/shop\" = [\"commercial\"]\n\"cityB/home\" = [\"residential\"]\n";

fn claims(subject: &str) -> Value {
    json!({"iss": ISSUER, "aud": "forebay", "sub": subject, "exp": seconds() + 600, "name": "Ana", "roles": ["researcher"]})
}

/// A cloud that trusts an issuer whose keys are in a file, and a directory of nobody.
fn config(path: &Path, issuer: &Issuer) -> Config {
    let mut config = guarded(path, &["relay-1", "oscar", "vera", "dora", "fred"], GRANTS);
    let [keys, directory, sensors] = ["keys.json", "directory.toml", "sensors.toml"].map(|name| path.join(name));
    std::fs::write(&keys, issuer.keys().to_string()).unwrap();
    std::fs::write(&directory, "[user.dora]\nroles = [\"planner\"]\n").unwrap();
    std::fs::write(&sensors, SENSORS).unwrap();
    if let Access::Files { sensors: place, .. } = &mut config.access {
        *place = Some(sensors);
    }
    config.authority = Authority { tokens: Some(tokens(keys.to_str().unwrap())), directory: Some(directory) };
    config
}

fn tokens(keys: &str) -> Tokens {
    Tokens {
        name: "city".into(),
        issuer: ISSUER.into(),
        audience: "forebay".into(),
        keys: keys.into(),
        keys_ca: None,
        algorithms: cloud::access::Algorithm::ALL.to_vec(),
        leeway: Span::seconds(0),
        refresh: Span::seconds(300),
    }
}

/// Residential electricity of city A.
fn ask() -> Value {
    json!({"areas": ["cityA"], "tags": ["residential"], "streams": ["power/active"], "actions": ["subscribe", "query"],
        "until": in_seconds(3_600), "purpose": "how homes use electricity"})
}

/// Somebody at the HTTP face.
enum Who<'a> {
    User(&'a str),
    Token(&'a str),
}

async fn http(town: &Town, method: Method, who: &Who<'_>, path: &str, body: Option<&Value>) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("http://{}{path}", town.http));
    let request = match who {
        Who::User("") => request,
        Who::User(user) => request.basic_auth(user, Some(user)),
        Who::Token(token) => request.bearer_auth(token),
    };
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = tokio::time::timeout(DEADLINE, request.send()).await.expect("no answer").unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn post(town: &Town, who: &Who<'_>, path: &str, body: &Value) -> (u16, Value) {
    http(town, Method::POST, who, &format!("/api/v1/access/requests{path}"), Some(body)).await
}

async fn get(town: &Town, who: &Who<'_>, path: &str) -> (u16, Value) {
    http(town, Method::GET, who, path, None).await
}

async fn past(town: &Town, who: &Who<'_>, series: &str) -> u16 {
    get(town, who, &format!("/api/v1/records?series={series}")).await.0
}

/// An MQTT client whose password is a token.
async fn connect(town: &Town, client: &str, user: &str, token: &str) -> Client {
    let config = LinkConfig::new(town.mqtt.ip().to_string(), town.mqtt.port(), client).with_credentials(user, token);
    let (link, incoming) = Link::start(config);
    let mut connected = link.connected();
    tokio::time::timeout(DEADLINE, connected.wait_for(|connected| *connected)).await.expect("no connection").unwrap();
    Client::new(client, link, incoming)
}

fn frame(number: u64) -> Frame {
    let frame =
        Frame::new(number).run("cityA/home/power/active", number, &["home"]).run("cityA/home/power/reactive", number, &["q"]);
    frame.run("cityA/shop/power/active", number, &["shop"]).run("cityB/home/power/active", number, &["far"])
}

const HOME: &str = "cityA/home/power/active";
const WITHHELD: &str = "broker_deliveries_withheld_total{reason=\"NotAuthorized\"}";

/// Whether nothing more comes than this notice: what is withheld is counted first.
async fn only_a_notice(town: &Town, client: &mut Client, withheld: u64) {
    eventually("it is withheld", async || town.registry.encode().contains(WITHHELD) && town.counter(WITHHELD) >= withheld).await;
    town.hub.publish(Message::new("notices", "nothing else")).await;
    assert_eq!(client.next().await.topic, "notices");
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_researcher_asks_is_approved_sees_exactly_that_and_nothing_a_second_after_it_is_revoked() {
    let (_dir, path) = folder();
    let issuer = Issuer::new();
    let town = Town::start(config(&path, &issuer)).await;
    let relay = town.client("relay-1").await;
    let token = issuer.token(&claims("ana"));
    let (ana, oscar) = (Who::Token(&token), Who::User("oscar"));
    let mut live = connect(&town, "desk", "ana", &token).await;
    live.subscribe("notices").await;
    relay.send(&frame(1)).await;
    assert_eq!(past(&town, &ana, HOME).await, 403, "a token alone grants nothing");
    let refused = live.link.subscribe("data/cityA/+/power/active", link::Qos::One).await;
    assert_eq!(refused, Err(SubscribeError::Refused { reason_code: NOT_AUTHORIZED }));

    let (status, asked) = post(&town, &ana, "", &ask()).await;
    assert_eq!((status, &asked["state"], &asked["user"]), (201, &json!("waiting"), &json!("city:ana")), "{asked}");
    assert_eq!(asked["attributes"], json!({"name": "Ana", "roles": ["researcher"]}));
    assert_eq!(past(&town, &ana, HOME).await, 403, "waiting grants nothing");
    let id = asked["id"].as_u64().unwrap();
    let (_, listed) = get(&town, &oscar, "/api/v1/access/requests?state=waiting").await;
    assert_eq!(listed["requests"][0]["id"], id);
    let (status, approved) = post(&town, &oscar, &format!("/{id}/approve"), &json!({"reason": "a good study"})).await;
    assert_eq!(
        (status, &approved["state"], &approved["granted"]["holds"]),
        (200, &json!("approved"), &json!(true)),
        "{approved}"
    );

    // In force when the answer is there: exactly that, past and live.
    for (series, expected) in
        [(HOME, 200), ("cityA/home/power/reactive", 403), ("cityA/shop/power/active", 403), ("cityB/home/power/active", 403)]
    {
        assert_eq!(past(&town, &ana, series).await, expected, "{series}");
    }
    for filter in ["#", "data/#", "data/cityA/#", "data/+/+/power/active", "data/cityA/shop/power/active"] {
        let refused = live.link.subscribe(filter, link::Qos::One).await;
        assert_eq!(refused, Err(SubscribeError::Refused { reason_code: NOT_AUTHORIZED }), "{filter}");
    }
    live.subscribe("data/cityA/+/power/active").await;
    relay.send(&frame(2)).await;
    let seen = live.next().await;
    assert_eq!((seen.topic.as_str(), &seen.payload[..]), ("data/cityA/home/power/active", &b"home"[..]));
    only_a_notice(&town, &mut live, 1).await;

    let revoking = Instant::now();
    let (status, revoked) = post(&town, &oscar, &format!("/{id}/revoke"), &json!({"reason": "the study is over"})).await;
    assert_eq!((status, &revoked["state"], &revoked["granted"]), (200, &json!("revoked"), &Value::Null), "{revoked}");
    assert_eq!(past(&town, &ana, HOME).await, 403);
    relay.send(&frame(3)).await;
    only_a_notice(&town, &mut live, 3).await;
    assert!(revoking.elapsed() < Duration::from_secs(1), "{:?}", revoking.elapsed());
    let (status, _) = post(&town, &oscar, &format!("/{id}/approve"), &json!({"reason": "again"})).await;
    assert_eq!(status, 409, "what was revoked has to be asked for again");

    let (_, log) = get(&town, &Who::User("vera"), "/api/v1/access/log").await;
    let entries: Vec<Entry> = serde_json::from_value(log["entries"].clone()).unwrap();
    let said: Vec<_> = entries.iter().map(|entry| (entry.who.as_str(), entry.what.as_str(), entry.reason.as_str())).collect();
    let expected = [
        ("city:ana", "asked", "how homes use electricity"),
        ("oscar", "approved", "a good study"),
        ("oscar", "revoked", "the study is over"),
    ];
    assert_eq!(said, expected);
    let mut before = audit::FIRST;
    for (seq, entry) in (1..).zip(&entries) {
        before = entry.follows(seq, before).expect("the trail hangs together");
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_token_that_does_not_hold_opens_neither_face() {
    let (_dir, path) = folder();
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let town = Town::start(config(&path, &issuer)).await;
    let good = issuer.token(&claims("ana"));
    assert_eq!((past(&town, &Who::Token(&good), HOME).await, connack(&town, "ana", &good).await), (403, 0));
    assert_eq!(connack(&town, "city:ana", &good).await, 0);
    let with = |name: &str, value: Value| {
        let mut claims = claims("ana");
        claims[name] = value;
        issuer.token(&claims)
    };
    let unsigned = good.rsplit_once('.').unwrap().0;
    let none = issuer.sign(&json!({"alg": "none", "kid": "ed"}), "ed", &claims("ana"));
    let bad = [
        ("another issuer's key", stranger.token(&claims("ana"))),
        ("another issuer", with("iss", json!("https://id.village"))),
        ("another audience", with("aud", json!("billing"))),
        ("expired", with("exp", json!(seconds() - 1))),
        ("early", with("nbf", json!(seconds() + 60))),
        ("no signature", format!("{unsigned}.")),
        ("algorithm none", none),
        ("a key as a secret", issuer.sign(&json!({"alg": "HS256", "kid": "rsa"}), "ed", &claims("ana"))),
        ("another algorithm", issuer.sign(&json!({"alg": "RS256", "kid": "ed"}), "rsa", &claims("ana"))),
        ("unknown key", issuer.sign(&json!({"alg": "EdDSA", "kid": "new"}), "ed", &claims("ana"))),
        ("huge", with("pad", json!("x".repeat(9_000)))),
        ("a wildcard", with("sub", json!("#"))),
        ("everybody", with("sub", json!("*"))),
    ];
    for (name, token) in &bad {
        assert_eq!(past(&town, &Who::Token(token), HOME).await, 401, "{name}");
        assert_eq!(connack(&town, "ana", token).await, 4, "{name}");
        let (status, _) = post(&town, &Who::Token(token), "", &ask()).await;
        assert_eq!(status, 401, "{name}");
    }
    assert_eq!(connack(&town, "oscar", &good).await, 4, "a token is its subject's own");
    // A subject that is called like an operator is not the operator.
    let oscar = issuer.token(&claims("oscar"));
    assert_eq!(connack(&town, "oscar", &oscar).await, 0);
    let (status, _) = get(&town, &Who::Token(&oscar), "/api/v1/access/log").await;
    assert_eq!(status, 403);
    assert_eq!(town.counter("cloud_access_tokens_refused_total"), 3 * bad.len() as u64);
    assert_eq!(past(&town, &Who::Token("no token"), HOME).await, 401);
    assert_eq!(past(&town, &Who::Token(&"x".repeat(20_000)), HOME).await, 401);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_nobody_gets_more_than_he_asked_for_or_decides_what_is_not_his() {
    let (_dir, path) = folder();
    let issuer = Issuer::new();
    let mut config = config(&path, &issuer);
    config.requests.waiting_max = 2;
    let town = Town::start(config).await;
    let (ana, eve) = (issuer.token(&claims("ana")), issuer.token(&claims("eve")));
    let (ana, eve, oscar, dora) = (Who::Token(&ana), Who::Token(&eve), Who::User("oscar"), Who::User("dora"));
    for (field, value) in [
        ("areas", json!(["../cityB"])),
        ("areas", json!(["cityA/../cityB"])),
        ("areas", json!(["cityA/#"])),
        ("areas", json!(["+"])),
        ("areas", json!(["%u"])),
        ("tags", json!(["#"])),
        ("actions", json!(["publish"])),
        ("until", json!(in_seconds(-1))),
        ("until", json!(in_seconds(400 * 86_400))),
        ("purpose", json!("")),
    ] {
        let mut wrong = ask();
        wrong[field] = value.clone();
        let (status, problem) = post(&town, &ana, "", &wrong).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{value}: {problem}");
    }
    let mut topics = ask();
    topics["topics"] = json!(["#"]);
    assert_eq!(post(&town, &ana, "", &topics).await.0, 400, "there is no way to ask for topics");
    let mut large = ask();
    large["purpose"] = json!("x".repeat(40_000));
    assert_eq!(post(&town, &ana, "", &large).await.0, 400);
    assert_eq!(post(&town, &Who::User(""), "", &ask()).await.0, 401);
    assert_eq!(post(&town, &Who::User("fred"), "", &ask()).await.0, 403, "a password alone is no identity that is vouched for");

    let (_, asked) = post(&town, &ana, "", &ask()).await;
    let (_, listed) = post(&town, &dora, "", &ask()).await;
    assert_eq!(listed["authority"], "directory");
    let id = asked["id"].as_u64().unwrap();
    let reason = json!({"reason": "because"});
    for (who, what, expected) in [
        (&ana, "approve", 403),
        (&ana, "reject", 403),
        (&eve, "approve", 404),
        (&eve, "withdraw", 404),
        (&Who::User("vera"), "approve", 404),
        (&Who::User(""), "approve", 401),
        (&oscar, "withdraw", 403),
        (&oscar, "revoke", 409),
        (&oscar, "grant", 404),
    ] {
        assert_eq!(post(&town, who, &format!("/{id}/{what}"), &reason).await.0, expected, "{what}");
    }
    for narrowed in [
        json!({"areas": ["cityA", "cityB"]}),
        json!({"areas": ["../cityA"]}),
        json!({"tags": []}),
        json!({"streams": []}),
        json!({"streams": ["#"]}),
        json!({"actions": ["publish"]}),
        json!({"until": in_seconds(7_200)}),
    ] {
        let (status, problem) =
            post(&town, &oscar, &format!("/{id}/approve"), &json!({"reason": "r", "narrowed": narrowed})).await;
        assert_eq!(status, 400, "{narrowed}: {problem}");
    }
    assert_eq!(post(&town, &oscar, &format!("/{id}/approve"), &json!({"reason": " "})).await.0, 400);
    let (_, mine) = get(&town, &ana, "/api/v1/access/requests").await;
    assert_eq!(mine["requests"].as_array().unwrap().len(), 1, "one's own and no others: {mine}");
    assert_eq!(get(&town, &eve, &format!("/api/v1/access/requests/{id}")).await.0, 404);
    assert_eq!(get(&town, &Who::User("vera"), &format!("/api/v1/access/requests/{id}")).await.0, 200);
    assert_eq!(get(&town, &ana, "/api/v1/access/log").await.0, 403);

    let less = json!({"reason": "live is not needed", "narrowed": {"actions": ["query"], "until": in_seconds(1_800)}});
    let (status, given) = post(&town, &oscar, &format!("/{id}/approve"), &less).await;
    assert_eq!((status, &given["granted"]["bounds"]["actions"]), (200, &json!(["query"])), "{given}");
    assert_eq!(past(&town, &ana, HOME).await, 200);
    assert_eq!(past(&town, &eve, HOME).await, 403);
    assert_eq!(past(&town, &dora, HOME).await, 403);
    // Whoever has it may give it back himself.
    assert_eq!(post(&town, &ana, &format!("/{id}/revoke"), &reason).await.0, 200);
    assert_eq!(past(&town, &ana, HOME).await, 403);

    for _ in 0..2 {
        assert_eq!(post(&town, &eve, "", &ask()).await.0, 201);
    }
    let (status, problem) = post(&town, &eve, "", &ask()).await;
    assert_eq!(status, 429, "{problem}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_rule_approves_for_the_directory_and_the_grant_lives_over_a_restart_and_ends_with_the_entry() {
    let (_dir, path) = folder();
    let issuer = Issuer::new();
    let ruled = || {
        let mut config = config(&path, &issuer);
        config.requests.rules.push(Rule {
            name: "planners".into(),
            authority: "directory".into(),
            claims: [("roles".to_owned(), "planner".to_owned())].into(),
            actions: vec![wire::grants::Action::Query],
            areas: vec!["cityA".into()],
            tags: Vec::new(),
            streams: Vec::new(),
            lasting: Span::seconds(600),
        });
        config
    };
    let town = Town::start(ruled()).await;
    let dora = Who::User("dora");
    let mut wanted = ask();
    let (_, waits) = post(&town, &dora, "", &wanted).await;
    assert_eq!(waits["state"], "waiting", "the rule knows no subscribe");
    wanted["actions"] = json!(["query"]);
    let (status, asked) = post(&town, &dora, "", &wanted).await;
    assert_eq!(
        (status, &asked["state"], &asked["decision"]["by"]),
        (201, &json!("approved"), &json!("rule planners")),
        "{asked}"
    );
    let until: jiff::Timestamp = asked["granted"]["until"].as_str().unwrap().parse().unwrap();
    assert!((590..=600).contains(&(until.as_second() - seconds())), "cut to what the rule gives: {until}");
    assert_eq!(past(&town, &dora, HOME).await, 200);
    // The researcher's token says nothing to the directory's rule.
    let ana = issuer.token(&claims("ana"));
    assert_eq!(post(&town, &Who::Token(&ana), "", &wanted).await.1["state"], "waiting");
    town.stop().await;

    let town = Town::start(ruled()).await;
    assert_eq!(past(&town, &dora, HOME).await, 200, "in force from the first moment");
    let gone = Instant::now();
    std::fs::write(path.join("directory.toml"), "").unwrap();
    eventually("dora has nothing", async || past(&town, &dora, HOME).await == 403).await;
    assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
    assert_eq!(post(&town, &dora, "", &wanted).await.0, 403);
    std::fs::write(path.join("directory.toml"), "[user.dora]\nroles = 7\n").unwrap();
    std::fs::write(path.join("directory.toml"), "[user.dora]\n").unwrap();
    eventually("dora is back", async || past(&town, &dora, HOME).await == 200).await;
    town.stop().await;
}

/// The connection ends with the next message that would have gone to it, and no message does.
async fn is_sent_away(relay: &Client, live: &mut Client, first: u64) {
    let (connected, mut number) = (live.link.connected(), first);
    eventually("the connection is closed", async || {
        relay.send(&frame(number)).await;
        number += 1;
        !*connected.borrow()
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_millis(50), live.incoming.next()).await.is_err(), "nothing came meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_a_token_that_ends_and_a_key_that_is_withdrawn_end_what_came_by_them() {
    let (_dir, path) = folder();
    let issuer = Issuer::new();
    let mut config = config(&path, &issuer);
    config.requests.rules.push(Rule {
        name: "all".into(),
        authority: "city".into(),
        claims: [].into(),
        actions: vec![wire::grants::Action::Query, wire::grants::Action::Subscribe],
        areas: vec!["cityA".into()],
        tags: Vec::new(),
        streams: Vec::new(),
        lasting: Span::seconds(600),
    });
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let mut short = claims("ana");
    short["exp"] = json!(seconds() + 3);
    let short = issuer.token(&short);
    assert_eq!(post(&town, &Who::Token(&short), "", &ask()).await.1["state"], "approved");
    let mut live = connect(&town, "desk", "ana", &short).await;
    live.subscribe("data/cityA/+/power/active").await;
    relay.send(&frame(1)).await;
    assert_eq!(live.next().await.topic, "data/cityA/home/power/active");
    eventually("the token has ended", async || past(&town, &Who::Token(&short), HOME).await == 401).await;
    is_sent_away(&relay, &mut live, 2).await;
    drop(live);

    let token = issuer.token(&claims("ana"));
    let mut live = connect(&town, "table", "ana", &token).await;
    live.subscribe("data/cityA/+/power/active").await;
    relay.send(&frame(1_000)).await;
    assert_eq!(live.next().await.topic, "data/cityA/home/power/active", "the grant was not the token's");
    // The issuer withdraws the key.
    let mut keys = issuer.keys();
    keys["keys"].as_array_mut().unwrap().retain(|key| key["kid"] != "ed");
    let withdrawn = Instant::now();
    std::fs::write(path.join("keys.json"), keys.to_string()).unwrap();
    eventually("the key is gone", async || past(&town, &Who::Token(&token), HOME).await == 401).await;
    is_sent_away(&relay, &mut live, 1_001).await;
    assert!(withdrawn.elapsed() < Duration::from_secs(1), "{:?}", withdrawn.elapsed());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_keys_come_from_an_address_that_may_be_away_at_first() {
    let (_dir, path) = folder();
    let issuer = Issuer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = config(&path, &issuer);
    config.authority.tokens = Some(tokens(&format!("http://{address}/keys")));
    let town = Town::start(config).await;
    let token = issuer.token(&claims("ana"));
    assert_eq!(past(&town, &Who::Token(&token), HOME).await, 401, "without keys no token holds");
    assert!(town.counter("cloud_access_keys_failed_total") >= 1);
    let listener = TcpListener::bind(address).await.unwrap();
    let keys = issuer.keys().to_string();
    let serving = tokio::spawn(async move {
        // First somebody who says too much: it is not read to its end.
        for body in [" ".repeat(1 << 20), keys.clone(), keys] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // The reader may have gone.
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    eventually("the keys are there", async || past(&town, &Who::Token(&token), HOME).await == 403).await;
    assert!(town.counter("cloud_access_keys_failed_total") >= 2);
    serving.abort();
    town.stop().await;
}

/// Serves the issuer's keys by HTTP to everybody who comes.
async fn serve_keys(keys: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}", keys.len());
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                // The reader may have gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_keys_by_tls_count_if_the_named_authority_vouches_for_the_issuer() {
    let issuer = Issuer::new();
    let (ours, theirs) = (testkit::Authority::new(), testkit::Authority::new());
    let keys = serve_keys(issuer.keys().to_string()).await;
    let (right, elsewhere) = (ours.front("127.0.0.1", keys).await, ours.front("id.example.net", keys).await);
    for (front, authority, expected) in [(&right, &theirs, 401), (&elsewhere, &ours, 401), (&right, &ours, 403)] {
        let (_dir, path) = folder();
        let ca = path.join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let mut config = config(&path, &issuer);
        let keys = format!("https://{}/keys", front.address);
        config.authority.tokens = Some(Tokens { keys_ca: Some(ca), ..tokens(&keys) });
        let town = Town::start(config).await;
        let token = issuer.token(&claims("ana"));
        if expected == 401 {
            eventually("the keys are refused", async || town.counter("cloud_access_keys_failed_total") >= 1).await;
        }
        eventually("the answer", async || past(&town, &Who::Token(&token), HOME).await == expected).await;
        town.stop().await;
    }
}
