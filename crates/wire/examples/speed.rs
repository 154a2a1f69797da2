//! What the inner loops cost, in nanoseconds: `cargo run --release -p wire --example speed`.
#![allow(clippy::print_stdout, reason = "it is a program that prints")]

use std::hint::black_box;
use std::time::Instant;

use wire::digest::leaf;
use wire::grants::{Action, Grant, Grants, GrantsFile, Subject};
use wire::{Epoch, EpochSecret, FrameView, Operation, RecordView, RunBuilder, Topic, encode_frame, merkle};

/// The best of several rounds, so that a neighbour on the machine does not count.
fn report<T>(what: &str, each: usize, mut work: impl FnMut() -> T) {
    let best = (0..30).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    let nanoseconds = best.min().unwrap_or_default().as_nanos() as f64 / each as f64;
    println!("{nanoseconds:>8.1} ns  {what}");
}

fn main() {
    const RECORDS: usize = 10_000;
    let (series, payload) = ("cityA/meter-0017/power/active", [b'7'; 100]);
    let secret = EpochSecret::new([7; 32]);
    let record = |seq| RecordView {
        series,
        epoch: Epoch(0x9f3c_0017_dead_beef),
        seq,
        at: 1_451_606_400_000_000_000,
        operation: Operation::Store,
        payload: &payload,
    };
    report("salt of a record", RECORDS, || {
        (0..RECORDS as u64).map(|seq| secret.salt(&record(seq))).fold(0, |sum, salt| sum ^ salt[0])
    });
    report("leaf of a record of 100 bytes, salt given", RECORDS, || {
        (0..RECORDS as u64).map(|seq| leaf(&record(seq), &[1; 16])).fold(0, |sum, leaf| sum ^ leaf[0])
    });
    report("salt and leaf", RECORDS, || {
        (0..RECORDS as u64).map(|seq| secret.leaf(&record(seq))).fold(0, |sum, leaf| sum ^ leaf[0])
    });

    report("leaves of many records", RECORDS, || secret.leaves((0..RECORDS as u64).map(record)));

    let leaves = secret.leaves((0..RECORDS as u64).map(record));
    report("Merkle root, a leaf", RECORDS, || merkle::root(&leaves));

    for run_records in [1, 10, 100, RECORDS] {
        let mut runs = Vec::new();
        for first in (0..RECORDS).step_by(run_records) {
            let mut run = RunBuilder::new(series.parse().expect("the name is valid"), Operation::Store);
            for seq in first..first + run_records {
                run.push(1_451_606_400_000_000_000 + seq as i64 * 900_000_000_000, &payload).expect("the reading is valid");
            }
            run.write(Epoch(1), first as u64 + 1, &mut runs);
        }
        let mut frame = Vec::new();
        encode_frame(&[], &[&runs], &mut frame);
        report(&format!("check of a frame, a record, runs of {run_records}"), RECORDS, || {
            FrameView::parse(&frame).map(|frame| frame.record_count)
        });
        let view = FrameView::parse(&frame).expect("the frame is valid");
        report(&format!("walk through its records, runs of {run_records}"), RECORDS, || {
            view.runs().flat_map(|run| run.records()).map(|record| record.payload.len()).sum::<usize>()
        });
    }

    report("parse of a topic", RECORDS, || {
        (0..RECORDS).filter(|_| Topic::parse(black_box("op/store/cityA/meter-0017/power/active")).is_ok()).count()
    });

    let grant =
        Grant { users: vec!["*".into()], actions: vec![Action::Publish], topics: vec!["op/+/+/%u/#".into()], ..Grant::default() };
    let grants = Grants::new(&GrantsFile { grants: vec![grant] }).expect("the grant is valid");
    let subject = Subject { user: Some("meter-0017"), client: "c" };
    report("verdict on a publish", RECORDS, || {
        (0..RECORDS)
            .filter(|_| {
                grants.verdict(&subject, Action::Publish, black_box("op/store/cityA/meter-0017/power/active"), 0).is_allowed()
            })
            .count()
    });
}
