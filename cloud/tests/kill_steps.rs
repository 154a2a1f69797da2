//! kill -9 at every step of the cloud's way: received, committed, closed, batched, signed, sent to the chain, mined, final, taken over by the
//! archive. A commit is what makes a step, so the process is killed in front of every commit of both its databases.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]
#![allow(clippy::print_stdout, reason = "the child tells its parent how far it is")]

mod town;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chassis::{Registry, Span, SystemClock};
use cloud::config::Anchoring;
use cloud::{Cloud, Config, Page, Parts};
use serde_json::{Value, json};
use store::rusqlite::Connection;
use testkit::anvil::Options;
use testkit::{Anvil, Child, wait_until};
use town::{Client, Frame, Town, dev, folder};
use wire::Receipt;
use wire::state::ServerState;

const FOLDER: &str = "FOREBAY_TEST_FOLDER";
const RPC: &str = "FOREBAY_TEST_RPC";
const CONTRACT: &str = "FOREBAY_TEST_CONTRACT";
/// The database in front of whose commit the child stands still, how many commits it lets through before, and from when it counts: `start`,
/// so that it dies in the midst of mending too, or `rest`, when nothing is left of the kill before, so that each step comes in its turn.
const GATE: &str = "FOREBAY_TEST_GATE";
const SOON: Duration = Duration::from_secs(60);
/// The way of one frame has fewer commits than this; a child that comes to its end ends the loop earlier.
const STEPS_MAX: u64 = 40;
/// How many commits lie between two steps depends on the moment, so the first four laps may pass a step by; the others are for that.
const LAPS: [&str; 8] =
    ["archive:start", "ledger:start", "archive:rest", "ledger:rest", "ledger:rest", "archive:rest", "ledger:rest", "ledger:rest"];
const LAPS_MIN: usize = 4;
const SERIES: &str = "cityA/meter-1/power";
/// Records of a frame: frame n has those from `(n - 1) * RECORDS + 1` on.
const RECORDS: u64 = 3;
/// Where a kill has to leave something at least once.
const WANTED: [&str; 9] = ["not committed", "open", "closed", "BATCHED", "SIGNED", "SENT", "MINED", "FINAL", "not taken over"];

fn config(folder: &Path, rpc: String, contract: String) -> Config {
    let mut config = dev(folder);
    config.storage.segment_age = Span::millis(1);
    config.receipts.wait = Span::millis(1);
    config.anchor = Some(Anchoring {
        batch: anchor::Batching { age: Span::millis(0), ..anchor::Batching::default() },
        confirmation: anchor::Confirmation::Depth(1),
        poll: Span::millis(10),
        ..Anchoring::new(rpc, contract, folder.join("key"))
    });
    config
}

/// A cloud that tells where it listens, and when it stands at the gate. It does not outlive a test that was killed for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process of the test below"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = PathBuf::from(folder);
    let config = config(&folder, std::env::var(RPC).unwrap(), std::env::var(CONTRACT).unwrap());
    let registry = Registry::new();
    let cloud = Cloud::start(config, Parts { clock: Arc::new(SystemClock), registry: registry.clone() }).await.unwrap();
    let (archive, ledger) = (cloud.archive().clone(), cloud.anchoring().unwrap().ledger().clone());
    let gate = std::env::var(GATE).unwrap();
    let [database, from, passes] = gate.split(':').collect::<Vec<_>>()[..] else { panic!("{gate}") };
    let (at_ledger, passes) = (database == "ledger", passes.parse().unwrap());
    let hold = || if at_ledger { ledger.faults().hold_after(passes) } else { archive.faults().hold_after(passes) };
    let town = if from == "start" {
        hold();
        Town::of(cloud, registry)
    } else {
        let town = Town::of(cloud, registry);
        rests(&folder).await;
        hold();
        town
    };
    std::thread::spawn(move || {
        if at_ledger {
            ledger.faults().wait_at_gate();
        } else {
            archive.faults().wait_at_gate();
        }
        println!("at the gate");
    });
    println!("listens {} {}", town.mqtt, town.http);
    let ended = tokio::time::timeout(3 * SOON, std::future::pending::<()>()).await;
    panic!("nobody killed this process: {ended:?}");
}

fn database(folder: &Path, file: &str) -> Connection {
    let connection = Connection::open(folder.join("data").join(file)).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

fn texts(connection: &Connection, sql: &str) -> Vec<String> {
    let mut select = connection.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn scalar(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// State of every record in a chunk, as `sqlite3` would show it.
fn states(folder: &Path) -> BTreeMap<u64, ServerState> {
    let mut states = BTreeMap::new();
    for row in texts(
        &database(folder, "archive.sqlite"),
        "SELECT series || ' ' || epoch || ' ' || seq || ' ' || state FROM record_states",
    ) {
        let [series, epoch, seq, state] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        assert_eq!((series, epoch), (SERIES, "e"));
        let twice = states.insert(seq.parse().unwrap(), ServerState::parse(state).unwrap());
        assert_eq!(twice, None, "{row}: a record is in two places");
    }
    states
}

/// What both databases say of each batch: the archive learns it from the ledger.
fn batches(folder: &Path) -> [Vec<String>; 2] {
    let (archive, ledger) = (database(folder, "archive.sqlite"), database(folder, "anchor.sqlite"));
    [
        texts(&ledger, "SELECT number || ' ' || state FROM batches ORDER BY number"),
        texts(&archive, "SELECT number || ' ' || detail FROM batches ORDER BY number"),
    ]
}

/// At which steps something stands.
fn details(folder: &Path) -> BTreeSet<String> {
    let (archive, ledger) = (database(folder, "archive.sqlite"), database(folder, "anchor.sqlite"));
    let mut seen: BTreeSet<String> = texts(&ledger, "SELECT DISTINCT state FROM batches").into_iter().collect();
    let [told, taken_over] = batches(folder);
    let closed = scalar(&archive, "SELECT count(*) FROM chunks") > scalar(&ledger, "SELECT count(*) FROM leaves");
    let open = scalar(&archive, "SELECT count(*) FROM buffer") > 0;
    let found = [(open, "open"), (closed, "closed"), (told != taken_over, "not taken over")];
    seen.extend(found.into_iter().filter(|(there, _)| *there).map(|(_, step)| step.to_owned()));
    seen
}

fn frame(number: u64) -> Frame {
    let first = (number - 1) * RECORDS + 1;
    let payloads: Vec<String> = (first..first + RECORDS).map(|seq| seq.to_string()).collect();
    Frame::new(number).announcing(None).run(SERIES, first, &payloads.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Numbers of the frames of which the cloud has the records: each whole, once, and as it was sent.
async fn held(http: SocketAddr) -> BTreeSet<u64> {
    let page = reqwest::get(format!("http://{http}/api/v1/records?series={SERIES}&limit=1000")).await.unwrap();
    let page: Page = page.error_for_status().unwrap().json().await.unwrap();
    assert_eq!(page.next_cursor, None);
    let mut frames = BTreeMap::<u64, Vec<u64>>::new();
    for record in page.records {
        assert_eq!(record.payload.0, record.key.seq.to_string().into_bytes(), "{}", record.key);
        frames.entry((record.key.seq - 1) / RECORDS + 1).or_default().push(record.key.seq);
    }
    for (number, seqs) in &frames {
        assert_eq!(*seqs, ((number - 1) * RECORDS + 1..=number * RECORDS).collect::<Vec<_>>(), "frame {number}");
    }
    frames.into_keys().collect()
}

/// Sends what has no answer yet, as a relay does, until all has its receipt. What was promised meanwhile is noted.
async fn relay(mqtt: SocketAddr, last: u64, promised: &mut BTreeSet<u64>) {
    let mut relay = Client::connect(mqtt, "relay-1").await;
    relay.subscribe("down/relay-1/receipts").await;
    let waiting: BTreeSet<u64> = (1..=last).filter(|number| !promised.contains(number)).collect();
    for number in &waiting {
        relay.send(&frame(*number)).await;
        promised.insert(*number);
    }
    let mut receipted = BTreeSet::new();
    while !waiting.is_subset(&receipted) {
        let receipt = Receipt::parse(&relay.next().await.payload).unwrap();
        receipted.extend(receipt.numbers.as_slice().iter().flat_map(|(low, high)| *low..=*high));
    }
}

/// Until all that was committed is on chain, and both databases say so.
async fn rests(folder: &Path) {
    let (archive, ledger) = (database(folder, "archive.sqlite"), database(folder, "anchor.sqlite"));
    wait_until(SOON, "everything is on chain", async || {
        let open = scalar(&archive, "SELECT (SELECT count(*) FROM buffer) + (SELECT count(*) FROM chunks WHERE root IS NULL)");
        let closed = scalar(&archive, "SELECT count(*) FROM chunks") - scalar(&ledger, "SELECT count(*) FROM leaves");
        let [told, taken_over] = batches(folder);
        let settled = told == taken_over && told.iter().all(|batch| batch.ends_with("FINAL"));
        if (open, closed, settled) == (0, 0, true) { Ok(()) } else { Err((open, closed, told, taken_over)) }
    })
    .await;
}

async fn ask(rpc: &str, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let asked = reqwest::Client::new().post(rpc).header("content-type", "application/json").body(body);
    asked.send().await.unwrap().json::<Value>().await.unwrap()["result"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_kill_9_in_front_of_every_commit_of_the_clouds_way_loses_and_doubles_nothing() {
    let (_dir, folder) = folder();
    let anvil = Anvil::start_with(Options { block_time: Some(0.1), ..Options::default() }).await;
    let bytes = wire::digest::from_hex(anvil.keys()[0].trim_start_matches("0x")).unwrap();
    let key = anchor::keys::import(&folder.join("key"), &bytes).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &key, SOON).await.unwrap().contract.to_string();
    let (rpc, place) = (anvil.rpc(), folder.to_str().unwrap().to_owned());
    let (mut before, mut promised, mut seen) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::<String>::new());
    let (mut kills, mut last) = (0, 0);
    for (lap, counted) in LAPS.into_iter().enumerate() {
        if lap >= LAPS_MIN && WANTED.iter().all(|step| seen.contains(*step)) {
            break;
        }
        for passes in 0..STEPS_MAX {
            let gate = format!("{counted}:{passes}");
            let variables = [(FOLDER, place.as_str()), (RPC, &rpc), (CONTRACT, &contract), (GATE, &gate)];
            let arguments = ["--exact", "child", "--ignored", "--nocapture"];
            let mut child = Child::spawn(std::env::current_exe().unwrap(), arguments, &variables);
            let listens = |line: &str| line.split_once("listens ").map(|(_, addresses)| addresses.to_owned());
            let addresses = child.line(SOON, "its addresses", listens).await;
            let [mqtt, http] = addresses.split(' ').map(|address| address.parse().unwrap()).collect::<Vec<SocketAddr>>()[..]
            else {
                panic!("{addresses}")
            };
            // What the kill before has left: all that was promised, and of the rest whole frames or nothing.
            let kept = held(http).await;
            assert!(promised.is_subset(&kept), "{promised:?} were promised, {kept:?} are there before {gate}");
            if kept.len() as u64 != last {
                seen.insert("not committed".to_owned());
            }
            last += 1;
            let ended = tokio::select! {
                () = child.line(SOON, "the gate", |line| line.contains("at the gate").then_some(())) => false,
                () = async { relay(mqtt, last, &mut promised).await; rests(&folder).await } => true,
            };
            child.kill_9().await;
            let now = states(&folder);
            for (seq, state) in &before {
                // No block vanishes here, so there is no way back.
                let after = now.get(seq).unwrap_or_else(|| panic!("{seq} was {state:?} and is gone after {gate}"));
                assert!(after.anchored() >= ServerState::anchored(*state), "{seq} went from {state:?} to {after:?} at {gate}");
            }
            before = now;
            seen.extend(details(&folder));
            if ended {
                break;
            }
            kills += 1;
            assert!(passes + 1 < STEPS_MAX, "the way has no end");
        }
    }
    assert!(WANTED.iter().all(|step| seen.contains(*step)), "no kill left one of {WANTED:?}: {seen:?}");
    assert!(kills >= 24, "{kills} kills are not every step");
    // Nobody does anything but start it once more, and the relay sends what it has no answer for.
    let town = Town::start(config(&folder, rpc.clone(), contract.clone())).await;
    relay(town.mqtt, last, &mut promised).await;
    rests(&folder).await;
    assert_eq!(held(town.http).await, (1..=last).collect());
    assert_eq!(states(&folder), (1..=last * RECORDS).map(|seq| (seq, ServerState::OnChain)).collect());
    // Each chunk is in one batch, batches are without a gap, and each was written once, with one nonce.
    let (archive, ledger) = (database(&folder, "archive.sqlite"), database(&folder, "anchor.sqlite"));
    let chunks = "SELECT CAST(id AS TEXT) FROM chunks ORDER BY id";
    assert_eq!(texts(&archive, chunks), texts(&ledger, "SELECT CAST(chunk AS TEXT) FROM leaves ORDER BY batch, position"));
    let spans = texts(&ledger, "SELECT first_seq || ' ' || count FROM batches ORDER BY number");
    let mut next = 1;
    for span in &spans {
        let (first, count) = span.split_once(' ').unwrap();
        assert_eq!(first.parse(), Ok(next), "no gap, no overlap: {spans:?}");
        next += count.parse::<u64>().unwrap();
    }
    assert_eq!(
        scalar(&ledger, "SELECT sum(head IS NOT (SELECT p.prev FROM batches p WHERE p.number = b.number + 1)) FROM batches b"),
        1
    );
    let written = ask(&rpc, "eth_getLogs", json!([{"address": contract, "fromBlock": "0x0"}])).await;
    assert_eq!(written.as_array().unwrap().len(), spans.len(), "each batch once on chain");
    let nonce = ask(&rpc, "eth_getTransactionCount", json!([anvil.addresses()[0], "latest"])).await;
    assert_eq!(nonce, format!("{:#x}", spans.len() + 1), "one for the contract, one for each batch");
    // With all later batches, the first proof holds only if the last head is the chain's.
    let options = anchor::verify::Options { depth: Some(1), ..anchor::verify::Options::default() };
    for seq in [1, last * RECORDS] {
        let (status, proof) = town.get("", &format!("/api/v1/proofs/{SERIES}@e.{seq}?up_to_head=true")).await;
        assert_eq!(status, 200, "{proof}");
        let verified = anchor::verify_file(proof.to_string().as_bytes(), &rpc, &options).await.unwrap();
        assert_eq!(verified.record.payload, seq.to_string().into_bytes());
    }
    town.stop().await;
}
