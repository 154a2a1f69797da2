//! Nodes that answer nonsense, or for another chain than the one that was met.

use anchor::Health;
use anchor::machine::State;
use chassis::Span;
use serde_json::json;
use testkit::anvil::Options;

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, depth};

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn b5_a_node_that_refuses_or_talks_nonsense_only_makes_a_queue() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let mut config = depth(town.terminal(), 1);
    config.rpc = proxy.rpc.clone().into();
    config.timeout = Span::millis(1_000);
    let chunks = Chunks::of(1);
    let worker = Running::start(config, chunks.clone());
    let mut number = 1;
    worker.reaches(number, State::Mined).await;
    let answers = [
        http("500 Internal Server Error", "it broke"),
        http("429 Too Many Requests", "slower"),
        http("401 Unauthorized", ""),
        http("200 OK", "<html>a login page</html>"),
        http("200 OK", r#"{"jsonrpc":"2.0","id":0,"result":null}"#),
        http("200 OK", r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32603,"message":"internal error"}}"#),
        http("200 OK", r#"{"jsonrpc":"2.0","id":0,"result":{"number":"0xffffffffffffffffff"}}"#),
        b"not http at all\r\n\r\n".to_vec(),
        Vec::new(),
    ];
    for answer in answers {
        proxy.say(Some(&answer));
        worker.feels("no chain to be had", |health| matches!(health, Health::Away(_))).await;
        chunks.add(1);
        number += 1;
        worker.reaches(number, State::Batched).await;
        proxy.say(None);
        worker.reaches(number, State::Mined).await;
    }
    let written = town.written(worker.anchoring.address()).await;
    assert_eq!(written, (1..=number).map(|first| (first, 1)).collect::<Vec<_>>(), "everything, once, in order");
    assert_eq!(town.nonce(worker.anchoring.address()).await, number, "no nonce was wasted");
}

/// The other chain has the same id, the same contract at the same address, and is higher: no request fails, no height falls.
#[tokio::test]
async fn b2_a_chain_that_was_swapped_without_a_failing_request_is_noticed() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let chunks = Chunks::of(1);
    let mut config = depth(town.terminal(), 1);
    config.rpc = proxy.rpc.clone().into();
    let worker = Running::start(config, chunks.clone());
    worker.reaches(1, State::Mined).await;
    let other = Town::start_with(Options { more: vec!["--timestamp".into(), "1600000000".into()], ..Options::default() }).await;
    assert_eq!(other.contract, town.contract);
    other.mine(50).await;
    proxy.lead_to(other.anvil.port());
    worker.feels("another chain", |health| *health == Health::OtherChain).await;
    chunks.add(1);
    worker.reaches(2, State::Batched).await;
    assert_eq!(other.nonce(worker.anchoring.address()).await, 0, "nothing is written there");
    assert_eq!(worker.state(1), Some(State::Mined), "what was known of the first one stays");
    // And when the first one is back, it goes on.
    proxy.lead_to(town.anvil.port());
    worker.reaches(2, State::Mined).await;
    worker.feels("all is well", |health| *health == Health::Fine).await;
}

/// The same chain id and genesis, but other code where the contract was: a chain that was begun anew from the same file.
#[tokio::test]
async fn b2_other_code_at_the_contracts_place_is_noticed_when_the_chain_comes_back() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let mut config = depth(town.terminal(), 1);
    config.rpc = proxy.rpc.clone().into();
    let chunks = Chunks::of(1);
    let worker = Running::start(config, chunks.clone());
    worker.reaches(1, State::Mined).await;
    proxy.say(Some(b""));
    worker.feels("away", |health| matches!(health, Health::Away(_))).await;
    let code = town.ask("eth_getCode", json!([town.contract, "latest"])).await;
    town.ask("anvil_setCode", json!([town.contract, "0x00"])).await;
    chunks.add(1);
    proxy.say(None);
    worker.feels("it is not the contract any more", |health| *health == Health::OtherChain).await;
    assert_eq!(town.nonce(worker.anchoring.address()).await, 1, "nothing is written");
    town.ask("anvil_setCode", json!([town.contract, code])).await;
    worker.reaches(2, State::Mined).await;
}

#[tokio::test]
async fn b2_a_snapshot_that_is_put_back_is_a_reorganisation_like_any_other() {
    let town = Town::start().await;
    let snapshot = town.ask("evm_snapshot", json!([])).await;
    let chunks = Chunks::of(1);
    let worker = Running::start(depth(town.terminal(), 30), chunks.clone());
    worker.reaches(1, State::Mined).await;
    chunks.add(1);
    let before = worker.reaches(2, State::Mined).await.progress.mined.unwrap();
    town.ask("evm_revert", json!([snapshot])).await;
    // The same bytes may make the same block again; the nonce tells.
    testkit::wait_until(DEADLINE, "both are there again", async || {
        let nonce = town.nonce(worker.anchoring.address()).await;
        if nonce == 2 { Ok(()) } else { Err(nonce) }
    })
    .await;
    assert_eq!(worker.reaches(2, State::Mined).await.progress.mined.unwrap().tx, before.tx);
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1), (2, 1)]);
}
