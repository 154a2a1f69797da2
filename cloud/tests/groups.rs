//! Groups of relays: heartbeats and leases over real sockets, terms over restarts, and the fence in front of the archive.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::time::Duration;

use chassis::Span;
use cloud::Config;
use cloud::groups::settings::{Group, Term};
use cloud::groups::view::GroupsView;
use town::{Client, Frame, Town, dev, eventually, folder, guarded};
use wire::group::{Heartbeat, Lease};
use wire::{Epoch, RelayId};

const SERIES: &str = "cityA/meter-1/power";
const UNAVAILABLE: u8 = 0x83;
const NAMES: [&str; 4] = ["relay-1", "relay-2", "relay-3", "ana"];
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
users = ["ana"]
actions = ["query"]
topics = ["status", "data/#"]
"#;

fn relay(name: &str) -> RelayId {
    name.parse().unwrap()
}

fn group(ttl: Duration) -> Group {
    let members = NAMES[..3].iter().map(|name| relay(name)).collect();
    Group { name: relay("north"), members, ttl: Span(ttl), term: Term::default() }
}

fn config(path: &std::path::Path, ttl: Duration) -> Config {
    Config { groups: vec![group(ttl)], ..guarded(path, &NAMES, GRANTS) }
}

fn beat(name: &str, beat: u64, term: u64) -> Heartbeat {
    Heartbeat {
        group: relay("north"),
        relay_epoch: Epoch(1),
        beat,
        term,
        address: format!("{name}:1883"),
        done: false,
        period: Duration::from_secs(60),
        collected: vec![(5, 100 * beat)],
    }
}

/// Sends `name`'s heartbeat through `client`.
async fn send(client: &Client, name: &str, beat: &Heartbeat) {
    client.publish(&format!("up/{name}/stats"), beat.encode()).await.unwrap();
}

/// The next lease that is told to `name` on `client`.
async fn lease(client: &mut Client, name: &str) -> Lease {
    let received = client.next().await;
    assert_eq!(received.topic, format!("down/{name}/lease"));
    Lease::parse(&received.payload).unwrap()
}

/// The client of a relay that listens to its leases.
async fn member(town: &Town, name: &str) -> Client {
    let client = town.client(name).await;
    client.subscribe(&format!("down/{name}/lease")).await;
    client
}

/// A town in which relay-1 holds term 1 for a long time.
async fn led(path: &std::path::Path) -> (Town, Client) {
    let town = Town::start(config(path, Duration::from_secs(60))).await;
    let mut first = member(&town, "relay-1").await;
    send(&first, "relay-1", &beat("relay-1", 1, 0)).await;
    let told = lease(&mut first, "relay-1").await;
    assert_eq!((told.beat, told.term, told.holder), (1, 1, Some(relay("relay-1"))));
    (town, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_each_heartbeat_is_answered_and_a_silent_proxy_is_replaced_by_a_live_member() {
    let (_dir, path) = folder();
    let ttl = Duration::from_millis(600);
    let town = Town::start(config(&path, ttl)).await;
    let (mut one, mut two) = (member(&town, "relay-1").await, member(&town, "relay-2").await);
    send(&one, "relay-1", &beat("relay-1", 1, 0)).await;
    let told = lease(&mut one, "relay-1").await;
    assert_eq!((told.group.as_str(), told.beat, told.term, told.address.as_str()), ("north", 1, 1, "relay-1:1883"));
    assert!(told.ttl <= ttl);
    // The others hear of a new proxy before they ask.
    let told = lease(&mut two, "relay-2").await;
    assert_eq!((told.beat, told.holder), (0, Some(relay("relay-1"))));
    let silent = std::time::Instant::now();
    let mut number = 0;
    let told = loop {
        number += 1;
        send(&two, "relay-2", &beat("relay-2", number, 1)).await;
        let told = lease(&mut two, "relay-2").await;
        if told.term != 1 {
            break told;
        }
        assert_eq!((told.beat, told.ttl), (number, ttl));
        tokio::time::sleep(ttl / 6).await;
    };
    assert_eq!((told.term, told.holder), (2, Some(relay("relay-2"))));
    assert!(silent.elapsed() < town::DEADLINE);
    assert_eq!(town.counter("cloud_group_terms_total{reason=\"Silent\"}"), 1);
    assert!(town.counter("cloud_group_heartbeats_total{outcome=\"Answered\"}") >= 2);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_the_answer_does_not_wait_for_the_archive() {
    let (_dir, path) = folder();
    let (town, mut first) = led(&path).await;
    town.archive.faults().hold();
    let frames: Vec<_> = (1..=5).map(|number| Frame::new(number).run(SERIES, number, &["x"]).encode("relay-1")).collect();
    let mut tickets = Vec::new();
    for frame in frames {
        tickets.push(first.link.enqueue("up/relay-1/frames", frame).await.unwrap());
    }
    let beat = first.link.enqueue("up/relay-1/stats", beat("relay-1", 2, 1).encode()).await.unwrap();
    assert_eq!(lease(&mut first, "relay-1").await.beat, 2, "while nothing can be committed");
    town.archive.faults().release();
    for ticket in tickets.into_iter().chain([beat]) {
        ticket.await.unwrap();
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_proxy_that_carries_frames_and_sends_no_heartbeats_is_not_taken_for_dead() {
    let (_dir, path) = folder();
    let ttl = Duration::from_secs(1);
    let town = Town::start(config(&path, ttl)).await;
    let mut first = member(&town, "relay-1").await;
    send(&first, "relay-1", &beat("relay-1", 1, 0)).await;
    assert_eq!(lease(&mut first, "relay-1").await.term, 1);
    let second = town.client("relay-2").await;
    let started = std::time::Instant::now();
    let mut number = 0;
    while started.elapsed() < 3 * ttl {
        number += 1;
        send(&second, "relay-2", &beat("relay-2", number, 1)).await;
        let frame = Frame { term: 1, ..Frame::new(number).run(SERIES, number, &["x"]) }.encode("relay-2");
        first.publish("up/relay-2/frames", frame).await.unwrap();
        tokio::time::sleep(ttl / 10).await;
    }
    let silent = || town.registry.encode().contains("reason=\"Silent\"");
    assert!(!silent());
    eventually("another proxy", async || {
        number += 1;
        send(&second, "relay-2", &beat("relay-2", number, 1)).await;
        silent()
    })
    .await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_proxy_whose_frames_wait_for_a_slow_disk_is_not_taken_for_dead() {
    let (_dir, path) = folder();
    let ttl = Duration::from_millis(500);
    let town = Town::start(config(&path, ttl)).await;
    let mut first = member(&town, "relay-1").await;
    send(&first, "relay-1", &beat("relay-1", 1, 0)).await;
    assert_eq!(lease(&mut first, "relay-1").await.term, 1);
    let second = town.client("relay-2").await;
    town.archive.faults().hold();
    let frame = Frame { term: 1, ..Frame::new(1).run(SERIES, 1, &["x"]) }.encode("relay-2");
    let waiting = first.link.enqueue("up/relay-2/frames", frame).await.unwrap();
    let started = std::time::Instant::now();
    let mut number = 0;
    while started.elapsed() < 4 * ttl {
        number += 1;
        send(&second, "relay-2", &beat("relay-2", number, 1)).await;
        tokio::time::sleep(ttl / 10).await;
    }
    let silent = || town.registry.encode().contains("reason=\"Silent\"");
    assert!(!silent(), "the disk was slow and not the proxy");
    town.archive.faults().release();
    waiting.await.unwrap();
    eventually("another proxy, as this one says nothing more", async || {
        number += 1;
        send(&second, "relay-2", &beat("relay-2", number, 1)).await;
        silent()
    })
    .await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c11_frames_of_a_stale_term_or_by_a_strange_way_are_refused_and_kept_out() {
    let (_dir, path) = folder();
    let (town, mut first) = led(&path).await;
    let (second, third) = (town.client("relay-2").await, town.client("relay-3").await);
    let frame = |number, term| Frame { term, ..Frame::new(number).run(SERIES, number, &["x"]) }.encode("relay-2");
    let up = "up/relay-2/frames";
    // Through the proxy with its term, and directly without one.
    first.publish(up, frame(1, 1)).await.unwrap();
    second.publish(up, frame(2, 0)).await.unwrap();
    for (client, term) in [(&first, 0), (&first, 2), (&third, 1), (&third, 0), (&second, 9)] {
        assert_eq!(client.refused(up, frame(3, term)).await, UNAVAILABLE, "{} {term}", client.name);
    }
    assert_eq!(town.counter("cloud_frames_fenced_total"), 5);
    assert_eq!(town.counter("cloud_publishes_refused_total{reason=\"Fence\"}"), 5, "no sign of a disk that fails");
    assert!(!town.registry.encode().contains("reason=\"Archive\""));
    assert_eq!(town.walk("ana", SERIES, 100).await.len(), 2, "what is refused is not kept");
    // The proxy is done: its term is stale from the moment when there is another.
    second.subscribe("down/relay-2/lease").await;
    send(&second, "relay-2", &beat("relay-2", 1, 1)).await;
    send(&first, "relay-1", &Heartbeat { done: true, ..beat("relay-1", 2, 1) }).await;
    let told = lease(&mut first, "relay-1").await;
    assert_eq!((told.term, told.holder), (2, Some(relay("relay-2"))));
    assert_eq!(first.refused(up, frame(3, 1)).await, UNAVAILABLE);
    assert_eq!(first.refused("up/relay-2/stats", beat("relay-2", 3, 2).encode()).await, UNAVAILABLE, "nor its heartbeats");
    second.publish(up, frame(3, 2)).await.unwrap();
    first.publish("up/relay-1/frames", Frame::new(1).run("cityA/meter-2/power", 1, &["x"]).encode("relay-1")).await.unwrap();
    assert_eq!(town.walk("ana", SERIES, 100).await.len(), 3);
    assert_eq!(town.counter("cloud_records_duplicate_total"), 0);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_restart_of_the_cloud_repeats_no_term_and_forgets_no_round() {
    let (_dir, path) = folder();
    let (town, first) = led(&path).await;
    drop(first);
    town.stop().await;
    let ttl = Duration::from_secs(1);
    let town = Town::start(config(&path, ttl)).await;
    let mut first = member(&town, "relay-1").await;
    send(&first, "relay-1", &beat("relay-1", 9, 1)).await;
    let told = lease(&mut first, "relay-1").await;
    assert_eq!((told.beat, told.term, told.holder), (9, 1, Some(relay("relay-1"))), "it goes on");
    drop(first);
    town.stop().await;
    let town = Town::start(config(&path, ttl)).await;
    let mut third = member(&town, "relay-3").await;
    let mut number = 0;
    eventually("another proxy", async || {
        number += 1;
        send(&third, "relay-3", &beat("relay-3", number, 1)).await;
        let told = lease(&mut third, "relay-3").await;
        assert!(told.term == 1 || (told.term, &told.holder) == (2, &Some(relay("relay-3"))), "{told:?}");
        told.term == 2
    })
    .await;
    let (status, view) = town.get("ana", "/api/v1/groups").await;
    assert_eq!(status, 200, "{view}");
    let view: GroupsView = serde_json::from_value(view).unwrap();
    let served: Vec<bool> = view.groups[0].members.iter().map(|member| member.served).collect();
    assert_eq!(served, [true, false, true]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c11_a_damaged_book_is_put_aside_and_terms_go_on_above_those_that_members_know() {
    let (_dir, path) = folder();
    let (town, first) = led(&path).await;
    drop(first);
    town.stop().await;
    std::fs::write(path.join("data/groups.sqlite"), [7; 9_000]).unwrap();
    let town = Town::start(config(&path, Duration::from_secs(60))).await;
    let mut second = member(&town, "relay-2").await;
    send(&second, "relay-2", &beat("relay-2", 1, 41)).await;
    assert_eq!(lease(&mut second, "relay-2").await.term, 42);
    assert!(path.join("data/groups.sqlite.damaged-1").exists());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_the_groups_are_shown_to_those_who_may_see_the_counters() {
    let (_dir, path) = folder();
    let (town, mut first) = led(&path).await;
    let second = member(&town, "relay-2").await;
    send(&second, "relay-2", &beat("relay-2", 1, 1)).await;
    send(&second, "relay-2", &beat("relay-2", 3, 1)).await;
    send(&first, "relay-1", &Heartbeat { done: true, ..beat("relay-1", 2, 1) }).await;
    assert_eq!(lease(&mut first, "relay-1").await.term, 2);
    assert_eq!(town.get("relay-1", "/api/v1/groups").await.0, 403);
    assert_eq!(town.get("ana", "/api/v1/groups?terms=1001").await.1["field"], "terms");
    let (_, view) = town.get("ana", "/api/v1/groups").await;
    let view: GroupsView = serde_json::from_value(view).unwrap();
    let north = &view.groups[0];
    assert_eq!((north.term, north.holder.as_ref(), north.address.as_str()), (2, Some(&relay("relay-2")), "relay-2:1883"));
    let last = |index: usize| north.members[index].last.as_ref().map(|last| (last.score, last.bars.clone()));
    assert_eq!(last(0), Some((None, vec![100])), "the proxy is not scored, and what came before its term does not count");
    assert_eq!(last(1), Some((Some(300.0), vec![300])));
    assert_eq!(last(2), Some((None, vec![])), "who is not there is not scored");
    let terms: Vec<_> =
        north.terms.iter().map(|term| (term.term, term.holder.as_str(), term.ended.map(|e| e.as_str()))).collect();
    assert_eq!(terms, [(2, "relay-2", None), (1, "relay-1", Some("done"))]);
    assert_eq!(north.terms[1].until.as_ref(), Some(&north.terms[0].since));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_relay_in_no_group_is_told_that_there_is_no_proxy() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut lone = member(&town, "relay-9").await;
    send(&lone, "relay-9", &beat("relay-9", 5, 0)).await;
    let told = lease(&mut lone, "relay-9").await;
    assert_eq!((told.group.as_str(), told.beat, told.term, told.holder), ("north", 5, 0, None));
    let frame = |term| Frame { term, ..Frame::new(1).run(SERIES, 1, &["x"]) }.encode("relay-9");
    assert_eq!(lone.refused("up/relay-9/frames", frame(1)).await, UNAVAILABLE, "a term without a group");
    lone.publish("up/relay-9/frames", frame(0)).await.unwrap();
    assert_eq!(lone.refused("up/relay-9/stats", b"no heartbeat".to_vec()).await, 0x99);
    let (_, view) = town.get("", "/api/v1/groups").await;
    assert_eq!(view, serde_json::json!({ "groups": [] }));
    assert!(!path.join("data/groups.sqlite").exists());
    town.stop().await;
}
