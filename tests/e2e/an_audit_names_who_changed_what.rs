//! Databases that were tampered with: `forebay audit` names the record, the side and the evidence, and is silent on clean ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use archive::{Append, Archive, FrameRef, Options, View};
use bytes::Bytes;
use edge_agent::Terminal;
use rusqlite::Connection;
use tempfile::TempDir;
use testkit::anvil::Options as Chain;
use testkit::{Anvil, wait_until};
use wire::{Announcement, Epoch, Record, RunBuilder};

use crate::town::{self, FOREBAY, PATIENCE, Role};

const SERIES: &str = "cityA/meter-1/power/active";
const OTHER: &str = "cityA/meter-1/power/reactive";
const RECORDS: u64 = 50;

/// A terminal and a cloud whose records are all on chain from both sides.
struct Prepared {
    anvil: Anvil,
    place: TempDir,
    /// The sequence's epoch.
    epoch: Epoch,
}

fn key_file(place: &Path, name: &str, key: &str) -> PathBuf {
    let path = place.join(name);
    anchor::keys::import(&path, &wire::digest::from_hex(key.trim_start_matches("0x")).unwrap()).unwrap();
    path
}

fn anchor_section(rpc: &str, contract: &str, key: &Path) -> String {
    format!(
        "[anchor]\nrpc = {rpc:?}\ncontract = {contract:?}\nkey_file = {key:?}\npoll = \"50ms\"\nconfirmation = {{ depth = 1 }}\n\
         batch = {{ chunks_max = 3, age = \"100ms\" }}\n"
    )
}

impl Prepared {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        let anvil = Anvil::start_with(Chain { block_time: Some(0.2), ..Chain::default() }).await;
        let deployer = anchor::keys::load(&key_file(path, "deployer", &anvil.keys()[9])).unwrap();
        let contract = anchor::deploy(&anvil.rpc(), &deployer, PATIENCE).await.unwrap().contract.to_string();
        let cloud_section = anchor_section(&anvil.rpc(), &contract, &key_file(path, "cloud.key", &anvil.keys()[1]));
        let cloud_toml = format!(
            "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\naccess = \"anonymous\"\n[storage]\nbudget = \"1GiB\"\n\
             segment_age = \"300ms\"\n{cloud_section}",
            path.join("cloud")
        );
        std::fs::write(path.join("cloud.toml"), cloud_toml).unwrap();
        let mut cloud = Role::start(&["cloud", "--config", path.join("cloud.toml").to_str().unwrap()]).await;
        let mut relay = town::relay(path, "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
        let rows: String =
            (0..RECORDS).map(|n| format!("2026-01-01T{:02}:{:02}:00Z,{n}.5,{}\n", n / 60, n % 60, n * 2)).collect();
        std::fs::write(path.join("rows.csv"), format!("time,a,b\n{rows}")).unwrap();
        let agent_section = anchor_section(&anvil.rpc(), &contract, &key_file(path, "agent.key", &anvil.keys()[0]));
        let agent_toml = format!(
            "sensor = \"cityA/meter-1\"\ndata = {:?}\n[[relays]]\nname = \"relay-1\"\naddress = \"{}\"\n[[stream]]\nmatch = \"#\"\n\
             operation = \"forward\"\n[report]\nenabled = false\n[[input]]\nkind = \"csv\"\nname = \"rows\"\npath = {:?}\ntime = \"time\"\n\
             columns = {{ a = \"power/active\", b = \"power/reactive\" }}\nduration = \"2s\"\n[chunk]\nrecords_max = 12\n\
             age_max = \"200ms\"\npoll = \"50ms\"\n{agent_section}",
            path.join("agent"),
            relay.place("listen"),
            path.join("rows.csv"),
        );
        std::fs::write(path.join("agent.toml"), agent_toml).unwrap();
        let mut agent = Role::start(&["agent", "--config", path.join("agent.toml").to_str().unwrap()]).await;
        wait_until(PATIENCE, "everything is on chain from both sides", async || {
            let terminal = Terminal::open(&path.join("agent")).map(|terminal| terminal.progress().unwrap());
            let anchored = terminal.map(|progress| progress.anchored).unwrap_or_default();
            let view = anchor::LedgerView::open(&path.join("cloud/anchor.sqlite"), Epoch(0));
            let standing = view.and_then(|view| view.standing()).map(|standing| standing.records_final).unwrap_or_default();
            if (anchored, standing) == (2 * RECORDS, 2 * RECORDS) { Ok(()) } else { Err((anchored, standing)) }
        })
        .await;
        let epoch = Terminal::open(&path.join("agent")).unwrap().origin().epoch;
        let prepared = Self { anvil, place, epoch };
        // With everybody at work.
        prepared.is_clean(&prepared.folders());
        for role in [&mut agent, &mut relay, &mut cloud] {
            role.child.terminate();
            role.child.wait(Duration::from_secs(20)).await;
        }
        prepared
    }

    fn folders(&self) -> Folders {
        Folders { terminal: self.place.path().join("agent"), cloud: self.place.path().join("cloud"), _place: None }
    }

    /// A copy of both databases, to be tampered with.
    fn copy(&self) -> Folders {
        let place = tempfile::tempdir().unwrap();
        for (folder, files) in [("agent", ["outbox.sqlite", "anchor.sqlite"]), ("cloud", ["archive.sqlite", "anchor.sqlite"])] {
            std::fs::create_dir(place.path().join(folder)).unwrap();
            for file in files {
                let from = Connection::open(self.place.path().join(folder).join(file)).unwrap();
                let to = place.path().join(folder).join(file);
                from.execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
            }
        }
        Folders { terminal: place.path().join("agent"), cloud: place.path().join("cloud"), _place: Some(place) }
    }

    fn audit(&self, folders: &Folders) -> (i32, String) {
        let (terminal, cloud) = (folders.terminal.to_str().unwrap(), folders.cloud.to_str().unwrap());
        let rpc = self.anvil.rpc();
        let args = ["--log", "error", "audit", "--terminal", terminal, "--cloud", cloud, "--rpc", &rpc];
        let output = Command::new(FOREBAY).args(args).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let code = output.status.code().unwrap();
        assert!(code <= 1, "{said}{}", String::from_utf8_lossy(&output.stderr));
        (code, said)
    }

    fn is_clean(&self, folders: &Folders) {
        assert_eq!(self.audit(folders), (0, String::new()));
    }

    /// The one finding that there is, and what it must name.
    fn finds(&self, folders: &Folders, wanted: &str) -> String {
        let (code, said) = self.audit(folders);
        assert_eq!(code, 1);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(wanted), "{wanted:?} is not how it begins: {said}");
        said
    }

    fn key(&self, series: &str, seq: u64) -> String {
        format!("{series}@{}.{seq}", self.epoch)
    }
}

/// The databases of both sides.
struct Folders {
    terminal: PathBuf,
    cloud: PathBuf,
    _place: Option<TempDir>,
}

impl Folders {
    fn outbox(&self) -> Connection {
        Connection::open(self.terminal.join("outbox.sqlite")).unwrap()
    }

    fn archive(&self) -> Connection {
        Connection::open(self.cloud.join("archive.sqlite")).unwrap()
    }

    /// The cloud's chunk that holds a record, and everything in it.
    fn chunk(&self, series: &str, seq: u64) -> (i64, Vec<Record>) {
        let view = View::open(&self.cloud).unwrap();
        let ids = view.ids_after(0, 1000).unwrap();
        let wanted = |id: &i64| {
            let chunk = view.chunk(*id).unwrap().unwrap();
            chunk.series.as_str() == series && chunk.seqs.contains(seq)
        };
        let id = ids.into_iter().find(wanted).unwrap();
        (id, view.records(id).unwrap().unwrap())
    }

    /// Changes what a chunk of the cloud holds, as somebody with a compiler would. Nothing but numbers and body, unless `all`.
    fn rewrite(&self, id: i64, records: &[Record], all: bool) {
        let forged = forge(records, &self.cloud);
        let archive = self.archive();
        archive.execute("UPDATE chunks SET seqs = ?2, body = ?3 WHERE id = ?1", (id, &forged.seqs, &forged.body)).unwrap();
        if all {
            let sql = "UPDATE chunks SET root = ?2, at_min = ?3, at_max = ?4 WHERE id = ?1";
            archive.execute(sql, (id, &forged.root, forged.at.0, forged.at.1)).unwrap();
        }
    }
}

/// A chunk as an archive makes it.
struct Forged {
    seqs: Vec<u8>,
    body: Vec<u8>,
    root: Vec<u8>,
    at: (i64, i64),
}

/// Has another archive make a chunk of these records.
fn forge(records: &[Record], cloud: &Path) -> Forged {
    let place = tempfile::tempdir().unwrap();
    let secret = View::open(cloud).unwrap().secret(SERIES, records[0].key.epoch).unwrap();
    let now = Arc::new(|| 1);
    let (archive, _) = Archive::open(place.path(), Options::new("forger".parse().unwrap(), now)).unwrap();
    let mut runs = Vec::new();
    for record in records {
        let mut run = RunBuilder::new(record.key.series.clone(), record.operation);
        run.push(record.at, &record.payload).unwrap();
        run.write(record.key.epoch, record.key.seq, &mut runs);
    }
    let from = FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: Epoch(1), number: 1 };
    let announced = Announcement { epoch: records[0].key.epoch, scope: None, secret: (*secret).clone() };
    let append = Append::Ingest { from, runs: Bytes::from(runs), secrets: vec![announced] };
    archive.append(append).unwrap().wait().unwrap();
    archive.close_now().unwrap();
    drop(archive);
    let made = Connection::open(place.path().join("archive.sqlite")).unwrap();
    let sql = "SELECT seqs, body, root, at_min, at_max FROM chunks";
    made.query_row(sql, [], |row| {
        Ok(Forged { seqs: row.get(0)?, body: row.get(1)?, root: row.get(2)?, at: (row.get(3)?, row.get(4)?) })
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_an_audit_names_what_was_changed_at_the_cloud() {
    let prepared = Prepared::new().await;
    prepared.is_clean(&prepared.copy());
    let place = |records: &[Record], seq: u64| records.iter().position(|record| record.key.seq == seq).unwrap();

    // A payload.
    let folders = prepared.copy();
    let (id, mut records) = folders.chunk(SERIES, 7);
    let at = place(&records, 7);
    records[at].payload = b"0.1".to_vec();
    folders.rewrite(id, &records, false);
    let said = prepared.finds(&folders, &format!("cloud: changed {}:", prepared.key(SERIES, 7)));
    assert!(said.contains("the terminal anchored") && said.contains("no longer makes the root of its own batch"), "{said}");

    // A time.
    let folders = prepared.copy();
    let (id, mut records) = folders.chunk(OTHER, 9);
    let at = place(&records, 9);
    records[at].at += 3_600_000_000_000;
    folders.rewrite(id, &records, false);
    let said = prepared.finds(&folders, &format!("cloud: changed {}:", prepared.key(OTHER, 9)));
    assert!(said.contains("its time") && said.contains("is outside of the anchored"), "{said}");

    // The order.
    let folders = prepared.copy();
    let (id, mut records) = folders.chunk(SERIES, 3);
    let (a, b) = (place(&records, 3), place(&records, 3) + 1);
    let (first, second) = (records[a].clone(), records[b].clone());
    (records[a].at, records[a].payload) = (second.at, second.payload);
    (records[b].at, records[b].payload) = (first.at, first.payload);
    folders.rewrite(id, &records, false);
    let (code, said) = prepared.audit(&folders);
    assert_eq!((code, said.lines().count()), (1, 2), "{said}");
    assert!(said.contains(&format!("cloud: reordered {}:", prepared.key(SERIES, first.key.seq))), "{said}");
    assert!(said.contains(&format!("it has the content of number {}", second.key.seq)), "{said}");

    // A record out of a chunk.
    let folders = prepared.copy();
    let (id, mut records) = folders.chunk(SERIES, 5);
    let at = place(&records, 5);
    records.remove(at);
    folders.rewrite(id, &records, false);
    let (code, said) = prepared.audit(&folders);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("cloud: deleted {}:", prepared.key(SERIES, 5))), "{said}");

    // A row of the table.
    let folders = prepared.copy();
    let (id, records) = folders.chunk(OTHER, 20);
    folders.archive().execute("DELETE FROM chunks WHERE id = ?1", [id]).unwrap();
    let (first, last) = (records[0].key.seq, records[records.len() - 1].key.seq);
    let subject = if first == last { prepared.key(OTHER, first) } else { format!("{}..{last}", prepared.key(OTHER, first)) };
    prepared.finds(&folders, &format!("cloud: deleted {subject}: batch"));

    // A row more, behind the last.
    let folders = prepared.copy();
    let (_, records) = folders.chunk(SERIES, RECORDS);
    let mut record = records[records.len() - 1].clone();
    record.key.seq = RECORDS + 1;
    let forged = forge(&[record], &folders.cloud);
    let sql = "INSERT INTO chunks (id, series, epoch, via, seq_first, seq_last, at_min, at_max, records, seqs, root, body)
               SELECT (SELECT max(id) + 1 FROM chunks), series, epoch, via, ?1, ?1, ?2, ?3, 1, ?4, ?5, ?6 FROM chunks
               WHERE series = (SELECT id FROM series WHERE name = ?7) LIMIT 1";
    let seq = (RECORDS + 1) as i64;
    let values = (seq, forged.at.0, forged.at.1, &forged.seqs, &forged.root, &forged.body, SERIES);
    folders.archive().execute(sql, values).unwrap();
    folders.archive().execute("UPDATE marks SET chunks_published = chunks_published + 1", []).unwrap();
    let (code, said) = prepared.audit(&folders);
    assert_eq!(code, 1);
    assert!(said.lines().all(|line| line.starts_with(&format!("cloud: added {}:", prepared.key(SERIES, RECORDS + 1)))), "{said}");
    assert!(said.contains("the terminal gave out numbers up to 50 only"), "{said}");

    // A column beside the records.
    let folders = prepared.copy();
    let (id, _) = folders.chunk(SERIES, 30);
    folders.archive().execute("UPDATE chunks SET at_max = at_max + 1 WHERE id = ?1", [id]).unwrap();
    let said = prepared.finds(&folders, "cloud: changed ");
    assert!(said.contains("the latest time of chunk"), "{said}");

    // Bytes that can't be read any more.
    let folders = prepared.copy();
    let (id, _) = folders.chunk(SERIES, 30);
    folders.archive().execute("UPDATE chunks SET body = x'00' WHERE id = ?1", [id]).unwrap();
    prepared.finds(&folders, "cloud: damaged ");
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_an_audit_names_what_was_changed_at_the_terminal() {
    let prepared = Prepared::new().await;
    let chunk = |folders: &Folders, seq: u64| {
        let sql = "SELECT c.id, c.seq_first, c.seq_last, c.leaves FROM chunks c JOIN series s ON s.id = c.series
                   WHERE s.name = ?1 AND c.seq_first <= ?2 AND c.seq_last >= ?2";
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get(3)?));
        let (id, first, last, leaves): (i64, i64, i64, Vec<u8>) =
            folders.outbox().query_row(sql, (SERIES, seq as i64), read).unwrap();
        (id, first as u64, last as u64, leaves)
    };

    // A leaf: all that is left of a payload.
    let folders = prepared.copy();
    let (id, first, _, mut leaves) = chunk(&folders, 7);
    leaves[(7 - first as usize) * 32] ^= 1;
    folders.outbox().execute("UPDATE chunks SET leaves = ?2 WHERE id = ?1", (id, &leaves)).unwrap();
    let said = prepared.finds(&folders, &format!("terminal: changed {}:", prepared.key(SERIES, 7)));
    assert!(said.contains("the cloud anchored"), "{said}");

    // Two of them in each other's place.
    let folders = prepared.copy();
    let (id, first, last, mut leaves) = chunk(&folders, 7);
    assert!(last > first, "a chunk with more than one record");
    let (a, b) = leaves.split_at_mut(32);
    a.swap_with_slice(&mut b[..32]);
    folders.outbox().execute("UPDATE chunks SET leaves = ?2 WHERE id = ?1", (id, &leaves)).unwrap();
    let (code, said) = prepared.audit(&folders);
    assert_eq!((code, said.lines().count()), (1, 2), "{said}");
    assert!(said.contains(&format!("terminal: reordered {}:", prepared.key(SERIES, first))), "{said}");

    // A row.
    let folders = prepared.copy();
    let (id, first, last, _) = chunk(&folders, 7);
    folders.outbox().execute("DELETE FROM chunks WHERE id = ?1", [id]).unwrap();
    prepared.finds(&folders, &format!("terminal: deleted {}..{last}: batch", prepared.key(SERIES, first)));

    // A time.
    let folders = prepared.copy();
    let (id, ..) = chunk(&folders, 7);
    folders.outbox().execute("UPDATE chunks SET at_min = at_min - 1 WHERE id = ?1", [id]).unwrap();
    let said = prepared.finds(&folders, "terminal: changed ");
    assert!(said.contains("the earliest time of chunk"), "{said}");

    // A row more.
    let folders = prepared.copy();
    let sql = "INSERT INTO chunks (series, seq_first, seq_last, at_min, at_max, root, state, purged, leaves)
               SELECT series, 51, 51, at_max, at_max, substr(leaves, 1, 32), 2, 0, substr(leaves, 1, 32) FROM chunks LIMIT 1";
    folders.outbox().execute(sql, []).unwrap();
    let (code, said) = prepared.audit(&folders);
    assert_eq!(code, 1);
    assert!(said.lines().all(|line| line.starts_with("terminal: added ")), "{said}");

    // The leaves are given up for room: then there is less to say, and nothing wrong.
    let folders = prepared.copy();
    folders.outbox().execute("UPDATE chunks SET leaves = NULL", []).unwrap();
    prepared.is_clean(&folders);
    let (id, mut records) = folders.chunk(SERIES, 7);
    let at = records.iter().position(|record| record.key.seq == 7).unwrap();
    records[at].payload = b"0.1".to_vec();
    folders.rewrite(id, &records, false);
    let said = prepared.finds(&folders, "cloud: changed ");
    assert!(said.contains("which ones can't be told"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_an_audit_names_proofs_that_were_rewritten() {
    let prepared = Prepared::new().await;
    let ledger = |folder: &Path| Connection::open(folder.join("anchor.sqlite")).unwrap();

    // One column.
    let folders = prepared.copy();
    ledger(&folders.cloud).execute("UPDATE batches SET root = zeroblob(32) WHERE number = 2", []).unwrap();
    prepared.finds(&folders, "cloud: rewritten batch 2: its leaves make root");

    // The transaction that a proof would name.
    let folders = prepared.copy();
    ledger(&folders.terminal).execute("UPDATE batches SET tx = zeroblob(32) WHERE number = 1", []).unwrap();
    prepared.finds(&folders, "terminal: rewritten batch 1: it names another transaction");

    // A header.
    let folders = prepared.copy();
    ledger(&folders.terminal).execute("UPDATE leaves SET header = zeroblob(100) WHERE batch = 1 AND position = 0", []).unwrap();
    let (_, said) = prepared.audit(&folders);
    assert!(said.contains("terminal: rewritten batch 1: the header of chunk"), "{said}");

    // A batch that is gone.
    let folders = prepared.copy();
    let rows =
        "DELETE FROM leaves WHERE batch = 1; DELETE FROM transactions WHERE batch = 1; DELETE FROM batches WHERE number = 1;";
    ledger(&folders.cloud).execute_batch(rows).unwrap();
    let (_, said) = prepared.audit(&folders);
    assert!(said.contains("cloud: deleted batch 1: the chain has it with root"), "{said}");

    // Everything that can be computed was computed again: record, chunk, header, leaf and root. The chain has another root, and the
    // terminal is the witness of the record.
    let folders = prepared.copy();
    let (id, mut records) = folders.chunk(SERIES, 7);
    let at = records.iter().position(|record| record.key.seq == 7).unwrap();
    records[at].payload = b"0.1".to_vec();
    folders.rewrite(id, &records, true);
    let stored = View::open(&folders.cloud).unwrap().chunk(id).unwrap().unwrap();
    let header = wire::ChunkHeader {
        series: stored.series,
        epoch: stored.epoch,
        count: stored.seqs.count(),
        intervals: stored.seqs,
        at_min: stored.at_min,
        at_max: stored.at_max,
        root: stored.root.unwrap(),
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    let ledger = ledger(&folders.cloud);
    let batch: i64 = ledger.query_row("SELECT batch FROM leaves WHERE chunk = ?1", [id], |row| row.get(0)).unwrap();
    ledger.execute("UPDATE leaves SET header = ?2, leaf = ?3 WHERE chunk = ?1", (id, bytes, header.leaf())).unwrap();
    let mut statement = ledger.prepare("SELECT leaf FROM leaves WHERE batch = ?1 ORDER BY position").unwrap();
    let leaves: Vec<wire::Digest> = statement.query_map([batch], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    ledger.execute("UPDATE batches SET root = ?2 WHERE number = ?1", (batch, wire::merkle::root(&leaves))).unwrap();
    let (code, said) = prepared.audit(&folders);
    assert_eq!((code, said.lines().count()), (1, 2), "{said}");
    assert!(said.contains(&format!("cloud: rewritten batch {batch}: its rows make root")), "{said}");
    assert!(said.contains(&format!("cloud: changed {}:", prepared.key(SERIES, 7))), "{said}");

    // Another account than the auditor knows.
    let folders = prepared.copy();
    let (terminal, rpc) = (folders.terminal.to_str().unwrap(), prepared.anvil.rpc());
    let args = ["audit", "--terminal", terminal, "--rpc", &rpc, "--terminal-account", &prepared.anvil.addresses()[3]];
    let output = Command::new(FOREBAY).args(args).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("terminal: rewritten the ledger: it names account"), "{said}");
}
