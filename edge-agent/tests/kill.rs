//! kill -9 at random moments: what was taken arrives, under one key, with one payload, and the numbers have no holes.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]
#![allow(clippy::print_stdout, reason = "the child tells its parent what it took")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Held, Running, SOON, config, relay};
use edge_agent::config::{CsvConfig, InputConfig};
use edge_agent::{Reading, Terminal};
use rand::RngExt;
use testkit::{Answer, Child, Seed, wait_until};
use wire::{Operation, Series};

const FOLDER: &str = "FOREBAY_TEST_FOLDER";
const RELAY: &str = "FOREBAY_TEST_RELAY";
const CSV: &str = "FOREBAY_TEST_CSV";
const LAST: &str = "FOREBAY_TEST_LAST";
const KILLS: usize = 20;
const CSV_KILLS: usize = 8;
const CSV_ROWS: u64 = 3_000;

/// Takes numbered readings into two series and sends them, until it is killed or (told to be the last) everything is acknowledged.
/// Number `n` goes to series `n % 2` and is its payload, so whoever reads it knows which key it must have.
#[tokio::test]
#[ignore = "the other half of the tests below"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let mut config = config(Path::new(&folder), std::env::var(RELAY).unwrap().parse().unwrap());
    config.send.frame_records_max = 40;
    config.send.inflight_max = 4;
    config.chunk.records_max = 64;
    let replays = std::env::var(CSV).ok();
    if let Some(path) = &replays {
        config.inputs = vec![InputConfig::Csv(CsvConfig {
            name: "replay".to_owned(),
            path: path.into(),
            time: "time".to_owned(),
            columns: [("p".to_owned(), "power".to_owned())].into(),
            speed: None,
            duration: Some(chassis::Span::millis(600)),
        })];
    }
    let running = Running::start(config).await;
    let last = std::env::var(LAST).is_ok();
    println!("up {}", running.agent.progress().taken);
    if last {
        tokio::time::timeout(2 * SOON, running.agent.drained()).await.unwrap();
        println!("drained {}", running.agent.progress().taken);
        running.stop().await;
        return;
    }
    if replays.is_some() {
        std::future::pending::<()>().await;
    }
    let series: [Series; 2] = ["cityA/meter-1/even", "cityA/meter-1/odd"].map(|text| text.parse().unwrap());
    let mut rng = rand::rng();
    let mut next = running.agent.progress().taken;
    loop {
        let count = rng.random_range(1..20);
        let batch = (next..next + count).map(|n| {
            let series = series[(n % 2) as usize].clone();
            Reading::new(series, Operation::Forward, n as i64, n.to_string()).unwrap()
        });
        running.agent.outbox().take(batch.collect(), None).await.unwrap();
        next += count;
        println!("taken {next}");
    }
}

fn spawn(folder: &Path, peer: &testkit::Peer, more: &[(&str, &str)]) -> Child {
    let relay = peer.address().to_string();
    let mut variables = vec![(FOLDER, folder.to_str().unwrap()), (RELAY, relay.as_str())];
    variables.extend_from_slice(more);
    let program = std::env::current_exe().unwrap();
    Child::spawn(program, ["--exact", "child", "--ignored", "--nocapture"], &variables)
}

fn number(line: &str, word: &str) -> Option<u64> {
    // The test harness may have written its own words in front.
    line.split(word).nth(1)?.trim().parse().ok()
}

fn check(held: &Held, taken: u64) {
    assert!(held.conflicts.is_empty(), "one key, two payloads: {:?}", held.conflicts);
    for (n, name) in [(0, "cityA/meter-1/even"), (1, "cityA/meter-1/odd")] {
        let wanted = (taken + 1 - n) / 2;
        assert_eq!(held.seqs(name), (1..=wanted).collect::<Vec<_>>(), "{name}");
        for ((series, _, seq), record) in held.records.range((name.to_owned(), 0, 0)..) {
            if series == name {
                let said: u64 = String::from_utf8_lossy(&record.payload).parse().unwrap();
                assert_eq!((said, record.at), (2 * (seq - 1) + n, said as i64), "{series}.{seq}");
            }
        }
    }
}

/// Every chunk's root is that of the records which the relay acknowledged, and no record is in two chunks.
fn check_chunks(held: &Held, terminal: &Terminal) -> u64 {
    let mut grouped = std::collections::BTreeSet::new();
    for chunk in terminal.chunks_after(0, usize::MAX).unwrap() {
        let series = chunk.header.series.as_str();
        let mut leaves = Vec::new();
        for (first, last) in chunk.header.intervals.as_slice() {
            for seq in *first..=*last {
                assert!(grouped.insert((series.to_owned(), seq)), "{series}.{seq} is in two chunks");
                let record = &held.records[&(series.to_owned(), chunk.header.epoch.0, seq)];
                leaves.push(terminal.origin().secret.leaf(&wire::RecordView {
                    series,
                    epoch: chunk.header.epoch,
                    seq,
                    at: record.at,
                    operation: record.operation,
                    payload: &record.payload,
                }));
            }
        }
        assert_eq!(chunk.header.root, wire::merkle::root(&leaves), "chunk {}", chunk.id);
        assert_eq!(terminal.leaves(chunk.id).unwrap(), Some(leaves));
    }
    grouped.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_kill_9_twenty_times_loses_no_reading_and_gives_no_key_to_two() {
    let seed = Seed::new();
    let mut rng = seed.rng();
    let folder = tempfile::tempdir().unwrap();
    let chance = Mutex::new(seed.rng());
    let (peer, held) = relay(move |_| match chance.lock().unwrap().random_range(0..20) {
        0 => Answer::Drop,
        1 => Answer::Refuse(0x97),
        2 => Answer::Hold,
        _ => Answer::Ack,
    })
    .await;
    let mut promised = 0;
    for _ in 0..KILLS {
        let mut child = spawn(folder.path(), &peer, &[]);
        let up = child.line(SOON, "the child is up", |line| number(line, "up ")).await;
        assert!(up >= promised, "{promised} readings were taken, {up} are there after the restart");
        let moment = Duration::from_micros(rng.random_range(0..150_000));
        let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;
        child.kill_9().await;
        let told = child.stdout().iter().filter_map(|line| number(line, "taken ")).max();
        promised = promised.max(told.unwrap_or(up));
    }
    peer.script(|script| {
        let held: Arc<Mutex<Held>> = held.clone();
        script.on_publish(move |_, publish| {
            held.lock().unwrap().take(&publish.payload, &publish.topic);
            Answer::Ack
        })
    });
    let mut child = spawn(folder.path(), &peer, &[(LAST, "1")]);
    let taken = child.line(2 * SOON, "everything acknowledged", |line| number(line, "drained ")).await;
    child.wait(SOON).await;
    assert!(taken >= promised, "{promised} were taken, {taken} are left");
    assert!(promised > 100, "the children took {promised} readings; the test says nothing");
    check(&held.lock().unwrap(), taken);
    let terminal = Terminal::open(folder.path()).unwrap();
    let progress = terminal.progress().unwrap();
    assert_eq!((progress.taken, progress.accepted, progress.pending(), progress.open_bytes), (taken, taken, 0, 0));
    assert_eq!(check_chunks(&held.lock().unwrap(), &terminal), progress.grouped);
    assert!(progress.grouped > 0, "no chunk was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_goes_on_where_the_outbox_ends() {
    let seed = Seed::new();
    let mut rng = seed.rng();
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rows.csv");
    let first: jiff::Timestamp = "2016-01-01T00:00:00Z".parse().unwrap();
    let rows = (0..CSV_ROWS).map(|n| format!("{},{n}\n", first + Duration::from_secs(900 * n)));
    std::fs::write(&csv, "time,p\n".to_owned() + &rows.collect::<String>()).unwrap();
    let csv = csv.to_str().unwrap().to_owned();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let data = folder.path().join("data");
    for _ in 0..CSV_KILLS {
        let mut child = spawn(&data, &peer, &[(CSV, &csv)]);
        child.line(SOON, "the child is up", |line| number(line, "up ")).await;
        let before = held.lock().unwrap().records.len();
        // Some while it opens the file, some in full flow.
        if rng.random_bool(0.7) && before < CSV_ROWS as usize {
            wait_until(SOON, "more rows", async || {
                let now = held.lock().unwrap().records.len();
                if now > before { Ok(()) } else { Err(now) }
            })
            .await;
        }
        child.kill_9().await;
    }
    let mut child = spawn(&data, &peer, &[(CSV, &csv), (LAST, "1")]);
    let taken = child.line(2 * SOON, "the end of the file", |line| number(line, "drained ")).await;
    child.wait(SOON).await;
    assert_eq!(taken, CSV_ROWS, "a row was taken twice, or left out");
    let held = held.lock().unwrap();
    assert!(held.conflicts.is_empty());
    let values: Vec<u64> = held.records.values().map(|r| String::from_utf8_lossy(&r.payload).parse().unwrap()).collect();
    assert_eq!(values, (0..CSV_ROWS).collect::<Vec<_>>());
}
