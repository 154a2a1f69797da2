//! A slow, obvious model judges the archive over random appends, closes and restarts.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use archive::{Appended, Lane};
use common::{ingest, open, raw, run, scan_all, series};
use proptest::prelude::*;
use wire::{Epoch, RecordKey};

const SERIES: [&str; 3] = ["a/b/c", "a/b/d", "b/b/c"];

#[derive(Debug, Clone)]
enum Step {
    /// Readings without keys, with these times.
    Raw(usize, Vec<i64>),
    /// A frame of runs: series, epoch, first number, how many, and whether the content is another than that of the key.
    Ingest(usize, Vec<(usize, u64, u64, u64, bool)>),
    Close,
    Restart,
    /// From, to, limit.
    Scan(usize, i64, i64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..SERIES.len();
    prop_oneof![
        3 => (which.clone(), prop::collection::vec(0i64..50, 1..30)).prop_map(|(series, ats)| Step::Raw(series, ats)),
        6 => (0usize..3, prop::collection::vec((which.clone(), 1u64..3, 1u64..40, 1u64..30, prop::bool::weighted(0.05)), 1..4))
            .prop_map(|(relay, runs)| Step::Ingest(relay, runs)),
        2 => Just(Step::Close),
        1 => Just(Step::Restart),
        3 => (which, 0i64..60, 0i64..60, 1usize..40).prop_map(|(series, from, to, limit)| Step::Scan(series, from, to, limit)),
    ]
}

/// Everything that is kept: series and key, then time, payload and relay.
type Model = BTreeMap<(usize, u64, u64), (i64, String, String)>;

/// The content of a key: same key, same content, unless it is forged.
fn content(epoch: u64, seq: u64, forged: bool) -> (i64, String) {
    let at = (seq * 7 + epoch) % 50;
    (at as i64, if forged { format!("forged {seq}") } else { format!("{}.{:02}", seq / 3, seq % 10) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_archive_answers_as_the_model_does(steps in prop::collection::vec(step(), 5..30)) {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = open(folder.path(), "own");
        let mut model = Model::new();
        let mut number = 0;
        let own = archive.epoch().0;
        for step in steps {
            match step {
                Step::Raw(which, ats) => {
                    let readings: Vec<(i64, String)> = ats.iter().enumerate().map(|(index, at)| (*at, format!("raw {index}"))).collect();
                    let borrowed: Vec<(i64, &str)> = readings.iter().map(|(at, text)| (*at, text.as_str())).collect();
                    raw(&archive, Lane::Store, SERIES[which], &borrowed);
                    let mut next = model.keys().filter(|key| key.0 == which && key.1 == own).count() as u64;
                    for (at, text) in readings {
                        next += 1;
                        model.insert((which, own, next), (at, text, "own".into()));
                    }
                }
                Step::Ingest(relay, runs) => {
                    number += 1;
                    let mut bytes = Vec::new();
                    let mut expected = Appended::default();
                    let relay = format!("relay-{relay}");
                    for (which, epoch, first, count, forged) in runs {
                        let readings: Vec<(i64, String)> = (first..first + count).map(|seq| content(epoch, seq, forged)).collect();
                        let borrowed: Vec<(i64, &str)> = readings.iter().map(|(at, text)| (*at, text.as_str())).collect();
                        bytes.extend(run(SERIES[which], epoch, first, &borrowed));
                        for (seq, (at, text)) in (first..).zip(readings) {
                            match model.get(&(which, epoch, seq)) {
                                Some(held) if held.0 == at && held.1 == text => expected.duplicate += 1,
                                Some(_) => expected.conflict += 1,
                                None => {
                                    expected.new += 1;
                                    model.insert((which, epoch, seq), (at, text, relay.clone()));
                                }
                            }
                        }
                    }
                    prop_assert_eq!(ingest(&archive, &relay, number, bytes), expected);
                }
                Step::Close => drop(archive.close_now().unwrap()),
                Step::Restart => {
                    drop(archive);
                    archive = open(folder.path(), "own");
                }
                Step::Scan(which, from, to, limit) => compare(&archive, &model, which, from, to, limit)?,
            }
        }
        for (which, name) in SERIES.into_iter().enumerate() {
            compare(&archive, &model, which, 0, i64::MAX, 1000)?;
            for (epoch, held) in archive.held(&series(name)).unwrap() {
                let found: BTreeSet<u64> = held.as_slice().iter().flat_map(|(low, high)| *low..=*high).collect();
                let expected: BTreeSet<u64> = model.keys().filter(|key| key.0 == which && key.1 == epoch.0).map(|key| key.2).collect();
                prop_assert_eq!(found, expected);
            }
        }
        for (key, (at, text, via)) in model.iter().step_by(7) {
            let key = RecordKey { series: series(SERIES[key.0]), epoch: Epoch(key.1), seq: key.2 };
            let entry = archive.get(&key).unwrap().unwrap();
            prop_assert_eq!((entry.record.at, entry.record.payload, entry.via.as_str()), (*at, text.clone().into_bytes(), via.as_str()));
        }
    }
}

fn compare(
    archive: &archive::Archive,
    model: &Model,
    which: usize,
    from: i64,
    to: i64,
    limit: usize,
) -> Result<(), TestCaseError> {
    let mut expected: Vec<_> = model
        .iter()
        .filter(|(key, (at, ..))| key.0 == which && (from..to).contains(at))
        .map(|(key, (at, text, via))| (*at, key.1, key.2, text.clone(), via.clone()))
        .collect();
    expected.sort();
    let found: Vec<_> = scan_all(archive, SERIES[which], from, to, limit)
        .into_iter()
        .map(|entry| {
            let text = String::from_utf8(entry.record.payload).unwrap();
            (entry.record.at, entry.record.key.epoch.0, entry.record.key.seq, text, entry.via.to_string())
        })
        .collect();
    prop_assert_eq!(found, expected);
    Ok(())
}
