//! What is not MQTT ends its own connection, with the right code, and no other.

use std::sync::Arc;

use broker::{NoIntake, Policy, Settings};

use crate::host::{host, open_host, settings};
use crate::peer::{Peer, hello, packet, publish, text};

#[tokio::test]
async fn malformed_packets_close_only_their_connection() {
    let limits = Settings { packet_bytes_max: 4_096, ..settings() };
    let host = host(limits, Policy::anonymous(), Arc::new(NoIntake)).await;
    let mut other = Peer::join(host.address, hello(true, "other")).await;
    let topic = |bytes: &[u8]| [&[0, u8::try_from(bytes.len()).unwrap()][..], bytes, &[0]].concat();
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("QoS 3", packet(0x36, &topic(b"t")), 0x81),
        ("DUP with QoS 0", packet(0x38, &topic(b"t")), 0x81),
        ("topic not UTF-8", packet(0x30, &topic(&[0xFF])), 0x81),
        ("topic with U+0000", packet(0x30, &topic(b"a\0")), 0x81),
        ("topic cut short", packet(0x30, &[0, 9, b'a']), 0x81),
        ("wildcard in a topic", publish(true, "a/#", b"", 0, 0, &[]), 0x90),
        ("empty topic", publish(true, "", b"", 0, 0, &[]), 0x82),
        ("packet id 0", publish(true, "a", b"", 1, 0, &[]), 0x82),
        ("topic alias", publish(true, "a", b"", 0, 0, &[0x23, 0, 1]), 0x94),
        ("unknown property", publish(true, "a", b"", 0, 0, &[0x7F, 0]), 0x81),
        ("subscription id from a client", publish(true, "a", b"", 0, 0, &[0x0B, 1]), 0x81),
        ("too large", packet(0x30, &[0; 5_000]), 0x95),
        ("five length bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], 0x81),
        ("reserved flags", vec![0xC1, 0], 0x81),
        ("SUBSCRIBE flags", packet(0x80, &[&[0, 1, 0][..], &text("t"), &[0]].concat()), 0x81),
        ("SUBSCRIBE without filter", packet(0x82, &[0, 1, 0]), 0x82),
        ("SUBSCRIBE QoS 3", packet(0x82, &[&[0, 1, 0][..], &text("t"), &[3]].concat()), 0x81),
        ("UNSUBSCRIBE without filter", packet(0xA2, &[0, 1, 0]), 0x82),
        ("second CONNECT", hello(true, "x").bytes(), 0x82),
        ("CONNACK from a client", packet(0x20, &[0, 0, 0]), 0x82),
        ("UNSUBACK from a client", packet(0xB0, &[0, 1, 0]), 0x82),
        ("AUTH", vec![0xF0, 0], 0x82),
        ("type 0", vec![0, 0], 0x82),
        ("PINGREQ with a body", vec![0xC0, 1, 0], 0x82),
        ("PUBACK cut short", vec![0x40, 1, 0], 0x81),
    ];
    for (what, bytes, code) in cases {
        for v5 in [true, false] {
            let mut peer = Peer::join(host.address, hello(v5, "bad")).await;
            if !v5 && (what.contains("alias") || what.contains("property") || what.contains("subscription id")) {
                continue;
            }
            eprintln!("{what}, v5: {v5}");
            peer.send(&bytes).await;
            peer.expect_end(code).await;
        }
        other.expect_silence().await;
    }
    host.still_serves().await;
}

#[tokio::test]
async fn a_bad_connect_is_closed() {
    let host = open_host().await;
    let connect = |name: &str, rest: &[u8]| packet(0x10, &[&text(name)[..], rest].concat());
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        publish(false, "t", b"", 0, 0, &[]),
        connect("MQTT", &[4, 3, 0, 60, 0, 1, b'a']),
        connect("HTTP", &[4, 2, 0, 60, 0, 1, b'a']),
        connect("MQTT", &[5, 2, 0, 60, 9, 0, 1, b'a']),
        vec![0x11, 0],
        vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F],
    ] {
        let mut peer = Peer::dial(host.address).await;
        peer.send(&bytes).await;
        assert_eq!(peer.next().await, None, "{bytes:x?}");
    }
    host.still_serves().await;
}

#[tokio::test]
async fn packets_arrive_in_any_cut() {
    let host = open_host().await;
    let mut peer = Peer::dial(host.address).await;
    peer.v5 = true;
    let mut bytes = hello(true, "cut").bytes();
    bytes.extend(packet(0x82, &[&[0, 1, 0][..], &text("t"), &[1]].concat()));
    bytes.extend(publish(true, "t", b"payload", 1, 2, &[]));
    for byte in bytes {
        peer.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.recv().await.first, 0x20);
    // The SUBACK waits for the router, the PUBACK does not.
    let mut rest = [peer.recv().await.first, peer.recv().await.first, peer.recv().await.first];
    rest.sort_unstable();
    assert_eq!(rest, [0x32, 0x40, 0x90]);
}

#[tokio::test]
async fn a_packet_larger_than_one_read_goes_through() {
    let host = open_host().await;
    let mut peer = Peer::join(host.address, hello(false, "large")).await;
    assert_eq!(peer.subscribe("t", 0).await, 0);
    let payload = vec![7; 700_000];
    peer.send(&publish(false, "t", &payload, 0, 0, &[])).await;
    assert_eq!(peer.recv().await.publish(false).4, payload);
}
