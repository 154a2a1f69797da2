//! `$from/{time}/data/…` over plain MQTT: history, then live, each record once, whatever happens meanwhile (C7).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::collections::BTreeMap;
use std::time::Duration;

use chassis::{Size, Span};
use link::{Qos, Received, SubscribeError};
use town::{Client, DEADLINE, Frame, Town, dev, eventually, folder, guarded, property};
use wire::{Epoch, Operation, RecordKey, RunBuilder};

const NOT_AUTHORIZED: u8 = 0x87;

/// A run with the given epoch: the time of record n is n seconds, its payload is n.
fn run(frame: &mut Frame, series: &str, epoch: u64, seqs: std::ops::RangeInclusive<u64>) {
    let mut builder = RunBuilder::new(series.parse().unwrap(), Operation::Forward);
    for seq in seqs.clone() {
        builder.push(seq.cast_signed() * 1_000_000_000, seq.to_string().as_bytes()).unwrap();
    }
    builder.write(Epoch(epoch), *seqs.start(), &mut frame.runs);
}

fn frame(number: u64, series: &str, seqs: std::ops::RangeInclusive<u64>) -> Frame {
    let mut frame = Frame::new(number);
    run(&mut frame, series, 0xe, seqs);
    frame
}

/// The text of a moment: so many seconds after 1970.
fn at(seconds: i64) -> String {
    cloud::moment::format(seconds * 1_000_000_000)
}

fn key(received: &Received) -> RecordKey {
    property(received, "key").unwrap().parse().unwrap()
}

/// What a reader of a feed got: of each series and epoch the numbers, in the order in which they came.
#[derive(Default)]
struct Got {
    seqs: BTreeMap<(String, Epoch), Vec<u64>>,
    count: usize,
}

impl Got {
    fn take(&mut self, received: &Received) {
        let key = key(received);
        assert_eq!(received.topic, format!("data/{}", key.series));
        assert_eq!(received.payload, key.seq.to_string());
        self.seqs.entry((key.series.to_string(), key.epoch)).or_default().push(key.seq);
        self.count += 1;
    }

    async fn until(&mut self, client: &mut Client, count: usize) {
        while self.count < count {
            let received = client.next().await;
            self.take(&received);
        }
    }

    /// Each number of `first..=last` once and in order.
    fn assert_whole(&self, series: &str, epoch: u64, first: u64, last: u64) {
        let got = &self.seqs[&(series.to_owned(), Epoch(epoch))];
        assert!(got.iter().copied().eq(first..=last), "{series}@{epoch:x}: {} of {first}..={last}: {got:?}", got.len());
    }
}

/// Segments of a few hundred records, so that history is in many chunks and in pages.
fn small(mut config: cloud::Config) -> cloud::Config {
    config.storage.segment_records = 700;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_history_then_live_without_hole_or_repeat_while_readings_come() {
    let (_dir, path) = folder();
    let town = Town::start(small(dev(&path))).await;
    let relay = town.client("relay-1").await;
    let series: Vec<String> = (0..5).map(|meter| format!("cityA/meter-{meter}/power")).collect();
    let rounds = 120_u64;
    let publisher = {
        let series = series.clone();
        tokio::spawn(async move {
            for round in 0..rounds {
                let mut frame = Frame::new(round + 1);
                for name in &series {
                    run(&mut frame, name, 0xe, round * 10 + 1..=round * 10 + 10);
                }
                relay.send(&frame).await;
            }
        })
    };
    // One from the beginning, one from a moment in the middle of what is there by then; both while readings come.
    eventually("there is some history", async || town.counter("cloud_records_ingested_total") >= 1_500).await;
    let mut all = town.client("all").await;
    all.subscribe("$from/0/data/cityA/#").await;
    eventually("there is more", async || town.counter("cloud_records_ingested_total") >= 3_000).await;
    let mut later = town.client("later").await;
    later.subscribe(&format!("$from/{}/data/+/+/power", at(151))).await;
    let (mut from_start, mut from_middle) = (Got::default(), Got::default());
    from_start.until(&mut all, 5 * 10 * rounds as usize).await;
    from_middle.until(&mut later, 5 * (10 * rounds as usize - 150)).await;
    publisher.await.unwrap();
    for name in &series {
        from_start.assert_whole(name, 0xe, 1, 10 * rounds);
        from_middle.assert_whole(name, 0xe, 151, 10 * rounds);
    }
    // Nothing more comes, until something does.
    assert!(tokio::time::timeout(Duration::from_millis(300), all.incoming.next()).await.is_err());
    let relay = town.client("relay-1").await;
    relay.send(&frame(rounds + 1, "cityA/meter-new/power", 1..=1)).await;
    let received = all.next().await;
    assert_eq!(property(&received, "key"), Some("cityA/meter-new/power@e.1"));
    assert_eq!(property(&received, "at"), Some("1970-01-01T00:00:01.000000000Z"));
    assert_eq!((property(&received, "relay"), property(&received, "operation")), (Some("relay-1"), Some("forward")));
    assert_eq!(property(&received, "historical"), None);
    // What is older than the moment asked for is not for the other.
    relay.send(&frame(rounds + 2, "cityA/meter-new/power", 200..=200)).await;
    assert_eq!(property(&later.next().await, "key"), Some("cityA/meter-new/power@e.200"));
    assert!(town.counter("cloud_feed_records_total") >= 5 * 10 * rounds);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_a_hole_that_is_filled_later_is_delivered_when_it_is_filled() {
    let (_dir, path) = folder();
    let town = Town::start(small(dev(&path))).await;
    let relay = town.client("relay-1").await;
    let name = "cityA/meter-1/power";
    relay.send(&frame(1, name, 1..=10)).await;
    relay.send(&frame(2, name, 21..=30)).await;
    let mut reader = town.client("reader").await;
    reader.subscribe("$from/0/data/cityA/#").await;
    let mut seqs = Vec::new();
    while seqs.len() < 20 {
        let received = reader.next().await;
        assert_eq!(property(&received, "historical"), Some("true"), "it was there before the subscription");
        seqs.push(key(&received).seq);
    }
    relay.send(&frame(3, name, 31..=35)).await;
    for seq in 31..=35 {
        let received = reader.next().await;
        assert_eq!((key(&received).seq, property(&received, "historical")), (seq, None));
    }
    // A hole before and behind the beginning, and what is known already with them.
    relay.send(&frame(4, name, 5..=22)).await;
    relay.send(&frame(5, name, 40..=41)).await;
    relay.send(&frame(6, name, 36..=39)).await;
    let late: Vec<(u64, bool)> =
        [11..=20, 40..=41, 36..=39].into_iter().flatten().map(|seq| (seq, !(40..=41).contains(&seq))).collect();
    for expected in late {
        let received = reader.next().await;
        assert_eq!((key(&received).seq, property(&received, "historical").is_some()), expected);
    }
    assert!(tokio::time::timeout(Duration::from_millis(300), reader.incoming.next()).await.is_err(), "nothing twice");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_two_epochs_of_a_series_come_one_after_the_other_each_in_order() {
    let (_dir, path) = folder();
    let town = Town::start(small(dev(&path))).await;
    let relay = town.client("relay-1").await;
    let name = "cityA/meter-1/power";
    // The younger epoch has the smaller number, and comes first to the archive.
    let mut young = Frame::new(1);
    run(&mut young, name, 0x5, 601..=1_200);
    relay.send(&young).await;
    let mut old = Frame::new(2);
    run(&mut old, name, 0x9, 1..=600);
    relay.send(&old).await;
    let mut reader = town.client("reader").await;
    reader.subscribe(&format!("$from/{}/data/{name}", at(101))).await;
    let mut got = Got::default();
    let mut order = Vec::new();
    while got.count < 1_100 {
        let received = reader.next().await;
        got.take(&received);
        let epoch = key(&received).epoch.0;
        if order.last() != Some(&epoch) {
            order.push(epoch);
        }
    }
    assert_eq!(order, [0x9, 0x5], "the older one first");
    got.assert_whole(name, 0x9, 101, 600);
    got.assert_whole(name, 0x5, 601, 1_200);
    let mut both = Frame::new(3);
    run(&mut both, name, 0x9, 601..=603);
    run(&mut both, name, 0x5, 1_201..=1_203);
    relay.send(&both).await;
    got.until(&mut reader, 1_106).await;
    got.assert_whole(name, 0x9, 101, 603);
    got.assert_whole(name, 0x5, 601, 1_203);
    town.stop().await;
}

/// A reader that takes nothing for a while holds up its own feed; others go on, and it gets everything in the end.
#[tokio::test(flavor = "multi_thread")]
async fn c7_a_slow_reader_loses_nothing_and_holds_up_nobody() {
    let (_dir, path) = folder();
    let town = Town::start(small(dev(&path))).await;
    let relay = town.client("relay-1").await;
    let name = "cityA/meter-1/power";
    let mut slow = town.client("slow").await;
    slow.subscribe("$from/0/data/cityA/#").await;
    let mut prompt = town.client("prompt").await;
    prompt.subscribe("$from/0/data/cityA/#").await;
    // Far more than the sockets and the queues between hold.
    let (frames, each) = (60_u64, 2_000_u64);
    let publisher = tokio::spawn(async move {
        for number in 0..frames {
            relay.send(&frame(number + 1, name, number * each + 1..=(number + 1) * each)).await;
        }
    });
    let mut got = Got::default();
    let prompt_reads = tokio::time::timeout(4 * DEADLINE, got.until(&mut prompt, (frames * each) as usize));
    prompt_reads.await.expect("the prompt reader is held up");
    publisher.await.unwrap();
    got.assert_whole(name, 0xe, 1, frames * each);
    let mut late = Got::default();
    late.until(&mut slow, (frames * each) as usize).await;
    late.assert_whole(name, 0xe, 1, frames * each);
    assert_eq!(town.counter("broker_messages_lost_total"), 0);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_a_new_feed_from_the_last_reading_goes_on_after_the_cloud_was_started_anew() {
    let (_dir, path) = folder();
    let config = small(dev(&path));
    let name = "cityA/meter-1/power";
    let mut got = Got::default();
    for start in 0..3_u64 {
        let town = Town::start(config.clone()).await;
        let relay = town.client("relay-1").await;
        relay.send(&frame(start + 1, name, start * 500 + 1..=start * 500 + 500)).await;
        let mut reader = town.client("reader").await;
        let next = got.count as i64 + 1;
        reader.subscribe(&format!("$from/{}/data/{name}", at(next))).await;
        // Some of it is read by the next one: the reader goes on where it was, not where the cloud is.
        let stops_at = if start == 2 { 1_500 } else { (start as usize + 1) * 500 - 77 };
        got.until(&mut reader, stops_at).await;
        town.stop().await;
    }
    got.assert_whole(name, 0xe, 1, 1_500);
}

const RELAY: &str = r#"
[[grant]]
users = ["relay-1"]
actions = ["publish"]
topics = ["up/%u/#"]
"#;

fn reader(actions: &str, areas: &str) -> String {
    format!("{RELAY}\n[[grant]]\nusers = [\"ana\"]\nactions = [{actions}]\nareas = [{areas}]\n")
}

const BOTH: &str = "\"subscribe\", \"query\"";

async fn refused(client: &Client, filter: &str) -> Option<u8> {
    match client.link.subscribe(filter, Qos::One).await {
        Ok(()) => None,
        Err(SubscribeError::Refused { reason_code }) => Some(reason_code),
        Err(other) => panic!("{filter}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_a_feed_is_refused_without_a_grant_for_live_and_past_or_with_a_wrong_filter() {
    let (_dir, path) = folder();
    let mut config = guarded(&path, &["relay-1", "ana"], &reader(BOTH, "\"cityA\""));
    config.feeds.per_client_max = 2;
    let town = Town::start(config).await;
    let ana = town.client("ana").await;
    for filter in ["$from/0/data/cityB/#", "$from/0/data/#", "$from/0/data/+/meter-1/power"] {
        assert_eq!(refused(&ana, filter).await, Some(NOT_AUTHORIZED), "{filter}");
    }
    for filter in ["$from/2016-01-01/data/cityA/#", "$from/now/data/cityA/#", "$from/-1/data/cityA/#", "$from/0"] {
        assert_eq!(refused(&ana, filter).await, Some(0x8F), "{filter}");
    }
    for (filter, answer) in [("a", None), ("b", None), ("c", Some(0x97))] {
        assert_eq!(refused(&ana, &format!("$from/2016-01-01T00:00:00Z/data/cityA/{filter}/#")).await, answer);
    }
    // Live alone is not enough, and the past alone neither.
    for actions in ["\"subscribe\"", "\"query\""] {
        let (_dir, path) = folder();
        let town = Town::start(guarded(&path, &["ana"], &reader(actions, "\"cityA\""))).await;
        let ana = town.client("ana").await;
        assert_eq!(refused(&ana, "$from/0/data/cityA/#").await, Some(NOT_AUTHORIZED), "{actions}");
        town.stop().await;
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_a_revoked_grant_ends_a_feed_soon_and_a_wider_one_leaves_it_alone() {
    let (_dir, path) = folder();
    let town = Town::start(guarded(&path, &["relay-1", "ana"], &reader(BOTH, "\"cityA\""))).await;
    let relay = town.client("relay-1").await;
    let mut ana = town.client("ana").await;
    ana.subscribe("$from/0/data/cityA/#").await;
    let mut number = 0;
    let mut send = async |relay: &Client| {
        number += 1;
        relay.send(&frame(number, "cityA/meter-1/power", number..=number)).await;
        number
    };
    assert_eq!(send(&relay).await, key(&ana.next().await).seq);
    let grants = path.join("grants.toml");
    std::fs::write(&grants, reader(BOTH, "\"cityA\", \"cityB\"")).unwrap();
    eventually("the wider grant", async || refused(&ana, "data/cityB/#").await.is_none()).await;
    assert_eq!(send(&relay).await, key(&ana.next().await).seq);
    assert_eq!(town.counter("broker_feeds"), 1);
    // Of the two that a feed needs, the past is enough to take away.
    std::fs::write(&grants, reader("\"subscribe\"", "\"cityA\"")).unwrap();
    let revoked = std::time::Instant::now();
    eventually("the end of the feed", async || town.counter("broker_feeds") == 0).await;
    // The file is looked at every 300 ms; the rest is the machine's.
    assert!(revoked.elapsed() < Duration::from_secs(3), "{:?}", revoked.elapsed());
    assert_eq!(town.counter("cloud_feeds_ended_total{reason=\"Grant\"}"), 1);
    send(&relay).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), ana.incoming.next()).await.is_err());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_a_feed_that_needs_more_memory_than_it_may_have_is_ended() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.feeds.memory = Size(10_000);
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let mut reader = town.client("reader").await;
    reader.subscribe("$from/0/data/cityA/#").await;
    let series = |meter: u64| format!("cityA/meter-{meter}/power");
    for meter in 1..=10 {
        relay.send(&frame(meter, &series(meter), 1..=1)).await;
        assert_eq!(key(&reader.next().await).series.as_str(), series(meter));
    }
    for meter in 11..=60 {
        relay.send(&frame(meter, &series(meter), 1..=1)).await;
    }
    eventually("the end of the feed", async || town.registry.encode().contains("cloud_feeds_ended_total{reason=\"Quota\"}"))
        .await;
    town.stop().await;
}

/// MQTT 3.1.1 has no properties; order, payloads and topics are the same.
#[tokio::test(flavor = "multi_thread")]
async fn c7_a_client_of_mqtt_3_1_1_gets_the_same_without_properties() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (_dir, path) = folder();
    let mut config = small(dev(&path));
    config.storage.segment_age = Span::millis(100);
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let name = "cityA/meter-1/power";
    relay.send(&frame(1, name, 1..=300)).await;
    let mut socket = tokio::net::TcpStream::connect(town.mqtt).await.unwrap();
    socket.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01r").await.unwrap();
    let filter = b"$from/1970-01-01T00:00:01Z/data/#";
    let mut subscribe = vec![0x82, u8::try_from(filter.len() + 5).unwrap(), 0, 1, 0, u8::try_from(filter.len()).unwrap()];
    subscribe.extend_from_slice(filter);
    subscribe.push(0);
    socket.write_all(&subscribe).await.unwrap();
    let mut answer = [0; 9];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]);
    for seq in 1..=310_u64 {
        if seq == 301 {
            relay.send(&frame(2, name, 301..=310)).await;
        }
        let (topic, payload) = (format!("data/{name}"), seq.to_string());
        let mut expected =
            vec![0x30, u8::try_from(2 + topic.len() + payload.len()).unwrap(), 0, u8::try_from(topic.len()).unwrap()];
        expected.extend_from_slice(topic.as_bytes());
        expected.extend_from_slice(payload.as_bytes());
        let mut got = vec![0; expected.len()];
        tokio::time::timeout(DEADLINE, socket.read_exact(&mut got)).await.expect("nothing came").unwrap();
        assert_eq!(got, expected, "{seq}");
    }
    town.stop().await;
}
