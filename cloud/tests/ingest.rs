//! A relay's frames become records: verdicts, receipts, durability, and refusals of everything else.

mod town;

use town::{Frame, Town, dev, folder};

const SERIES: &str = "cityA/meter-1/power";

#[tokio::test(flavor = "multi_thread")]
async fn b8_a_record_is_new_then_duplicate_and_with_another_content_a_conflict() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(SERIES, 1, &["1", "2", "3"])).await;
    // Another frame with the same records, as after a move to another relay, and one that differs in one of them.
    relay.send(&Frame::new(2).run(SERIES, 2, &["2", "3", "4"])).await;
    relay.send(&Frame::new(3).run(SERIES, 3, &["forged", "4", "5"])).await;
    let verdicts = ["ingested", "duplicate", "conflict"].map(|verdict| town.counter(&format!("cloud_records_{verdict}_total")));
    assert_eq!(verdicts, [5, 3, 1]);
    let held: Vec<_> = town.walk("", SERIES, 100).await.into_iter().map(|r| (r.key.seq, r.payload.0)).collect();
    assert_eq!(held, (1..=5).map(|seq| (seq, seq.to_string().into_bytes())).collect::<Vec<_>>());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b8_a_frame_sent_again_is_receipted_again_and_stored_once() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut relay = town.client("relay-1").await;
    relay.subscribe("down/relay-1/receipts").await;
    let frames: Vec<_> = (1..=5).map(|number| Frame::new(number).run(SERIES, number, &["x"])).collect();
    for frame in &frames {
        relay.send(frame).await;
    }
    relay.receipts_until(1..=5).await;
    relay.send(&frames[2]).await;
    assert_eq!(relay.receipt().await, [(3, 3)]);
    assert_eq!(town.walk("", SERIES, 100).await.len(), 5);
    assert_eq!(town.counter("cloud_records_ingested_total"), 5);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_the_answer_follows_the_commit() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    for number in 1..=20 {
        relay.send(&Frame::new(number).run(SERIES, number, &["x"])).await;
        if number % 5 != 0 {
            continue;
        }
        // What a power cut right after the answer would leave: the files as they are now.
        let copy = path.join(format!("copy-{number}"));
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(path.join("data")).unwrap().map(Result::unwrap) {
            let name = file.file_name();
            // The index into the WAL is memory of the living process; SQLite makes it anew.
            if !name.to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), copy.join(name)).unwrap();
            }
        }
        let after = Town::start(cloud::Config { data: copy, ..dev(&path) }).await;
        assert_eq!(after.walk("", SERIES, 100).await.len() as u64, number);
        after.stop().await;
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_there_after_a_restart() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    let frame = Frame::new(1).run(SERIES, 1, &["1", "2", "3"]);
    relay.send(&frame).await;
    let before = town.walk("", SERIES, 2).await;
    town.stop().await;
    let town = Town::start(dev(&path)).await;
    assert_eq!(town.walk("", SERIES, 2).await, before);
    // The frame's number and the keys were remembered too.
    let mut relay = town.client("relay-1").await;
    relay.subscribe("down/relay-1/receipts").await;
    relay.send(&frame).await;
    assert_eq!(relay.receipt().await, [(1, 1)]);
    relay.send(&Frame { number: 2, ..frame }).await;
    assert_eq!(town.counter("cloud_records_ingested_total"), 0);
    assert_eq!(town.walk("", SERIES, 2).await, before);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_to_every_intake_topic_changes_nothing_and_gets_a_reason() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let client = town.client("relay-1").await;
    let good = Frame::new(1).run(SERIES, 1, &["1"]).encode("relay-1");
    let garbage = [vec![], vec![0xff; 40], good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat(), vec![0x9f; 9]];
    const NOT_AUTHORIZED: u8 = 0x87;
    const TOPIC_NAME_INVALID: u8 = 0x90;
    const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
    for payload in &garbage {
        for (topic, code) in [
            ("up/relay-1/frames", PAYLOAD_FORMAT_INVALID),
            ("query/relay-1", PAYLOAD_FORMAT_INVALID),
            ("up/relay-1/index", PAYLOAD_FORMAT_INVALID),
            ("up/relay-1/reply", PAYLOAD_FORMAT_INVALID),
            ("up/relay-1/other", TOPIC_NAME_INVALID),
            ("up/relay-1", TOPIC_NAME_INVALID),
            ("query/a/b", TOPIC_NAME_INVALID),
            ("op/store/cityA/meter-1/power", NOT_AUTHORIZED),
            ("op/forward/cityA/meter-1", NOT_AUTHORIZED),
            ("probe/cityA/meter-1", NOT_AUTHORIZED),
            ("data/cityA/meter-1/power", NOT_AUTHORIZED),
            ("down/relay-1/receipts", NOT_AUTHORIZED),
        ] {
            assert_eq!(client.refused(topic, payload.clone()).await, code, "{topic} {payload:02x?}");
        }
    }
    // A good frame under another relay's topic is garbage too.
    assert_eq!(client.refused("up/relay-2/frames", good.clone()).await, PAYLOAD_FORMAT_INVALID);
    assert_eq!(town.counter("cloud_records_ingested_total"), 0);
    assert!(town.walk("", SERIES, 10).await.is_empty());
    client.publish("up/relay-1/frames", good).await.unwrap();
    assert_eq!(town.walk("", SERIES, 10).await.len(), 1);
    town.stop().await;
}
