//! A link against a scripted peer, on real sockets.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use link::{Backoff, Incoming, Link, LinkConfig, LinkState, Message, PublishError, Qos, SubscribeError};
use testkit::packet::Limits;
use testkit::{Answer, CutLink, Packet, Peer, Publish, Script, Way, wait_until};

const SOON: Duration = Duration::from_secs(8);

fn config(address: std::net::SocketAddr) -> LinkConfig {
    LinkConfig {
        backoff: Backoff::try_new(Duration::from_millis(5), Duration::from_millis(50), 0.5).unwrap(),
        refused_retry: Duration::from_millis(400),
        seed: Some(1),
        ..LinkConfig::new(address.ip().to_string(), address.port(), "relay-1")
    }
}

async fn linked(script: Script) -> (Peer, Link, Incoming) {
    let peer = Peer::start(script).await;
    let (link, incoming) = Link::start(config(peer.address()));
    connected(&link).await;
    (peer, link, incoming)
}

async fn connected(link: &Link) {
    let connected = link.connected();
    wait_until(
        SOON,
        "the link is connected",
        async || {
            if *connected.borrow() { Ok(()) } else { Err(link.state().borrow().clone()) }
        },
    )
    .await;
}

async fn held(peer: &Peer, count: usize) {
    wait_until(SOON, "so many publishes are held", async || if peer.held() == count { Ok(()) } else { Err(peer.held()) }).await;
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

fn refused(reason_code: u8) -> Result<(), PublishError> {
    Err(PublishError::Refused { reason_code })
}

#[tokio::test]
async fn a_publish_resolves_at_its_ack_and_not_before() {
    let (peer, link, _incoming) = linked(Script::default().publishes(Answer::Hold)).await;
    let mut ticket = link.enqueue("up/relay-1/frames", "one").await.unwrap();
    held(&peer, 1).await;
    let early = tokio::time::timeout(Duration::from_millis(30), &mut ticket).await;
    assert!(early.is_err(), "resolved without an ack: {early:?}");
    peer.release_all();
    assert_eq!(in_time(ticket).await, Ok(()));
    let seen = &peer.publishes()[0];
    assert_eq!((seen.topic.as_str(), &seen.payload[..]), ("up/relay-1/frames", &b"one"[..]));
    assert_eq!((seen.qos, seen.dup), (1, false));
}

#[tokio::test]
async fn acks_out_of_order_resolve_the_right_tickets() {
    let (peer, link, _incoming) = linked(Script::default().publishes(Answer::Hold)).await;
    let mut tickets = Vec::new();
    for n in 0..4 {
        tickets.push(link.enqueue("t", vec![n]).await.unwrap());
    }
    held(&peer, 4).await;
    peer.release(&[2], 0);
    assert_eq!(in_time(tickets.remove(2)).await, Ok(()));
    peer.release(&[0], 0x97);
    assert_eq!(in_time(tickets.remove(0)).await, refused(0x97));
    peer.release_all();
    for ticket in tickets {
        assert_eq!(in_time(ticket).await, Ok(()));
    }
    let order: Vec<u8> = peer.publishes().iter().map(|p| p.payload[0]).collect();
    assert_eq!(order, [0, 1, 2, 3]);
}

#[tokio::test]
async fn ten_thousand_publishes_keep_their_order() {
    let (peer, link, _incoming) = linked(Script::default()).await;
    let mut tickets = Vec::new();
    for n in 0..10_000u32 {
        tickets.push(link.enqueue("t", n.to_be_bytes().to_vec()).await.unwrap());
    }
    for ticket in tickets {
        assert_eq!(in_time(ticket).await, Ok(()));
    }
    let seen: Vec<u32> = peer.publishes().iter().map(|p| u32::from_be_bytes(p.payload[..].try_into().unwrap())).collect();
    assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn refusals_carry_the_reason_code() {
    let script = Script::default().on_publish(|n, _| match n {
        0 => Answer::Refuse(0x97),
        1 => Answer::Refuse(0x87),
        2 => Answer::Refuse(0x10),
        _ => Answer::Ack,
    });
    let (_peer, link, _incoming) = linked(script).await;
    let full = in_time(link.publish("t", "a")).await;
    assert!(full.as_ref().is_err_and(PublishError::is_quota), "{full:?}");
    assert_eq!(in_time(link.publish("t", "b")).await, refused(0x87));
    // "No matching subscribers" is a success.
    assert_eq!(in_time(link.publish("t", "c")).await, Ok(()));
    assert_eq!(in_time(link.publish("t", "d")).await, Ok(()));
}

#[tokio::test]
async fn a_lost_connection_loses_its_tickets_and_sends_nothing_again() {
    let (peer, link, _incoming) = linked(Script::default().publishes(Answer::Hold)).await;
    let mut tickets = Vec::new();
    for n in 0..5 {
        tickets.push(link.enqueue("t", vec![n]).await.unwrap());
    }
    held(&peer, 5).await;
    peer.script(|script| script.publishes(Answer::Ack));
    peer.hang_up();
    for ticket in tickets {
        assert_eq!(in_time(ticket).await, Err(PublishError::Lost));
    }
    // Waits for the next connection by itself.
    assert_eq!(in_time(link.publish("t", "after")).await, Ok(()));
    let payloads: Vec<Bytes> = peer.publishes().into_iter().map(|p| p.payload).collect();
    assert_eq!(payloads.len(), 6, "{payloads:?}");
    assert_eq!(&payloads[5][..], b"after");
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn publishes_that_wait_for_room_survive_the_lost_connection() {
    let peer = Peer::start(Script::default().publishes(Answer::Hold)).await;
    let (link, _incoming) = Link::start(LinkConfig { inflight_max: 2, ..config(peer.address()) });
    connected(&link).await;
    let first = link.enqueue("t", "1").await.unwrap();
    let second = link.enqueue("t", "2").await.unwrap();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.publish("t", "3").await }
    });
    held(&peer, 2).await;
    peer.script(|script| script.publishes(Answer::Ack));
    peer.hang_up();
    assert_eq!(in_time(first).await, Err(PublishError::Lost));
    assert_eq!(in_time(second).await, Err(PublishError::Lost));
    assert_eq!(in_time(waiting).await.unwrap(), Ok(()));
    assert_eq!(peer.publish_count(), 3);
}

#[tokio::test]
async fn filters_are_subscribed_again_before_connected_is_said() {
    let peer = Peer::start(Script::default()).await;
    let mut config = config(peer.address());
    config.filters = vec!["down/relay-1/lease".to_owned()];
    let (link, _incoming) = Link::start(config);
    // Before the connection is there.
    link.subscribe("down/relay-1/receipts", Qos::One).await.unwrap();
    connected(&link).await;
    in_time(link.subscribe("down/relay-1/commands", Qos::One)).await.unwrap();
    assert_eq!(peer.filters(0).len(), 3);

    let mut said = link.connected();
    said.mark_unchanged();
    peer.hang_up();
    in_time(said.wait_for(|connected| !connected)).await.unwrap();
    in_time(said.wait_for(|connected| *connected)).await.unwrap();
    assert_eq!(peer.filters(1), ["down/relay-1/lease", "down/relay-1/receipts", "down/relay-1/commands"]);
}

#[tokio::test]
async fn refused_filters_are_told_at_once_and_at_each_connection() {
    let script = Script::default().on_subscribe(|filter| if filter == "no/#" { 0x87 } else { 1 });
    let (peer, link, _incoming) = linked(script).await;
    let answer = in_time(link.subscribe("no/#", Qos::One)).await;
    assert_eq!(answer, Err(SubscribeError::Refused { reason_code: 0x87 }));
    in_time(link.subscribe("yes/#", Qos::Zero)).await.unwrap();
    let invalid = in_time(link.subscribe("a/#/b", Qos::Zero)).await;
    assert!(matches!(invalid, Err(SubscribeError::Invalid(_))), "{invalid:?}");

    // The refused one was forgotten; one that is refused later is kept and named.
    peer.script(|script| script.on_subscribe(|_| 0x87));
    peer.hang_up();
    wait_until(SOON, "the refused filter is named", async || {
        let state = link.state().borrow().clone();
        match &state {
            LinkState::Connected { refused_filters } if refused_filters[..] == ["yes/#"] => Ok(()),
            _ => Err(state),
        }
    })
    .await;
    assert_eq!(peer.filters(1), ["yes/#"]);
}

#[tokio::test]
async fn filters_come_and_go_on_one_connection_and_those_that_went_do_not_come_back() {
    let script = Script::default().on_subscribe(|filter| if filter == "down/b/lease" { 0x87 } else { 1 });
    let (peer, link, _incoming) = linked(script).await;
    let filters = |all: &[&str]| all.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>();
    in_time(link.subscribe_all(filters(&["down/a/receipts", "down/a/lease"]), Qos::One)).await.unwrap();
    let refused = in_time(link.subscribe_all(filters(&["down/b/receipts", "down/b/lease"]), Qos::One)).await;
    assert_eq!(refused, Err(SubscribeError::Refused { reason_code: 0x87 }));
    in_time(link.unsubscribe("down/a/lease")).await;
    in_time(link.unsubscribe("down/a/lease")).await;
    let gone = peer.seen().into_iter().filter(|seen| matches!(seen.packet, Packet::Unsubscribe { .. })).count();
    assert_eq!(gone, 1, "what is not subscribed is not unsubscribed");
    let mut said = link.connected();
    said.mark_unchanged();
    peer.hang_up();
    in_time(said.wait_for(|connected| !connected)).await.unwrap();
    in_time(said.wait_for(|connected| *connected)).await.unwrap();
    assert_eq!(peer.filters(1), ["down/a/receipts", "down/b/receipts"]);
}

#[tokio::test]
async fn messages_come_with_everything_they_carry() {
    let (peer, link, mut incoming) = linked(Script::default()).await;
    in_time(link.subscribe("query/#", Qos::One)).await.unwrap();
    let sent = Publish {
        topic: "query/analyst".to_owned(),
        payload: Bytes::from_static(b"from..to"),
        qos: 1,
        pkid: 9,
        response_topic: Some("answers/analyst/1".to_owned()),
        correlation_data: Some(Bytes::from_static(b"\x01\x02")),
        user_properties: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
        ..Publish::default()
    };
    peer.publish(sent.clone());
    let got = in_time(incoming.next()).await.unwrap();
    assert_eq!((got.topic, got.payload, got.retain), (sent.topic, sent.payload, false));
    assert_eq!(got.response_topic, sent.response_topic);
    assert_eq!(got.correlation_data, sent.correlation_data);
    assert_eq!(got.user_properties, sent.user_properties);
    wait_until(SOON, "the message is acknowledged", async || {
        let acked = |seen: &&testkit::peer::Seen| matches!(seen.packet, Packet::PubAck { pkid: 9, .. });
        peer.seen().iter().find(acked).map(|_| ()).ok_or_else(|| peer.seen())
    })
    .await;

    let answer = Message::new("answers/analyst/1", "page").asking("query/next", "\x03").with_property("complete", "no");
    in_time(in_time(link.send(answer)).await.unwrap()).await.unwrap();
    let seen = peer.publishes().pop().unwrap();
    assert_eq!(seen.response_topic.as_deref(), Some("query/next"));
    assert_eq!(seen.correlation_data.as_deref(), Some(&b"\x03"[..]));
    assert_eq!(seen.user_properties, [("complete".to_owned(), "no".to_owned())]);
}

#[tokio::test]
async fn a_wrong_password_is_a_state_of_its_own_and_is_retried_slowly() {
    let script = Script { login: Some(("relay-1".to_owned(), "right".to_owned())), ..Script::default() };
    let peer = Peer::start(script).await;
    let started = Instant::now();
    let (link, _incoming) = Link::start(config(peer.address()).with_credentials("relay-1", "wrong"));
    let mut state = link.state();
    let refused = in_time(state.wait_for(|state| matches!(state, LinkState::Refused { .. }))).await;
    let LinkState::Refused { reason } = refused.unwrap().clone() else { unreachable!() };
    assert!(reason.contains("bad user name or password (0x86)"), "{reason}");
    assert_eq!(peer.accepted(), 1);
    wait_until(SOON, "the second attempt", async || if peer.accepted() == 2 { Ok(()) } else { Err(peer.accepted()) }).await;
    // The pause is between one half and the whole of 400 ms, far above the usual 5 ms.
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    assert!(!*link.connected().borrow());

    peer.script(|script| Script { login: None, ..script });
    connected(&link).await;
}

#[tokio::test]
async fn a_taken_over_session_does_not_fight_back() {
    let (peer, link, _incoming) = linked(Script::default()).await;
    peer.disconnect(0x8e);
    let mut state = link.state();
    let state = in_time(state.wait_for(|state| !state.is_connected() && *state != LinkState::Connecting));
    let state = state.await.unwrap().clone();
    assert_eq!(state, LinkState::Refused { reason: "session taken over (0x8e)".to_owned() });
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn the_window_of_the_config_holds() {
    let peer = Peer::start(Script::default().publishes(Answer::Hold)).await;
    let (link, _incoming) = Link::start(LinkConfig { inflight_max: 3, ..config(peer.address()) });
    window_holds(&peer, &link, 3).await;
}

#[tokio::test]
async fn the_receive_maximum_of_the_peer_lowers_the_window() {
    let limits = Limits { receive_max: Some(2), ..Limits::default() };
    let script = Script { limits, ..Script::default() };
    let (peer, link, _incoming) = linked(script.publishes(Answer::Hold)).await;
    window_holds(&peer, &link, 2).await;
}

async fn window_holds(peer: &Peer, link: &Link, window: usize) {
    connected(link).await;
    let mut tickets = Vec::new();
    for _ in 0..window {
        tickets.push(in_time(link.enqueue("t", "x")).await.unwrap());
    }
    let over = tokio::time::timeout(Duration::from_millis(50), link.enqueue("t", "over")).await;
    assert!(over.is_err(), "went over the window");
    held(peer, window).await;
    peer.release(&[0], 0);
    let over = in_time(link.enqueue("t", "over")).await.unwrap();
    held(peer, window).await;
    peer.release_all();
    for ticket in tickets.into_iter().chain([over]) {
        assert_eq!(in_time(ticket).await, Ok(()));
    }
}

/// The client underneath stands still for ever when an id is still taken and its publish is then refused.
#[tokio::test]
async fn ids_that_collide_and_are_refused_do_not_stop_the_link() {
    let limits = Limits { receive_max: Some(3), ..Limits::default() };
    let script = Script { limits, ..Script::default() };
    let (peer, link, _incoming) = linked(script.publishes(Answer::Hold)).await;
    let mut tickets = Vec::new();
    for _ in 0..3 {
        tickets.push(in_time(link.enqueue("t", "x")).await.unwrap());
    }
    held(&peer, 3).await;
    // Ids 2 and 3 become free; the next publish wants id 1, which is taken.
    peer.release(&[1, 1], 0);
    assert_eq!(in_time(tickets.remove(1)).await, Ok(()));
    assert_eq!(in_time(tickets.remove(1)).await, Ok(()));
    let collides = in_time(link.enqueue("t", "y")).await.unwrap();
    let behind = in_time(link.enqueue("t", "z")).await.unwrap();
    peer.release(&[0], 0x97);
    assert_eq!(in_time(tickets.remove(0)).await, refused(0x97));
    held(&peer, 2).await;
    peer.release_all();
    assert_eq!(in_time(collides).await, Ok(()));
    assert_eq!(in_time(behind).await, Ok(()));
    peer.script(|script| script.publishes(Answer::Ack));
    for _ in 0..20 {
        assert_eq!(in_time(link.publish("t", "on")).await, Ok(()));
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_collision_does_not_outlive_its_connection() {
    let limits = Limits { receive_max: Some(2), ..Limits::default() };
    let script = Script { limits, ..Script::default() };
    let (peer, link, _incoming) = linked(script.publishes(Answer::Hold)).await;
    let first = in_time(link.enqueue("t", "1")).await.unwrap();
    let second = in_time(link.enqueue("t", "2")).await.unwrap();
    held(&peer, 2).await;
    peer.release(&[1], 0);
    assert_eq!(in_time(second).await, Ok(()));
    let collides = in_time(link.enqueue("t", "3")).await.unwrap();
    peer.script(|script| script.publishes(Answer::Ack));
    peer.hang_up();
    assert_eq!(in_time(first).await, Err(PublishError::Lost));
    assert_eq!(in_time(collides).await, Err(PublishError::Lost));
    for _ in 0..20 {
        assert_eq!(in_time(link.publish("t", "on")).await, Ok(()));
    }
}

#[tokio::test]
async fn a_peer_that_never_acknowledges_is_left() {
    let peer = Peer::start(Script::default().publishes(Answer::Hold)).await;
    let (link, _incoming) = Link::start(LinkConfig { ack_timeout: Duration::from_millis(200), ..config(peer.address()) });
    connected(&link).await;
    let ticket = in_time(link.enqueue("t", "x")).await.unwrap();
    let started = Instant::now();
    assert_eq!(in_time(ticket).await, Err(PublishError::Lost));
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
    peer.script(|script| script.publishes(Answer::Ack));
    assert_eq!(in_time(link.publish("t", "y")).await, Ok(()));
}

#[tokio::test]
async fn a_silent_peer_is_dead_and_the_next_connection_works() {
    let limits = Limits { keep_alive: Some(1), ..Limits::default() };
    let peer = Peer::start(Script { limits, ..Script::default() }).await;
    let wire = CutLink::start(peer.address()).await;
    let (link, _incoming) = Link::start(config(wire.address()));
    connected(&link).await;
    assert_eq!(in_time(link.publish("t", "x")).await, Ok(()));
    wire.cut(Way::Down);
    let ticket = in_time(link.enqueue("t", "y")).await.unwrap();
    let started = Instant::now();
    assert_eq!(in_time(ticket).await, Err(PublishError::Lost));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    wire.heal();
    assert_eq!(in_time(link.publish("t", "z")).await, Ok(()));
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_dead_too() {
    let limits = Limits { keep_alive: Some(1), ..Limits::default() };
    let (peer, link, _incoming) = linked(Script { limits, ..Script::default() }).await;
    peer.script(|script| Script { reads: false, ..script });
    let mut tickets = Vec::new();
    for _ in 0..8 {
        tickets.push(in_time(link.enqueue("t", vec![0; 4 * 1024 * 1024])).await.unwrap());
    }
    for ticket in tickets {
        assert_eq!(in_time(ticket).await, Err(PublishError::Lost));
    }
    peer.script(|script| Script { reads: true, ..script });
    assert_eq!(in_time(link.publish("t", "y")).await, Ok(()));
}

#[tokio::test]
async fn a_peer_that_takes_the_connection_and_says_nothing_is_left_in_time() {
    let peer = Peer::start(Script { answers_connect: false, ..Script::default() }).await;
    let (link, _incoming) = Link::start(LinkConfig { connect_timeout: Duration::from_millis(100), ..config(peer.address()) });
    let mut state = link.state();
    let down = in_time(state.wait_for(|state| matches!(state, LinkState::Down { .. }))).await;
    let down = format!("{:?}", down.unwrap());
    assert!(down.contains("did not let us in within 100ms"), "{down}");
    peer.script(|script| Script { answers_connect: true, ..script });
    connected(&link).await;
}

#[tokio::test]
async fn a_peer_that_comes_up_later_is_found() {
    let address = Peer::start(Script::default()).await.address();
    let (link, _incoming) = Link::start(config(address));
    let mut state = link.state();
    let down = state.wait_for(|state| matches!(state, LinkState::Down { .. }));
    in_time(down).await.unwrap();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.publish("t", "x").await }
    });
    let _peer = Peer::start_at(address, Script::default()).await;
    assert_eq!(in_time(waiting).await.unwrap(), Ok(()));
}

/// A peer that lets us in and throws us out again must not be hammered.
#[tokio::test]
async fn a_connection_that_did_no_good_does_not_shorten_the_pauses() {
    let peer = Peer::start(Script::default().publishes(Answer::Drop)).await;
    let millis = Duration::from_millis;
    let (link, _incoming) =
        Link::start(LinkConfig { backoff: Backoff::try_new(millis(40), millis(10_000), 0.0).unwrap(), ..config(peer.address()) });
    let started = Instant::now();
    for _ in 0..4 {
        assert_eq!(in_time(link.publish("t", "x")).await, Err(PublishError::Lost));
    }
    let pauses = millis(40 + 80 + 160);
    assert!(started.elapsed() >= pauses, "{:?}", started.elapsed());

    // An acknowledgement does, but only for the next time.
    peer.script(|script| script.publishes(Answer::Ack));
    assert_eq!(in_time(link.publish("t", "x")).await, Ok(()));
    let mut said = link.connected();
    peer.hang_up();
    in_time(said.wait_for(|connected| !connected)).await.unwrap();
    let started = Instant::now();
    in_time(said.wait_for(|connected| *connected)).await.unwrap();
    assert!(started.elapsed() < millis(320), "{:?}", started.elapsed());
}

#[tokio::test]
async fn large_payloads_go_both_ways() {
    const LARGE: usize = 16 * 1024 * 1024;
    let (peer, link, mut incoming) = linked(Script::default()).await;
    let payload = Bytes::from(vec![0x5a; LARGE]);
    assert_eq!(in_time(link.publish("t", payload.clone())).await, Ok(()));
    assert_eq!(peer.publishes()[0].payload, payload);
    peer.publish(Publish { topic: "t".to_owned(), payload: payload.clone(), ..Publish::default() });
    assert_eq!(in_time(incoming.next()).await.unwrap().payload, payload);
}

#[tokio::test]
async fn what_the_peer_can_not_take_is_refused_here_and_hurts_nobody() {
    let limits = Limits { packet_bytes_max: Some(1_000), ..Limits::default() };
    let (peer, link, _incoming) = linked(Script { limits, ..Script::default() }).await;
    let fits = 1_000 - 1 - 2 - 3 - 2 - 1;
    assert_eq!(in_time(link.publish("t", vec![0; fits])).await, Ok(()));
    let over = in_time(link.publish("t", vec![0; fits + 1])).await;
    assert_eq!(over, Err(PublishError::TooLarge { bytes: 1_001, max: 1_000 }));
    for topic in ["a/+", "", "a\0b", &"x".repeat(65_536)] {
        let invalid = in_time(link.publish(topic, "x")).await;
        assert!(matches!(invalid, Err(PublishError::Invalid(_))), "{invalid:?}");
    }
    // Topics that would panic or mislead the client's own helpers are plain topics here.
    assert_eq!(in_time(link.publish("é/ü", "x")).await, Ok(()));
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_reader_that_stands_still_ends_the_connection_and_nothing_else() {
    let limits = Limits { keep_alive: Some(1), ..Limits::default() };
    let peer = Peer::start(Script { limits, ..Script::default() }).await;
    let (link, mut incoming) = Link::start(LinkConfig { incoming_max: 2, ..config(peer.address()) });
    connected(&link).await;
    for n in 0..5 {
        peer.publish(Publish { topic: format!("t/{n}"), ..Publish::default() });
    }
    wait_until(
        SOON,
        "the second connection",
        async || {
            if peer.accepted() >= 2 { Ok(()) } else { Err(link.state().borrow().clone()) }
        },
    )
    .await;
    assert_eq!(in_time(incoming.next()).await.unwrap().topic, "t/0");
    assert_eq!(in_time(incoming.next()).await.unwrap().topic, "t/1");
    assert_eq!(in_time(link.publish("t", "x")).await, Ok(()));
}

#[tokio::test]
async fn close_says_goodbye_and_loses_what_waits() {
    let (peer, link, mut incoming) = linked(Script::default().publishes(Answer::Hold)).await;
    let other = link.clone();
    let ticket = in_time(link.enqueue("t", "x")).await.unwrap();
    held(&peer, 1).await;
    in_time(link.close()).await;
    assert_eq!(in_time(ticket).await, Err(PublishError::Lost));
    assert_eq!(in_time(other.publish("t", "x")).await, Err(PublishError::Closed));
    assert_eq!(in_time(other.subscribe("t", Qos::One)).await, Err(SubscribeError::Closed));
    assert_eq!(in_time(incoming.next()).await, None);
    let goodbye = |seen: &testkit::peer::Seen| seen.packet == Packet::Disconnect;
    wait_until(SOON, "the goodbye", async || if peer.seen().iter().any(goodbye) { Ok(()) } else { Err(peer.seen()) }).await;
}

#[tokio::test]
async fn dropping_the_last_handle_closes() {
    let (peer, link, mut incoming) = linked(Script::default()).await;
    drop(link);
    assert_eq!(in_time(incoming.next()).await, None);
    wait_until(SOON, "the connection is closed", async || if peer.open() == 0 { Ok(()) } else { Err(peer.open()) }).await;
}
