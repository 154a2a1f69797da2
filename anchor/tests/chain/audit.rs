//! The audit against a real chain, with stores that are as small as they can be. (With real databases: `tests/e2e`.)

use anchor::audit::{Account, Content, Item, OnChain, Piece, Pinned, Report, Side, Store, What, audit};
use anchor::machine::State;
use anchor::{LedgerView, Party, SourceError};
use wire::{Digest, Epoch, Intervals, Record, Series};

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, header, records, secret};

/// The chunks of [`Chunks`], with what was changed in them.
struct Shelf {
    count: i64,
    change: fn(&mut Record),
}

const EPOCH: Epoch = Epoch(0x9f3c);

impl Store for Shelf {
    fn numbered(&self, _: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError> {
        let last = header(self.count).intervals.last().unwrap();
        Ok(vec![(header(1).series, Intervals::of(1, last))])
    }

    fn given_up(&self, _: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError> {
        Ok(Vec::new())
    }

    fn chunk(&self, id: i64) -> Result<Option<Result<Piece, String>>, SourceError> {
        let header = header(id);
        Ok((id <= self.count).then(|| {
            Ok(Piece {
                chunk: Some(id),
                place: format!("chunk {id}"),
                series: header.series,
                epoch: header.epoch,
                seqs: header.intervals,
                at_min: header.at_min,
                at_max: header.at_max,
                root: None,
            })
        }))
    }

    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<i64>, SourceError> {
        Ok((id + 1..=self.count).take(limit).collect())
    }

    fn loose(&self, _: Epoch) -> Result<Vec<Piece>, SourceError> {
        Ok(Vec::new())
    }

    fn content(&self, piece: &Piece) -> Result<Content, SourceError> {
        let item = |mut record: Record| {
            (self.change)(&mut record);
            Item { seq: record.key.seq, leaf: secret().leaf(&record.view()), kept: None, record: Some(record) }
        };
        Ok(Content::Items(records(piece.chunk.unwrap()).into_iter().map(item).collect()))
    }

    fn leaf(&self, record: &Record) -> Option<Digest> {
        Some(secret().leaf(&record.view()))
    }
}

async fn report(rpc: &str, town: &Town, terminal: &Shelf, cloud: &Shelf) -> Report {
    let server = Party::server("cloud");
    let views = [town.terminal().ledger, town.config(server, 1).ledger].map(|path| LedgerView::open(&path, Epoch(0)).unwrap());
    let mut chains = Vec::new();
    for view in &views {
        chains.push(OnChain::gather(rpc, DEADLINE, view, &Pinned::default()).await.unwrap());
    }
    let account = |n: usize, side, store| Account { side, ledger: &views[n], store, onchain: &chains[n] };
    audit(Some(&account(0, Side::Terminal, terminal)), Some(&account(1, Side::Cloud, cloud)), EPOCH).unwrap()
}

async fn anchored(count: i64) -> Town {
    let town = Town::start().await;
    let terminal = Running::start(town.terminal(), Chunks::of(count));
    let cloud = Running::start(town.config(Party::server("cloud"), 1), Chunks::of(count));
    tokio::join!(terminal.reaches(1, State::Mined), cloud.reaches(1, State::Mined));
    terminal.stop().await;
    cloud.stop().await;
    town
}

fn shelf(change: fn(&mut Record)) -> Shelf {
    Shelf { count: 5, change }
}

fn untouched(_: &mut Record) {}

fn seventh(record: &mut Record) {
    if record.key.seq == 7 {
        record.payload = b"0.1".to_vec();
    }
}

#[tokio::test]
async fn c4_an_audit_goes_by_the_head_where_logs_are_gone() {
    let town = anchored(5).await;
    let proxy = Proxy::start(town.anvil.port()).await;
    for forget in [&[][..], &[("eth_getLogs", true)]] {
        proxy.forget(forget);
        let clean = report(&proxy.rpc, &town, &shelf(untouched), &shelf(untouched)).await;
        assert_eq!(clean.findings, []);
        assert_eq!((clean.batches, clean.chunks, clean.agreed), (2, 10, 35));
        let changed = report(&proxy.rpc, &town, &shelf(untouched), &shelf(seventh)).await;
        let [finding] = changed.findings.as_slice() else { panic!("{changed:?}") };
        assert_eq!((finding.side, finding.what), (Side::Cloud, What::Changed));
        assert_eq!(finding.subject.to_string(), "cityA/meter-0017/power/active@9f3c.7");
    }
    // A ledger in which a leaf was changed, root and all: without logs only the ledger as a whole can be named.
    let other = header(2).leaf();
    let ledger = rusqlite::Connection::open(town.terminal().ledger).unwrap();
    let mut bytes = Vec::new();
    header(2).encode(&mut bytes);
    ledger.execute("UPDATE leaves SET header = ?1, leaf = ?2 WHERE position = 0", (bytes, other)).unwrap();
    let leaves: Vec<Digest> = [2, 2, 3, 4, 5].map(|id| header(id).leaf()).to_vec();
    ledger.execute("UPDATE batches SET root = ?1", [wire::merkle::root(&leaves)]).unwrap();
    let rewritten = report(&proxy.rpc, &town, &shelf(untouched), &shelf(untouched)).await;
    let first = &rewritten.findings[0];
    assert_eq!((first.side, first.what, first.subject.to_string().as_str()), (Side::Terminal, What::Rewritten, "the ledger"));
}

/// Each side stands to its own root, so neither can be blamed.
#[tokio::test]
async fn c4_what_was_changed_before_it_was_anchored_is_a_disagreement() {
    let town = Town::start().await;
    let terminal = Running::start(town.terminal(), Chunks::of(5));
    let cloud = Running::start(town.config(Party::server("cloud"), 1), std::sync::Arc::new(Lying));
    tokio::join!(terminal.reaches(1, State::Mined), cloud.reaches(1, State::Mined));
    terminal.stop().await;
    cloud.stop().await;
    let report = report(&town.anvil.rpc(), &town, &shelf(untouched), &shelf(seventh)).await;
    let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
    assert_eq!((finding.side, finding.what), (Side::Between, What::Disagrees));
    assert_eq!(finding.subject.to_string(), "cityA/meter-0017/power/active@9f3c.7");
    assert_eq!(report.agreed, 34);
}

/// A source that changed a record before it anchored it.
struct Lying;

impl anchor::ChunkSource for Lying {
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, wire::ChunkHeader)>, SourceError> {
        let lie = |id| {
            let mut records = records(id);
            records.iter_mut().for_each(seventh);
            let leaves: Vec<Digest> = records.iter().map(|record| secret().leaf(&record.view())).collect();
            wire::ChunkHeader { root: wire::merkle::root(&leaves), ..header(id) }
        };
        Ok((id + 1..=5).take(limit).map(|id| (id, lie(id))).collect())
    }
}
