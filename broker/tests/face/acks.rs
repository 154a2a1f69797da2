//! Acknowledgements follow commits.

use std::sync::Arc;
use std::time::Duration;

use broker::{Policy, Refusal, Settings};

use crate::host::{Held, Host, host, open_host, settings};
use crate::peer::{Packet, Peer, hello, publish};

async fn held_host(held: &Held) -> Host {
    host(settings(), Policy::anonymous(), Arc::new(held.clone())).await
}

#[tokio::test]
async fn c1_puback_follows_the_commit() {
    for v5 in [false, true] {
        let held = Held::default();
        let host = held_host(&held).await;
        let mut peer = Peer::join(host.address, hello(v5, "meter")).await;
        peer.publish("op/store/a/m/p", "1", 1, 1).await;
        peer.publish("op/store/a/m/p", "2", 1, 2).await;
        host.until("both are offered", |_| held.offered() == 2).await;
        peer.expect_silence().await;
        while held.waiting() > 0 {
            held.resolve(false, Ok(()));
        }
        peer.expect_ack(0x40, 1, 0).await;
        peer.expect_ack(0x40, 2, 0).await;
        host.until("two are counted", |host| host.metric("broker_acks_sent_total") == 2.0).await;
    }
}

#[tokio::test]
async fn acks_keep_the_order_of_the_publishes_whatever_commits_first() {
    let held = Held::default();
    let host = held_host(&held).await;
    let mut peer = Peer::join(host.address, hello(true, "meter")).await;
    peer.publish("op/a", "1", 1, 1).await;
    host.until("the first is offered", |_| held.waiting() == 1).await;
    peer.publish("op/a", "2", 1, 2).await;
    host.until("the second is offered", |_| held.waiting() == 2).await;
    // Not for the intake, so acknowledged at once, but not before the others.
    peer.publish("elsewhere", "3", 1, 3).await;
    held.resolve(true, Ok(()));
    peer.expect_silence().await;
    held.resolve(false, Ok(()));
    for id in 1..=3 {
        peer.expect_ack(0x40, id, 0).await;
    }
}

#[tokio::test]
async fn refusals_of_the_intake_have_their_codes() {
    let held = Held::default();
    let host = held_host(&held).await;
    let mut peer = Peer::join(host.address, hello(true, "meter")).await;
    let refusals = [
        (Refusal::NotAuthorized, 0x87),
        (Refusal::TopicNameInvalid, 0x90),
        (Refusal::PayloadFormatInvalid, 0x99),
        (Refusal::QuotaExceeded, 0x97),
        (Refusal::Unavailable, 0x83),
    ];
    for (id, (refusal, code)) in (1..).zip(refusals) {
        assert_eq!(refusal.reason_code(), code);
        peer.publish("op/a", &format!("{refusal:?}"), 1, id).await;
        peer.expect_ack(0x40, id, code).await;
    }
    peer.publish("op/a", "good", 1, 20).await;
    host.until("it is offered", |_| held.waiting() == 1).await;
    held.resolve(false, Err(Refusal::QuotaExceeded));
    peer.expect_ack(0x40, 20, 0x97).await;
    assert_eq!(host.metric("broker_publishes_refused_total{reason=\"Quota\"}"), 2.0);
}

#[tokio::test]
async fn a_refusal_closes_a_311_client_after_the_acks_before_it() {
    let held = Held::default();
    let host = held_host(&held).await;
    let mut peer = Peer::join(host.address, hello(false, "meter")).await;
    let mut bytes = publish(false, "op/a", b"good", 1, 1, &[]);
    bytes.extend(publish(false, "op/a", b"QuotaExceeded", 1, 2, &[]));
    bytes.extend(publish(false, "op/a", b"after", 1, 3, &[]));
    peer.send(&bytes).await;
    host.until("the first is offered", |_| held.waiting() == 1).await;
    assert_eq!(held.offered(), 1, "nothing after the refused one is taken");
    held.resolve(false, Ok(()));
    peer.expect_ack(0x40, 1, 0).await;
    assert_eq!(peer.next().await, None);

    let mut peer = Peer::join(host.address, hello(false, "meter")).await;
    peer.publish("op/a", "good", 1, 1).await;
    host.until("it is offered", |_| held.waiting() == 1).await;
    held.resolve(false, Err(Refusal::Unavailable));
    assert_eq!(peer.next().await, None, "a failed commit is never acknowledged");
}

#[tokio::test]
async fn qos_0_is_offered_and_not_acknowledged() {
    let held = Held::default();
    let host = held_host(&held).await;
    let mut peer = Peer::join(host.address, hello(false, "meter")).await;
    peer.publish("op/a", "1", 0, 0).await;
    host.until("it is offered", |_| held.waiting() == 1).await;
    held.resolve(false, Ok(()));
    peer.expect_silence().await;
    assert_eq!(held.offers(), [("op/a".to_owned(), b"1".to_vec(), 0)]);
}

#[tokio::test]
async fn qos_2_is_offered_once_and_released() {
    let held = Held::default();
    let host = held_host(&held).await;
    let mut peer = Peer::join(host.address, hello(true, "meter")).await;
    peer.publish("op/a", "1", 2, 9).await;
    host.until("it is offered", |_| held.waiting() == 1).await;
    let mut again = publish(true, "op/a", b"1", 2, 9, &[]);
    again[0] |= 0b1000;
    peer.send(&again).await;
    peer.expect_silence().await;
    held.resolve(false, Ok(()));
    peer.expect_ack(0x50, 9, 0).await;
    peer.expect_ack(0x50, 9, 0).await;
    peer.send(&[0x62, 2, 0, 9]).await;
    peer.expect_ack(0x70, 9, 0).await;
    assert_eq!(held.offered(), 1);
    peer.send(&[0x62, 2, 0, 9]).await;
    peer.expect_ack(0x70, 9, 0x92).await;
    peer.publish("op/a", "2", 2, 9).await;
    host.until("the id is free again", |_| held.offered() == 2).await;
}

#[tokio::test]
async fn reading_waits_while_too_much_waits_for_the_intake() {
    let held = Held::default();
    let settings = Settings { outstanding_batches_max: 2, ..settings() };
    let host = host(settings, Policy::anonymous(), Arc::new(held.clone())).await;
    let mut peer = Peer::join(host.address, hello(false, "meter")).await;
    for id in 1..=3 {
        peer.publish("op/a", "1", 1, id).await;
        let expected = usize::from(id).min(2);
        host.until("as much as may wait is offered", |_| held.waiting() == expected).await;
    }
    // Not even a ping is read now; the commit opens the way.
    peer.send(&[0xC0, 0]).await;
    let early = tokio::time::timeout(Duration::from_millis(100), peer.next()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(held.offered(), 2);
    held.resolve(false, Ok(()));
    peer.expect_ack(0x40, 1, 0).await;
    host.until("the third is offered", |_| held.offered() == 3).await;
    held.resolve(false, Ok(()));
    held.resolve(false, Ok(()));
    let mut rest = vec![];
    for _ in 0..3 {
        rest.push(peer.recv().await.first);
    }
    rest.sort_unstable();
    assert_eq!(rest, [0x40, 0x40, 0xD0]);
}

#[tokio::test]
async fn publishes_that_are_to_be_committed_alone_get_answers_of_their_own() {
    let held = Held::default();
    let settings = Settings { outstanding_batches_max: 3, ..settings() };
    let host = host(settings, Policy::anonymous(), Arc::new(held.clone())).await;
    let mut peer = Peer::join(host.address, hello(true, "relay")).await;
    // One write, and so one read.
    let bytes: Vec<u8> = (1..=4).flat_map(|id| publish(true, "op/alone/a", b"1", 1, id, &[])).collect();
    peer.send(&bytes).await;
    host.until("as many as may wait are offered", |_| held.waiting() == 3).await;
    assert_eq!(held.offered(), 3);
    held.resolve(false, Ok(()));
    peer.expect_ack(0x40, 1, 0).await;
    host.until("the last one is offered", |_| held.offered() == 4).await;
    held.resolve(false, Err(Refusal::Unavailable));
    held.resolve(false, Err(Refusal::PayloadFormatInvalid));
    held.resolve(false, Ok(()));
    peer.expect_ack(0x40, 2, 0x83).await;
    peer.expect_ack(0x40, 3, 0x99).await;
    peer.expect_ack(0x40, 4, 0).await;
}

#[tokio::test]
async fn stop_lets_the_packets_in_hand_be_acknowledged() {
    let held = Held::default();
    let host = held_host(&held).await;
    let address = host.address;
    let mut peer = Peer::join(address, hello(true, "meter")).await;
    peer.publish("op/a", "1", 1, 1).await;
    host.until("it is offered", |_| held.waiting() == 1).await;
    let stopping = tokio::spawn(host.broker.stop(Duration::from_secs(5)));
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("nobody is accepted any more");
    held.resolve(false, Ok(()));
    peer.expect_ack(0x40, 1, 0).await;
    peer.expect_end(0x8B).await;
    stopping.await.unwrap();
}

#[tokio::test]
async fn more_than_the_receive_maximum_is_a_fault() {
    let held = Held::default();
    let settings = Settings { receive_maximum: 2, ..settings() };
    let host = host(settings, Policy::anonymous(), Arc::new(held.clone())).await;
    let mut peer = Peer::join(host.address, hello(true, "meter")).await;
    for id in 1..=3 {
        peer.publish("op/a", "1", 1, id).await;
    }
    peer.expect_end(0x93).await;
}

#[tokio::test]
async fn what_is_not_done_yet_is_refused_and_said() {
    let host = open_host().await;
    let mut peer = Peer::dial(host.address).await;
    peer.v5 = true;
    peer.send(&hello(true, "meter").bytes()).await;
    let connack = peer.recv().await;
    let has = |property: &[u8]| connack.body.windows(property.len()).any(|window| window == property);
    assert!(has(&[0x25, 0]), "retain available 0: {connack:?}");
    assert!(has(&[0x2A, 0]), "shared subscription available 0: {connack:?}");
    assert_eq!(peer.subscribe("$share/g/t", 0).await, 0x9E);
    let mut retained = publish(true, "t", b"x", 1, 1, &[]);
    retained[0] |= 1;
    peer.send(&retained).await;
    assert_eq!(peer.recv().await, Packet { first: 0xE0, body: vec![0x9A] });
}
