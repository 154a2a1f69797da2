//! The admin port, over real HTTP.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use chassis::{Admin, AdminFault, AdminParts, Readiness, Registry, Stopper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn parts(registry: &Registry, readiness: &Readiness) -> AdminParts {
    AdminParts {
        name: "relay",
        version: "0.1.0",
        registry: registry.clone(),
        readiness: readiness.clone(),
        routes: Router::new().route("/flush", get(|| async { "flushed" })),
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Status and the whole answer.
async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}

#[tokio::test]
async fn answers_live_ready_metrics_version_and_what_was_merged_in() {
    let (registry, readiness) = (Registry::new(), Readiness::new());
    registry.counter("relay_envelopes", "Envelopes taken").inc();
    let uplink = readiness.latch("uplink");
    uplink.not_ready("cloud refused the password");
    let admin = Admin::bind(loopback(), parts(&registry, &readiness)).await.unwrap();
    let address = admin.address();
    let stopper = Stopper::new();
    let serving = tokio::spawn(admin.serve(stopper.token()));

    assert_eq!(fetch(address, "/live").await.0, 200);
    let (status, text) = fetch(address, "/ready").await;
    assert_eq!(status, 503);
    assert!(text.ends_with("uplink: cloud refused the password\n"), "{text}");
    uplink.ready();
    assert_eq!(fetch(address, "/ready").await.0, 200);
    let (_, text) = fetch(address, "/metrics").await;
    assert!(text.contains("relay_envelopes_total 1"), "{text}");
    assert!(text.contains("application/openmetrics-text"), "{text}");
    assert!(fetch(address, "/version").await.1.ends_with("relay 0.1.0\n"));
    assert!(fetch(address, "/flush").await.1.ends_with("flushed"));
    assert_eq!(fetch(address, "/nothing").await.0, 404);

    // A connection that somebody keeps open does not hold up the end.
    let _idle = TcpStream::connect(address).await.unwrap();
    stopper.stop();
    serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn is_not_open_to_the_network() {
    let open = "0.0.0.0:0".parse().unwrap();
    let fault = Admin::bind(open, parts(&Registry::new(), &Readiness::new())).await;
    let Err(fault @ AdminFault::NotLoopback(_)) = fault else {
        panic!("it was bound");
    };
    assert!(fault.to_string().contains("admin.listen"), "{fault}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let first = Admin::bind(loopback(), parts(&registry, &readiness)).await.unwrap();
    let second = Admin::bind(first.address(), parts(&registry, &readiness)).await;
    let Err(fault) = second else {
        panic!("it was bound twice");
    };
    assert!(fault.to_string().contains(&first.address().to_string()), "{fault}");
}
