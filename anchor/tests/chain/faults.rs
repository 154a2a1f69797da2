//! What the chain and its node do wrong. (Reorganisations: `reorg.rs`; crashes: `kill.rs`.)

use std::sync::atomic::Ordering;
use std::time::Duration;

use alloy::primitives::B256;
use anchor::machine::{Failure, State};
use anchor::{Health, keys};
use chassis::Span;
use serde_json::json;
use testkit::anvil::Options;
use testkit::{Anvil, wait_until};

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, depth};

#[tokio::test]
async fn b2_a_lost_answer_neither_loses_nor_doubles_a_batch() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let mut config = town.terminal();
    config.rpc = proxy.rpc.clone().into();
    config.timeout = Span::millis(500);
    proxy.lose.store(1, Ordering::SeqCst);
    let worker = Running::start(config, Chunks::of(1));
    let batch = worker.reaches(1, State::Mined).await;
    assert_eq!(proxy.lose.load(Ordering::SeqCst), 0, "an answer was lost");
    let signed = worker.anchoring.ledger().transactions(1).unwrap();
    assert_eq!(signed.len(), 1, "the same bytes were sent again");
    assert_eq!(signed[0].hash, batch.progress.mined.unwrap().tx);
    assert_eq!(town.nonce(worker.anchoring.address()).await, 1);
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1)]);
}

#[tokio::test]
async fn b2_without_funds_it_waits_without_using_a_nonce() {
    let town = Town::start().await;
    let config = town.terminal();
    let account = keys::load(&config.key_file).unwrap().address();
    town.set_balance(account, 0).await;
    let worker = Running::start(config, Chunks::of(1));
    worker.feels("no funds", |health| *health == Health::NoFunds).await;
    assert!(worker.anchoring.health().borrow().is_alarm());
    assert_eq!(worker.state(1), Some(State::Batched));
    assert!(worker.anchoring.ledger().transactions(1).unwrap().is_empty());
    town.set_balance(account, 1_000_000_000_000_000_000).await;
    worker.reaches(1, State::Mined).await;
    assert_eq!(worker.anchoring.ledger().transactions(1).unwrap()[0].nonce, 0);
}

#[tokio::test]
async fn b5_a_chain_that_hangs_or_is_away_only_makes_a_queue() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let mut config = depth(town.terminal(), 1);
    config.timeout = Span::millis(300);
    config.batch.chunks_max = 10;
    let worker = Running::start(config, chunks.clone());
    worker.reaches(1, State::Mined).await;
    town.anvil.pause();
    worker.feels("a chain that hangs", |health| matches!(health, Health::Away(_))).await;
    chunks.add(1);
    wait_until(DEADLINE, "a batch closes though the chain hangs", async || {
        let counts = worker.anchoring.ledger().standing().unwrap().counts;
        if counts.batched == 1 { Ok(()) } else { Err(counts) }
    })
    .await;
    chunks.add(25);
    wait_until(DEADLINE, "full batches close, the rest waits", async || {
        let standing = worker.anchoring.ledger().standing().unwrap();
        if (standing.counts.batched, standing.chunks_open) == (3, 22) { Ok(()) } else { Err(standing) }
    })
    .await;
    town.anvil.resume();
    worker.reaches(5, State::Mined).await;
    let written = town.written(worker.anchoring.address()).await;
    assert_eq!(written, [(1, 1), (2, 1), (3, 10), (13, 10), (23, 5)], "everything, once, in order");
}

#[tokio::test]
async fn b5_a_worker_starts_without_a_chain() {
    let town = Town::start().await;
    let mut config = town.terminal();
    config.rpc = "http://127.0.0.1:9".into();
    let worker = Running::start(config, Chunks::of(4));
    worker.feels("nobody there", |health| matches!(health, Health::Away(_))).await;
    assert_eq!(worker.batch(1).map(|batch| (batch.count, batch.progress.state)), Some((4, State::Batched)));
    worker.stop().await;
}

/// The node dies while batches wait, and comes back with what it had: a ledger of its own, a chain like before.
#[tokio::test]
async fn b5_a_chain_that_dies_and_comes_back_with_its_state_gets_the_rest() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state.json");
    let mut town = Town::start_with(Options { state: Some(state.clone()), ..Options::default() }).await;
    let chunks = Chunks::of(1);
    let worker = Running::start(depth(town.terminal(), 1), chunks.clone());
    let account = worker.anchoring.address();
    worker.reaches(1, State::Mined).await;
    let port = town.anvil.port();
    let spare = Anvil::start().await;
    // In order, so that it saves its state.
    std::mem::replace(&mut town.anvil, spare).end().await;
    worker.feels("nobody there", |health| matches!(health, Health::Away(_))).await;
    chunks.add(1);
    worker.reaches(2, State::Batched).await;
    town.anvil = Anvil::start_with(Options { state: Some(state), port: Some(port), ..Options::default() }).await;
    worker.reaches(2, State::Mined).await;
    worker.feels("all is well", |health| *health == Health::Fine).await;
    assert_eq!(town.written(account).await, [(1, 1), (2, 1)]);
    assert_eq!(town.nonce(account).await, 2);
}

#[tokio::test]
async fn b2_a_transaction_that_the_pool_dropped_is_sent_again() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    let signed = worker.anchoring.ledger().transactions(1).unwrap();
    town.ask("anvil_dropTransaction", json!([B256::from(signed[0].hash)])).await;
    worker.clock.advance(Duration::from_secs(20));
    wait_until(DEADLINE, "it is in the pool again", async || {
        let status = town.ask("txpool_status", json!([])).await;
        if status["pending"] == "0x1" { Ok(()) } else { Err(status) }
    })
    .await;
    town.mine(1).await;
    worker.reaches(1, State::Mined).await;
    assert_eq!(worker.anchoring.ledger().transactions(1).unwrap(), signed, "the same bytes");
}

#[tokio::test]
async fn b2_a_transaction_that_stays_pending_is_replaced_at_a_higher_fee() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    worker.clock.advance(Duration::from_secs(100));
    let signed = wait_until(DEADLINE, "a replacement", async || {
        let signed = worker.anchoring.ledger().transactions(1).unwrap();
        if signed.len() == 2 && worker.state(1) == Some(State::Sent) {
            Ok(signed)
        } else {
            Err((worker.batch(1).map(|batch| batch.progress), signed.len()))
        }
    })
    .await;
    let (newer, older) = (&signed[0], &signed[1]);
    assert_eq!(newer.nonce, older.nonce);
    assert!(newer.fees.cap * 100 >= older.fees.cap * 115 && newer.fees.tip * 100 >= older.fees.tip * 115);
    town.mine(1).await;
    let batch = worker.reaches(1, State::Mined).await;
    assert_eq!(batch.progress.mined.unwrap().tx, newer.hash);
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1)]);
}

#[tokio::test]
async fn b2_a_base_fee_above_the_cap_is_followed() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    // Anvil throws what pays too little out of its pool, and takes it no more.
    town.ask("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 50_000_000_000u64)])).await;
    town.mine(1).await;
    let first = worker.anchoring.ledger().transactions(1).unwrap();
    let known = town.ask("eth_getTransactionByHash", json!([B256::from(first[0].hash)])).await;
    assert!(known.is_null(), "the pool threw it out: {known}");
    worker.clock.advance(Duration::from_secs(20));
    let signed = wait_until(DEADLINE, "it pays more", async || {
        let signed = worker.anchoring.ledger().transactions(1).unwrap();
        if signed.len() == 2 { Ok(signed) } else { Err(signed.len()) }
    })
    .await;
    let (newer, older) = (&signed[0], &signed[1]);
    assert_eq!(newer.nonce, older.nonce);
    assert!(newer.fees.tip >= older.fees.tip, "a tip is never lowered");
    let block = town.ask("eth_getBlockByNumber", json!(["latest", false])).await;
    let base = u128::from_str_radix(block["baseFeePerGas"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    assert!(newer.fees.cap > base, "{} does not pay the base fee of {base}", newer.fees.cap);
    worker.reaches(1, State::Sent).await;
    town.mine(1).await;
    worker.reaches(1, State::Mined).await;
}

#[tokio::test]
async fn b2_fees_above_the_configured_cap_wait() {
    let town = Town::start().await;
    town.ask("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 50_000_000_000u64)])).await;
    town.mine(1).await;
    let mut config = town.terminal();
    config.fee_cap_gwei = 2;
    let worker = Running::start(config, Chunks::of(1));
    worker.feels("expensive", |health| *health == Health::FeesTooHigh).await;
    assert!(worker.anchoring.ledger().transactions(1).unwrap().is_empty());
    town.mine(40).await;
    worker.reaches(1, State::Mined).await;
}

#[tokio::test]
async fn b2_another_chain_behind_the_same_address_is_left_alone() {
    let mut town = Town::start().await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Mined).await;
    let account = worker.anchoring.address();
    let port = town.anvil.port();
    town.anvil.kill_9().await;
    let options = Options { port: Some(port), ..Options::default() };
    let other = Anvil::start_with(options).await;
    worker.feels("another chain", |health| *health == Health::OtherChain).await;
    town.anvil = other;
    assert_eq!(town.nonce(account).await, 0);
    assert_eq!(worker.state(1), Some(State::Mined), "the ledger stays as it was");
}

#[tokio::test]
async fn b2_a_contract_that_is_not_ours_gets_nothing() {
    let town = Town::start().await;
    let mut config = town.terminal();
    config.contract = town.anvil.addresses()[5].parse().unwrap();
    let worker = Running::start(config, Chunks::of(1));
    worker.feels("not the contract", |health| *health == Health::WrongContract).await;
    assert_eq!(town.nonce(worker.anchoring.address()).await, 0);
}

/// Somebody with the same key, but another ledger, writes into the stream.
#[tokio::test]
async fn b2_a_foreign_head_is_an_alarm_and_stops_writing() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let proxy = Proxy::start(town.anvil.port()).await;
    let mut config = town.terminal();
    config.rpc = proxy.rpc.clone().into();
    let worker = Running::start(config, chunks.clone());
    worker.reaches(1, State::Mined).await;
    let mut thief = town.terminal();
    thief.ledger.set_extension("stolen");
    let thief = Running::start(thief, Chunks::of(5));
    thief.reaches(1, State::Mined).await;
    thief.stop().await;
    chunks.add(1);
    let batch = worker.reaches(2, State::Failed).await;
    assert_eq!(batch.progress.failure, Some(Failure::ForeignHead));
    worker.feels("a foreign head", |health| *health == Health::ForeignHead).await;
    assert_eq!(town.alarms(), ["foreign head"]);
    // It looks again and again, and finds the same.
    let asked = proxy.asked();
    wait_until(DEADLINE, "three more looks", async || {
        let now = proxy.asked();
        if now >= asked + 12 { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(worker.batch(2), Some(batch));
    assert!(worker.anchoring.ledger().transactions(2).unwrap().is_empty());
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1), (1, 5)], "the thief's begins anew at 1");
}
