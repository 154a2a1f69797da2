//! Blocks that vanish.

use anchor::machine::State;
use serde_json::json;
use testkit::wait_until;

use crate::town::{Chunks, DEADLINE, Running, Town, depth};

#[tokio::test]
async fn b2_batches_whose_blocks_vanished_are_sent_again_with_the_same_bytes() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let worker = Running::start(depth(town.terminal(), 20), chunks.clone());
    for number in 1..=3 {
        worker.reaches(number, State::Mined).await;
        chunks.add(1);
    }
    worker.reaches(4, State::Mined).await;
    let before: Vec<_> = (1..=4).map(|number| worker.batch(number).unwrap().progress.mined.unwrap()).collect();
    // The last three of the four blocks, without what was in them.
    town.ask("anvil_reorg", json!([3, []])).await;
    wait_until(DEADLINE, "all are on the new chain", async || {
        let now: Vec<_> = (1..=4).map(|number| worker.batch(number).unwrap().progress).collect();
        let there = now.iter().all(|progress| progress.state == State::Mined);
        let moved = now[1..]
            .iter()
            .zip(&before[1..])
            .all(|(now, before)| now.mined.is_some_and(|mined| mined.tx == before.tx && mined.block_hash != before.block_hash));
        if there && moved { Ok(()) } else { Err(now) }
    })
    .await;
    for number in 1..=4 {
        assert_eq!(worker.anchoring.ledger().transactions(number).unwrap().len(), 1);
    }
    town.mine(20).await;
    worker.reaches(4, State::Final).await;
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1), (2, 1), (3, 1), (4, 1)]);
}

#[tokio::test]
async fn b2_a_batch_that_moved_to_another_block_is_not_sent_again() {
    let town = Town::start().await;
    let worker = Running::start(depth(town.terminal(), 10), Chunks::of(1));
    let before = worker.reaches(1, State::Mined).await.progress.mined.unwrap();
    town.mine(2).await;
    let raw = worker.anchoring.ledger().transactions(1).unwrap().remove(0).raw;
    let raw = format!("0x{}", wire::digest::to_hex(&raw));
    town.ask("anvil_reorg", json!([3, [[raw, 1]]])).await;
    let after = wait_until(DEADLINE, "the other block is noted", async || {
        let progress = worker.batch(1).unwrap().progress;
        match progress.mined {
            Some(mined) if mined.block_hash != before.block_hash => Ok(mined),
            _ => Err(progress),
        }
    })
    .await;
    assert_eq!(after.tx, before.tx);
    assert_eq!(after.block_number, before.block_number + 1);
    town.mine(10).await;
    worker.reaches(1, State::Final).await;
    assert_eq!(town.nonce(worker.anchoring.address()).await, 1);
}

/// A depth that was too small: what was final is looked at again once the head shows that it is gone.
#[tokio::test]
async fn b2_a_chain_that_was_rolled_back_gets_everything_again() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let worker = Running::start(depth(town.terminal(), 1), chunks.clone());
    worker.reaches(1, State::Mined).await;
    chunks.add(1);
    worker.reaches(1, State::Final).await;
    worker.reaches(2, State::Mined).await;
    town.ask("anvil_rollback", json!([2])).await;
    assert!(town.written(worker.anchoring.address()).await.len() <= 1);
    chunks.add(1);
    worker.reaches(3, State::Mined).await;
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1), (2, 1), (3, 1)]);
}

/// Blocks that were counted on a branch that lost don't count.
#[tokio::test]
async fn b2_confirmations_are_counted_along_parent_hashes_only() {
    let town = Town::start().await;
    let worker = Running::start(depth(town.terminal(), 4), Chunks::of(1));
    let before = worker.reaches(1, State::Mined).await.progress.mined.unwrap();
    town.mine(3).await;
    // Three of four confirmations are there. The branch is lost, and the new one is longer at once.
    town.ask("anvil_setAutomine", json!([false])).await;
    town.ask("anvil_reorg", json!([4, []])).await;
    town.mine(6).await;
    let after = wait_until(DEADLINE, "it is in another block", async || {
        town.mine(1).await;
        match worker.batch(1).unwrap().progress {
            now if now.mined.is_some_and(|mined| mined.block_hash != before.block_hash) => Ok(now),
            now => Err(now),
        }
    })
    .await;
    assert!(after.mined.unwrap().block_number > before.block_number);
    let batch = wait_until(DEADLINE, "it is final", async || {
        town.mine(1).await;
        worker.batch(1).filter(|batch| batch.progress.state == State::Final).ok_or(worker.state(1))
    })
    .await;
    let place = batch.progress.mined.unwrap();
    let block = town.ask("eth_getBlockByNumber", json!([format!("{:#x}", place.block_number), false])).await;
    assert_eq!(block["hash"], format!("0x{}", wire::digest::to_hex(&place.block_hash)));
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1)]);
}
