//! One thread, one commit a group, and no answer before it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use store::rusqlite::Transaction;
use store::{Busy, Fault, Limits, Options, Step, Ticket, Work, Writer, open, open_reader};

const STEPS: &[Step] = &[Step { name: "rows", sql: "CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;" }];

/// Inserts each job as a row and answers with the row's id; counts in memory what it believes is committed.
struct Rows {
    believed: Arc<AtomicU64>,
    pending: u64,
}

impl Work for Rows {
    type Job = Vec<u8>;
    type Done = i64;

    fn apply(&mut self, tx: &Transaction<'_>, jobs: &mut Vec<Vec<u8>>) -> Result<Vec<i64>, Fault> {
        let mut insert = tx.prepare_cached("INSERT INTO rows (body) VALUES (?1)")?;
        let mut ids = Vec::new();
        for job in jobs.drain(..) {
            if job == b"refuse" {
                return Err(Fault::Work("refused".into()));
            }
            ids.push(insert.insert([job])?);
            self.pending += 1;
        }
        Ok(ids)
    }

    fn committed(&mut self) {
        self.believed.fetch_add(std::mem::take(&mut self.pending), Ordering::Relaxed);
    }

    fn rolled_back(&mut self) {
        self.pending = 0;
    }

    fn weigh(job: &Vec<u8>) -> usize {
        job.len()
    }
}

fn writer(path: &Path, limits: Limits) -> (Writer<Rows>, Arc<AtomicU64>) {
    let believed = Arc::new(AtomicU64::new(0));
    let connection = open(path, STEPS, &Options::default()).unwrap();
    (Writer::spawn("rows", connection, Rows { believed: believed.clone(), pending: 0 }, limits).unwrap(), believed)
}

fn rows(path: &Path) -> u64 {
    let connection = open_reader(path, &Options::default()).unwrap();
    connection.query_row("SELECT count(*) FROM rows", [], |row| row.get::<_, i64>(0)).unwrap() as u64
}

#[test]
fn c1_no_answer_comes_before_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, _) = writer(&path, Limits::default());
    writer.faults().hold();
    let mut ticket = writer.try_submit(b"one".to_vec()).unwrap();
    writer.faults().wait_at_gate();
    // Everything is done but the commit: nobody may have been told, and nobody may see it.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::pin::Pin::new(&mut ticket).poll(&mut context).is_pending());
    assert_eq!(rows(&path), 0);
    writer.faults().release();
    ticket.wait().unwrap();
    assert_eq!(rows(&path), 1);
}

#[test]
fn what_comes_during_a_commit_shares_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, believed) = writer(&path, Limits::default());
    writer.faults().hold();
    let first = writer.try_submit(b"first".to_vec()).unwrap();
    writer.faults().wait_at_gate();
    let others: Vec<Ticket<i64>> = (0..1000).map(|_| writer.try_submit(b"other".to_vec()).unwrap()).collect();
    writer.faults().release();
    assert_eq!(first.wait().unwrap(), 1);
    let ids: Vec<i64> = others.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    assert_eq!(ids, (2..=1001).collect::<Vec<_>>());
    let counters = writer.counters();
    assert_eq!((counters.groups, counters.jobs, believed.load(Ordering::Relaxed)), (2, 1001, 1001));
}

#[test]
fn a_group_is_bounded_by_count_and_by_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let limits = Limits { group_jobs_max: 10, group_bytes_max: 1000, ..Limits::default() };
    let (writer, _) = writer(&path, limits);
    writer.faults().hold();
    let mut tickets = vec![writer.try_submit(vec![0]).unwrap()];
    writer.faults().wait_at_gate();
    tickets.extend((0..20).map(|_| writer.try_submit(vec![0]).unwrap()));
    tickets.extend((0..4).map(|_| writer.try_submit(vec![0; 600]).unwrap()));
    tickets.push(writer.try_submit(vec![0; 5000]).unwrap());
    writer.faults().release();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    // 1, then 10 and 10 by count, then one at a time because two are too large together.
    assert_eq!(writer.counters().groups, 1 + 2 + 4 + 1);
}

#[test]
fn a_group_may_wait_for_company() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let limits = Limits { group_wait: Duration::from_secs(30), group_jobs_max: 3, ..Limits::default() };
    let (writer, _) = writer(&path, limits);
    let tickets: Vec<_> = (0..3).map(|_| writer.try_submit(vec![0]).unwrap()).collect();
    // Full before the time is over.
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(writer.counters().groups, 1);
}

#[test]
fn a_failed_group_fails_as_a_whole_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, believed) = writer(&path, Limits::default());
    for cause in ["apply", "commit"] {
        writer.faults().hold();
        let first = writer.try_submit(b"first".to_vec()).unwrap();
        writer.faults().wait_at_gate();
        let last = if cause == "apply" { b"refuse".to_vec() } else { b"fine".to_vec() };
        let group: Vec<_> =
            [b"good".to_vec(), b"good".to_vec(), last].into_iter().map(|job| writer.try_submit(job).unwrap()).collect();
        // The gate holds the first commit; the one after it is the one to fail.
        writer.faults().release();
        first.wait().unwrap();
        if cause == "commit" {
            // Answered already or not, nothing of it may be half there.
            for ticket in group {
                ticket.wait().unwrap();
            }
            writer.faults().fail_commits(1);
            assert!(matches!(writer.try_submit(b"lost".to_vec()).unwrap().wait(), Err(Fault::Work(_))));
        } else {
            for ticket in group {
                assert!(matches!(ticket.wait(), Err(Fault::Work(_))));
            }
        }
        assert_eq!(rows(&path), believed.load(Ordering::Relaxed));
    }
    writer.try_submit(b"after".to_vec()).unwrap().wait().unwrap();
    assert_eq!((rows(&path), writer.counters().failed_groups), (6, 2));
}

#[test]
fn c10_a_full_disk_is_an_error_to_its_group_and_serving_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, believed) = writer(&path, Limits::default());
    writer.try_submit(vec![1; 1000]).unwrap().wait().unwrap();
    writer.faults().limit_growth(20);
    let mut kept = 1;
    let fault = loop {
        match writer.try_submit(vec![1; 10_000]).unwrap().wait() {
            Ok(_) => kept += 1,
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, Fault::Full), "{fault}");
    assert_eq!((rows(&path), believed.load(Ordering::Relaxed)), (kept, kept));
    writer.faults().unlimit_growth();
    writer.try_submit(vec![1; 10_000]).unwrap().wait().unwrap();
    assert_eq!(rows(&path), kept + 1);
}

#[test]
fn a_full_queue_refuses_at_once_or_lets_wait_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, _) = writer(&path, Limits { queue_bytes_max: 1000, ..Limits::default() });
    writer.faults().hold();
    let held = writer.try_submit(vec![0; 400]).unwrap();
    writer.faults().wait_at_gate();
    let queued = writer.try_submit(vec![0; 600]).unwrap();
    match writer.try_submit(vec![7; 3]) {
        Err(Busy::Full(job)) => assert_eq!(job, [7; 3]),
        other => panic!("{other:?}"),
    }
    // Larger than the whole queue: passes when it is empty.
    let waiting = {
        let writer = writer.clone();
        thread::spawn(move || writer.submit_blocking(vec![0; 5000]).unwrap().wait().unwrap())
    };
    let ahead = writer.submit_ahead(vec![0; 10]).unwrap();
    writer.faults().release();
    let first = [held.wait().unwrap(), queued.wait().unwrap(), ahead.wait().unwrap()];
    assert_eq!(first, [1, 2, 3]);
    assert_eq!(waiting.join().unwrap(), 4);
}

#[test]
fn a_panic_reaches_everybody_who_waits_and_the_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, _) = writer(&path, Limits::default());
    writer.try_submit(b"safe".to_vec()).unwrap().wait().unwrap();
    writer.faults().hold();
    let first = writer.try_submit(b"first".to_vec()).unwrap();
    writer.faults().wait_at_gate();
    let lost = writer.try_submit(b"lost".to_vec()).unwrap();
    writer.faults().panic();
    let waiting = {
        let failed = writer.failed();
        thread::spawn(move || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(failed))
    };
    writer.faults().release();
    first.wait().unwrap();
    assert!(matches!(lost.wait(), Err(Fault::Panicked(_))));
    assert!(matches!(waiting.join().unwrap(), Fault::Panicked(_)));
    assert!(matches!(writer.try_submit(b"late".to_vec()), Err(Busy::Down(Fault::Panicked(_), _))));
    assert!(matches!(writer.submit_blocking(b"late".to_vec()), Err(Fault::Panicked(_))));
    writer.stop();
    assert_eq!(rows(&path), 2);
}

#[test]
fn a_stop_drains_the_queue_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, _) = writer(&path, Limits::default());
    writer.faults().hold();
    let tickets: Vec<_> = (0..100).map(|_| writer.try_submit(b"x".to_vec()).unwrap()).collect();
    let stopping = {
        let writer = writer.clone();
        thread::spawn(move || writer.stop())
    };
    while writer.submit_ahead(b"y".to_vec()).is_ok() {
        thread::yield_now();
    }
    writer.faults().release();
    stopping.join().unwrap();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert!(rows(&path) >= 100);
    assert!(matches!(writer.try_submit(b"late".to_vec()), Err(Busy::Down(Fault::Stopped, _))));
}

#[test]
fn a_hundred_threads_get_their_own_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let (writer, _) = writer(&path, Limits { queue_bytes_max: 64, ..Limits::default() });
    let mut ids: Vec<i64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|_| {
                scope.spawn(|| (0..20).map(|_| writer.submit_blocking(vec![0; 10]).unwrap().wait().unwrap()).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    ids.sort_unstable();
    assert_eq!(ids, (1..=2000).collect::<Vec<_>>());
}
