use proptest::prelude::*;
use proptest::sample::Index;
use wire::cbor::Strict;
use wire::{
    Announcement, ChunkHeader, Command, Epoch, EpochSecret, Fault, FrameView, Intervals, Operation, Receipt, Record, RecordKey,
};
use wire::{RunBuilder, RunView, Runs, UpFrame, encode_frame};

use crate::series;

type Reading = (i64, Vec<u8>);

#[derive(Debug, Clone)]
struct Run {
    series: String,
    operation: Operation,
    epoch: u64,
    first_seq: u64,
    readings: Vec<Reading>,
}

impl Run {
    fn encode(&self) -> Vec<u8> {
        let mut builder = RunBuilder::new(self.series.parse().expect("a generated series is valid"), self.operation);
        for (at, payload) in &self.readings {
            builder.push(*at, payload).expect("a generated reading is valid");
        }
        let mut out = Vec::new();
        builder.write(Epoch(self.epoch), self.first_seq, &mut out);
        out
    }

    fn of(view: &RunView<'_>) -> Self {
        Self {
            series: view.series().to_owned(),
            operation: view.operation(),
            epoch: view.epoch().0,
            first_seq: view.first_seq(),
            readings: view.records().map(|record| (record.at, record.payload.to_vec())).collect(),
        }
    }

    fn records(&self) -> Vec<Record> {
        let key =
            |seq| RecordKey { series: self.series.parse().expect("a generated series is valid"), epoch: Epoch(self.epoch), seq };
        (self.first_seq..)
            .zip(&self.readings)
            .map(|(seq, (at, payload))| Record { key: key(seq), at: *at, operation: self.operation, payload: payload.clone() })
            .collect()
    }
}

/// Numbers around the lengths at which their encoding grows.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, 65_500..65_600u64, (1 << 32) - 9..(1u64 << 32) + 9, any::<u64>()]
}

fn run() -> impl Strategy<Value = Run> {
    let at = number().prop_map(|at| (at >> 1) as i64);
    let payload = prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 250..260)];
    let readings = prop::collection::vec((at, payload), 1..40);
    let operation = prop_oneof![Just(Operation::Store), Just(Operation::Forward)];
    (series(), operation, number(), number(), readings).prop_map(|(series, operation, epoch, seq, readings)| {
        let first_seq = (seq >> 1).clamp(1, wire::frame::SEQ_MAX - 39);
        Run { series, operation, epoch, first_seq, readings }
    })
}

fn secrets() -> impl Strategy<Value = Vec<(Epoch, EpochSecret)>> {
    prop::collection::vec((number(), any::<[u8; 32]>()), 0..3)
        .prop_map(|secrets| secrets.into_iter().map(|(epoch, bytes)| (Epoch(epoch), EpochSecret::new(bytes))).collect())
}

/// A frame, one of each of the other messages, and the runs alone.
fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (prop::collection::vec(run(), 1..4), secrets(), number(), any::<bool>()).prop_map(|(runs, secrets, number, historical)| {
        let encoded: Vec<Vec<u8>> = runs.iter().map(Run::encode).collect();
        let mut frame = Vec::new();
        encode_frame(&secrets, &encoded.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut frame);
        let series: wire::Series = runs[0].series.parse().expect("a generated series is valid");
        let secrets = secrets.into_iter().enumerate().map(|(index, (epoch, secret))| {
            let scope = (index > 0).then(|| series.sensor_id());
            Announcement { epoch, scope, secret }
        });
        let body = encoded.concat();
        let up = UpFrame {
            relay: "relay-1",
            relay_epoch: Epoch(7),
            number: number >> 1,
            term: number / 3,
            historical,
            secrets: secrets.collect(),
            runs: &body,
        };
        let mut up_frame = Vec::new();
        up.encode(&mut up_frame);
        let numbers: Intervals = [(1, 5), (9, 9 + number / 4), (number >> 1 | 1 << 62, i64::MAX as u64)].into_iter().collect();
        let pull = Command::Pull { id: number, series: series.clone(), from: -5, to: runs[0].readings[0].0 };
        let mut header = Vec::new();
        let intervals: Intervals = [(1, 3), (10, 10 + number / 4)].into_iter().collect();
        let count = intervals.count();
        ChunkHeader { series, epoch: Epoch(number), intervals, at_min: 4, at_max: 1 << 40, count, root: [9; 32] }
            .encode(&mut header);
        vec![
            body,
            frame,
            up_frame,
            Receipt { relay_epoch: Epoch(1), numbers }.encode(),
            pull.encode(),
            Command::Flush { id: number }.encode(),
            header,
        ]
    })
}

/// Reads `bytes` as each kind of message, and writes again what was read. Whatever is accepted must come out as it went in:
/// then no value has two encodings, and nothing that was hashed can be said in another way.
fn rebuilt(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    if let Ok(runs) = Runs::new(bytes).collect::<Result<Vec<_>, Fault>>() {
        all.push(runs.iter().flat_map(|run| Run::of(run).encode()).collect());
    }
    if let Ok(frame) = FrameView::parse(bytes) {
        let mut out = Vec::new();
        encode_frame(&frame.secrets, &frame.runs().map(|run| run.raw()).collect::<Vec<_>>(), &mut out);
        all.push(out);
    }
    if let Ok(frame) = UpFrame::parse(bytes) {
        let mut out = Vec::new();
        frame.encode(&mut out);
        all.push(out);
    }
    all.extend(Receipt::parse(bytes).map(|receipt| receipt.encode()));
    all.extend(Command::parse(bytes).map(|command| command.encode()));
    if let Ok(header) = ChunkHeader::parse(bytes) {
        let mut out = Vec::new();
        header.encode(&mut out);
        let _ = header.leaf();
        all.push(out);
    }
    all
}

/// The heads of all items in well-formed CBOR of definite lengths: where each begins, and where its item ends.
fn heads(bytes: &[u8]) -> Vec<(usize, usize)> {
    fn item(bytes: &[u8], at: usize, found: &mut Vec<(usize, usize)>) -> usize {
        let (major, argument, mut end) = head(bytes, at);
        let place = found.len();
        found.push((at, 0));
        match major {
            2 | 3 => end += argument as usize,
            4 => (0..argument).for_each(|_| end = item(bytes, end, found)),
            _ => {}
        }
        found[place].1 = end;
        end
    }
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        at = item(bytes, at, &mut found);
    }
    found
}

/// Major type, argument, and where the head ends.
fn head(bytes: &[u8], at: usize) -> (u8, u64, usize) {
    let (major, info) = (bytes[at] >> 5, bytes[at] & 31);
    let wide = if info < 24 { 0 } else { 1 << (info - 24) };
    let argument = bytes[at + 1..at + 1 + wide].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    (major, if wide == 0 { u64::from(info) } else { argument }, at + 1 + wide)
}

/// Every way to write the item at `start..end` longer than it needs to be.
fn longer(bytes: &[u8], start: usize, end: usize) -> Vec<Vec<u8>> {
    let (major, argument, body) = head(bytes, start);
    let around = |item: Vec<u8>| [&bytes[..start], &item, &bytes[end..]].concat();
    let mut all = Vec::new();
    for info in 24..28u8 {
        let wide = 1 << (info - 24);
        if body - start < 1 + wide && major < 7 {
            all.push(around([&[major << 5 | info], &argument.to_be_bytes()[8 - wide..], &bytes[body..end]].concat()));
        }
    }
    match major {
        2 | 3 => all.push(around([&[major << 5 | 31], &bytes[start..end], &[0xff]].concat())),
        4 => all.push(around([&[major << 5 | 31], &bytes[body..end], &[0xff]].concat())),
        7 => all.push(around(vec![0xf8, bytes[start] & 31])),
        _ => {}
    }
    all
}

proptest! {
    // Each case tries every message, and some of them every item of it.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn runs_are_read_back_as_they_were_written(run in run()) {
        let bytes = run.encode();
        let (view, rest) = RunView::parse(&bytes).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(view.records().map(|record| record.to_record()).collect::<Vec<_>>(), run.records());
        prop_assert_eq!(view.payload_bytes(), run.readings.iter().map(|(_, payload)| payload.len()).sum::<usize>());
        prop_assert_eq!(view.at_min(), run.readings.iter().map(|(at, _)| *at).min().unwrap());
        prop_assert_eq!(view.at_max(), run.readings.iter().map(|(at, _)| *at).max().unwrap());
        prop_assert_eq!((view.count(), view.raw()), (run.readings.len() as u64, &bytes[..]));
    }

    #[test]
    fn every_message_is_rebuilt_as_it_was(messages in messages()) {
        for message in messages {
            prop_assert_eq!(rebuilt(&message), vec![message]);
        }
    }

    #[test]
    fn a_longer_encoding_of_any_item_is_refused(messages in messages()) {
        for message in messages {
            for (start, end) in heads(&message) {
                for other in longer(&message, start, end) {
                    prop_assert_eq!(rebuilt(&other), Vec::<Vec<u8>>::new(), "item at {} of {:02x?}", start, message);
                }
            }
        }
    }

    #[test]
    fn what_trails_and_what_is_cut_off_is_refused(messages in messages(), cut in any::<Index>(), tail in prop::collection::vec(any::<u8>(), 1..4)) {
        // The first is a sequence of runs, which may be cut between two of them.
        for message in &messages[1..] {
            prop_assert!(rebuilt(&[&message[..], &tail].concat()).is_empty());
            prop_assert!(rebuilt(&message[..cut.index(message.len())]).iter().all(Vec::is_empty));
        }
    }

    #[test]
    fn an_item_of_another_type_is_refused_or_means_something_else(messages in messages(), place in any::<Index>(), major in 0..8u8) {
        for message in messages {
            let heads = heads(&message);
            let mut other = message.clone();
            let at = heads[place.index(heads.len())].0;
            other[at] = major << 5 | other[at] & 31;
            for again in rebuilt(&other) {
                prop_assert_eq!(&again, &other);
            }
        }
    }

    #[test]
    fn whatever_is_accepted_after_damage_has_one_encoding(
        messages in messages(), damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..5)
    ) {
        for mut message in messages {
            for (place, byte) in &damage {
                let place = place.index(message.len());
                message[place] = *byte;
            }
            for again in rebuilt(&message) {
                prop_assert_eq!(&again, &message);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for again in rebuilt(&bytes) {
            prop_assert_eq!(&again, &bytes);
        }
    }
}

/// Small input that announces much. Were memory reserved on its word, this would abort.
#[test]
fn c10_announced_sizes_are_not_believed() {
    const HUGE: [u8; 9] = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let huge_bytes = [&[0x5b], &HUGE[1..]].concat();
    let huge_text = [&[0x7b], &HUGE[1..]].concat();
    let run_head = b"\x87\x65a/b/c\x01\x01\x01\x01";
    for bytes in [
        HUGE.to_vec(),
        [&[0x83, 1][..], &HUGE].concat(),
        [&[0x83, 1, 0x80][..], &huge_bytes].concat(),
        [&[0x83, 1, 0x80, 0x4b][..], run_head].concat(),
        [&run_head[..], &HUGE].concat(),
        [&run_head[..], &[0x80], &HUGE].concat(),
        [&run_head[..], &[0x80, 0x81], &huge_bytes].concat(),
        [&[0x87][..], &huge_text].concat(),
        [&[0x88, 1, 0x61, b'r', 1, 1, 1, 0xf4][..], &HUGE].concat(),
        [&[0x83, 1, 1][..], &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]].concat(),
    ] {
        assert!(rebuilt(&bytes).is_empty(), "{bytes:02x?}");
    }
    let mut reader = Strict::new(&huge_bytes);
    assert!(reader.bytes().is_err());
}

/// An empty reading takes two bytes here, and a hundred wherever somebody collects it.
#[test]
fn c10_a_frame_of_very_many_empty_readings_is_refused() {
    let encode = |records: u64| {
        let mut builder = RunBuilder::new("a/b/c".parse().expect("the name is valid"), Operation::Forward);
        (0..records).for_each(|_| builder.push(5, b"").expect("the reading is valid"));
        let mut frame = Vec::new();
        let mut run = Vec::new();
        builder.write(Epoch(1), 1, &mut run);
        encode_frame(&[], &[&run, &run], &mut frame);
        frame
    };
    let half = wire::frame::FRAME_RECORDS_MAX / 2;
    assert_eq!(FrameView::parse(&encode(half)).map(|frame| frame.record_count), Ok(2 * half));
    assert!(matches!(FrameView::parse(&encode(half + 1)), Err(Fault::Rule { field: "runs", .. })));
}

#[test]
fn numbers_that_no_database_can_hold_are_refused() {
    let receipt = |last| Receipt { relay_epoch: Epoch(1), numbers: Intervals::of(1, last) }.encode();
    assert!(Receipt::parse(&receipt(i64::MAX as u64)).is_ok() && Receipt::parse(&receipt(1 << 63)).is_err());
    let runs =
        Run { series: "a/b/c".into(), operation: Operation::Store, epoch: 1, first_seq: 1, readings: vec![(1, vec![])] }.encode();
    let frame = |number| {
        let mut out = Vec::new();
        UpFrame { relay: "r", relay_epoch: Epoch(1), number, term: 0, historical: false, secrets: vec![], runs: &runs }
            .encode(&mut out);
        out
    };
    assert!(UpFrame::parse(&frame(i64::MAX as u64)).is_ok() && UpFrame::parse(&frame(u64::MAX)).is_err());
}

#[test]
fn c5_a_chunk_header_that_contradicts_itself_is_refused() {
    let good = ChunkHeader {
        series: "a/b/c".parse().unwrap(),
        epoch: Epoch(1),
        intervals: [(1, 3), (5, 5)].into_iter().collect(),
        at_min: 7,
        at_max: 7,
        count: 4,
        root: [1; 32],
    };
    let parsed = |header: ChunkHeader| {
        let mut out = Vec::new();
        header.encode(&mut out);
        ChunkHeader::parse(&out)
    };
    assert_eq!(parsed(good.clone()), Ok(good.clone()));
    for (bad, named) in [
        (ChunkHeader { count: 5, ..good.clone() }, "count"),
        (ChunkHeader { count: 0, intervals: Intervals::new(), ..good.clone() }, "intervals"),
        (ChunkHeader { count: 2, intervals: Intervals::of(0, 1), ..good.clone() }, "intervals"),
        (ChunkHeader { count: u64::MAX, intervals: Intervals::of(1, u64::MAX), ..good.clone() }, "intervals"),
        (ChunkHeader { at_min: 8, ..good.clone() }, "at_min"),
        (ChunkHeader { at_min: -1, ..good }, "at_min"),
    ] {
        assert!(matches!(parsed(bad), Err(Fault::Rule { field, .. }) if field == named), "{named}");
    }
}
