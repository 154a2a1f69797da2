//! The audit against a real chain, with stores that are as small as they can be. (With real databases: `tests/e2e`.)

use anchor::audit::{
    Account, After, Audit, Before, Content, Finding, Grave, Group, Item, Piece, Pinned, Place, Report, Row, Side, Store, Subject,
    Tally, Terms, What,
};
use anchor::machine::State;
use anchor::{LedgerView, Party, SourceError};
use wire::{Digest, Epoch, EpochSecret, Intervals, Record};

use crate::proxy::Proxy;
use crate::town::{Chunks, DEADLINE, Running, Town, header, records, secret};

/// The chunks of [`Chunks`], with what was changed in them.
struct Shelf {
    count: i64,
    change: fn(&mut Record),
}

const EPOCH: Epoch = Epoch(0x9f3c);

impl Shelf {
    fn held(&self, id: i64) -> Vec<Record> {
        let mut records = records(id);
        records.iter_mut().for_each(self.change);
        records
    }
}

impl Store for Shelf {
    fn group_after(&self, after: Option<&Group>) -> Result<Option<Group>, SourceError> {
        Ok(after.is_none().then(|| Group { series: header(1).series, epoch: EPOCH }))
    }

    fn chunks(&self, _: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError> {
        let row = |id| {
            let header = header(id);
            let piece = Piece {
                place: Place::Chunk(id),
                series: header.series,
                epoch: header.epoch,
                seqs: header.intervals,
                times: Some((header.at_min, header.at_max)),
                root: None,
                on_chain: None,
                fault: None,
            };
            (After { number: id, id }, Ok(piece))
        };
        Ok((after.number.max(0) + 1..=self.count).take(limit).map(row).collect())
    }

    fn loose(&self, _: &Group, _: After, _: usize) -> Result<Vec<Row>, SourceError> {
        Ok(Vec::new())
    }

    fn content(&self, piece: &Piece) -> Result<Content, SourceError> {
        let Place::Chunk(id) = piece.place else { return Ok(Content::Gone) };
        let item =
            |record: Record| Item { seq: record.key.seq, leaf: secret().leaf(&record.view()), kept: None, at: Some(record.at) };
        Ok(Content::Items(self.held(id).into_iter().map(item).collect()))
    }

    fn records(&self, piece: &Piece) -> Result<Vec<Record>, SourceError> {
        let Place::Chunk(id) = piece.place else { return Ok(Vec::new()) };
        Ok(self.held(id))
    }

    fn holds(&self, chunk: i64) -> Result<bool, SourceError> {
        Ok((1..=self.count).contains(&chunk))
    }

    fn count(&self) -> Result<u64, SourceError> {
        Ok(self.count as u64)
    }

    fn stray(&self) -> Result<Vec<i64>, SourceError> {
        Ok(Vec::new())
    }

    fn numbered(&self, _: &Group) -> Result<Intervals, SourceError> {
        Ok(Intervals::of(1, header(self.count).intervals.last().unwrap()))
    }

    fn given_up(&self, _: &Group) -> Result<Vec<Grave>, SourceError> {
        Ok(Vec::new())
    }

    fn elsewhere(&self, _: &Group) -> Result<Vec<(String, Intervals)>, SourceError> {
        Ok(Vec::new())
    }

    fn secret(&self, _: &Group) -> Option<EpochSecret> {
        Some(secret())
    }
}

async fn report(rpc: &str, town: &Town, terminal: &Shelf, cloud: &Shelf) -> (Report, Tally) {
    let server = Party::server("cloud");
    let paths = [town.terminal().ledger, town.config(server, 1).ledger];
    let (mut views, mut chains) = (Vec::new(), Vec::new());
    for path in &paths {
        let live = LedgerView::open(path, Epoch(0)).unwrap();
        let before = Before::look(rpc, DEADLINE, &live, Pinned::default()).await.unwrap();
        let held = LedgerView::hold(path, Epoch(0)).unwrap();
        chains.push(before.gather(&held).await.unwrap());
        views.push(held);
    }
    let account = |n: usize, side, store| {
        let ledger: &LedgerView = &views[n];
        Account { side, name: ledger.party().name.clone(), ledger, store, onchain: &chains[n] }
    };
    let cloud = account(1, Side::Cloud, cloud);
    let terms = Terms { now: i64::MAX, grace: DEADLINE };
    let mut report = Report::default();
    let mut audit = Audit::begin(Some(&cloud), terms, &mut report).unwrap();
    audit.terminal(&account(0, Side::Terminal, terminal), EPOCH, &mut report).unwrap();
    let tally = audit.finish(&mut report).unwrap();
    (report, tally)
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
        let (clean, tally) = report(&proxy.rpc, &town, &shelf(untouched), &shelf(untouched)).await;
        assert_eq!((clean.findings, clean.notices), (vec![], vec![]));
        assert_eq!((tally.batches, tally.chunks, tally.agreed), (2, 10, 35));
        let (changed, _) = report(&proxy.rpc, &town, &shelf(untouched), &shelf(seventh)).await;
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
    let (rewritten, _) = report(&proxy.rpc, &town, &shelf(untouched), &shelf(untouched)).await;
    let whole =
        |found: &Finding| (found.side, found.what, found.subject.clone()) == (Side::Terminal, What::Rewritten, Subject::Ledger);
    assert_eq!(rewritten.findings.iter().filter(|found| whole(found)).count(), 1, "{rewritten:?}");
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
    let (report, tally) = report(&town.anvil.rpc(), &town, &shelf(untouched), &shelf(seventh)).await;
    let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
    assert_eq!((finding.side, finding.what), (Side::Between, What::Disagrees));
    assert_eq!(finding.subject.to_string(), "cityA/meter-0017/power/active@9f3c.7");
    assert_eq!(tally.agreed, 34);
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
