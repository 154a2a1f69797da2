//! kill -9 at every step of the terminal's whole way: saved, sent, accepted or rejected, chunked, batched, signed, sent to the chain, mined,
//! final, purged. A commit is what makes a step, so the process is killed in front of every commit of both its databases.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]
#![allow(clippy::print_stdout, reason = "the child tells its parent how far it is")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anchor::{Confirmation, keys};
use chassis::Span;
use common::{Held, Running, config};
use edge_agent::config::AnchorConfig;
use edge_agent::{Event, Reading, State, Terminal};
use store::rusqlite::Connection;
use testkit::anvil::Options;
use testkit::{Answer, Anvil, Child, Peer, Script, wait_until};
use wire::system::{self, TombstoneReport};
use wire::{FrameView, Operation, Series};

const FOLDER: &str = "FOREBAY_TEST_FOLDER";
const RELAY: &str = "FOREBAY_TEST_RELAY";
const RPC: &str = "FOREBAY_TEST_RPC";
const CONTRACT: &str = "FOREBAY_TEST_CONTRACT";
/// The database in front of whose commit the child stands still, and how many commits it lets through before.
const GATE: &str = "FOREBAY_TEST_GATE";
const SOON: Duration = Duration::from_secs(60);
/// The whole way has fewer commits than this; a child that comes to its end ends the loop earlier.
const STEPS_MAX: u64 = 60;
/// Laps over all steps at most.
const LAPS_MAX: usize = 4;
const GOOD: &str = "cityA/meter-1/good";
const BAD: &str = "cityA/meter-1/bad";

fn series(name: &str) -> Series {
    name.parse().unwrap()
}

/// Takes five readings, one of which no relay wants, and goes on until all that was ever taken is where it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process of the test below"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = PathBuf::from(folder);
    let mut config = config(&folder.join("data"), std::env::var(RELAY).unwrap().parse().unwrap());
    (config.chunk.records_max, config.chunk.age_max) = (3, Span::millis(0));
    config.report.enabled = true;
    config.report.every = Span::millis(50);
    config.anchor = Some(AnchorConfig {
        rpc: std::env::var(RPC).unwrap().into(),
        rpc_ca: None,
        contract: std::env::var(CONTRACT).unwrap().parse().unwrap(),
        key_file: folder.join("key"),
        poll: Span::millis(10),
        batch: anchor::Batching { age: Span::millis(0), ..anchor::Batching::default() },
        confirmation: Confirmation::Depth(1),
        sponsor: None,
        passphrase_file: None,
        passphrase: None,
    });
    let agent = edge_agent::start(config, edge_agent::Parts::default()).await.unwrap();
    if let Ok(gate) = std::env::var(GATE) {
        let (database, passes) = gate.split_once(':').unwrap();
        let (at_ledger, passes) = (database == "ledger", passes.parse().unwrap());
        let ledger = agent.anchoring().unwrap().ledger().clone();
        if at_ledger {
            ledger.faults().hold_after(passes)
        } else {
            agent.outbox().faults().hold_after(passes)
        }
        let outbox = agent.outbox().clone();
        std::thread::spawn(move || {
            if at_ledger {
                ledger.faults().wait_at_gate()
            } else {
                outbox.faults().wait_at_gate()
            }
            println!("at the gate");
        });
    }
    let running = Running::of(agent);
    let good = (0..4).map(|n| Reading::new(series(GOOD), Operation::Forward, n, n.to_string()).unwrap());
    running.agent.outbox().take(good.collect(), None).await.unwrap();
    println!("taken {GOOD} 4");
    let bad = Reading::new(series(BAD), Operation::Forward, 7, "bad").unwrap();
    running.agent.outbox().take(vec![bad], None).await.unwrap();
    println!("taken {BAD} 1");
    let terminal = Terminal::open(&folder.join("data")).unwrap();
    wait_until(SOON, "everything is where it ends", async || {
        let progress = terminal.progress().unwrap();
        let ended = progress.anchored + progress.rejected == progress.taken;
        let purged = scalar(&folder, "SELECT count(*) FROM outbox") == 0;
        let told = scalar(&folder, "SELECT count(*) FROM tombstones WHERE told < seq_last") == 0;
        if ended && purged && told { Ok(()) } else { Err((progress, purged, told)) }
    })
    .await;
    println!("ended");
    running.stop().await;
}

fn database(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("data/outbox.sqlite")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

fn scalar(folder: &Path, sql: &str) -> i64 {
    database(folder).query_row(sql, [], |row| row.get(0)).unwrap()
}

type Key = (String, u64);

/// Every record's state, as `sqlite3` would show it.
fn states(folder: &Path) -> BTreeMap<Key, State> {
    let connection = database(folder);
    let mut select = connection.prepare("SELECT series, seq, state FROM record_states").unwrap();
    let mut rows = select.query([]).unwrap();
    let mut states = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let name: String = row.get(2).unwrap();
        let state = State::ALL.into_iter().find(|state| state.as_str() == name).unwrap();
        let key = (row.get(0).unwrap(), row.get::<_, i64>(1).unwrap().cast_unsigned());
        assert_eq!(states.insert(key, state), None, "a record is in two places");
    }
    states
}

/// States of rows that are still in the outbox, and of batches in the ledger.
fn details(folder: &Path) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let connection = database(folder);
    let rows = "SELECT DISTINCT CASE WHEN c.id IS NULL THEN 'row ' || o.state ELSE 'chunk ' || c.state || ' unpurged' END
                  FROM outbox o LEFT JOIN chunks c ON c.id = o.chunk";
    let mut select = connection.prepare(rows).unwrap();
    seen.extend(select.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
    if let Ok(ledger) = Connection::open(folder.join("data/anchor.sqlite"))
        && let Ok(mut select) = ledger.prepare("SELECT DISTINCT state FROM batches")
    {
        seen.extend(select.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
    }
    seen
}

/// Whether a record may come from one state to the other, by any number of steps.
fn reaches(before: State, after: State) -> bool {
    let mut reached = BTreeSet::from([before]);
    loop {
        let more: BTreeSet<State> = reached
            .iter()
            .flat_map(|state| Event::ALL.into_iter().filter_map(|event| state.after(event).ok()))
            .chain(reached.iter().copied())
            .collect();
        if more == reached {
            return reached.contains(&after);
        }
        reached = more;
    }
}

/// A relay that takes everything but what it can't read.
async fn relay(held: Arc<Mutex<Held>>) -> Peer {
    Peer::start(Script::default().on_publish(move |_, publish| {
        if publish.topic.starts_with("probe/") {
            return Answer::Ack;
        }
        let frame = FrameView::parse(&publish.payload).unwrap();
        if frame.runs().any(|run| run.series() == BAD) {
            return Answer::Refuse(0x99);
        }
        held.lock().unwrap().take(&publish.payload, &publish.topic);
        Answer::Ack
    }))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_b2_b7_kill_9_in_front_of_every_commit_of_the_whole_way_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let anvil = Anvil::start_with(Options { block_time: Some(0.05), ..Options::default() }).await;
    let bytes = wire::digest::from_hex(anvil.keys()[0].trim_start_matches("0x")).unwrap();
    let key = keys::import(&folder.path().join("key"), &bytes).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &key, SOON).await.unwrap().contract.to_string();
    let held = Arc::new(Mutex::new(Held::default()));
    let peer = relay(held.clone()).await;
    let (rpc, address) = (anvil.rpc(), peer.address().to_string());
    let spawn = |gate: Option<String>| {
        let mut variables =
            vec![(FOLDER, folder.path().to_str().unwrap()), (RELAY, &address), (RPC, &rpc), (CONTRACT, contract.as_str())];
        variables.extend(gate.as_deref().map(|gate| (GATE, gate)));
        Child::spawn(std::env::current_exe().unwrap(), ["--exact", "child", "--ignored", "--nocapture"], &variables)
    };
    let (mut before, mut promised, mut seen) = (BTreeMap::<Key, State>::new(), BTreeMap::<String, u64>::new(), BTreeSet::new());
    let mut kills = 0;
    // How many commits lie between two steps depends on the moment, so one lap may pass a step by.
    let wanted = [
        "row 0",
        "row 1",
        "row 2",
        "row 3",
        "chunk 2 unpurged",
        "chunk 4 unpurged",
        "chunk 5 unpurged",
        "BATCHED",
        "SIGNED",
        "SENT",
        "MINED",
        "FINAL",
    ];
    for database in ["outbox", "ledger"].repeat(LAPS_MAX) {
        if kills > 0 && database == "outbox" && wanted.iter().all(|step| seen.contains(*step)) {
            break;
        }
        for passes in 0..STEPS_MAX {
            let mut child = spawn(Some(format!("{database}:{passes}")));
            let ended = child
                .line(SOON, "the gate or the end", |line| match line {
                    line if line.contains("at the gate") => Some(false),
                    line if line.contains("ended") => Some(true),
                    _ => None,
                })
                .await;
            child.kill_9().await;
            for line in child.stdout() {
                let Some((name, count)) = line.split("taken ").nth(1).and_then(|rest| rest.split_once(' ')) else { continue };
                *promised.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap();
            }
            let now = states(folder.path());
            for (key, state) in &before {
                let after = now.get(key).unwrap_or_else(|| panic!("{key:?} was {state} and is gone after {database}:{passes}"));
                assert!(reaches(*state, *after), "{key:?} went from {state} to {after}");
            }
            for (name, count) in &promised {
                let kept = now.keys().filter(|(series, _)| series == name).count() as u64;
                assert!(kept >= *count, "{count} of {name} were taken, {kept} are there after {database}:{passes}");
            }
            seen.extend(details(folder.path()));
            before = now;
            if ended {
                break;
            }
            kills += 1;
            assert!(passes + 1 < STEPS_MAX, "the way has no end");
        }
    }
    // Nobody does anything but start it once more.
    let mut child = spawn(None);
    child.line(SOON, "the end", |line| line.contains("ended").then_some(())).await;
    child.wait(SOON).await;
    let last = states(folder.path());
    for ((name, seq), state) in &last {
        let wanted = if name == BAD { State::ServerRejected } else { State::OnChain };
        assert_eq!(*state, wanted, "{name}.{seq}");
    }
    for step in wanted {
        assert!(seen.contains(step), "no kill left {step}: {seen:?}");
    }
    assert!(kills >= 15, "{kills} kills are not every step");
    // The relay has each record once, whatever was sent again; what it refused has a tombstone that was told once.
    let held = held.lock().unwrap();
    assert!(held.conflicts.is_empty(), "{:?}", held.conflicts);
    let on_chain = |series: &str| last.keys().filter(|(name, _)| name == series).map(|(_, seq)| *seq).collect::<Vec<_>>();
    assert_eq!(held.seqs(GOOD), on_chain(GOOD));
    let tombstones = format!("cityA/meter-1/{}", system::TOMBSTONES);
    let mut told = Vec::new();
    for (key, record) in held.records.iter().filter(|(key, _)| key.0 == tombstones) {
        let report = TombstoneReport::parse(&record.payload).unwrap_or_else(|| panic!("{key:?} is no report"));
        assert_eq!((report.series.as_str(), report.reason.contains("0x99")), (BAD, true));
        told.extend(report.from_seq..=report.to_seq);
    }
    told.sort_unstable();
    assert_eq!(told, on_chain(BAD));
    drop(held);
    // Each chunk is in one batch, and each batch on chain once.
    let ledger = Connection::open(folder.path().join("data/anchor.sqlite")).unwrap();
    let (chunks, batched): (i64, i64) = (
        scalar(folder.path(), "SELECT count(*) FROM chunks"),
        ledger.query_row("SELECT count(DISTINCT chunk) FROM leaves", [], |row| row.get(0)).unwrap(),
    );
    assert_eq!(chunks, batched);
    let open: i64 = ledger.query_row("SELECT count(*) FROM batches WHERE state <> 'FINAL'", [], |row| row.get(0)).unwrap();
    assert_eq!(open, 0);
}
