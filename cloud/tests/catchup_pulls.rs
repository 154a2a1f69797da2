//! A catch-up subscription begins with what relays keep, too (C7, A12).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use chassis::Span;
use link::Received;
use town::{Client, Frame, Town, dev, folder, property};
use wire::index::{Index, IndexEntry, Outcome, Reply, Stretch};
use wire::{Command, Epoch, EpochSecret, Intervals, Operation, RecordKey, RecordView, merkle};

const SECOND: i64 = 1_000_000_000;

/// What a relay states of records `first_seq..` as [`Frame::run`] makes them.
fn entry(chunk: u64, series: &str, first_seq: u64, payloads: &[&str]) -> IndexEntry {
    let secret = EpochSecret::new([7; 32]);
    let leaf = |(seq, payload): (u64, &&str)| {
        let (at, payload) = (seq.cast_signed() * SECOND, payload.as_bytes());
        secret.leaf(&RecordView { series, epoch: Epoch(0xe), seq, at, operation: Operation::Forward, payload })
    };
    let leaves: Vec<_> = (first_seq..).zip(payloads).map(leaf).collect();
    let last = first_seq + payloads.len() as u64 - 1;
    IndexEntry {
        chunk,
        series: series.parse().unwrap(),
        epoch: Epoch(0xe),
        at_min: first_seq.cast_signed() * SECOND,
        at_max: last.cast_signed() * SECOND,
        records: payloads.len() as u64,
        seqs: Intervals::of(first_seq, last),
        root: merkle::root(&leaves),
    }
}

async fn states(relay: &Client, entries: Vec<IndexEntry>) {
    let page = Index::Page { relay_epoch: Epoch(1), stretch: Stretch { after: 0, through: 9 }, entries };
    relay.publish(&format!("up/{}/index", relay.name), page.encode()).await.unwrap();
}

/// The next order to bring something: its number and series.
async fn pull(relay: &mut Client) -> (u64, String) {
    let received = relay.next().await;
    match Command::parse(&received.payload).unwrap() {
        Command::Pull { id, series, .. } => (id, series.to_string()),
        other => panic!("{other:?}"),
    }
}

async fn done(relay: &Client, command: u64, frame: u64) {
    let reply =
        Reply { relay_epoch: Epoch(1), command, outcome: Outcome::Done { frames: Intervals::of(frame, frame), records: 1 } };
    relay.publish(&format!("up/{}/reply", relay.name), reply.encode()).await.unwrap();
}

fn came(received: &Received) -> (String, u64, bool) {
    let key: RecordKey = property(received, "key").unwrap().parse().unwrap();
    (key.series.to_string(), key.seq, property(received, "historical").is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_what_relays_keep_is_brought_first_and_comes_in_its_place() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let (here, there) = ("cityA/meter-1/power", "cityA/meter-2/power");
    let mut relay = town.client("relay-1").await;
    relay.subscribe("down/relay-1/commands").await;
    relay.send(&Frame::new(1).announcing(None).run(here, 1, &["1", "2"]).run(here, 5, &["5"])).await;
    // Of one series the relay keeps the middle, of another everything.
    states(&relay, vec![entry(1, here, 3, &["3", "4"]), entry(2, there, 1, &["1", "2", "3"])]).await;
    let mut reader = town.client("reader").await;
    reader.subscribe("$from/0/data/cityA/#").await;
    for _ in 0..2 {
        let (id, series) = pull(&mut relay).await;
        if series == here {
            // What comes live meanwhile waits for its turn.
            relay.send(&Frame::new(2).run(here, 6, &["6"])).await;
            relay.send(&Frame::new(3).run(here, 3, &["3", "4"])).await;
            done(&relay, id, 3).await;
        } else {
            relay.send(&Frame::new(4).run(there, 1, &["1", "2", "3"])).await;
            done(&relay, id, 4).await;
        }
    }
    let mut got: Vec<(String, u64, bool)> = Vec::new();
    while got.len() < 9 {
        got.push(came(&reader.next().await));
    }
    for (series, last) in [(here, 6), (there, 3)] {
        let seqs: Vec<u64> = got.iter().filter(|(name, ..)| name == series).map(|(_, seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=last).collect::<Vec<_>>(), "{series}");
    }
    assert!(got.iter().all(|(.., is_past)| *is_past), "{got:?}");
    relay.send(&Frame::new(5).run(there, 4, &["4"])).await;
    assert_eq!(came(&reader.next().await), (there.to_owned(), 4, false));
    assert_eq!(town.counter("cloud_pulls_sent_total"), 2);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_a_relay_that_does_not_answer_delays_its_series_and_what_it_brings_later_comes_then() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.history.pull_wait = Span::millis(700);
    let town = Town::start(config).await;
    let series = "cityA/meter-1/power";
    let mut relay = town.client("relay-1").await;
    relay.subscribe("down/relay-1/commands").await;
    relay.send(&Frame::new(1).announcing(None).run(series, 3, &["3", "4"])).await;
    states(&relay, vec![entry(1, series, 1, &["1", "2"])]).await;
    let mut reader = town.client("reader").await;
    reader.subscribe("$from/0/data/cityA/#").await;
    let _unanswered = pull(&mut relay).await;
    for seq in [3, 4] {
        assert_eq!(came(&reader.next().await), (series.to_owned(), seq, true));
    }
    relay.send(&Frame::new(2).run(series, 1, &["1", "2"])).await;
    for seq in [1, 2] {
        assert_eq!(came(&reader.next().await), (series.to_owned(), seq, true));
    }
    town.stop().await;
}
