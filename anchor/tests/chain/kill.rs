//! kill -9 at any moment, of a real process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anchor::machine::State;
use anchor::{Config, Confirmation, Party, Worker};
use chassis::{Registry, Span, Stop, SystemClock};
use rand::RngExt;
use serde_json::json;
use testkit::Seed;
use testkit::anvil::Options;

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, depth};

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

fn worker(town: &Town, rpc: String, chunks: i64) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::a_worker_until_it_is_killed", "--ignored"])
        .env(RPC, rpc)
        .env(CONTRACT, town.contract.to_string())
        .env(PLACE, town.place.path())
        .env(CHUNKS, chunks.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Everything that a worker asks until a batch is final. Between two questions is a write of the ledger, or nothing.
const QUESTIONS: [&str; 10] = [
    "eth_chainId",
    "eth_getCode",
    "eth_getBlockByNumber",
    "eth_call",
    "eth_estimateGas",
    "eth_maxPriorityFeePerGas",
    "eth_getTransactionCount",
    "eth_getBalance",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
];

/// The worker stands at a question, before the chain has it or before the answer is there, and dies.
#[tokio::test]
async fn b2_kill_9_at_each_question_to_the_chain_neither_loses_nor_doubles_a_batch() {
    let town = Town::start_with(Options { block_time: Some(0.05), ..Options::default() }).await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let ledger = depth(town.terminal(), 1).ledger;
    let (mut chunks, mut stood) = (0, Vec::new());
    for (question, asked) in QUESTIONS.iter().flat_map(|question| [(*question, false), (*question, true)]) {
        chunks += 1;
        proxy.hold(question, asked);
        let mut child = worker(&town, proxy.rpc.clone(), chunks);
        if proxy.stands(DEADLINE).await {
            stood.push(question);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if question == "eth_sendRawTransaction" {
            // What was signed is stored before it is sent: whether it arrived or not, the same bytes are sent again.
            let view = anchor::LedgerView::open(&ledger, wire::Epoch(0)).unwrap();
            let batches = (1..=view.last_batch().unwrap()).map(|number| view.batch(number).unwrap().unwrap());
            let front = batches.into_iter().find(|batch| batch.progress.state == State::Signed).expect("one is signed");
            let signed = view.transactions(front.number).unwrap();
            assert_eq!(signed.len(), 1);
            let known = town.ask("eth_getTransactionByHash", json!([alloy::primitives::B256::from(signed[0].hash)])).await;
            assert_eq!(known.is_null(), !asked, "the chain has it if it was asked");
        }
        proxy.release();
    }
    assert_eq!(stood.len(), 2 * QUESTIONS.len(), "the worker asks all of this: {stood:?}");
    let worker = Running::start(depth(town.terminal(), 1), Chunks::of(chunks));
    let last = testkit::wait_until(DEADLINE, "the last chunk is in a batch", async || {
        worker.anchoring.ledger().batch_of_chunk(chunks).unwrap().ok_or(worker.anchoring.ledger().watermark())
    })
    .await;
    worker.reaches(last.batch.number, State::Final).await;
    let account = worker.anchoring.address();
    let written = town.written(account).await;
    assert_eq!(written.iter().map(|(_, count)| count).sum::<u64>(), chunks as u64, "every chunk once: {written:?}");
    assert!(written.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "no gap, no overlap: {written:?}");
    assert_eq!(town.nonce(account).await, written.len() as u64, "no nonce was used for nothing");
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
        let mut worker = worker(&town, town.anvil.rpc(), chunks);
        // The moment is the test: anywhere from before the ledger is open to after several batches.
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..160))).await;
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    chunks += 1;
    let worker = Running::start(config, Chunks::of(chunks));
    let place = |chunk| worker.anchoring.ledger().batch_of_chunk(chunk).unwrap();
    let last = testkit::wait_until(DEADLINE, "the last chunk is in a batch", async || {
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
