//! From the outbox to a real chain, and a chain that is not there.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anchor::{Batching, Confirmation, Evidence, keys, prove, verify_file};
use chassis::Span;
use common::{Running, SOON, config, relay};
use edge_agent::config::AnchorConfig;
use edge_agent::terminal::Place;
use edge_agent::{Reading, State, Terminal};
use testkit::{Answer, Anvil, wait_until};
use wire::{Operation, Record, RecordKey, Series};

const DEADLINE: Duration = Duration::from_secs(30);

fn key_file(folder: &Path, name: &str, key: &str) -> PathBuf {
    let path = folder.join(name);
    keys::import(&path, &wire::digest::from_hex(key.trim_start_matches("0x")).unwrap()).unwrap();
    path
}

fn anchoring(rpc: String, contract: anchor::Address, key_file: PathBuf) -> AnchorConfig {
    AnchorConfig {
        poll: Span::millis(20),
        batch: Batching { age: Span::millis(0), ..Batching::default() },
        confirmation: Confirmation::Depth(1),
        ..AnchorConfig::new(rpc, contract, key_file)
    }
}

fn series() -> Series {
    "cityA/meter-1/power".parse().unwrap()
}

fn readings(numbers: std::ops::Range<i64>) -> Vec<Reading> {
    numbers.map(|n| Reading::new(series(), Operation::Forward, n, n.to_string()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b2_accepted_records_come_on_chain_and_one_is_proven_after_its_row_was_purged() {
    let folder = tempfile::tempdir().unwrap();
    let anvil = Anvil::start().await;
    let deployer = keys::load(&key_file(folder.path(), "deployer", &anvil.keys()[9])).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &deployer, DEADLINE).await.unwrap().contract;
    let (peer, _held) = relay(|_| Answer::Ack).await;
    let mut config = config(&folder.path().join("data"), peer.address());
    config.chunk.records_max = 8;
    config.chunk.age_max = Span::millis(50);
    config.anchor = Some(anchoring(anvil.rpc(), contract, key_file(folder.path(), "terminal", &anvil.keys()[0])));
    let running = Running::start(config.clone()).await;
    // A block for each transaction: every further batch confirms the one before it.
    let mut taken = 0;
    wait_until(DEADLINE, "twenty records on chain", async || {
        let progress = running.agent.progress();
        if progress.accepted == taken {
            running.agent.outbox().take(readings(taken as i64..taken as i64 + 10), None).await.unwrap();
            taken += 10;
        }
        if progress.anchored >= 20 { Ok(()) } else { Err(progress) }
    })
    .await;
    let terminal = Terminal::open(&config.data).unwrap();
    let key = RecordKey { series: series(), epoch: terminal.origin().epoch, seq: 13 };
    let standing = terminal.standing(&key).unwrap().unwrap();
    assert_eq!(standing.state, State::OnChain);
    let Place::Chunk { chunk, index } = standing.place else { panic!("{:?} is no chunk", standing.place) };
    // The record itself comes from the cloud; here everybody knows it.
    let record = Record { key: key.clone(), at: 12, operation: Operation::Forward, payload: b"12".to_vec() };
    let leaves = terminal.leaves(chunk.id).unwrap().unwrap();
    let evidence =
        Evidence { chunk: chunk.id, leaves: &leaves, index: index as usize, record: &record, salt: terminal.salt(&key) };
    let ledger = running.agent.anchoring().unwrap().ledger().clone();
    let proof = prove(&ledger, &evidence).unwrap().to_json();
    let options = anchor::verify::Options { depth: Some(1), ..anchor::verify::Options::default() };
    let verified = verify_file(proof.as_bytes(), &anvil.rpc(), &options).await.unwrap();
    assert_eq!((verified.record, verified.party.name.as_str()), (record, "cityA/meter-1"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_a_chain_that_hangs_or_is_away_does_not_hold_up_taking_and_sending() {
    // One takes connections and says nothing, the other has nobody at its port.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [silent.local_addr().unwrap(), away.local_addr().unwrap()];
    drop(away);
    for address in addresses {
        let folder = tempfile::tempdir().unwrap();
        let (peer, held) = relay(|_| Answer::Ack).await;
        let mut config = config(&folder.path().join("data"), peer.address());
        config.chunk.records_max = 16;
        config.chunk.age_max = Span::millis(0);
        let key = key_file(folder.path(), "terminal", &format!("0x{}", "11".repeat(32)));
        config.anchor = Some(anchoring(format!("http://{address}"), anchor::Address::ZERO, key));
        let running = Running::start(config).await;
        for n in 0..200 {
            running.agent.outbox().take(readings(50 * n..50 * n + 50), None).await.unwrap();
        }
        tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
        running.until("all in chunks", |progress| progress.grouped == 10_000 && progress.anchored == 0).await;
        assert_eq!(held.lock().unwrap().records.len(), 10_000);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_whoever_reads_chunks_for_long_does_not_hold_up_taking() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, _held) = relay(|_| Answer::Ack).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.agent.outbox().take(readings(0..10), None).await.unwrap();
    // A reader with an open snapshot, as an anchor worker or an audit on a slow disk would have.
    let reader = store::open_reader(&folder.path().join("outbox.sqlite"), &store::Options::default()).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let seen = || reader.query_row("SELECT max(seq_last) FROM outbox", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(seen(), 10);
    running.agent.outbox().take(readings(10..2000), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 2000).await;
    assert_eq!(seen(), 10, "the snapshot is still open");
    running.stop().await;
}
