//! Nonces and the transactions that hold them: repeated, lost, replaced, taken by somebody else, reverted.

use std::time::Duration;

use alloy::network::TransactionBuilder;
use alloy::primitives::{B256, U256, keccak256};
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolValue;
use anchor::machine::State;
use anchor::rows::Transaction;
use anchor::{Address, Health};
use chassis::Span;
use serde_json::json;
use testkit::wait_until;

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, depth};

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", wire::digest::to_hex(bytes))
}

fn signed(worker: &Running, number: u64) -> Vec<Transaction> {
    worker.anchoring.ledger().transactions(number).unwrap()
}

/// Waits until so many transactions are signed for a batch; newest first.
async fn signatures(worker: &Running, number: u64, count: usize) -> Vec<Transaction> {
    wait_until(DEADLINE, &format!("{count} signatures of batch {number}"), async || {
        let signed = signed(worker, number);
        if signed.len() == count { Ok(signed) } else { Err((signed.len(), worker.batch(number))) }
    })
    .await
}

/// Sends one wei from the account to itself, as a thief with the key would.
async fn steal(town: &Town, account: Address, nonce: u64) {
    let gift = TransactionRequest::default().with_from(account).with_to(account).with_nonce(nonce).with_value(U256::from(1));
    town.ask("eth_sendTransaction", json!([gift])).await;
}

async fn pool(town: &Town, which: &str, count: &str) {
    wait_until(DEADLINE, &format!("{count} {which} in the pool"), async || {
        let status = town.ask("txpool_status", json!([])).await;
        if status[which] == count { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn b2_a_transaction_that_the_node_has_already_is_taken_as_sent() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    let first = worker.reaches(1, State::Sent).await;
    // Long enough to send again, not long enough to pay more.
    worker.clock.advance(Duration::from_secs(20));
    wait_until(DEADLINE, "it was sent again", async || {
        let now = worker.batch(1).unwrap().progress;
        if now.since > first.progress.since { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(worker.state(1), Some(State::Sent));
    worker.feels("all is well", |health| *health == Health::Fine).await;
    pool(&town, "pending", "0x1").await;
    town.mine(1).await;
    worker.reaches(1, State::Mined).await;
    assert_eq!(signed(&worker, 1).len(), 1);
}

#[tokio::test]
async fn b2_a_nonce_that_somebody_else_used_is_given_up_and_alarmed() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    let account = worker.anchoring.address();
    town.ask("anvil_dropTransaction", json!([B256::from(signed(&worker, 1)[0].hash)])).await;
    steal(&town, account, 0).await;
    town.mine(1).await;
    let signed = signatures(&worker, 1, 2).await;
    assert_eq!((signed[0].nonce, signed[1].nonce), (1, 0));
    worker.feels("somebody has the key", |health| *health == Health::ForeignNonce && health.is_alarm()).await;
    assert_eq!(town.alarms(), ["foreign nonce"]);
    worker.reaches(1, State::Sent).await;
    town.mine(1).await;
    worker.reaches(1, State::Mined).await;
    worker.feels("and it stays an alarm", |health| *health == Health::ForeignNonce).await;
    assert_eq!(town.written(account).await, [(1, 1)]);
    assert_eq!(town.nonce(account).await, 2);
}

/// What used the nonce before ours vanishes with its block, so ours can't be mined any more: the gap is filled.
#[tokio::test]
async fn b2_a_gap_before_the_nonce_is_filled() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    let account = worker.anchoring.address();
    worker.reaches(1, State::Sent).await;
    town.ask("anvil_dropTransaction", json!([B256::from(signed(&worker, 1)[0].hash)])).await;
    steal(&town, account, 0).await;
    town.mine(1).await;
    let two = signatures(&worker, 1, 2).await;
    assert_eq!(two[0].nonce, 1);
    worker.reaches(1, State::Sent).await;
    town.ask("anvil_dropTransaction", json!([B256::from(two[0].hash)])).await;
    town.ask("anvil_reorg", json!([1, []])).await;
    assert_eq!(town.nonce(account).await, 0, "the theft has vanished");
    let three = signatures(&worker, 1, 3).await;
    assert_eq!(three[0].nonce, 0, "the nonce that is free");
    worker.reaches(1, State::Sent).await;
    town.mine(1).await;
    worker.reaches(1, State::Mined).await;
    // The nonces go on without a hole, whatever was signed in between.
    let worker = {
        worker.stop().await;
        Running::start(town.terminal(), Chunks::of(2))
    };
    worker.reaches(2, State::Sent).await;
    assert_eq!(signed(&worker, 2)[0].nonce, 1);
    town.mine(1).await;
    worker.reaches(2, State::Mined).await;
    assert_eq!(town.written(account).await, [(1, 1), (2, 1)]);
}

/// A transaction behind a gap stands queued and can't be mined. Once the gap is filled by the batch's next one it is, and writes
/// nothing: compare-and-swap.
#[tokio::test]
async fn b2_a_transaction_queued_behind_a_gap_writes_nothing_twice() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    let account = worker.anchoring.address();
    worker.reaches(1, State::Sent).await;
    town.ask("anvil_dropTransaction", json!([B256::from(signed(&worker, 1)[0].hash)])).await;
    steal(&town, account, 0).await;
    town.mine(1).await;
    let two = signatures(&worker, 1, 2).await;
    assert_eq!(two[0].nonce, 1);
    worker.reaches(1, State::Sent).await;
    town.ask("anvil_dropTransaction", json!([B256::from(two[0].hash)])).await;
    town.ask("anvil_reorg", json!([1, []])).await;
    // Another node had it, and gives it back: with the theft gone there is nothing at the nonce before it.
    town.ask("eth_sendRawTransaction", json!([hex(&two[0].raw)])).await;
    pool(&town, "queued", "0x1").await;
    let three = signatures(&worker, 1, 3).await;
    assert_eq!(three[0].nonce, 0, "the lowest one that is free");
    pool(&town, "queued", "0x0").await;
    pool(&town, "pending", "0x2").await;
    town.mine(1).await;
    let batch = worker.reaches(1, State::Mined).await;
    assert_eq!(batch.progress.mined.unwrap().tx, three[0].hash);
    let late = town.ask("eth_getTransactionReceipt", json!([B256::from(two[0].hash)])).await;
    assert_eq!(late["status"], "0x0");
    assert_eq!(town.written(account).await, [(1, 1)]);
    assert_eq!(town.nonce(account).await, 2);
}

/// The account could pay when the transaction was signed, and can't when it is sent: the same bytes wait for money.
#[tokio::test]
async fn b2_funds_that_vanish_before_the_sending_use_no_second_nonce() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let mut config = town.terminal();
    config.rpc = proxy.rpc.clone().into();
    config.timeout = Span::seconds(20);
    proxy.hold("eth_sendRawTransaction", false);
    let worker = Running::start(config, Chunks::of(1));
    assert!(proxy.stands(DEADLINE).await);
    let before = signed(&worker, 1);
    let account = worker.anchoring.address();
    town.set_balance(account, 0).await;
    proxy.release();
    worker.feels("no funds", |health| *health == Health::NoFunds && health.is_alarm()).await;
    assert_eq!(worker.state(1), Some(State::Signed));
    town.set_balance(account, 1_000_000_000_000_000_000).await;
    worker.reaches(1, State::Mined).await;
    assert_eq!(signed(&worker, 1), before, "the same bytes");
    assert_eq!((town.nonce(account).await, before[0].nonce), (1, 0));
}

#[tokio::test]
async fn b2_of_a_replaced_transaction_either_may_be_mined() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    worker.clock.advance(Duration::from_secs(100));
    let two = signatures(&worker, 1, 2).await;
    worker.reaches(1, State::Sent).await;
    // Another node had the older one still, and its block won.
    town.ask("anvil_dropTransaction", json!([B256::from(two[0].hash)])).await;
    town.ask("eth_sendRawTransaction", json!([hex(&two[1].raw)])).await;
    town.mine(1).await;
    let batch = worker.reaches(1, State::Mined).await;
    assert_eq!(batch.progress.mined.unwrap().tx, two[1].hash);
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1)]);
}

#[tokio::test]
async fn b2_a_replacement_never_pays_more_than_the_cap() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let mut config = town.terminal();
    config.fee_cap_gwei = 4;
    let cap = u128::from(config.fee_cap_gwei) * 1_000_000_000;
    let worker = Running::start(config, Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    let mut known = 1;
    loop {
        worker.clock.advance(Duration::from_secs(100));
        let outcome = wait_until(DEADLINE, "another signature, or none any more", async || {
            let health = worker.anchoring.health().borrow().clone();
            match signed(&worker, 1).len() {
                now if now > known && worker.state(1) == Some(State::Sent) => Ok(Some(now)),
                _ if health == Health::FeesTooHigh => Ok(None),
                now => Err((now, health)),
            }
        })
        .await;
        let Some(now) = outcome else { break };
        known = now;
    }
    let signed = signed(&worker, 1);
    assert!((1..10).contains(&signed.len()), "{}", signed.len());
    assert!(signed.iter().all(|transaction| transaction.fees.cap <= cap), "{signed:?}");
    assert!(signed[0].fees.cap * 115 / 100 + 1 > cap, "it went as far as it may");
    assert!(signed.windows(2).all(|pair| pair[0].fees.cap * 100 >= pair[1].fees.cap * 115));
    town.mine(1).await;
    worker.reaches(1, State::Mined).await;
}

/// The stream's head in the contract's storage.
fn slot_of(account: Address, stream: [u8; 32]) -> B256 {
    let key = keccak256((account, B256::from(stream)).abi_encode());
    keccak256((key, U256::ZERO).abi_encode())
}

/// Mined with status 0: the receipt says so, the head says why, and the batch is written under another nonce.
#[tokio::test]
async fn b2_a_transaction_that_fails_on_chain_is_not_taken_for_written() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", json!([false])).await;
    let worker = Running::start(depth(town.terminal(), 1), Chunks::of(1));
    worker.reaches(1, State::Sent).await;
    let account = worker.anchoring.address();
    let slot = slot_of(account, town.terminal().party.stream());
    let set = async |head: B256| town.ask("anvil_setStorageAt", json!([town.contract, slot, head])).await;
    set(B256::repeat_byte(9)).await;
    town.mine(1).await;
    worker.reaches(1, State::Failed).await;
    set(B256::ZERO).await;
    let two = signatures(&worker, 1, 2).await;
    assert_eq!((two[0].nonce, two[1].nonce), (1, 0));
    let receipt = town.ask("eth_getTransactionReceipt", json!([B256::from(two[1].hash)])).await;
    assert_eq!(receipt["status"], "0x0");
    worker.reaches(1, State::Sent).await;
    town.mine(1).await;
    let batch = worker.reaches(1, State::Mined).await;
    assert_eq!(batch.progress.mined.unwrap().tx, two[0].hash);
    assert_eq!(town.written(account).await, [(1, 1)]);
}

/// A ledger that was put back from a copy signs a batch anew that is on chain already: compare-and-swap refuses it.
#[tokio::test]
async fn b2_a_ledger_put_back_from_a_copy_writes_nothing_twice() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let worker = Running::start(depth(town.terminal(), 1), chunks.clone());
    worker.reaches(1, State::Mined).await;
    worker.stop().await;
    let ledger = town.terminal().ledger;
    let copy = ledger.with_extension("copy");
    let all = rusqlite::Connection::open(&ledger).unwrap();
    all.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop(all);
    chunks.add(1);
    let worker = Running::start(depth(town.terminal(), 1), chunks.clone());
    worker.reaches(2, State::Mined).await;
    let account = worker.anchoring.address();
    worker.stop().await;
    for part in ["sqlite-wal", "sqlite-shm"] {
        let _ = std::fs::remove_file(ledger.with_extension(part));
    }
    std::fs::copy(&copy, &ledger).unwrap();
    let worker = Running::start(depth(town.terminal(), 1), chunks);
    worker.reaches(2, State::Failed).await;
    worker.feels("a head that this ledger never made", |health| *health == Health::ForeignHead).await;
    assert!(signed(&worker, 2).is_empty(), "no gas is spent on it");
    assert_eq!(town.written(account).await, [(1, 1), (2, 1)]);
}
