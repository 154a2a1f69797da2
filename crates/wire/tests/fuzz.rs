//! Decoders against bytes that nobody wrote: a refusal or a value that is written back as the same bytes, and never a panic.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its purpose")]

use std::time::Duration;

use testkit::fuzz;
use wire::cbor::Strict;
use wire::group::{Heartbeat, Lease, TermLimits};
use wire::index::{Index, IndexEntry, Outcome, Reply, Stretch};
use wire::{
    ChunkHeader, Command, Epoch, EpochSecret, FrameView, Intervals, Operation, Receipt, Record, RecordKey, RunBuilder, RunView,
    Shown, Statement, Topic, Unstated, UpFrame, encode_frame, packed,
};

fn run(series: &str, first: u64, count: u64) -> Vec<u8> {
    let mut run = RunBuilder::new(series.parse().unwrap(), Operation::Forward);
    for n in 0..count {
        run.push(1_700_000_000_000_000_000 + n as i64 * 1_000, format!("{n}.5").as_bytes()).unwrap();
    }
    let mut out = Vec::new();
    run.write(Epoch(0x9f3c), first, &mut out);
    out
}

fn frame(runs: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(&[(Epoch(0x9f3c), EpochSecret::new([7; 32]))], runs, &mut out);
    out
}

fn header() -> ChunkHeader {
    ChunkHeader {
        series: "cityA/meter-1/power".parse().unwrap(),
        epoch: Epoch(0x9f3c),
        intervals: [(1, 3), (7, 9)].into_iter().collect(),
        at_min: 5,
        at_max: 9,
        count: 6,
        root: [3; 32],
    }
}

#[test]
fn c4_fuzzed_frames_are_refused_or_read_whole() {
    let (a, b) = (run("cityA/meter-1/power/active", 1, 20), run("cityA/meter-1/power/reactive", 700, 1));
    let mut up = Vec::new();
    let both = [a.as_slice(), &b].concat();
    UpFrame { relay: "r", relay_epoch: Epoch(1), number: 7, term: 2, historical: true, secrets: vec![], runs: &both }
        .encode(&mut up);
    let seeds = [frame(&[&a, &b]), frame(&[&a]), packed::Packer::new().pack(up.clone()), up, a.clone(), b.clone()];
    fuzz(&seeds, |bytes| {
        if let Ok(frame) = FrameView::parse(bytes) {
            for run in frame.runs() {
                assert_eq!(run.records().count() as u64, run.count());
                assert!(RunView::parse(run.raw()).is_ok_and(|(_, rest)| rest.is_empty()));
            }
        }
        if let Ok((run, rest)) = RunView::parse(bytes) {
            assert_eq!(run.raw().len() + rest.len(), bytes.len());
            assert!(run.records().all(|record| record.seq >= run.first_seq() && record.seq <= run.last_seq()));
        }
        let plain = packed::unpack(bytes, 1 << 20);
        if let Ok(Ok(frame)) = plain.as_deref().map(UpFrame::parse) {
            assert!(frame.runs().count() > 0);
        }
    });
}

#[test]
fn c4_fuzzed_headers_and_intervals_have_one_spelling() {
    let mut seed = Vec::new();
    header().encode(&mut seed);
    let mut intervals = Vec::new();
    header().intervals.encode(&mut intervals);
    fuzz(&[seed, intervals], |bytes| {
        if let Ok(header) = ChunkHeader::parse(bytes) {
            let mut again = Vec::new();
            header.encode(&mut again);
            assert_eq!(again, bytes);
        }
        let mut strict = Strict::new(bytes);
        if let Ok(set) = Intervals::decode(&mut strict) {
            let mut again = Vec::new();
            set.encode(&mut again);
            assert_eq!(again, &bytes[..strict.position()]);
        }
    });
}

#[test]
fn c4_fuzzed_keys_and_topics_have_one_spelling() {
    let seeds =
        ["cityA/meter-0017/power/active@9f3c.1029", "op/forward/cityA/meter-0017", "anchor/cityA/meter-1/roots", "query/a"];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    fuzz(&seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(key) = text.parse::<RecordKey>() {
            assert_eq!(key.to_string(), text);
        }
        if let Ok(topic) = Topic::parse(text) {
            assert_eq!(topic.to_string(), text);
        }
    });
}

#[test]
fn c4_fuzzed_words_of_relays_and_the_cloud_have_one_spelling() {
    let (name, stretch) = ("relay-1".parse().unwrap(), Stretch { after: 4, through: 9 });
    let entry = IndexEntry {
        chunk: 5,
        series: "cityA/meter-1/power".parse().unwrap(),
        epoch: Epoch(5),
        at_min: -4,
        at_max: 9,
        records: 2,
        seqs: Intervals::of(1, 2),
        root: [7; 32],
    };
    let unstated = Unstated {
        segment: 4,
        after: 5,
        through: 9,
        more: false,
        at: Some((-3, 8)),
        series: vec!["a/b/c".parse().unwrap()],
        rootless: vec!["a/b/d".parse().unwrap()],
    };
    let until = TermLimits { time: Duration::from_secs(9), bytes: 1, frames: 300 };
    let sound = IndexEntry { at_min: 4, ..entry.clone() };
    let statement = Statement::of("relay-1".parse().unwrap(), Epoch(3), 1_451_606_400_000_000_000, &sound);
    let record =
        Record { key: "cityA/meter-1/power@5.2".parse().unwrap(), at: 9, operation: Operation::Store, payload: b"1.5".to_vec() };
    let shown = Shown { record, salt: [8; 16], chunk: 5, index: 1, path: vec![[1; 32], [2; 32]] };
    let encoded = |statement: &Statement| {
        let mut out = Vec::new();
        statement.encode(&mut out);
        out
    };
    let seeds = [
        Heartbeat {
            group: "north".parse().unwrap(),
            relay_epoch: Epoch(7),
            beat: 12,
            term: 3,
            address: "10.0.0.7:1883".to_owned(),
            done: true,
            period: Duration::from_secs(60),
            collected: vec![(4, 1_000), (9, 70_000)],
        }
        .encode(),
        Lease {
            group: "north".parse().unwrap(),
            beat: 8,
            term: 4,
            holder: Some(name),
            address: "a:1".to_owned(),
            ttl: Duration::from_secs(1),
            until,
        }
        .encode(),
        Index::Page { relay_epoch: Epoch(3), stretch, entries: vec![entry] }.encode(),
        Index::Sums { relay_epoch: Epoch(3), stretches: vec![(Stretch { after: 0, through: 8 }, 2, [1; 32])] }.encode(),
        Reply { relay_epoch: Epoch(3), command: 8, outcome: Outcome::Done { frames: Intervals::of(4, 9), records: 7 } }.encode(),
        Reply { relay_epoch: Epoch(3), command: 8, outcome: Outcome::Failed { reason: "no".to_owned() } }.encode(),
        Command::Pull { id: 5, series: "a/b/c".parse().unwrap(), from: 0, to: 9 }.encode(),
        Command::Index { id: 6, stretches: vec![stretch] }.encode(),
        Command::Prove { id: 7, chunk: 12, key: "a/b/c@9f.3".parse().unwrap() }.encode(),
        Reply { relay_epoch: Epoch(3), command: 8, outcome: Outcome::Shown(Box::new(shown)) }.encode(),
        encoded(&statement),
        Command::Unstated { id: 7, relay_epoch: Epoch(3), segment: 4, after: 9 }.encode(),
        Reply { relay_epoch: Epoch(3), command: 8, outcome: Outcome::Unstated { frames: Intervals::of(4, 9), unstated } }
            .encode(),
        Receipt { relay_epoch: Epoch(3), numbers: [(1, 4), (9, 9)].into_iter().collect() }.encode(),
    ];
    fuzz(&seeds, |bytes| {
        let again = [
            Heartbeat::parse(bytes).map(|read| read.encode()),
            Lease::parse(bytes).map(|read| read.encode()),
            Index::parse(bytes).map(|read| read.encode()),
            Reply::parse(bytes).map(|read| read.encode()),
            Command::parse(bytes).map(|read| read.encode()),
            Receipt::parse(bytes).map(|read| read.encode()),
            Statement::parse(bytes).map(|read| encoded(&read)),
        ];
        for again in again.iter().flatten() {
            assert_eq!(again, bytes);
        }
    });
}
