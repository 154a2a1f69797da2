//! Where a record is, for whoever asks the database with SQL: the anchor ledger's word, taken over as the machine of states allows.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use archive::{Archive, BatchStanding};
use common::{ingest, open, run};
use rusqlite::Connection;
use wire::state::{Anchored, ChainEvent, ServerState};
use wire::{Epoch, RecordKey};

const SERIES: &str = "a/b/c";

fn standing(change: u64, batch: u64, chunks: (i64, i64), record: Anchored) -> BatchStanding {
    let (detail, failure) = match record {
        Anchored::Waiting => ("BATCHED", None),
        Anchored::SentToChain => ("FAILED", Some("foreign head")),
        Anchored::OnChain => ("FINAL", None),
    };
    let since = 1_700_000_000_000_000_000 + change as i64;
    BatchStanding { change, batch, chunks, record, since, detail, failure, tx: Some([0xab; 32]) }
}

async fn follow(archive: &Archive, batches: Vec<BatchStanding>) {
    archive.follow_ledger([1; 16], batches).unwrap().await.unwrap();
}

fn database(folder: &Path) -> Connection {
    Connection::open(folder.join("archive.sqlite")).unwrap()
}

/// `seq state since batch detail reason`, a record a line.
fn shown(folder: &Path) -> Vec<String> {
    let sql = "SELECT seq || ' ' || state || ' ' || since || ' ' || ifnull(batch, '-') || ' ' || ifnull(detail, '-') || ' ' || ifnull(reason, '-')
                 FROM record_states WHERE series = 'a/b/c' AND epoch = '9f3c' ORDER BY seq";
    let connection = database(folder);
    let mut select = connection.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Two chunks of `a/b/c`, the first with a hole.
fn two_chunks(folder: &Path) -> Archive {
    let archive = open(folder, "cloud");
    let secret =
        wire::Announcement { epoch: Epoch(0x9f3c), scope: Some("a/b".parse().unwrap()), secret: wire::EpochSecret::new([7; 32]) };
    let from = |number| archive::FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: Epoch(0xabc), number };
    let runs = [run(SERIES, 0x9f3c, 1, &[(1, "x"), (2, "y")]), run(SERIES, 0x9f3c, 5, &[(5, "z")])].concat();
    let append = archive::Append::Ingest { from: from(1), runs: runs.into(), secrets: vec![secret] };
    archive.append(append).unwrap().wait().unwrap();
    archive.close_now().unwrap();
    ingest(&archive, "relay-1", 2, run(SERIES, 0x9f3c, 6, &[(6, "x")]));
    archive.close_now().unwrap();
    assert_eq!(archive.chunks_after(0, 9).unwrap().len(), 2);
    archive
}

#[tokio::test]
async fn b3_c2_the_view_shows_a_row_a_record_with_state_time_batch_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let archive = two_chunks(folder.path());
    let key = |seq| RecordKey { series: SERIES.parse().unwrap(), epoch: Epoch(0x9f3c), seq };
    let before = shown(folder.path());
    let seqs: Vec<_> = before.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(seqs, ["1", "2", "5", "6"], "what is missing has no row");
    let taken_at = archive.taken_at(&key(5)).unwrap().unwrap();
    assert_eq!(before[2], format!("5 RequestCompleted 1970-01-01T00:00:00.{taken_at:09}Z - - -"));
    let ids: Vec<i64> = archive.chunks_after(0, 9).unwrap().into_iter().map(|(id, _)| id).collect();
    follow(&archive, vec![standing(1, 1, (ids[0], ids[0]), Anchored::Waiting)]).await;
    assert_eq!(shown(folder.path())[2], format!("5 RequestCompleted 1970-01-01T00:00:00.{taken_at:09}Z 1 BATCHED -"));
    follow(&archive, vec![standing(2, 1, (ids[0], ids[0]), Anchored::SentToChain)]).await;
    assert_eq!(shown(folder.path())[2], "5 SentToChain 2023-11-14T22:13:20.000000002Z 1 FAILED foreign head");
    follow(&archive, vec![standing(3, 1, (ids[0], ids[0]), Anchored::OnChain)]).await;
    assert_eq!(shown(folder.path())[2], "5 OnChain 2023-11-14T22:13:20.000000003Z 1 FINAL -");
    assert_eq!(shown(folder.path())[3], before[3], "the other chunk is in no batch");
    let tx: String =
        database(folder.path()).query_row("SELECT tx FROM record_states WHERE seq = 5", [], |row| row.get(0)).unwrap();
    assert_eq!(tx, format!("0x{}", "ab".repeat(32)));
    // What was read of the ledger is remembered over a restart.
    drop(archive);
    assert_eq!(open(folder.path(), "cloud").followed().unwrap(), Some(([1; 16], 3)));
}

#[tokio::test]
async fn b3_the_database_sees_only_steps_of_the_servers_machine() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), "cloud");
    database(folder.path())
        .execute_batch(
            "CREATE TABLE steps (before TEXT, after TEXT);
             CREATE TRIGGER steps_of AFTER UPDATE OF state ON batches BEGIN INSERT INTO steps VALUES (OLD.state, NEW.state); END;",
        )
        .unwrap();
    // Every state after every other, twice over.
    let mut change = 0;
    for before in Anchored::ALL {
        for after in Anchored::ALL {
            let batch = change / 2 + 1;
            follow(&archive, vec![standing(change + 1, batch, (1, 1), before), standing(change + 2, batch, (1, 1), after)]).await;
            change += 2;
        }
    }
    let connection = database(folder.path());
    let mut select = connection.prepare("SELECT DISTINCT before, after FROM steps WHERE before <> after").unwrap();
    let state = |name: String| ServerState::parse(&name).unwrap();
    let steps: Vec<_> =
        select.query_map([], |row| Ok((state(row.get(0)?), state(row.get(1)?)))).unwrap().collect::<Result<_, _>>().unwrap();
    for (before, after) in &steps {
        let allowed = ChainEvent::ALL.into_iter().any(|event| before.after(event) == Ok(*after));
        assert!(allowed, "{before} to {after}");
    }
    assert_eq!(steps.len(), 4, "{steps:?}");
    // A ledger that began anew is followed from its start.
    archive.follow_ledger([2; 16], vec![standing(1, 1, (1, 1), Anchored::Waiting)]).unwrap().await.unwrap();
    assert_eq!(archive.followed().unwrap(), Some(([2; 16], 1)));
    let left: i64 = connection.query_row("SELECT count(*) FROM batches", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn c2_a_record_at_the_cloud_is_found_by_its_key_in_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let _archive = two_chunks(folder.path());
    let connection = database(folder.path());
    let sql = "EXPLAIN QUERY PLAN SELECT * FROM record_states WHERE series = 'a/b/c' AND epoch = '9f3c' AND seq = 5";
    let mut select = connection.prepare(sql).unwrap();
    let plan: Vec<String> = select.query_map([], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
    for wanted in [
        "SEARCH s USING",
        "SEARCH c USING INDEX chunks_by_seq (series=?",
        "SEARCH b USING INTEGER PRIMARY KEY",
        "batches_by_chunk",
    ] {
        assert!(plan.iter().any(|step| step.contains(wanted)), "{wanted} in {plan:#?}");
    }
    for table in ["SCAN s", "SCAN c", "SCAN b", "SCAN batches"] {
        assert!(!plan.iter().any(|step| step == table || step.starts_with(&format!("{table} "))), "{table} in {plan:#?}");
    }
}
