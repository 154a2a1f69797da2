//! A real chain comes up, answers, stands still and goes on. Needs anvil: `scripts/anvil` installs one.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::time::Duration;

use testkit::{Anvil, anvil};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One JSON-RPC call over a connection of its own.
async fn call(chain: &Anvil, method: &str) -> String {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":[]}}"#);
    let mut socket = TcpStream::connect(("127.0.0.1", chain.port())).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_chain_comes_up_stands_still_and_goes_on() {
    let options =
        anvil::Options { chain_id: Some(4242), accounts: Some(3), slots_in_an_epoch: Some(2), ..anvil::Options::default() };
    let mut chain = Anvil::start_with(options).await;
    let answer = call(&chain, "eth_chainId").await;
    assert!(answer.contains("0x1092"), "{answer}");
    assert_eq!((chain.addresses().len(), chain.keys().len()), (3, 3));
    assert_eq!(chain.addresses()[0].len(), 42);
    assert_eq!(chain.keys()[0].len(), 66);
    assert_eq!(chain.rpc(), format!("http://127.0.0.1:{}", chain.port()));

    chain.pause();
    let still = timeout(Duration::from_millis(100), call(&chain, "eth_blockNumber")).await;
    assert!(still.is_err(), "a paused chain answered: {still:?}");
    chain.resume();
    let answer = call(&chain, "eth_blockNumber").await;
    assert!(answer.contains("result"), "{answer}");

    chain.kill_9().await;
    assert!(TcpStream::connect(("127.0.0.1", chain.port())).await.is_err());
}
