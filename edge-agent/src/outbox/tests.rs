use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anchor::machine;
use chassis::ManualClock;
use store::rusqlite::Connection;

use tempfile::TempDir;
use wire::state::Anchored;
use wire::{Digest, Operation, RunView, merkle};

use super::*;
use crate::limits::READING_OVERHEAD_BYTES;
use crate::state::State;

mod states;

const AGE: i64 = 1_000;
const NOW: At = 1_700_000_000_123_456_789;

fn open(folder: &Path, bytes_max: u64) -> Outbox {
    let fresh = Fresh { epoch: 0x9f3c, secret: [7; 32], now: 0 };
    Outbox::open(&folder.join("outbox.sqlite"), &"a/b".parse().unwrap(), bytes_max, &fresh, Arc::new(ManualClock::new(NOW)))
        .unwrap()
}

/// The ledger's word of batch 1, which holds the chunks `first` to `last`.
async fn mark(outbox: &Outbox, (first, last): (i64, i64), record: Anchored) {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let detail = match record {
        Anchored::Waiting => machine::State::Batched,
        Anchored::SentToChain => machine::State::Sent,
        Anchored::OnChain => machine::State::Final,
    };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let change =
        Change { number, batch: 1, chunks: (first, last), record, since: 77, detail, failure: None, tx: Some([0xab; 32]) };
    outbox.follow([1; 16], vec![change]).await.unwrap();
}

fn fresh() -> (TempDir, Outbox) {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), 1 << 20);
    (folder, outbox)
}

fn readings(stream: &str, numbers: std::ops::Range<i64>) -> Vec<Reading> {
    let series: Series = format!("a/b/{stream}").parse().unwrap();
    numbers.map(|n| Reading::new(series.clone(), Operation::Store, n, n.to_string()).unwrap()).collect()
}

fn limits(records_max: u64) -> ChunkLimits {
    ChunkLimits { records_max, age_max: AGE, leaf_bytes_max: 1 << 20, anchored_only: true }
}

/// One row a record: `series.seq state reason`.
fn states(folder: &TempDir) -> Vec<String> {
    let connection = Connection::open(folder.path().join("outbox.sqlite")).unwrap();
    let mut select = connection
        .prepare("SELECT series, epoch, seq, state, coalesce(reason, '') FROM record_states ORDER BY series, seq")
        .unwrap();
    let rows = select.query_map([], |row| {
        let (series, epoch, seq): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (state, reason): (String, String) = (row.get(3)?, row.get(4)?);
        assert_eq!(epoch, "9f3c");
        Ok(format!("{series}.{seq} {state} {reason}").trim_end().to_owned())
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

fn scalar(folder: &TempDir, sql: &str) -> i64 {
    Connection::open(folder.path().join("outbox.sqlite")).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn send_all(outbox: &Outbox) -> Vec<Row> {
    outbox.dispatch(0, u64::MAX, usize::MAX).await.unwrap()
}

async fn settle(outbox: &Outbox, verdict: Verdict, now: At) {
    let rows = send_all(outbox).await.iter().map(|row| row.id).collect();
    outbox.resolve(rows, verdict, now).await.unwrap();
}

#[tokio::test]
async fn b1_data_and_digest_are_saved_then_sent_then_accepted() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..2), None).await.unwrap();
    assert_eq!(states(&folder), ["a/b/p.1 Pending", "a/b/p.2 Pending"]);
    assert_eq!(scalar(&folder, "SELECT sum(length(leaves)) FROM outbox"), 64);
    let rows = send_all(&outbox).await;
    assert_eq!(states(&folder), ["a/b/p.1 SentToServer", "a/b/p.2 SentToServer"]);
    let (run, _) = RunView::parse(&rows[0].run).unwrap();
    assert_eq!((run.series(), run.epoch().0, run.first_seq(), run.count()), ("a/b/p", 0x9f3c, 1, 2));
    outbox.resolve(vec![rows[0].id], Verdict::Accepted, 5).await.unwrap();
    assert_eq!(states(&folder), ["a/b/p.1 ServerAccepted", "a/b/p.2 ServerAccepted"]);
    let progress = outbox.progress();
    assert_eq!((progress.taken, progress.sent, progress.accepted, progress.pending()), (2, 2, 2, 0));
}

#[tokio::test]
async fn b2_payload_is_forgotten_after_acceptance_and_key_and_leaf_are_kept() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..3), None).await.unwrap();
    let wanted: Vec<Digest> = {
        let rows = send_all(&outbox).await;
        let (run, _) = RunView::parse(&rows[0].run).unwrap();
        run.records().map(|record| outbox.origin().secret.leaf(&record)).collect()
    };
    settle(&outbox, Verdict::Accepted, 5).await;
    assert_eq!(scalar(&folder, "SELECT count(*) FROM bodies"), 0);
    assert_eq!(scalar(&folder, "SELECT length(leaves) FROM outbox"), 96);
    assert!(!outbox.group(limits(3), 5).await.unwrap());
    let chunk = outbox.chunks_after(0, 10).unwrap().remove(0);
    assert_eq!((chunk.header.count, chunk.header.at_min, chunk.header.at_max), (3, 0, 2));
    assert_eq!(chunk.header.root, merkle::root(&wanted));
    let leaves = outbox.readers.read(|tx| reading_back::leaves(tx, chunk.id)).unwrap().unwrap();
    assert_eq!(leaves, wanted);
}

#[tokio::test]
async fn b2_deferred_rows_are_sent_again_with_the_same_keys_and_bytes() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..3), None).await.unwrap();
    let first = send_all(&outbox).await;
    outbox.resolve(first.iter().map(|row| row.id).collect(), Verdict::Deferred, 1).await.unwrap();
    assert_eq!(states(&folder)[0], "a/b/p.1 Pending");
    assert_eq!(outbox.progress().sent, 0);
    assert_eq!(send_all(&outbox).await, first);
}

#[tokio::test]
async fn b2_marks_from_the_ledger_move_whole_chunks_and_come_back_after_a_reorganisation() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..4), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 5).await;
    outbox.group(limits(2), 5).await.unwrap();
    assert_eq!(outbox.progress().grouped, 4, "a row is not split, so one chunk");
    mark(&outbox, (1, 1), Anchored::SentToChain).await;
    assert_eq!(states(&folder)[0], "a/b/p.1 SentToChain");
    mark(&outbox, (1, 1), Anchored::OnChain).await;
    assert_eq!((states(&folder)[3].as_str(), outbox.progress().anchored), ("a/b/p.4 OnChain", 4));
    mark(&outbox, (1, 1), Anchored::SentToChain).await;
    assert_eq!((states(&folder)[3].as_str(), outbox.progress().anchored), ("a/b/p.4 SentToChain", 0));
    // A ledger that began anew does not take back what an older one submitted.
    mark(&outbox, (1, 1), Anchored::Waiting).await;
    assert_eq!(states(&folder)[0], "a/b/p.1 SentToChain");
}

#[tokio::test]
async fn b7_rejected_rows_leave_tombstones_and_a_hole_between_chunks() {
    let (folder, outbox) = fresh();
    for part in [0..2, 2..4, 4..5] {
        outbox.take(readings("p", part), None).await.unwrap();
    }
    let rows: Vec<_> = send_all(&outbox).await.iter().map(|row| row.id).collect();
    outbox.resolve(vec![rows[0], rows[2]], Verdict::Accepted, 5).await.unwrap();
    // The middle is still open: nothing after it may be grouped, for it may yet be accepted.
    outbox.group(limits(1), 5 + AGE).await.unwrap();
    assert_eq!(outbox.chunks_after(0, 10).unwrap().len(), 1);
    outbox.resolve(vec![rows[1]], Verdict::Rejected("not authorized (0x87)".to_owned()), 6).await.unwrap();
    assert_eq!(outbox.progress().rejected, 2);
    outbox.group(limits(1), 5 + AGE).await.unwrap();
    let chunks = outbox.chunks_after(0, 10).unwrap();
    let intervals: Vec<_> = chunks.iter().map(|chunk| chunk.header.intervals.as_slice().to_vec()).collect();
    assert_eq!(intervals, [[(1, 2)], [(5, 5)]]);
    assert_eq!(scalar(&folder, "SELECT count(*) FROM outbox WHERE state = 3"), 0);
    let tombstone = outbox.readers.read(reading_back::tombstones).unwrap().remove(0);
    assert_eq!((tombstone.first, tombstone.last, tombstone.taken, tombstone.at), (3, 4, true, 6));
    assert_eq!(states(&folder)[2], "a/b/p.3 ServerRejected not authorized (0x87)");
}

#[tokio::test]
async fn b7_rows_on_chain_are_deleted_before_accepted_ones_are_looked_for() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..2), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 5).await;
    outbox.group(limits(1), 5).await.unwrap();
    assert_eq!(scalar(&folder, "SELECT count(*) FROM outbox"), 1, "kept until it is on chain");
    mark(&outbox, (1, 1), Anchored::OnChain).await;
    outbox.take(readings("p", 2..3), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 6).await;
    outbox.group(limits(1), 6).await.unwrap();
    assert_eq!(scalar(&folder, "SELECT count(*) FROM outbox WHERE chunk = 1"), 0);
    // The chunk still proves them.
    assert_eq!(states(&folder), ["a/b/p.1 OnChain", "a/b/p.2 OnChain", "a/b/p.3 ServerAccepted"]);
    let kept = outbox.readers.read(|tx| reading_back::leaves(tx, 1)).unwrap();
    assert_eq!(kept.map(|leaves| leaves.len()), Some(2));
}

#[tokio::test]
async fn chunks_are_due_by_count_and_by_age() {
    let (_folder, outbox) = fresh();
    outbox.take(readings("p", 0..3), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 10).await;
    outbox.group(limits(100), 10 + AGE - 1).await.unwrap();
    assert_eq!(outbox.progress().grouped, 0);
    outbox.group(limits(100), 10 + AGE).await.unwrap();
    assert_eq!(outbox.progress().grouped, 3);
    outbox.take(readings("p", 3..4), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 20).await;
    // The clock was set back.
    outbox.group(limits(100), 7).await.unwrap();
    assert_eq!(outbox.progress().grouped, 4);
}

#[tokio::test]
async fn leaves_on_chain_go_when_their_budget_is_used_up() {
    let (folder, outbox) = fresh();
    for _ in 0..3 {
        outbox.take(readings("p", 0..2), None).await.unwrap();
        settle(&outbox, Verdict::Accepted, 5).await;
        outbox.group(limits(2), 5).await.unwrap();
    }
    let small = ChunkLimits { leaf_bytes_max: 64, ..limits(2) };
    outbox.group(small, 5).await.unwrap();
    let kept = "SELECT count(*) FROM chunks WHERE leaves IS NOT NULL";
    assert_eq!(scalar(&folder, kept), 3, "what is not on chain is kept");
    mark(&outbox, (1, 2), Anchored::OnChain).await;
    outbox.group(small, 5).await.unwrap();
    assert_eq!(scalar(&folder, kept), 1);
    assert_eq!(scalar(&folder, "SELECT id FROM chunks WHERE leaves IS NOT NULL"), 3);
}

#[tokio::test]
async fn a_failed_commit_takes_nothing_and_wastes_no_number() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..1), None).await.unwrap();
    outbox.writer.faults().fail_commits(1);
    assert!(matches!(outbox.take(readings("p", 1..5), None).await, Err(TakeError::Commit(_))));
    assert_eq!(outbox.progress().taken, 1);
    outbox.take(readings("p", 5..6), None).await.unwrap();
    assert_eq!(states(&folder), ["a/b/p.1 Pending", "a/b/p.2 Pending"]);
    assert_eq!(outbox.progress().open_bytes, 2 * (READING_OVERHEAD_BYTES + 1));
}

#[tokio::test]
async fn full_means_wait_or_refuse_and_a_tombstone_names_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), 2 * (READING_OVERHEAD_BYTES + 1));
    outbox.take(readings("p", 0..2), None).await.unwrap();
    assert!(matches!(outbox.try_take(readings("p", 2..3)).await, Err(TakeError::Full)));
    let series: Series = "a/b/p".parse().unwrap();
    outbox.drop_untaken(vec![(series.clone(), 1)], "outbox full", 9).await.unwrap();
    outbox.drop_untaken(vec![(series, 2)], "outbox full", 10).await.unwrap();
    let waiting = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.take(readings("p", 3..4), None).await }
    });
    settle(&outbox, Verdict::Accepted, 5).await;
    tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(states(&folder), ["a/b/p.1 ServerAccepted", "a/b/p.2 ServerAccepted", "a/b/p.6 Pending"]);
    let tombstones = outbox.readers.read(reading_back::tombstones).unwrap();
    assert_eq!(tombstones.iter().map(|t| (t.first, t.last, t.taken)).collect::<Vec<_>>(), [(3, 5, false)]);
    assert_eq!((outbox.progress().dropped, outbox.progress().taken), (3, 3));
}

#[tokio::test]
async fn counts_and_positions_are_what_they_were_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), 1 << 20);
    let at = |taken| Position { input: "csv".to_owned(), source: "x".to_owned(), taken };
    for (index, verdict) in
        [Some(Verdict::Accepted), Some(Verdict::Rejected("no".to_owned())), Some(Verdict::Accepted), None].into_iter().enumerate()
    {
        outbox.take(readings("p", 0..2), Some(at(index as u64 + 1))).await.unwrap();
        let rows: Vec<_> = send_all(&outbox).await.iter().map(|row| row.id).collect();
        if let Some(verdict) = verdict {
            outbox.resolve(rows, verdict, 5).await.unwrap();
        }
        outbox.group(limits(2), 5).await.unwrap();
    }
    mark(&outbox, (1, 1), Anchored::OnChain).await;
    outbox.drop_untaken(vec![("a/b/q".parse().unwrap(), 4)], "outbox full", 1).await.unwrap();
    outbox.take(readings("q", 0..1), None).await.unwrap();
    let before = outbox.progress();
    assert_eq!((before.taken, before.sent, before.accepted, before.rejected, before.dropped), (9, 8, 4, 2, 4));
    outbox.writer.stop();
    drop(outbox);
    let outbox = open(folder.path(), 1 << 20);
    assert_eq!(outbox.progress(), before);
    assert_eq!(outbox.position("csv", "x").unwrap(), Some(4));
    assert_eq!(outbox.position("csv", "other").unwrap(), None);
    assert_eq!(outbox.position("new", "x").unwrap(), Some(0));
    // What was sent and not answered is sent again.
    assert_eq!(send_all(&outbox).await.iter().map(|row| row.count).sum::<u64>(), 3);
    assert_eq!(State::from_code(scalar(&folder, "SELECT max(state) FROM outbox WHERE chunk IS NULL")), Some(State::SentToServer));
}

#[tokio::test]
async fn readings_of_many_jobs_share_a_row_and_large_ones_close_it() {
    let (folder, outbox) = fresh();
    outbox.writer.faults().hold();
    let first = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.take(readings("p", 0..1), None).await }
    });
    let gate = outbox.clone();
    tokio::task::spawn_blocking(move || gate.writer.faults().wait_at_gate()).await.unwrap();
    // These are queued while the first commit is held, so they are one group.
    let mut others = Vec::new();
    for n in 1..1000 {
        others.push(
            outbox.writer.submit(Job::Take { readings: readings("p", n..n + 1), position: None, claim: None }).await.unwrap(),
        );
    }
    outbox.writer.faults().release();
    first.await.unwrap().unwrap();
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(scalar(&folder, "SELECT count(*) FROM outbox"), 3, "1, 512 and 487 records");
    assert_eq!(scalar(&folder, "SELECT max(seq_last) FROM outbox"), 1000);
}

#[test]
fn the_view_and_the_schema_agree_on_every_state() {
    let connection = Connection::open_in_memory().unwrap();
    for step in schema::STEPS {
        connection.execute_batch(step.sql).unwrap();
    }
    connection
        .execute_batch("INSERT INTO origin VALUES (1, 1, zeroblob(32), 'a/b', 0); INSERT INTO series VALUES (1, 'a/b/p', 1)")
        .unwrap();
    for state in State::ALL {
        let table = if matches!(state, State::SentToChain | State::OnChain) { "chunks" } else { "outbox" };
        let sql = match table {
            "chunks" => format!(
                "INSERT INTO chunks (series, seq_first, seq_last, at_min, at_max, root, state) VALUES (1, {0}, {0}, 0, 0, zeroblob(32), {1})",
                state.code() + 1,
                state.code()
            ),
            _ => format!(
                "INSERT INTO outbox (series, operation, seq_first, seq_last, at_min, at_max, state, cost) VALUES (1, 0, {0}, {0}, 0, 0, {1}, 0)",
                state.code() + 1,
                state.code()
            ),
        };
        connection.execute_batch(&sql).unwrap();
    }
    let mut select = connection.prepare("SELECT state FROM record_states ORDER BY seq").unwrap();
    let names: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(names, State::ALL.map(State::as_str));
}
