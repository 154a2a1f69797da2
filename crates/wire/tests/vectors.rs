//! Golden bytes: what two processes must agree upon to the last byte. Vectors are added, never edited.

use wire::digest::{leaf, to_hex};
use wire::{
    Announcement, ChunkHeader, Command, Epoch, EpochSecret, FrameView, Operation, Receipt, Record, RunBuilder, RunView,
    Statement, UpFrame,
};
use wire::{encode_frame, merkle};

/// Compares with a committed vector, whose lines may be broken anywhere.
fn assert_vector(name: &str, vector: &str, bytes: &[u8]) {
    let expected: String = vector.split_whitespace().collect();
    assert_eq!(to_hex(bytes), expected, "{name}");
}

macro_rules! assert_vector {
    ($name:literal, $bytes:expr) => {
        assert_vector($name, include_str!(concat!("vectors/", $name, ".hex")), $bytes.as_ref())
    };
}

fn secret() -> EpochSecret {
    EpochSecret::new(std::array::from_fn(|index| index as u8))
}

fn record(key: &str, at: i64, operation: Operation, payload: &[u8]) -> Record {
    Record { key: key.parse().expect("the key is valid"), at, operation, payload: payload.to_vec() }
}

fn first() -> Record {
    record("cityA/meter-0017/power/active@9f3c.1029", 1_451_606_400_000_000_000, Operation::Store, b"0.1375")
}

/// The edges: nothing in the payload, the earliest time, the largest numbers.
fn edge() -> Record {
    record("a/b/c@ffffffffffffffff.9223372036854775807", 0, Operation::Forward, b"")
}

/// Longer than one SHA-256 block and one byte of length.
fn long() -> Record {
    record("cityA/meter-0017/a/b/c/d/e/f/g/h@0.1", 1, Operation::Forward, &[0xab; 300])
}

fn run_of(records: &[Record]) -> Vec<u8> {
    let key = &records[0].key;
    let mut run = RunBuilder::new(key.series.clone(), records[0].operation);
    for record in records {
        run.push(record.at, &record.payload).expect("the reading is valid");
    }
    let mut out = Vec::new();
    run.write(key.epoch, key.seq, &mut out);
    out
}

fn followers() -> Vec<Record> {
    let mut records = vec![first(); 3];
    for (index, record) in records.iter_mut().enumerate() {
        record.key.seq += index as u64;
        record.at += [0, 900_000_000_000, -1][index];
        record.payload.truncate(6 - index);
    }
    records
}

#[test]
fn v1_salts() {
    assert_vector!("salt_v1", secret().salt(&first().view()));
    assert_vector!("salt_edge_v1", secret().salt(&edge().view()));
}

#[test]
fn v1_leaves() {
    assert_vector!("leaf_v1", leaf(&first().view(), &secret().salt(&first().view())));
    assert_vector!("leaf_edge_v1", secret().leaf(&edge().view()));
    assert_vector!("leaf_long_v1", secret().leaf(&long().view()));
    let backwards = Record { at: -1, ..first() };
    assert_vector!("leaf_negative_time_v1", leaf(&backwards.view(), &[0; 16]));
}

#[test]
fn v1_chunk_header() {
    let records = followers();
    let leaves: Vec<_> = records.iter().map(|record| secret().leaf(&record.view())).collect();
    let header = ChunkHeader {
        series: records[0].key.series.clone(),
        epoch: records[0].key.epoch,
        intervals: [(1029, 1030), (1032, 1032)].into_iter().collect(),
        at_min: records[2].at,
        at_max: records[1].at,
        count: 3,
        root: merkle::root(&leaves),
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    assert_vector!("chunk_header_v1", bytes);
    assert_vector!("chunk_leaf_v1", header.leaf());
    assert_eq!(ChunkHeader::parse(&bytes).as_ref(), Ok(&header));
    let statement = Statement {
        relay: "relay-1".parse().unwrap(),
        relay_epoch: Epoch(0xabcd),
        chunk: 12,
        at: 1_451_606_460_000_000_000,
        header,
    };
    let mut bytes = Vec::new();
    statement.encode(&mut bytes);
    assert_vector!("statement_v1", bytes);
    assert_vector!("statement_leaf_v1", statement.leaf());
}

#[test]
fn v1_run_and_frame() {
    let run = run_of(&followers());
    assert_vector!("run_v1", run);
    assert_eq!(RunView::parse(&run).unwrap().0.records().map(|record| record.to_record()).collect::<Vec<_>>(), followers());
    let other = run_of(&[edge()]);
    let mut frame = Vec::new();
    encode_frame(&[(Epoch(0x9f3c), secret())], &[&run, &other], &mut frame);
    assert_vector!("frame_v1", frame);
    assert_eq!(FrameView::parse(&frame).unwrap().record_count, 4);
}

#[test]
fn v1_uplink() {
    let runs = [run_of(&followers()), run_of(&[long()])].concat();
    let secrets = vec![
        Announcement { epoch: Epoch(1), scope: None, secret: secret() },
        Announcement { epoch: Epoch(0x9f3c), scope: Some("cityA/meter-0017".parse().unwrap()), secret: secret() },
    ];
    let frame =
        UpFrame { relay: "relay-1", relay_epoch: Epoch(0xabcd), number: 70_000, term: 3, historical: true, secrets, runs: &runs };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    assert_vector!("up_frame_v1", bytes);
    let receipt = Receipt { relay_epoch: Epoch(0xabcd), numbers: [(1, 4), (6, 6), (70_000, 70_001)].into_iter().collect() };
    assert_vector!("receipt_v1", receipt.encode());
    assert_vector!("command_flush_v1", Command::Flush { id: 24 }.encode());
    let series = "cityA/meter-0017/power/active".parse().unwrap();
    assert_vector!("command_pull_v1", Command::Pull { id: 25, series, from: 0, to: i64::MAX }.encode());
    assert_vector!("command_prove_v1", Command::Prove { id: 26, chunk: 12, key: first().key }.encode());
}

#[test]
fn a_secret_is_never_printed() {
    let shown = format!("{:?}", Announcement { epoch: Epoch(1), scope: None, secret: secret() });
    assert!(shown.contains("redacted") && !shown.contains("31") && !shown.contains("1f"), "{shown}");
}
