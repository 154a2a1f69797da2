//! A link that is cut passes nothing, and what waited passes when it is healed.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::{CutLink, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const A_WHILE: Duration = Duration::from_millis(80);
const SOON: Duration = Duration::from_secs(5);

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

async fn say(socket: &mut TcpStream, text: &str) {
    socket.write_all(text.as_bytes()).await.unwrap();
}

async fn hear(socket: &mut TcpStream, within: Duration) -> Option<String> {
    let mut buffer = [0; 64];
    let read = timeout(within, socket.read(&mut buffer)).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

#[tokio::test]
async fn passes_and_counts() {
    let link = CutLink::start(echo().await).await;
    let mut socket = TcpStream::connect(link.address()).await.unwrap();
    say(&mut socket, "hello").await;
    assert_eq!(hear(&mut socket, SOON).await.as_deref(), Some("hello"));
    assert_eq!(link.bytes(), (5, 5));
    assert_eq!(link.accepted(), 1);
}

#[tokio::test]
async fn a_cut_holds_bytes_back_until_it_is_healed() {
    for way in [Way::Up, Way::Down, Way::Both] {
        let link = CutLink::start(echo().await).await;
        let mut socket = TcpStream::connect(link.address()).await.unwrap();
        say(&mut socket, "a").await;
        assert_eq!(hear(&mut socket, SOON).await.as_deref(), Some("a"));
        link.cut(way);
        say(&mut socket, "b").await;
        assert_eq!(hear(&mut socket, A_WHILE).await, None, "{way:?}");
        let expected = if way == Way::Down { (2, 1) } else { (1, 1) };
        assert_eq!(link.bytes(), expected, "{way:?}");
        link.heal();
        assert_eq!(hear(&mut socket, SOON).await.as_deref(), Some("b"), "{way:?}");
    }
}

#[tokio::test]
async fn a_delay_delays_both_ways() {
    let link = CutLink::start(echo().await).await;
    link.delay(Duration::from_millis(60));
    let mut socket = TcpStream::connect(link.address()).await.unwrap();
    let started = Instant::now();
    say(&mut socket, "a").await;
    assert_eq!(hear(&mut socket, SOON).await.as_deref(), Some("a"));
    assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_reset_closes_what_is_open_and_a_refusal_also_what_comes() {
    let link = CutLink::start(echo().await).await;
    let mut first = TcpStream::connect(link.address()).await.unwrap();
    say(&mut first, "a").await;
    assert_eq!(hear(&mut first, SOON).await.as_deref(), Some("a"));
    link.reset();
    assert!(matches!(hear(&mut first, SOON).await.as_deref(), None | Some("")));
    let mut second = TcpStream::connect(link.address()).await.unwrap();
    say(&mut second, "b").await;
    assert_eq!(hear(&mut second, SOON).await.as_deref(), Some("b"));
    link.refuse();
    assert!(matches!(hear(&mut second, SOON).await.as_deref(), None | Some("")));
    let mut third = TcpStream::connect(link.address()).await.unwrap();
    assert!(matches!(hear(&mut third, SOON).await.as_deref(), None | Some("")));
    link.heal();
    let mut fourth = TcpStream::connect(link.address()).await.unwrap();
    say(&mut fourth, "d").await;
    assert_eq!(hear(&mut fourth, SOON).await.as_deref(), Some("d"));
}
