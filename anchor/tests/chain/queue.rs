//! A chain that was away for days: what waits for it is on disk.

use anchor::machine::State;
use anchor::{Config, Health, Ledger};
use rusqlite::Connection;
use testkit::wait_until;
use wire::Epoch;

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, depth};

const BATCHES: u64 = 100_000;
const CHUNKS_A_BATCH: u64 = 10;
const MIB: u64 = 1 << 20;

/// What the worker may grow by: the page caches of the ledger's connections, 16 MiB each, and something to work with.
const GROWTH_MAX: u64 = 48 * MIB;

/// Writes a ledger as days of absence leave it: batches that were closed, none of them signed.
fn queue(config: &Config) {
    drop(Ledger::open(&config.ledger, &config.party, Epoch(0)).unwrap());
    let ledger = Connection::open(&config.ledger).unwrap();
    ledger
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF;
             BEGIN;
             INSERT INTO batches (number, root, first_seq, count, records, closed_at, state, since, offered_at, record_state, change)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {BATCHES})
             SELECT i, randomblob(32), (i - 1) * {CHUNKS_A_BATCH} + 1, {CHUNKS_A_BATCH}, 70, i, 'BATCHED', i, i, 'ServerAccepted', i FROM n;
             INSERT INTO leaves (batch, position, source, chunk, leaf, header)
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {BATCHES} * {CHUNKS_A_BATCH} - 1)
             SELECT i / {CHUNKS_A_BATCH} + 1, i % {CHUNKS_A_BATCH}, 0, i + 1, randomblob(32), randomblob(90) FROM n;
             UPDATE sources SET watermark = {BATCHES} * {CHUNKS_A_BATCH};
             COMMIT;"
        ))
        .unwrap();
}

/// Bytes of this process, which is this test's own, that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_a_queue_of_a_hundred_thousand_batches_is_on_disk_and_not_in_memory() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    proxy.say(Some(b""));
    let mut config = depth(town.terminal(), 1);
    config.rpc = proxy.rpc.clone().into();
    config.batch.chunks_max = CHUNKS_A_BATCH as usize;
    queue(&config);
    let on_disk = std::fs::metadata(&config.ledger).unwrap().len();
    assert!(on_disk > 2 * GROWTH_MAX, "{on_disk} bytes would not show");

    let chunks = Chunks::of((BATCHES * CHUNKS_A_BATCH) as i64);
    let before = resident();
    let worker = Running::start(config, chunks.clone());
    chunks.add(2_000);
    wait_until(DEADLINE * 3, "batches are made behind the queue", async || {
        let counts = worker.anchoring.ledger().standing().unwrap().counts;
        if counts.batched == BATCHES + 200 { Ok(()) } else { Err(counts) }
    })
    .await;
    worker.feels("away", |health| matches!(health, Health::Away(_))).await;
    let asked = proxy.asked();
    wait_until(DEADLINE, "it asks for the chain again and again", async || {
        let now = proxy.asked();
        if now >= asked + 3 { Ok(()) } else { Err(now) }
    })
    .await;
    let away = resident().saturating_sub(before);
    assert!(away < GROWTH_MAX, "{away} bytes for a queue of {on_disk} bytes");

    proxy.say(None);
    wait_until(DEADLINE * 3, "the queue moves", async || match worker.state(30) {
        Some(State::Mined | State::Final) => Ok(()),
        other => Err((other, worker.anchoring.health().borrow().clone())),
    })
    .await;
    let back = resident().saturating_sub(before);
    assert!(back < GROWTH_MAX, "{back} bytes for a queue of {on_disk} bytes");
    let written = town.written(worker.anchoring.address()).await;
    let wanted: Vec<_> = (0..written.len() as u64).map(|batch| (batch * CHUNKS_A_BATCH + 1, CHUNKS_A_BATCH)).collect();
    assert!(written.len() >= 30 && written == wanted, "in order, each once");
    worker.stop().await;
}
