//! kill -9 at random moments: what was acknowledged is there, once, and the numbers have no gap.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archive::{Append, Archive, Cursor, FrameRef, Lane, Options, Scan, Selection};
use common::{builder, drain, options, series};
use wire::{Epoch, Intervals};

const FOLDER: &str = "ARCHIVE_KILL_FOLDER";
const AHEAD: &str = "ARCHIVE_KILL_AHEAD";
const ROUNDS: u64 = 10;
const SERIES: [(&str, Lane); 4] =
    [("a/m1/stored", Lane::Store), ("a/m2/live", Lane::Live), ("b/m1/late", Lane::Backlog), ("b/m2/stored", Lane::Store)];

fn both(folder: &Path, ahead: bool) -> (Archive, Archive) {
    let relay = Archive::open(&folder.join("relay"), Options { ahead, ..options("relay-1") }).unwrap();
    let cloud = Archive::open(&folder.join("cloud"), options("cloud")).unwrap();
    assert_eq!((&relay.1.quarantined, &cloud.1.quarantined), (&None, &None));
    (relay.0, cloud.0)
}

/// The process that is killed: a relay and a cloud with everything going on at once. Says on its output what was acknowledged.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (relay, cloud) = both(Path::new(&folder), std::env::var_os(AHEAD).is_some());
    let round = std::env::var("ARCHIVE_KILL_ROUND").unwrap();
    thread::scope(|scope| {
        for (name, lane) in SERIES {
            let (relay, round) = (&relay, &round);
            scope.spawn(move || {
                for count in 0.. {
                    let texts: Vec<String> = (0..1 + count % 7).map(|index| format!("{round}.{count}.{index}")).collect();
                    let readings: Vec<(i64, &str)> = texts.iter().map(|text| (count, text.as_str())).collect();
                    let append = Append::Raw { lane, runs: vec![builder(name, &readings)] };
                    relay.append_blocking(append).unwrap().wait().unwrap();
                    // One write a line: a line is there as a whole or not at all.
                    std::io::stdout().write_all(format!("acked {name} {}\n", texts.join(" ")).as_bytes()).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for count in 0u64.. {
                match count % 5 {
                    1 => drop(relay.hand_over(&Selection::Range { series: series(SERIES[0].0), from: 0, to: i64::MAX }).unwrap()),
                    3 => drop(cloud.close_now().unwrap()),
                    _ => drop(relay.close_now().unwrap()),
                }
            }
        });
        scope.spawn(|| {
            loop {
                drain(&relay, &cloud);
            }
        });
    });
}

#[test]
fn c1_what_was_acknowledged_survives_kill_9_exactly_once() {
    kill(false);
}

#[test]
fn c1_what_was_acknowledged_survives_kill_9_exactly_once_also_where_pages_are_sent_ahead_of_their_commit() {
    kill(true);
}

fn kill(ahead: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut acked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if ahead {
            command.env(AHEAD, "1");
        }
        let mut child = command
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .env("ARCHIVE_KILL_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = AtomicU64::new(0);
        let output = BufReader::new(child.stdout.take().unwrap());
        let said: Vec<String> = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let lines = output.lines().map_while(Result::ok).inspect(|_| {
                    lines.fetch_add(1, Ordering::Relaxed);
                });
                lines.collect()
            });
            // Deep enough that several segments were closed; then somewhere within the next commits.
            let wanted = 40 + round * 37 % 60;
            let deadline = Instant::now() + Duration::from_secs(60);
            while lines.load(Ordering::Relaxed) < wanted {
                assert!(
                    Instant::now() < deadline,
                    "the child acknowledged {} appends in a minute",
                    lines.load(Ordering::Relaxed)
                );
                thread::sleep(Duration::from_micros(100 + 77 * round));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            reader.join().unwrap()
        });
        for line in said.iter().filter_map(|line| line.split_once("acked ")).map(|(_, rest)| rest) {
            let mut words = line.split(' ').map(str::to_owned);
            acked.entry(words.next().unwrap()).or_default().extend(words);
        }
        let (relay, cloud) = both(folder.path(), ahead);
        drain(&relay, &cloud);
        for (name, _) in SERIES {
            let held = check(&relay, &cloud, name, &acked[name], round);
            if !ahead {
                assert_eq!(relay.held(&series(name)).unwrap(), held, "round {round}, {name}");
            }
        }
        assert_eq!((relay.stats().conflicts, cloud.stats().conflicts, relay.stats().waiting_pages), (0, 0, 0), "round {round}");
    }
}

fn check(relay: &Archive, cloud: &Archive, name: &str, acked: &BTreeSet<String>, round: u64) -> Vec<(Epoch, Intervals)> {
    let mut found: BTreeMap<Epoch, BTreeMap<u64, String>> = BTreeMap::new();
    let mut texts = BTreeSet::new();
    for archive in [relay, cloud] {
        let mut after = None;
        loop {
            let page = archive.scan(&Scan { series: series(name), from: 0, to: i64::MAX, after, limit: 5000 }).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(Cursor::after(&last.record));
            for entry in page {
                let text = String::from_utf8(entry.record.payload).unwrap();
                assert!(texts.insert(text.clone()), "round {round}, {name}: {text} is there twice");
                let key = entry.record.key;
                assert_eq!(
                    found.entry(key.epoch).or_default().insert(key.seq, text),
                    None,
                    "round {round}, {name}: one key twice"
                );
            }
        }
    }
    let lost: Vec<_> = acked.difference(&texts).collect();
    assert!(lost.is_empty(), "round {round}, {name}: lost {lost:?}");
    let mut held = Vec::new();
    for (epoch, found) in found {
        let count = found.len() as u64;
        let numbers: Vec<u64> = found.into_keys().collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "round {round}, {name}: numbers have a gap");
        held.push((epoch, Intervals::of(1, count)));
    }
    held
}

#[test]
fn a_frame_reference_is_made_of_what_the_relay_says() {
    // The numbers of two databases of one relay are different frames: a relay that lost its database starts again at 1.
    let folder = tempfile::tempdir().unwrap();
    let cloud = common::open(folder.path(), "cloud");
    for epoch in [1, 2] {
        let from = FrameRef { relay: "relay-1".parse().unwrap(), relay_epoch: wire::Epoch(epoch), number: 1 };
        let runs = common::run("a/b/c", epoch, 1, &[(1, "x")]).into();
        assert_eq!(cloud.append(Append::Ingest { from, runs, secrets: vec![] }).unwrap().wait().unwrap().new, 1);
    }
}
