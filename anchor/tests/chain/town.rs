//! A chain, a source of chunks and a party, as small as they can be.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::providers::{Provider, RootProvider};
use anchor::machine::State;
use anchor::rows::Batch;
use anchor::{Anchoring, ChunkSource, Config, Confirmation, Party, SourceError, Worker, keys};
use chassis::{ManualClock, Registry, Span, Stop, Stopper};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::anvil::Options;
use testkit::{Anvil, wait_until};
use wire::{ChunkHeader, Digest, Epoch, EpochSecret, Intervals, Operation, Record, RecordKey, merkle};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// Records of one chunk.
pub const RECORDS: u64 = 7;

pub fn secret() -> EpochSecret {
    EpochSecret::new([7; 32])
}

/// The records of chunk `id`, from 1.
pub fn records(id: i64) -> Vec<Record> {
    let first = (id as u64 - 1) * RECORDS + 1;
    let record = |seq| Record {
        key: RecordKey { series: "cityA/meter-0017/power/active".parse().unwrap(), epoch: Epoch(0x9f3c), seq },
        at: 1_451_606_400_000_000_000 + seq as i64 * 900_000_000_000,
        operation: Operation::Store,
        payload: format!("{}.5", seq * 3).into_bytes(),
    };
    (first..first + RECORDS).map(record).collect()
}

pub fn leaves(id: i64) -> Vec<Digest> {
    records(id).iter().map(|record| secret().leaf(&record.view())).collect()
}

pub fn header(id: i64) -> ChunkHeader {
    let records = records(id);
    let (first, last) = (&records[0], &records[records.len() - 1]);
    ChunkHeader {
        series: first.key.series.clone(),
        epoch: first.key.epoch,
        intervals: Intervals::of(first.key.seq, last.key.seq),
        at_min: first.at,
        at_max: last.at,
        count: RECORDS,
        root: merkle::root(&leaves(id)),
    }
}

/// A business database that has as many chunks as was said.
#[derive(Default)]
pub struct Chunks(Mutex<i64>);

impl Chunks {
    pub fn of(count: i64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(count)))
    }

    pub fn add(&self, count: i64) {
        *self.0.lock().unwrap() += count;
    }
}

impl ChunkSource for Chunks {
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, SourceError> {
        let last = *self.0.lock().unwrap();
        Ok((id + 1..=last).take(limit).map(|id| (id, header(id))).collect())
    }
}

/// A chain with the contract on it.
pub struct Town {
    pub anvil: Anvil,
    pub contract: Address,
    pub rpc: RootProvider,
    pub place: TempDir,
}

impl Town {
    pub async fn start() -> Self {
        Self::start_with(Options { slots_in_an_epoch: Some(1), ..Options::default() }).await
    }

    pub async fn start_with(options: Options) -> Self {
        let anvil = Anvil::start_with(options).await;
        let place = tempfile::tempdir().unwrap();
        let deployer = key_file(place.path(), "deployer", &anvil.keys()[9]);
        let key = keys::load(&deployer).unwrap();
        let deployed = anchor::deploy(&anvil.rpc(), &key, DEADLINE).await.unwrap();
        let rpc = RootProvider::new_http(anvil.rpc().parse().unwrap());
        Self { anvil, contract: deployed.contract, rpc, place }
    }

    /// A configuration for account `account`: quick, one chunk a batch unless changed.
    pub fn config(&self, party: Party, account: usize) -> Config {
        let name = format!("{}-{account}", party.kind.as_str());
        let key_file = key_file(self.place.path(), &name, &self.anvil.keys()[account]);
        let ledger = self.place.path().join(format!("{name}.sqlite"));
        let mut config = Config::new(self.anvil.rpc(), self.contract, key_file, ledger, party);
        config.poll = Span::millis(20);
        config.timeout = Span::millis(2_000);
        config.batch.age = Span::millis(0);
        config
    }

    pub fn terminal(&self) -> Config {
        self.config(Party::terminal("cityA/meter-0017"), 0)
    }

    pub async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.rpc.raw_request(method.into(), params).await.unwrap()
    }

    pub async fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([format!("{blocks:#x}")])).await;
    }

    pub async fn set_balance(&self, account: Address, wei: u64) {
        self.ask("anvil_setBalance", json!([account, U256::from(wei)])).await;
    }

    /// What the terminal's ledger has noted for a person.
    pub fn alarms(&self) -> Vec<String> {
        let connection = rusqlite::Connection::open(self.terminal().ledger).unwrap();
        let mut statement = connection.prepare("SELECT what FROM alarms ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    pub async fn nonce(&self, account: Address) -> u64 {
        self.rpc.get_transaction_count(account).await.unwrap()
    }

    /// What the contract has written for an account, by stream.
    pub async fn streams(&self, submitter: Address) -> std::collections::HashMap<alloy::primitives::B256, Vec<(u64, u64)>> {
        let filter = alloy::rpc::types::Filter::new().address(self.contract).from_block(0).topic1(submitter.into_word());
        let mut streams = std::collections::HashMap::<_, Vec<_>>::new();
        for log in self.rpc.get_logs(&filter).await.unwrap() {
            let data = &log.data().data;
            let word = |place: usize| u64::from_be_bytes(data[place * 32 + 24..place * 32 + 32].try_into().unwrap());
            streams.entry(log.topics()[2]).or_default().push((word(1), word(2)));
        }
        streams
    }

    /// The batches that the contract has written, as `(first_seq, count)` in order.
    pub async fn written(&self, submitter: Address) -> Vec<(u64, u64)> {
        let filter = alloy::rpc::types::Filter::new().address(self.contract).from_block(0).topic1(submitter.into_word());
        let logs = self.rpc.get_logs(&filter).await.unwrap();
        let word = |data: &[u8], place: usize| u64::from_be_bytes(data[place * 32 + 24..place * 32 + 32].try_into().unwrap());
        logs.iter().map(|log| (word(&log.data().data, 1), word(&log.data().data, 2))).collect()
    }
}

fn key_file(place: &Path, name: &str, key: &str) -> PathBuf {
    let path = place.join(format!("{name}.key"));
    if !path.exists() {
        let bytes = wire::digest::from_hex(key.trim_start_matches("0x")).unwrap();
        keys::import(&path, &bytes).unwrap();
    }
    path
}

/// A worker that runs until it is dropped.
pub struct Running {
    pub anchoring: Anchoring,
    pub clock: Arc<ManualClock>,
    stopper: Stopper,
    task: tokio::task::JoinHandle<Result<(), anchor::WorkerError>>,
}

impl Running {
    pub fn start(config: Config, source: Arc<dyn ChunkSource>) -> Self {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000_000));
        let anchoring = Worker::start(config, source, clock.clone(), &Registry::new()).unwrap();
        Self::of(anchoring, clock)
    }

    pub fn of(anchoring: Anchoring, clock: Arc<ManualClock>) -> Self {
        let stopper = Stopper::new();
        let stop: Stop = stopper.token();
        let task = tokio::spawn(anchoring.run(stop));
        Self { anchoring, clock, stopper, task }
    }

    pub fn batch(&self, number: u64) -> Option<Batch> {
        self.anchoring.ledger().batch(number).unwrap()
    }

    pub fn state(&self, number: u64) -> Option<State> {
        self.batch(number).map(|batch| batch.progress.state)
    }

    pub async fn reaches(&self, number: u64, state: State) -> Batch {
        wait_until(DEADLINE, &format!("batch {number} is {}", state.as_str()), async || match self.batch(number) {
            Some(batch) if batch.progress.state == state => Ok(batch),
            other => Err((other.map(|batch| batch.progress), self.anchoring.health().borrow().clone())),
        })
        .await
    }

    pub async fn feels(&self, what: &str, health: impl Fn(&anchor::Health) -> bool) {
        let mut watch = self.anchoring.health();
        let seen = tokio::time::timeout(DEADLINE, watch.wait_for(|now| health(now))).await;
        assert!(seen.is_ok(), "{what}: {:?}", self.anchoring.health().borrow());
    }

    /// Stops in order and waits for the end, so that the ledger can be opened again.
    pub async fn stop(self) {
        self.stopper.stop();
        self.task.await.unwrap().unwrap();
        // A read that was under way when the worker ended has the ledger for a moment more.
        let ledger = Arc::clone(self.anchoring.ledger());
        drop(self.anchoring);
        wait_until(DEADLINE, "nobody else has the ledger", async || match Arc::strong_count(&ledger) {
            1 => Ok(()),
            count => Err(count),
        })
        .await;
    }
}

pub fn depth(config: Config, blocks: u64) -> Config {
    Config { confirmation: Confirmation::Depth(blocks), ..config }
}
