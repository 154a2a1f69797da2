//! kill -9 in the middle of spills, pulls and closes: no record is lost or doubled, and the index names what the cloud does not hold.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archive::{Append, Archive, FrameRef, HandingOver, Lane, Selection};
use common::{builder, drain, everything, open, series, wait};
use wire::index::{IndexEntry, Stretch};
use wire::uplink::NUMBER_MAX;
use wire::{Intervals, Runs};

const FOLDER: &str = "ARCHIVE_SPILL_FOLDER";
const ROUNDS: u64 = 16;
const SERIES: [&str; 3] = ["a/m1/power", "a/m2/power", "b/m1/volts"];

fn both(folder: &Path) -> (Archive, Archive) {
    (open(&folder.join("relay"), "relay-1"), open(&folder.join("cloud"), "cloud"))
}

fn index(relay: &Archive) -> Vec<IndexEntry> {
    relay.index_entries(Stretch { after: 0, through: NUMBER_MAX }, 1_000_000).unwrap()
}

/// Carries a few pages up, as an uplink does whose receipts come late and not in order.
fn carry(relay: &Archive, cloud: &Archive, turn: u64) {
    for page in relay.outgoing(Lane::Backlog, 0, 20_000).unwrap().into_iter().rev() {
        let from = FrameRef { relay: relay.name().clone(), relay_epoch: relay.epoch(), number: page.id };
        cloud.append_blocking(Append::Ingest { from, runs: page.body, secrets: vec![] }).unwrap().wait().unwrap();
        if !(page.id + turn).is_multiple_of(3) {
            wait(relay.delivered(&Intervals::of(page.id, page.id)).unwrap()).unwrap();
        }
    }
}

/// The process that is killed: a relay that takes, closes, spills and is pulled from, all at once.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (relay, cloud) = both(Path::new(&folder));
    let round = std::env::var("ARCHIVE_SPILL_ROUND").unwrap();
    thread::scope(|scope| {
        for name in SERIES {
            let (relay, round) = (&relay, &round);
            scope.spawn(move || {
                for count in 0..i64::MAX {
                    let text = format!("{round}.{count}");
                    let append = Append::Raw { lane: Lane::Store, runs: vec![builder(name, &[(count, &text)])] };
                    relay.append_blocking(append).unwrap().wait().unwrap();
                    std::io::stdout().write_all(format!("acked {name} {text}\n").as_bytes()).unwrap();
                }
            });
        }
        scope.spawn(|| {
            loop {
                relay.close_now().unwrap();
            }
        });
        scope.spawn(|| {
            loop {
                let mut spill = HandingOver::new(Selection::Chunks);
                while !spill.is_done() {
                    relay.hand_over_page(&mut spill).unwrap();
                }
                thread::sleep(Duration::from_millis(3));
            }
        });
        scope.spawn(|| {
            for turn in 0usize.. {
                let what = Selection::Range { series: series(SERIES[turn % 3]), from: 0, to: i64::MAX };
                relay.hand_over(&what).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        scope.spawn(|| {
            for turn in 0.. {
                carry(&relay, &cloud, turn);
            }
        });
    });
}

#[test]
fn a6_kill_9_at_any_step_of_a_spill_or_a_close_leaves_neither_loss_nor_a_stale_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut acked: BTreeSet<(String, String)> = BTreeSet::new();
    let (mut entries, mut leaving) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .env("ARCHIVE_SPILL_ROUND", round.to_string())
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
            let deadline = Instant::now() + Duration::from_secs(60);
            while lines.load(Ordering::Relaxed) < 60 + round * 41 % 90 {
                assert!(Instant::now() < deadline, "the child acknowledges too little");
                thread::sleep(Duration::from_micros(90 + 61 * round));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            reader.join().unwrap()
        });
        for line in said.iter().filter_map(|line| line.split_once("acked ")) {
            let (name, text) = line.1.split_once(' ').unwrap();
            acked.insert((name.to_owned(), text.to_owned()));
        }
        let (relay, cloud) = both(folder.path());

        // What the index names is at the relay or on its way; so nothing that it denies is anywhere but at the cloud.
        let mut held: BTreeSet<(String, u64)> = BTreeSet::new();
        let stored = |archive: &Archive, name: &str| -> Vec<_> {
            everything(archive, name).into_iter().map(|entry| (name.to_owned(), entry.record.key.seq)).collect()
        };
        SERIES.iter().for_each(|name| held.extend(stored(&relay, name)));
        let chunked = relay.stats().chunks.records;
        for page in relay.outgoing(Lane::Backlog, 0, usize::MAX >> 1).unwrap() {
            for run in Runs::new(&page.body) {
                let run = run.unwrap();
                held.extend((run.first_seq()..=run.last_seq()).map(|seq| (run.series().to_owned(), seq)));
            }
        }
        let listed = index(&relay);
        entries += listed.len();
        for entry in &listed {
            for (low, high) in entry.seqs.as_slice() {
                for seq in *low..=*high {
                    assert!(
                        held.contains(&(entry.series.as_str().to_owned(), seq)),
                        "round {round}: {seq} of {entry:?} is nowhere"
                    );
                }
            }
        }
        let records: u64 = listed.iter().map(|entry| entry.records).sum();
        assert!(records >= chunked, "round {round}: {chunked} records in chunks, {records} in the index");
        leaving += records - chunked;

        // Once everything has its receipt the index is the chunks and nothing else.
        drain(&relay, &cloud);
        let records: u64 = index(&relay).iter().map(|entry| entry.records).sum();
        assert_eq!(records, relay.stats().chunks.records, "round {round}");
        assert_eq!((relay.stats().conflicts, cloud.stats().conflicts, relay.stats().waiting_pages), (0, 0, 0));
        let mut found = BTreeSet::new();
        for name in SERIES {
            let mut seqs = Vec::new();
            for entry in everything(&relay, name).into_iter().chain(everything(&cloud, name)) {
                seqs.push(entry.record.key.seq);
                found.insert((name.to_owned(), String::from_utf8(entry.record.payload).unwrap()));
            }
            seqs.sort_unstable();
            assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "round {round}, {name}: each once, without a gap");
        }
        let lost: Vec<_> = acked.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
    }
    assert!(entries > 0 && leaving > 0, "{entries} entries and {leaving} records on their way were seen: nothing was tried");
}
