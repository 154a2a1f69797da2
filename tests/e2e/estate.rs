//! Databases of terminals and of a cloud that are on chain from both sides, made without running either: by the formats, so that a
//! million records take seconds. And what an insider would do to them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anchor::{ChunkSource, Config, Confirmation, LedgerView, Party, SourceError, Worker};
use archive::{Append, Archive, FrameRef, Options, View};
use bytes::Bytes;
use chassis::{Registry, Span, Stopper, SystemClock};
use edge_agent::Terminal;
use rusqlite::Connection;
use serde_json::Value;
use store::Step;
use tempfile::TempDir;
use testkit::anvil::Options as Chain;
use testkit::{Anvil, wait_until};
use wire::{Announcement, ChunkHeader, Digest, Epoch, EpochSecret, Operation, Record, RecordView, RunBuilder, Series, merkle};

use crate::town::{FOREBAY, PATIENCE};

/// The agent's own migrations.
const OUTBOX: [Step; 5] = [
    Step { name: "outbox", sql: include_str!("../../edge-agent/src/sql/001_outbox.sql") },
    Step { name: "targets", sql: include_str!("../../edge-agent/src/sql/002_targets.sql") },
    Step { name: "reports", sql: include_str!("../../edge-agent/src/sql/003_reports.sql") },
    Step { name: "responses", sql: include_str!("../../edge-agent/src/sql/004_responses.sql") },
    Step { name: "states", sql: include_str!("../../edge-agent/src/sql/005_states.sql") },
];

/// How much is in an estate.
#[derive(Clone, Copy)]
pub struct Size {
    /// Sensors, each with an agent.
    pub sensors: u64,
    /// Series of each.
    pub series: u64,
    /// Records of each series.
    pub records: u64,
    /// Of these, how many came to the cloud.
    pub arrived: u64,
    /// Records of a terminal's chunk.
    pub chunk: u64,
    /// Records of a series in one segment of the cloud.
    pub segment: u64,
    /// Chunks of a batch.
    pub batch: usize,
}

pub const SMALL: Size = Size { sensors: 1, series: 2, records: 48, arrived: 48, chunk: 12, segment: 20, batch: 3 };

pub fn series(sensor: u64, number: u64) -> Series {
    format!("cityA/meter-{sensor}/power/{}", ["active", "reactive"][number as usize]).parse().unwrap()
}

pub fn epoch(sensor: u64) -> Epoch {
    Epoch(0xe0 + sensor)
}

fn secret(sensor: u64) -> EpochSecret {
    EpochSecret::new([sensor as u8; 32])
}

fn at(seq: u64) -> i64 {
    1_767_225_600_000_000_000 + seq as i64 * 900_000_000_000
}

fn payload(sensor: u64, number: u64, seq: u64) -> Vec<u8> {
    format!("{}.{sensor}", seq * (number + 1)).into_bytes()
}

/// The databases of one estate.
pub struct Estate {
    pub anvil: Anvil,
    pub contract: anchor::Address,
    pub place: TempDir,
    pub size: Size,
}

/// A terminal's chunks, as its ledger's worker sees them.
struct Chunks(PathBuf);

impl ChunkSource for Chunks {
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, SourceError> {
        let terminal = Terminal::open(&self.0).map_err(SourceError::new)?;
        let chunks = terminal.chunks_after(id, limit).map_err(SourceError::new)?;
        Ok(chunks.into_iter().map(|chunk| (chunk.id, chunk.header)).collect())
    }

    fn epoch(&self) -> Epoch {
        Terminal::open(&self.0).unwrap().origin().epoch
    }
}

struct Archived(Archive);

impl ChunkSource for Archived {
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, SourceError> {
        self.0.chunks_after(id, limit).map_err(SourceError::new)
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }
}

impl Estate {
    pub async fn build(size: Size) -> Self {
        let place = tempfile::tempdir().unwrap();
        let options = Chain { block_time: Some(0.05), accounts: Some(20), ..Chain::default() };
        let anvil = Anvil::start_with(options).await;
        let deployer = anchor::keys::load(&key_file(place.path(), &anvil, 0)).unwrap();
        let contract = anchor::deploy(&anvil.rpc(), &deployer, PATIENCE).await.unwrap().contract;
        let estate = Self { anvil, contract, place, size };
        for sensor in 1..=size.sensors {
            estate.fill_terminal(sensor);
            estate.anchor_terminal(sensor).await;
        }
        let archive = estate.fill_cloud();
        estate.anchor(&estate.cloud(), Party::server("cloud"), 1, Arc::new(Archived(archive.clone()))).await;
        drop(archive);
        estate
    }

    pub fn terminal(&self, sensor: u64) -> PathBuf {
        self.place.path().join("agents").join(format!("meter-{sensor}"))
    }

    pub fn cloud(&self) -> PathBuf {
        self.place.path().join("cloud")
    }

    fn fill_terminal(&self, sensor: u64) {
        let (folder, size) = (self.terminal(sensor), self.size);
        std::fs::create_dir_all(&folder).unwrap();
        let mut outbox = store::open(&folder.join("outbox.sqlite"), &OUTBOX, &store::Options::default()).unwrap();
        let tx = outbox.transaction().unwrap();
        let sql = "INSERT INTO origin (id, epoch, secret, sensor, made_at) VALUES (1, ?1, ?2, ?3, 0)";
        let name = format!("cityA/meter-{sensor}");
        tx.execute(sql, (epoch(sensor).0 as i64, secret(sensor).expose(), &name)).unwrap();
        for number in 0..size.series {
            let sql = "INSERT INTO series (id, name, next_seq) VALUES (?1, ?2, ?3)";
            let id = number as i64 + 1;
            tx.execute(sql, (id, series(sensor, number).as_str(), size.records as i64 + 1)).unwrap();
            for first in (1..=size.records).step_by(size.chunk as usize) {
                let last = (first + size.chunk - 1).min(size.records);
                add_chunk(&tx, sensor, number, (first, last));
            }
        }
        tx.commit().unwrap();
    }

    pub async fn anchor_terminal(&self, sensor: u64) {
        let folder = self.terminal(sensor);
        let party = Party::terminal(format!("cityA/meter-{sensor}"));
        self.anchor(&folder, party, 1 + sensor as usize, Arc::new(Chunks(folder.clone()))).await;
        let outbox = Connection::open(folder.join("outbox.sqlite")).unwrap();
        outbox.execute("UPDATE chunks SET state = 5, purged = 1", []).unwrap();
    }

    /// An archive with everything that came to the cloud, in segments.
    fn fill_cloud(&self) -> Archive {
        let size = self.size;
        let mut options = Options::new("cloud".parse().unwrap(), Arc::new(|| 1));
        options.chunk_records_max = size.segment as usize;
        let (archive, _) = Archive::open(&self.cloud(), options).unwrap();
        let mut number = 0;
        for first in (1..=size.arrived).step_by(size.segment as usize) {
            let last = (first + size.segment - 1).min(size.arrived);
            for sensor in 1..=size.sensors {
                let mut runs = Vec::new();
                for stream in 0..size.series {
                    let mut run = RunBuilder::new(series(sensor, stream), Operation::Forward);
                    for seq in first..=last {
                        run.push(at(seq), &payload(sensor, stream, seq)).unwrap();
                    }
                    run.write(epoch(sensor), first, &mut runs);
                }
                number += 1;
                let from = FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: Epoch(1), number };
                let scope = Some(format!("cityA/meter-{sensor}").parse().unwrap());
                let announced = Announcement { epoch: epoch(sensor), scope, secret: secret(sensor) };
                let append = Append::Ingest { from, runs: Bytes::from(runs), secrets: vec![announced] };
                archive.append(append).unwrap().wait().unwrap();
            }
            archive.close_now().unwrap();
        }
        archive
    }

    /// Runs a worker until everything that is there is on chain.
    async fn anchor(&self, folder: &Path, party: Party, account: usize, source: Arc<dyn ChunkSource>) {
        let key = key_file(self.place.path(), &self.anvil, account);
        let ledger = folder.join("anchor.sqlite");
        let mut config = Config::new(self.anvil.rpc(), self.contract, key, ledger.clone(), party);
        config.poll = Span::millis(20);
        config.confirmation = Confirmation::Depth(1);
        config.batch.age = Span::millis(0);
        config.batch.chunks_max = self.size.batch;
        let (mut chunks, mut after) = (0, 0);
        loop {
            let more = source.chunks_after(after, 4_096).unwrap();
            let Some((last, _)) = more.last() else { break };
            (chunks, after) = (chunks + more.len() as u64, *last);
        }
        let anchoring = Worker::start(config, source, Arc::new(SystemClock), &Registry::new()).unwrap();
        let view = LedgerView::open(&ledger, Epoch(0)).unwrap();
        let stopper = Stopper::new();
        let task = tokio::spawn(anchoring.run(stopper.token()));
        wait_until(Duration::from_secs(120), "everything is on chain", async || {
            let standing = view.standing().unwrap();
            if standing.chunks_final >= chunks { Ok(()) } else { Err(standing) }
        })
        .await;
        stopper.stop();
        task.await.unwrap().unwrap();
    }

    /// Everything as it is, to be tampered with.
    pub fn copy(&self) -> Folders {
        let place = tempfile::tempdir().unwrap();
        let (agents, cloud) = (place.path().join("agents"), place.path().join("cloud"));
        for sensor in 1..=self.size.sensors {
            copy_all(&self.terminal(sensor), &agents.join(format!("meter-{sensor}")));
        }
        copy_all(&self.cloud(), &cloud);
        Folders { terminal: agents.join("meter-1"), agents, cloud, _place: place }
    }

    /// Audits the first terminal and the cloud.
    pub fn audit(&self, folders: &Folders, more: &[&str]) -> Said {
        audit(&self.anvil.rpc(), &[&folders.terminal], Some(&folders.cloud), more)
    }

    pub fn is_clean(&self, folders: &Folders) {
        let said = self.audit(folders, &[]);
        assert_eq!((said.code, said.text.as_str()), (0, ""), "{}", said.errors);
    }

    /// The first sensor's record, as findings spell it.
    pub fn key(&self, number: u64, seq: u64) -> String {
        format!("{}@{}.{seq}", series(1, number), epoch(1))
    }
}

/// A chunk of a terminal over records that no relay has to be asked about any more.
pub fn add_chunk(outbox: &Connection, sensor: u64, number: u64, (first, last): (u64, u64)) {
    let (secret, series) = (secret(sensor), series(sensor, number));
    let leaf = |seq| {
        let payload = payload(sensor, number, seq);
        let (series, epoch, operation) = (series.as_str(), epoch(sensor), Operation::Forward);
        secret.leaf(&RecordView { series, epoch, seq, at: at(seq), operation, payload: &payload })
    };
    let leaves: Vec<Digest> = (first..=last).map(leaf).collect();
    let sql = "INSERT INTO chunks (series, seq_first, seq_last, at_min, at_max, root, state, purged, leaves)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, 2, 0, ?7)";
    let row = (number as i64 + 1, first as i64, last as i64, at(first), at(last), merkle::root(&leaves), leaves.concat());
    outbox.prepare_cached(sql).unwrap().execute(row).unwrap();
}

pub fn key_file(place: &Path, anvil: &Anvil, account: usize) -> PathBuf {
    let path = place.join(format!("key-{account}"));
    if !path.exists() {
        let key = wire::digest::from_hex(anvil.keys()[account].trim_start_matches("0x")).unwrap();
        anchor::keys::import(&path, &key).unwrap();
    }
    path
}

/// Copies the databases of a folder; a process may have them open.
pub fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sqlite") {
            let target = to.join(path.file_name().unwrap());
            let _old = std::fs::remove_file(&target);
            Connection::open(&path).unwrap().execute("VACUUM INTO ?1", [target.to_str().unwrap()]).unwrap();
        }
    }
}

/// What `forebay audit` said.
pub struct Said {
    pub code: i32,
    pub text: String,
    pub errors: String,
}

impl Said {
    pub fn lines(&self) -> Vec<&str> {
        self.text.lines().collect()
    }

    /// That there is a finding that begins like this.
    pub fn finds(&self, wanted: &str) -> &Self {
        assert_eq!(self.code, 1, "{}{}", self.text, self.errors);
        assert!(self.lines().iter().any(|line| line.starts_with(wanted)), "{wanted:?} is not in:\n{}", self.text);
        self
    }

    /// That every finding begins like one of these.
    pub fn finds_only(&self, wanted: &[&str]) -> &Self {
        assert_eq!(self.code, 1, "{}{}", self.text, self.errors);
        for line in self.lines() {
            assert!(wanted.iter().any(|wanted| line.starts_with(wanted)), "{line:?} is not wanted");
        }
        for wanted in wanted {
            self.finds(wanted);
        }
        self
    }

    pub fn tells(&self, wanted: &str) -> &Self {
        assert!(self.text.contains(wanted), "{wanted:?} is not in:\n{}", self.text);
        self
    }

    /// The objects of `--json`, by type.
    pub fn objects(&self, r#type: &str) -> Vec<Value> {
        let all = self.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|object| object["type"] == r#type).collect()
    }
}

pub fn audit(rpc: &str, terminals: &[&Path], cloud: Option<&Path>, more: &[&str]) -> Said {
    let mut command = Command::new(FOREBAY);
    command.args(["--log", "error", "audit", "--rpc", rpc]).args(more);
    for folder in terminals {
        command.arg("--terminal").arg(folder);
    }
    if let Some(folder) = cloud {
        command.arg("--cloud").arg(folder);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    let code = output.status.code().expect("it ends by itself");
    Said { code, text: String::from_utf8(output.stdout).unwrap(), errors }
}

/// Copies of the databases of both sides.
pub struct Folders {
    pub terminal: PathBuf,
    pub agents: PathBuf,
    pub cloud: PathBuf,
    _place: TempDir,
}

impl Folders {
    pub fn outbox(&self) -> Connection {
        Connection::open(self.terminal.join("outbox.sqlite")).unwrap()
    }

    pub fn archive(&self) -> Connection {
        Connection::open(self.cloud.join("archive.sqlite")).unwrap()
    }

    pub fn ledger(&self, side: &str) -> Connection {
        let folder = if side == "cloud" { &self.cloud } else { &self.terminal };
        Connection::open(folder.join("anchor.sqlite")).unwrap()
    }

    /// The terminal's chunk that holds a record: its id and its numbers.
    pub fn terminal_chunk(&self, number: u64, seq: u64) -> (i64, u64, u64) {
        let sql = "SELECT id, seq_first, seq_last FROM chunks WHERE series = ?1 AND seq_first <= ?2 AND seq_last >= ?2";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64));
        self.outbox().query_row(sql, (number as i64 + 1, seq as i64), read).unwrap()
    }

    /// The cloud's chunk that holds a record, and everything in it.
    pub fn chunk(&self, number: u64, seq: u64) -> (i64, Vec<Record>) {
        let view = View::open(&self.cloud).unwrap();
        let ids = view.ids_after(0, 1000).unwrap();
        let wanted = |id: &i64| {
            let chunk = view.chunk(*id).unwrap().unwrap();
            chunk.series == series(1, number) && chunk.seqs.contains(seq)
        };
        let id = ids.into_iter().find(wanted).unwrap();
        (id, view.records(id).unwrap().unwrap())
    }

    /// Changes what a chunk of the cloud holds, as somebody with a compiler would, with all columns that can be computed anew.
    pub fn rewrite(&self, id: i64, records: &[Record]) {
        let forged = forge(records);
        let sql = "UPDATE chunks SET seqs = ?2, body = ?3, root = ?4, at_min = ?5, at_max = ?6, seq_first = ?7, seq_last = ?8,
                   records = ?9 WHERE id = ?1";
        let (first, last) = (records[0].key.seq as i64, records[records.len() - 1].key.seq as i64);
        let row = (id, &forged.seqs, &forged.body, &forged.root, forged.at.0, forged.at.1, first, last, records.len() as i64);
        self.archive().execute(sql, row).unwrap();
    }

    /// Computes the ledger's row of a chunk anew, and everything above it, from what the chunk's row says now.
    pub fn recompute(&self, side: &str, chunk: i64) {
        let header = if side == "cloud" {
            let stored = View::open(&self.cloud).unwrap().chunk(chunk).unwrap().unwrap();
            ChunkHeader {
                series: stored.series,
                epoch: stored.epoch,
                count: stored.seqs.count(),
                intervals: stored.seqs,
                at_min: stored.at_min,
                at_max: stored.at_max,
                root: stored.root.unwrap(),
            }
        } else {
            Terminal::open(&self.terminal).unwrap().chunks_after(chunk - 1, 1).unwrap().remove(0).header
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let ledger = self.ledger(side);
        let batch: i64 = ledger.query_row("SELECT batch FROM leaves WHERE chunk = ?1", [chunk], |row| row.get(0)).unwrap();
        ledger.execute("UPDATE leaves SET header = ?2, leaf = ?3 WHERE chunk = ?1", (chunk, bytes, header.leaf())).unwrap();
        self.reroot(side, batch);
    }

    /// Computes root and counts of a batch from its leaves.
    pub fn reroot(&self, side: &str, batch: i64) {
        let ledger = self.ledger(side);
        let mut statement = ledger.prepare("SELECT leaf FROM leaves WHERE batch = ?1 ORDER BY position").unwrap();
        let leaves: Vec<Digest> = statement.query_map([batch], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        ledger
            .execute(
                "UPDATE batches SET root = ?2, count = ?3 WHERE number = ?1",
                (batch, merkle::root(&leaves), leaves.len() as i64),
            )
            .unwrap();
    }
}

/// A chunk as an archive makes it.
pub struct Forged {
    pub seqs: Vec<u8>,
    pub body: Vec<u8>,
    pub root: Vec<u8>,
    pub at: (i64, i64),
}

/// Has another archive make a chunk of these records of the first sensor.
pub fn forge(records: &[Record]) -> Forged {
    let place = tempfile::tempdir().unwrap();
    let (archive, _) = Archive::open(place.path(), Options::new("forger".parse().unwrap(), Arc::new(|| 1))).unwrap();
    let mut runs = Vec::new();
    for record in records {
        let mut run = RunBuilder::new(record.key.series.clone(), record.operation);
        run.push(record.at, &record.payload).unwrap();
        run.write(record.key.epoch, record.key.seq, &mut runs);
    }
    let from = FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: Epoch(1), number: 1 };
    let announced = Announcement { epoch: records[0].key.epoch, scope: None, secret: secret(1) };
    let append = Append::Ingest { from, runs: Bytes::from(runs), secrets: vec![announced] };
    archive.append(append).unwrap().wait().unwrap();
    archive.close_now().unwrap();
    drop(archive);
    let made = Connection::open(place.path().join("archive.sqlite")).unwrap();
    made.query_row("SELECT seqs, body, root, at_min, at_max FROM chunks", [], |row| {
        Ok(Forged { seqs: row.get(0)?, body: row.get(1)?, root: row.get(2)?, at: (row.get(3)?, row.get(4)?) })
    })
    .unwrap()
}
