//! Coming in: codes, limits, deadlines, take-over.

use std::sync::Arc;
use std::time::Duration;

use broker::{NoIntake, Policy, Settings, users};

use crate::host::{host, open_host, settings};
use crate::peer::{Hello, Packet, Peer, hello, packet, text};

fn policy(folder: &std::path::Path) -> Policy {
    let (names, grants) = (folder.join("users"), folder.join("grants.toml"));
    users::set_password(&names, "anna", b"right").unwrap();
    users::set_password(&names, "ben", b"right").unwrap();
    std::fs::write(&grants, "[[grant]]\nusers = [\"*\"]\nactions = [\"publish\", \"subscribe\"]\ntopics = [\"#\"]\n").unwrap();
    Policy::open(&names, &grants).unwrap()
}

#[tokio::test]
async fn a_wrong_password_gets_its_code_and_hurts_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(settings(), policy(folder.path()), Arc::new(NoIntake)).await;
    let login = |v5, login| Hello { login, ..hello(v5, "a+b") };
    for (v5, who, code) in [
        (true, Some(("anna", "wrong")), 0x86),
        (false, Some(("anna", "wrong")), 0x04),
        (true, Some(("nobody", "right")), 0x86),
        (true, None, 0x87),
        (false, None, 0x05),
        (true, Some(("anna", "right")), 0),
        (false, Some(("anna", "right")), 0),
    ] {
        let mut peer = Peer::dial(host.address).await;
        assert_eq!(peer.knock(&login(v5, who)).await, code, "{who:?}");
        if code != 0 {
            assert_eq!(peer.next().await, None, "closed after the refusal");
        }
    }
    assert_eq!(host.metric("broker_connections_refused_total{reason=\"BadCredentials\"}"), 5.0);
}

#[tokio::test]
async fn nobody_takes_over_another_users_client_id() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(settings(), policy(folder.path()), Arc::new(NoIntake)).await;
    let mut anna = Peer::join(host.address, Hello { login: Some(("anna", "right")), ..hello(true, "meter") }).await;
    let mut ben = Peer::dial(host.address).await;
    assert_eq!(ben.knock(&Hello { login: Some(("ben", "right")), ..hello(true, "meter") }).await, 0x85);
    anna.expect_silence().await;
}

#[tokio::test]
async fn connection_max_plus_one_is_told_and_closed() {
    let host = host(Settings { connections_max: 2, ..settings() }, Policy::anonymous(), Arc::new(NoIntake)).await;
    let mut first = Peer::join(host.address, hello(true, "one")).await;
    let second = Peer::join(host.address, hello(true, "two")).await;
    for (v5, code) in [(true, 0x97), (false, 3)] {
        let mut third = Peer::dial(host.address).await;
        assert_eq!(third.knock(&hello(v5, "three")).await, code);
        assert_eq!(third.next().await, None);
    }
    first.expect_silence().await;
    drop(second);
    host.until("a place is free", |host| host.broker.metrics().connections() == 1).await;
    Peer::join(host.address, hello(true, "three")).await;
}

#[tokio::test]
async fn a_silent_tcp_client_is_closed_and_holds_up_nobody() {
    let settings = Settings { handshake_deadline: Duration::from_millis(300), ..settings() };
    let host = host(settings, Policy::anonymous(), Arc::new(NoIntake)).await;
    let mut silent = Peer::dial(host.address).await;
    let mut slow = Peer::dial(host.address).await;
    slow.send(&[0x10, 20, 0, 4]).await;
    host.still_serves().await;
    assert_eq!(silent.next().await, None);
    assert_eq!(slow.next().await, None);
    assert_eq!(host.metric("broker_connections_refused_total{reason=\"HandshakeDeadline\"}"), 2.0);
}

#[tokio::test]
async fn both_versions_on_one_port_and_no_other() {
    let host = open_host().await;
    let mut old = Peer::join(host.address, hello(false, "old")).await;
    let mut new = Peer::join(host.address, hello(true, "new")).await;
    assert_eq!(old.subscribe("t", 1).await, 1);
    assert_eq!(new.subscribe("t", 1).await, 1);
    old.publish("t", "x", 1, 5).await;
    old.expect_ack_and_delivery(5, "t", b"x").await;
    assert_eq!(new.recv().await.publish(true).4, b"x");
    for (level, code) in [(3, 1), (6, 0x84), (0, 1)] {
        let mut peer = Peer::dial(host.address).await;
        let mut body = text("MQTT");
        body.extend_from_slice(&[level, 2, 0, 60]);
        body.extend(text("x"));
        peer.send(&packet(0x10, &body)).await;
        assert_eq!(peer.recv().await.body[1], code, "level {level}");
        assert_eq!(peer.next().await, None);
    }
}

#[tokio::test]
async fn a_client_id_with_wildcards_is_just_a_name() {
    let host = open_host().await;
    for id in ["a+b", "#", "/", "$share/x", "é", "名前"] {
        let mut peer = Peer::join(host.address, hello(false, id)).await;
        assert_eq!(peer.subscribe("t", 0).await, 0, "{id}");
        peer.expect_silence().await;
    }
    host.still_serves().await;
}

#[tokio::test]
async fn an_empty_client_id_gets_one() {
    let host = open_host().await;
    let mut peer = Peer::dial(host.address).await;
    peer.send(&hello(true, "").bytes()).await;
    let connack = peer.recv().await;
    assert_eq!(connack.body[1], 0);
    assert!(connack.body.windows(5).any(|window| window == b"auto-"));
    Peer::join(host.address, hello(false, "")).await;
}

#[tokio::test]
async fn the_second_with_a_client_id_takes_over() {
    let host = open_host().await;
    for v5 in [true, false] {
        let mut first = Peer::join(host.address, hello(v5, "meter")).await;
        let mut second = Peer::join(host.address, hello(true, "meter")).await;
        first.expect_end(0x8E).await;
        second.expect_silence().await;
        second.send(&[0xE0, 0]).await;
        assert_eq!(second.next().await, None);
        host.until("both are gone", |host| host.broker.metrics().connections() == 0).await;
    }
}

#[tokio::test]
async fn keep_alive_is_held_to_one_and_a_half() {
    let host = open_host().await;
    let started = tokio::time::Instant::now();
    let mut silent = Peer::join(host.address, Hello { keep_alive: 1, ..hello(true, "silent") }).await;
    let mut endless = Peer::join(host.address, Hello { keep_alive: 0, ..hello(true, "endless") }).await;
    // Hearing from the broker is no sign of life of the client.
    assert_eq!(silent.subscribe("t", 0).await, 0);
    let hub = host.broker.hub();
    let noise = tokio::spawn(async move {
        loop {
            hub.publish(broker::Message::new("t", "noise")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    silent.expect_end(0x8D).await;
    noise.abort();
    let lasted = started.elapsed();
    assert!(lasted >= Duration::from_millis(1_450) && lasted < Duration::from_secs(3), "{lasted:?}");
    endless.expect_silence().await;
}

#[tokio::test]
async fn a_will_is_said_for_the_lost_and_not_for_those_who_say_goodbye() {
    let host = open_host().await;
    let mut heir = Peer::join(host.address, hello(false, "heir")).await;
    assert_eq!(heir.subscribe("will/#", 0).await, 0);
    let mut polite = Peer::join(host.address, Hello { will: Some(("will/polite", "x")), ..hello(true, "polite") }).await;
    polite.send(&[0xE0, 0]).await;
    assert_eq!(polite.next().await, None);
    drop(Peer::join(host.address, Hello { will: Some(("will/lost", "gone")), ..hello(true, "lost") }).await);
    let (topic, _, _, _, payload) = heir.recv().await.publish(false);
    assert_eq!((topic.as_str(), &payload[..]), ("will/lost", &b"gone"[..]));
}

impl Peer {
    /// PUBACK and delivery may come in any order.
    async fn expect_ack_and_delivery(&mut self, id: u16, topic: &str, payload: &[u8]) {
        let (one, two) = (self.recv().await, self.recv().await);
        let (ack, delivery) = if one.first == 0x40 { (one, two) } else { (two, one) };
        assert_eq!(ack, Packet { first: 0x40, body: id.to_be_bytes().to_vec() });
        let (got, _, _, _, bytes) = delivery.publish(self.v5);
        assert_eq!((got.as_str(), &bytes[..]), (topic, payload));
    }
}
