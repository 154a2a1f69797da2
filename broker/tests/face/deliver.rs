//! From publishers to subscribers.

use std::sync::Arc;
use std::time::Duration;

use broker::{Message, NoIntake, Policy, Settings};

use crate::host::{host, open_host, settings};
use crate::peer::{Hello, Peer, hello, packet, publish, text};

#[tokio::test]
async fn a_topic_that_starts_with_a_letter_of_two_bytes_goes_round() {
    let host = open_host().await;
    let mut peer = Peer::join(host.address, hello(false, "meter")).await;
    for filter in ["é/temperatur", "é/#", "+/temperatur"] {
        assert_eq!(peer.subscribe(filter, 0).await, 0);
    }
    peer.publish("é/temperatur", "21", 0, 0).await;
    for _ in 0..3 {
        assert_eq!(peer.recv().await.publish(false).0, "é/temperatur");
    }
    peer.publish("ß", "nobody wants it", 0, 0).await;
    host.still_serves().await;
}

#[tokio::test]
async fn delivered_with_the_smaller_qos() {
    let host = open_host().await;
    let mut source = Peer::join(host.address, hello(true, "source")).await;
    for granted in 0..=2 {
        let mut sink = Peer::join(host.address, hello(true, "sink")).await;
        assert_eq!(sink.subscribe("t", granted).await, granted);
        for said in 0..=2 {
            source.publish("t", "x", said, 1).await;
            match said {
                1 => source.expect_ack(0x40, 1, 0).await,
                2 => {
                    source.expect_ack(0x50, 1, 0).await;
                    source.send(&[0x62, 2, 0, 1]).await;
                    source.expect_ack(0x70, 1, 0).await;
                }
                _ => {}
            }
            let (_, qos, id, _, _) = sink.recv().await.publish(true);
            assert_eq!(qos, said.min(granted));
            let [high, low] = id.to_be_bytes();
            match qos {
                1 => sink.send(&[0x40, 2, high, low]).await,
                2 => {
                    sink.send(&[0x50, 2, high, low]).await;
                    sink.expect_ack(0x62, id, 0).await;
                    sink.send(&[0x70, 2, high, low]).await;
                }
                _ => assert_eq!(id, 0),
            }
        }
    }
}

#[tokio::test]
async fn the_clients_receive_maximum_is_kept() {
    let host = open_host().await;
    let mut sink = Peer::join(host.address, Hello { properties: &[0x21, 0, 2], ..hello(true, "sink") }).await;
    assert_eq!(sink.subscribe("t", 1).await, 1);
    let messages = (0..5).map(|number| Message::new("t", number.to_string())).collect();
    host.broker.hub().publish_all(messages).await;
    let (_, _, first, _, _) = sink.recv().await.publish(true);
    let (_, _, second, _, _) = sink.recv().await.publish(true);
    assert_ne!(first, second);
    sink.expect_silence().await;
    // Out of order is fine.
    sink.send(&[0x40, 2, 0, u8::try_from(second).unwrap()]).await;
    assert_eq!(sink.recv().await.publish(true).4, b"2");
    sink.expect_silence().await;
}

#[tokio::test]
async fn properties_go_along_and_nothing_of_ours_does() {
    let host = open_host().await;
    let mut sink = Peer::join(host.address, hello(true, "sink")).await;
    assert_eq!(sink.subscribe("t", 0).await, 0);
    let mut source = Peer::join(host.address, hello(true, "source")).await;
    let mut properties = vec![0x26];
    properties.extend(text("name"));
    properties.extend(text("value"));
    properties.push(9);
    properties.extend(text("id"));
    source.send(&publish(true, "t", b"x", 0, 0, &properties)).await;
    assert_eq!(sink.recv().await.publish(true).3, properties);
    let mut expiring = vec![2, 0, 0, 0, 100];
    expiring.extend_from_slice(&properties);
    source.send(&publish(true, "t", b"x", 0, 0, &expiring)).await;
    let got = sink.recv().await.publish(true).3;
    assert_eq!((got[0], got[4] >= 95, &got[5..]), (2, true, &properties[..]));
    let message = Message::new("t", "y").qos(0).user_property("name", "value").correlation_data(b"id");
    host.broker.hub().publish(message).await;
    assert_eq!(sink.recv().await.publish(true).3, properties);
}

#[tokio::test]
async fn unsubscribe_no_local_and_overlap() {
    let host = open_host().await;
    let mut peer = Peer::join(host.address, hello(true, "peer")).await;
    assert_eq!(peer.subscribe("t", 4).await, 0);
    peer.publish("t", "own", 0, 0).await;
    peer.expect_silence().await;
    host.broker.hub().publish(Message::new("t", "other")).await;
    assert_eq!(peer.recv().await.publish(true).4, b"other");
    let mut body = vec![0, 9, 0];
    body.extend(text("t"));
    body.extend(text("unknown"));
    peer.send(&packet(0xA2, &body)).await;
    let unsuback = peer.recv().await;
    assert_eq!((unsuback.first, unsuback.body), (0xB0, vec![0, 9, 0, 0, 0x11]));
    assert!(!host.broker.hub().wanted("t"));
    peer.expect_silence().await;
    host.still_serves().await;
}

#[tokio::test]
async fn wildcards_stay_out_of_dollar_topics() {
    let host = open_host().await;
    let mut peer = Peer::join(host.address, hello(false, "peer")).await;
    assert_eq!(peer.subscribe("#", 0).await, 0);
    host.broker.hub().publish(Message::new("$SYS/x", "hidden")).await;
    peer.expect_silence().await;
    assert_eq!(peer.subscribe("$SYS/#", 0).await, 0);
    host.broker.hub().publish(Message::new("$SYS/x", "seen")).await;
    assert_eq!(peer.recv().await.publish(false).4, b"seen");
}

/// A subscriber that does not read: what it gets in the end and what is counted as lost is everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_subscriber_loses_is_counted() {
    let limits = Settings { filter_log_bytes: 256 * 1024, outbox_bytes_max: 64 * 1024, ..settings() };
    let host = host(limits, Policy::anonymous(), Arc::new(NoIntake)).await;
    let mut sink = Peer::join(host.address, hello(false, "slow")).await;
    assert_eq!(sink.subscribe("t/#", 0).await, 0);
    let total = 30_000_u64;
    let payload = "x".repeat(1_000);
    let hub = host.broker.hub();
    for _ in 0..total / 500 {
        hub.publish_all((0..500).map(|_| Message::new("t/1", payload.clone())).collect()).await;
    }
    hub.publish(Message::new("t/1", "last")).await;
    let mut got = 0_u64;
    loop {
        let (_, _, _, _, payload) = sink.recv().await.publish(false);
        if payload == b"last" {
            break;
        }
        got += 1;
    }
    let lost = host.broker.metrics().messages_lost();
    assert!(lost > 0, "the subscriber was meant to lag: got {got}");
    assert_eq!(got + lost, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_subscriber_gets_everything_in_order_and_goes_without_harm() {
    let host = open_host().await;
    let mut sink = Peer::join(host.address, hello(false, "sink")).await;
    assert_eq!(sink.subscribe("t", 0).await, 0);
    let hub = host.broker.hub();
    let feed = tokio::spawn(async move {
        for chunk in 0..40_u32 {
            hub.publish_all((0..250).map(|n| Message::new("t", (chunk * 250 + n).to_string())).collect()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for number in 0..10_000_u32 {
        assert_eq!(sink.recv().await.publish(false).4, number.to_string().as_bytes());
    }
    feed.await.unwrap();
    assert_eq!(host.broker.metrics().messages_lost(), 0);
}

/// Pitfalls K7 and R9: subscribers that go away with hundreds of messages on their way must not end the router.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_leave_in_the_middle_of_a_flood_hurt_nobody() {
    let host = open_host().await;
    let hub = host.broker.hub();
    let flood = tokio::spawn(async move {
        loop {
            hub.publish_all((0..500).map(|_| Message::new("flood/1", "x".repeat(200))).collect()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for round in 0..60 {
        let id = format!("leaver-{}", round % 3);
        let mut peer = Peer::join(host.address, hello(round % 2 == 0, &id)).await;
        peer.send(&packet(0x82, &[if peer.v5 { vec![0, 1, 0] } else { vec![0, 1] }, text("flood/#"), vec![0]].concat())).await;
        if round % 4 != 0 {
            peer.recv().await;
        }
    }
    flood.abort();
    host.until("all are gone", |host| host.broker.metrics().connections() == 0).await;
    assert_eq!(host.metric("broker_subscriptions"), 0.0);
    assert!(!host.broker.hub().wanted("flood/1"));
    host.still_serves().await;
    let failed = tokio::time::timeout(Duration::from_millis(10), host.broker.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
}
