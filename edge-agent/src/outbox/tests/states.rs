//! The states as they are stored: every step that the database ever saw, the view, and the purge before each scan.

use std::collections::BTreeSet;

use rand::RngExt;
use testkit::Seed;

use super::*;
use crate::limits::PURGE_ROWS_MAX;
use crate::state::Event;

fn database(folder: &TempDir) -> Connection {
    Connection::open(folder.path().join("outbox.sqlite")).unwrap()
}

/// Has the database itself write down every change of a state, from now on.
fn audited(folder: &TempDir) {
    database(folder)
        .execute_batch(
            "CREATE TABLE steps (place TEXT, id INTEGER, before INTEGER, after INTEGER);
             CREATE TRIGGER rows_come AFTER INSERT ON outbox BEGIN INSERT INTO steps VALUES ('row', NEW.id, NULL, NEW.state); END;
             CREATE TRIGGER rows_move AFTER UPDATE OF state ON outbox BEGIN INSERT INTO steps VALUES ('row', OLD.id, OLD.state, NEW.state); END;
             CREATE TRIGGER rows_go AFTER DELETE ON outbox BEGIN
                 INSERT INTO steps VALUES ('gone', OLD.id, OLD.state, (SELECT state FROM chunks WHERE id = OLD.chunk)); END;
             CREATE TRIGGER chunks_come AFTER INSERT ON chunks BEGIN INSERT INTO steps VALUES ('chunk', NEW.id, NULL, NEW.state); END;
             CREATE TRIGGER chunks_move AFTER UPDATE OF state ON chunks BEGIN
                 INSERT INTO steps VALUES ('chunk', OLD.id, OLD.state, NEW.state); END;",
        )
        .unwrap();
}

/// The steps that were written down: from (`None`: it came), to.
fn steps(folder: &TempDir, place: &str) -> BTreeSet<(Option<State>, Option<State>)> {
    let connection = database(folder);
    let mut select = connection.prepare("SELECT DISTINCT before, after FROM steps WHERE place = ?1").unwrap();
    let state = |code: Option<i64>| code.map(|code| State::from_code(code).unwrap());
    let rows = select.query_map([place], |row| Ok((state(row.get(0)?), state(row.get(1)?)))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn allowed(before: State, after: State) -> bool {
    Event::ALL.into_iter().any(|event| before.after(event) == Ok(after))
}

#[tokio::test]
async fn b1_b2_whatever_happens_the_database_sees_only_steps_of_the_machine() {
    let mut rng = Seed::new().rng();
    let (folder, outbox) = fresh();
    audited(&folder);
    let mut now = 10;
    let mut known = Vec::new();
    for step in 0..1_500 {
        now += 400;
        match rng.random_range(0..10) {
            0..3 => outbox.take(readings("p", step..step + rng.random_range(1..4)), None).await.unwrap(),
            3..5 => {
                let rows = outbox.dispatch(0, rng.random_range(1..12), usize::MAX).await.unwrap();
                known.extend(rows.iter().map(|row| row.id));
            }
            // Answers come late, twice, and for rows of which nothing is known any more.
            5..8 if !known.is_empty() => {
                let rows = (0..rng.random_range(1..4)).map(|_| known[rng.random_range(0..known.len())]).collect();
                let verdict = match rng.random_range(0..4) {
                    0 => Verdict::Rejected("payload format invalid (0x99)".to_owned()),
                    1 => Verdict::Deferred,
                    _ => Verdict::Accepted,
                };
                outbox.resolve(rows, verdict, now).await.unwrap();
            }
            8 => drop(outbox.group(limits(4), now).await.unwrap()),
            _ => {
                let first = rng.random_range(1..20);
                let record = Anchored::ALL[rng.random_range(0..3)];
                mark(&outbox, (first, first + rng.random_range(0..3)), record).await;
            }
        }
    }
    use State::{OnChain, Pending, SentToChain, SentToServer, ServerAccepted, ServerRejected};
    for place in ["row", "chunk"] {
        for (before, after) in steps(&folder, place) {
            let after = after.unwrap();
            match before {
                None => assert_eq!(after, if place == "row" { Pending } else { ServerAccepted }, "a {place} comes so"),
                Some(before) => assert!(allowed(before, after), "{place}: {before} to {after}"),
            }
        }
    }
    let rows = [(Pending, SentToServer), (SentToServer, Pending), (SentToServer, ServerAccepted), (SentToServer, ServerRejected)];
    let chunks = [(ServerAccepted, SentToChain), (ServerAccepted, OnChain), (SentToChain, OnChain), (OnChain, SentToChain)];
    for (place, wanted) in [("row", rows), ("chunk", chunks)] {
        let seen = steps(&folder, place);
        for (before, after) in wanted {
            assert!(seen.contains(&(Some(before), Some(after))), "{place}: {before} to {after} did not happen: {seen:?}");
        }
    }
    // B7: what leaves was rejected, is on chain, or is stood for by the row of its chunk.
    for (row, chunk) in steps(&folder, "gone") {
        assert!(
            matches!((row, chunk), (Some(ServerRejected), None) | (Some(ServerAccepted), None | Some(OnChain))),
            "{row:?} {chunk:?}"
        );
    }
    // Each number is somewhere exactly once.
    let numbered = scalar(&folder, "SELECT next_seq - 1 FROM series");
    let shown = states(&folder);
    assert_eq!(shown.len() as i64, numbered);
    let different: BTreeSet<_> = shown.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(different.len(), shown.len());
}

#[tokio::test]
async fn b1_b2_the_view_tells_since_when_with_which_batch_and_transaction_and_why() {
    let (folder, outbox) = fresh();
    let one = |seq: i64| {
        let sql = "SELECT state || ' ' || since || ' ' || ifnull(batch, '-') || ' ' || ifnull(tx, '-') || ' ' || ifnull(detail, '-')
                          || ' ' || ifnull(reason, '-') FROM record_states WHERE series = 'a/b/p' AND epoch = '9f3c' AND seq = ?1";
        database(&folder).query_row(sql, [seq], |row| row.get::<_, String>(0)).unwrap()
    };
    outbox.take(readings("p", 0..1), None).await.unwrap();
    assert_eq!(one(1), "Pending 2023-11-14T22:13:20.123456789Z - - - -");
    send_all(&outbox).await;
    assert_eq!(one(1), "SentToServer 2023-11-14T22:13:20.123456789Z - - - -");
    settle(&outbox, Verdict::Accepted, 5).await;
    assert_eq!(one(1), "ServerAccepted 1970-01-01T00:00:00.000000005Z - - - -");
    outbox.group(limits(1), 9).await.unwrap();
    assert_eq!(one(1), "ServerAccepted 1970-01-01T00:00:00.000000005Z - - - -");
    let tx = format!("0x{}", "ab".repeat(32));
    for (record, wanted) in [
        (Anchored::Waiting, format!("ServerAccepted 1970-01-01T00:00:00.000000005Z 1 {tx} BATCHED -")),
        (Anchored::SentToChain, format!("SentToChain 1970-01-01T00:00:00.000000077Z 1 {tx} SENT -")),
        (Anchored::OnChain, format!("OnChain 1970-01-01T00:00:00.000000077Z 1 {tx} FINAL -")),
    ] {
        mark(&outbox, (1, 1), record).await;
        assert_eq!(one(1), wanted);
    }
    // A transaction that can't be written is SentToChain all the same, and says why.
    outbox.take(readings("p", 1..2), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 5).await;
    outbox.group(limits(1), 9).await.unwrap();
    let failure = Some(machine::Failure::ForeignHead);
    let failed = Change {
        number: u64::from(u32::MAX),
        batch: 2,
        chunks: (2, 2),
        record: Anchored::SentToChain,
        since: 80,
        detail: machine::State::Failed,
        failure,
        tx: None,
    };
    outbox.follow([1; 16], vec![failed]).await.unwrap();
    assert_eq!(one(2), "SentToChain 1970-01-01T00:00:00.000000080Z 2 - FAILED foreign head");
    outbox.take(readings("p", 2..3), None).await.unwrap();
    settle(&outbox, Verdict::Rejected("payload format invalid (0x99)".to_owned()), 6).await;
    let rejected = "ServerRejected 1970-01-01T00:00:00.000000006Z - - - payload format invalid (0x99)";
    assert_eq!(one(3), rejected);
    outbox.group(limits(1), 9).await.unwrap();
    assert_eq!(one(3), rejected, "the tombstone says the same");
}

#[tokio::test]
async fn b2_another_ledger_in_the_place_of_the_followed_one_is_followed_from_its_start() {
    let (folder, outbox) = fresh();
    outbox.take(readings("p", 0..1), None).await.unwrap();
    settle(&outbox, Verdict::Accepted, 5).await;
    outbox.group(limits(1), 9).await.unwrap();
    let change = |number, record| Change {
        number,
        batch: number,
        chunks: (1, 1),
        record,
        since: 7,
        detail: machine::State::Sent,
        failure: None,
        tx: None,
    };
    outbox.follow([1; 16], vec![change(40, Anchored::SentToChain), change(41, Anchored::OnChain)]).await.unwrap();
    assert_eq!(outbox.followed().unwrap(), Some(([1; 16], 41)));
    // It has not come as far.
    outbox.follow([2; 16], vec![change(1, Anchored::Waiting)]).await.unwrap();
    assert_eq!(outbox.followed().unwrap(), Some(([2; 16], 1)));
    assert_eq!(states(&folder), ["a/b/p.1 OnChain"]);
    assert_eq!(scalar(&folder, "SELECT batch FROM record_states"), 1);
    assert_eq!(scalar(&folder, "SELECT count(*) FROM batches"), 1);
}

#[tokio::test]
async fn c2_a_record_of_a_terminal_is_found_by_its_key_in_an_index() {
    let (folder, _outbox) = fresh();
    let connection = database(&folder);
    let sql = "EXPLAIN QUERY PLAN SELECT * FROM record_states WHERE series = 'a/b/p' AND epoch = '9f3c' AND seq = 1029";
    let mut select = connection.prepare(sql).unwrap();
    let plan: Vec<String> = select.query_map([], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
    for wanted in [
        "outbox_ungrouped (series=? AND seq_first<?)",
        "chunks_keys (series=? AND seq_last>?)",
        "tombstones_keys (series=? AND seq_last>?)",
        "b USING INTEGER PRIMARY KEY",
    ] {
        assert!(plan.iter().any(|step| step.starts_with("SEARCH") && step.contains(wanted)), "{wanted} in {plan:#?}");
    }
    for table in ["SCAN o", "SCAN c", "SCAN t", "SCAN s", "SCAN b", "SCAN outbox", "SCAN chunks"] {
        assert!(!plan.iter().any(|step| step == table || step.starts_with(&format!("{table} "))), "{table} in {plan:#?}");
    }
}

#[tokio::test]
async fn b7_a_large_purge_goes_in_steps_and_nothing_is_looked_for_before_its_end() {
    let (folder, outbox) = fresh();
    let count = 2 * PURGE_ROWS_MAX as i64 + 10;
    for n in 0..count {
        // Rows of their own: two streams, one of them rejected.
        outbox.take(readings(if n % 2 == 0 { "p" } else { "q" }, n..n + 1), None).await.unwrap();
    }
    let connection = database(&folder);
    let ids = |stream: &str| -> Vec<i64> {
        let sql = "SELECT o.id FROM outbox o JOIN series s ON s.id = o.series WHERE s.name = ?1";
        let mut select = connection.prepare(sql).unwrap();
        select.query_map([format!("a/b/{stream}")], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let (accepted, rejected) = (ids("p"), ids("q"));
    send_all(&outbox).await;
    outbox.resolve(rejected.clone(), Verdict::Rejected("topic name invalid (0x90)".to_owned()), 5).await.unwrap();
    outbox.resolve(accepted, Verdict::Accepted, 5).await.unwrap();
    let left = || scalar(&folder, "SELECT count(*) FROM outbox WHERE state = 3");
    let mut steps = 0;
    while left() > 0 {
        let before = left();
        assert!(outbox.group(limits(1), 9).await.unwrap() || before < PURGE_ROWS_MAX as i64);
        assert!(before - left() <= PURGE_ROWS_MAX as i64, "a step is bounded");
        steps += 1;
        if left() > 0 {
            assert!(outbox.chunks_after(0, 1).unwrap().is_empty(), "no scan before the purge is done");
        }
    }
    assert_eq!(steps, 2, "{count} rows");
    while outbox.group(limits(1), 9).await.unwrap() {}
    assert!(!outbox.chunks_after(0, 1).unwrap().is_empty());
    let graves = outbox.readers.read(reading_back::tombstones).unwrap();
    assert_eq!(graves.iter().map(|grave| grave.last - grave.first + 1).sum::<u64>(), rejected.len() as u64);
    assert_eq!(graves.len(), 1, "neighbours share one");
}
