//! kill -9 at any moment, of a real process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anchor::machine::State;
use anchor::{Config, Confirmation, Party, Worker};
use chassis::{Registry, Span, Stop, SystemClock};
use rand::RngExt;
use testkit::Seed;
use testkit::anvil::Options;

use crate::town::{Chunks, Running, Town, depth};

const RPC: &str = "ANCHOR_TEST_RPC";
const CONTRACT: &str = "ANCHOR_TEST_CONTRACT";
const PLACE: &str = "ANCHOR_TEST_PLACE";
const CHUNKS: &str = "ANCHOR_TEST_CHUNKS";

fn config(rpc: String, contract: anchor::Address, place: PathBuf) -> Config {
    let (key, ledger) = (place.join("terminal-0.key"), place.join("terminal-0.sqlite"));
    let mut config = Config::new(rpc, contract, key, ledger, Party::terminal("cityA/meter-0017"));
    config.poll = Span::millis(5);
    config.batch.age = Span::millis(0);
    config.confirmation = Confirmation::Depth(1);
    config
}

/// Not a test: the process that is killed, run by the test below with its own binary.
#[tokio::test]
#[ignore = "the worker process of the kill test"]
async fn a_worker_until_it_is_killed() {
    let Ok(rpc) = std::env::var(RPC) else { return };
    let contract = std::env::var(CONTRACT).unwrap().parse().unwrap();
    let place = std::env::var_os(PLACE).unwrap().into();
    let chunks = std::env::var(CHUNKS).unwrap().parse().unwrap();
    let config = config(rpc, contract, place);
    let clock = std::sync::Arc::new(SystemClock);
    let anchoring = Worker::start(config, Chunks::of(chunks), clock, &Registry::new()).unwrap();
    anchoring.run(Stop::never()).await.unwrap();
}

#[tokio::test]
async fn b2_kill_9_between_any_two_steps_neither_loses_nor_doubles_a_batch() {
    let seed = Seed::new();
    let mut rng = seed.rng();
    let town = Town::start_with(Options { block_time: Some(0.05), ..Options::default() }).await;
    let config = depth(town.terminal(), 1);
    let mut chunks = 0;
    for _ in 0..20 {
        chunks += 3;
        let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::a_worker_until_it_is_killed", "--ignored"])
            .env(RPC, town.anvil.rpc())
            .env(CONTRACT, town.contract.to_string())
            .env(PLACE, town.place.path())
            .env(CHUNKS, chunks.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment is the test: anywhere from before the ledger is open to after several batches.
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..160))).await;
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    chunks += 1;
    let worker = Running::start(config, Chunks::of(chunks));
    let place = |chunk| worker.anchoring.ledger().batch_of_chunk(chunk).unwrap();
    let last = testkit::wait_until(crate::town::DEADLINE, "the last chunk is in a batch", async || {
        place(chunks).ok_or(worker.anchoring.ledger().watermark())
    })
    .await;
    worker.reaches(last.batch.number, State::Final).await;
    let counts = worker.anchoring.ledger().standing().unwrap().counts;
    assert_eq!(counts.fin, last.batch.number, "{counts:?}");
    let written = town.written(worker.anchoring.address()).await;
    assert_eq!(written.len() as u64, counts.fin, "each batch once on chain");
    let mut next = 1;
    for (first, count) in written {
        assert_eq!(first, next, "no gap, no overlap");
        next += count;
    }
    assert_eq!(next, chunks as u64 + 1, "every chunk");
    assert!(counts.fin > 3, "the kills left time for some batches: {counts:?}");
}
