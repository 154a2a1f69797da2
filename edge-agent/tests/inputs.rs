//! Inputs: files, lines and a local broker, good ones and bad ones.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]

mod common;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chassis::{Size, Span};
use common::{Running, SOON, config, relay};
use edge_agent::config::{CsvConfig, InputConfig, LinesConfig, MqttConfig, StreamRule};
use edge_agent::{Parts, Terminal};
use testkit::{Answer, Peer, Publish, Script, wait_until};
use wire::Operation;

fn csv(path: PathBuf, columns: &[(&str, &str)]) -> CsvConfig {
    let columns = columns.iter().map(|(column, stream)| ((*column).to_owned(), (*stream).to_owned())).collect();
    CsvConfig { name: "replay".to_owned(), path, time: "time".to_owned(), columns, speed: None, duration: None }
}

fn write(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("rows.csv");
    std::fs::write(&path, text).unwrap();
    path
}

fn forwards_power() -> Vec<StreamRule> {
    vec![StreamRule { filter: "power/#".to_owned(), operation: Operation::Forward }]
}

fn lines(text: impl Into<Vec<u8>>) -> Parts {
    Parts { lines: Some(Box::new(Cursor::new(text.into()))), ..Parts::default() }
}

#[tokio::test]
async fn a_file_becomes_series_with_its_own_times_and_bad_rows_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        folder.path(),
        "time,a,b,c\n\
         2016-01-01T00:00:00Z,0.1,on,9\n\
         2016-01-01T00:15:00Z,0.2,,9\n\
         yesterday,0.3,off,9\n\
         2016-01-01T00:45:00Z,0.4,off\n\
         2016-01-01T01:00:00+01:00,0.5,off,9\n",
    );
    let (peer, held) = relay(|_| Answer::Ack).await;
    let mut config = config(&folder.path().join("data"), peer.address());
    config.streams = forwards_power();
    config.inputs = vec![InputConfig::Csv(csv(path, &[("a", "power/active"), ("b", "door")]))];
    let parts = Parts::default();
    let registry = parts.registry.clone();
    let running = Running::start_with(config, parts).await;
    tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
    running.stop().await;
    let held = held.lock().unwrap();
    let seen: Vec<_> = held
        .records
        .iter()
        .map(|((series, _, seq), r)| format!("{series}.{seq} {} {} {}", r.operation, r.at, String::from_utf8_lossy(&r.payload)))
        .collect();
    assert_eq!(
        seen,
        [
            "cityA/meter-1/door.1 store 1451606400000000000 on",
            "cityA/meter-1/door.2 store 1451606400000000000 off",
            "cityA/meter-1/power/active.1 forward 1451606400000000000 0.1",
            "cityA/meter-1/power/active.2 forward 1451607300000000000 0.2",
            "cityA/meter-1/power/active.3 forward 1451606400000000000 0.5",
        ]
    );
    let text = registry.encode();
    assert!(text.contains("agent_readings_skipped_total{reason=\"Malformed\"} 2"), "{text}");
}

#[tokio::test]
async fn a_month_is_replayed_in_the_time_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/simbench-loads-2016-01.csv");
    let (peer, held) = relay(|_| Answer::Ack).await;
    let mut config = config(folder.path(), peer.address());
    let wanted = Span::millis(700);
    config.inputs = vec![InputConfig::Csv(CsvConfig { duration: Some(wanted), ..csv(file.into(), &[("h0-a", "power")]) })];
    let start = tokio::time::Instant::now();
    let running = Running::start(config).await;
    tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
    assert!(start.elapsed() >= wanted.duration(), "{:?}", start.elapsed());
    assert_eq!(held.lock().unwrap().seqs("cityA/meter-1/power"), (1..=2976).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test]
async fn a_replay_under_other_columns_is_refused_instead_of_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "time,a,b\n2016-01-01T00:00:00Z,1,2\n");
    let (peer, _held) = relay(|_| Answer::Ack).await;
    let mut first = config(&folder.path().join("data"), peer.address());
    first.inputs = vec![InputConfig::Csv(csv(path.clone(), &[("a", "power")]))];
    let running = Running::start(first.clone()).await;
    tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
    running.stop().await;
    for (columns, text) in [([("b", "power")], "other columns"), ([("z", "power")], "no column \"z\"")] {
        let mut other = first.clone();
        other.inputs = vec![InputConfig::Csv(csv(path.clone(), &columns))];
        let agent = edge_agent::start(other, Parts::default()).await;
        let fault = agent.expect_err("a replay that can't go on was started").to_string();
        assert!(fault.contains(text) && fault.contains("replay"), "{fault}");
    }
}

#[tokio::test]
async fn lines_are_taken_and_bad_ones_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let mut config = config(folder.path(), peer.address());
    config.streams = forwards_power();
    config.inputs = vec![InputConfig::Lines(LinesConfig { name: "stdin".to_owned() })];
    let parts = lines(&b"power/active 1\nbad\npower/active 2 2016-01-01T00:00:00Z\n\npower/\xff 3\npower/# 4\ndoor open"[..]);
    let registry = parts.registry.clone();
    let running = Running::start_with(config, parts).await;
    tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
    running.stop().await;
    let held = held.lock().unwrap();
    assert_eq!((held.seqs("cityA/meter-1/power/active"), held.seqs("cityA/meter-1/door")), (vec![1, 2], vec![1]));
    let text = registry.encode();
    assert!(text.contains("agent_readings_skipped_total{reason=\"Malformed\"} 3"), "{text}");
    assert!(text.contains("agent_readings_taken_total 3"), "{text}");
}

#[tokio::test]
async fn a_full_outbox_makes_lines_wait_and_loses_none() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Hold).await;
    let mut config = config(folder.path(), peer.address());
    config.outbox.bytes_max = Size(64 * 1024);
    config.inputs = vec![InputConfig::Lines(LinesConfig { name: "stdin".to_owned() })];
    let text: String = (0..5000).map(|n| format!("power {n}\n")).collect();
    let running = Running::start_with(config, lines(text)).await;
    running.until("a full outbox", |progress| progress.open_bytes > 32 * 1024).await;
    assert!(running.agent.progress().open_bytes <= 64 * 1024);
    assert!(running.agent.progress().taken < 5000);
    let keeps = held.clone();
    peer.script(|script| {
        script.on_publish(move |_, publish| {
            keeps.lock().unwrap().take(&publish.payload, &publish.topic);
            Answer::Ack
        })
    });
    peer.hang_up();
    tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
    assert_eq!(held.lock().unwrap().seqs("cityA/meter-1/power"), (1..=5000).collect::<Vec<_>>());
    assert_eq!(running.stop().await.dropped, 0);
}

fn message(topic: &str, payload: &'static [u8], retain: bool) -> Publish {
    Publish {
        topic: topic.to_owned(),
        payload: Bytes::from_static(payload),
        qos: 1,
        pkid: 1,
        dup: false,
        retain,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    }
}

async fn with_local(peer: &Peer, local: &Peer, folder: &Path, bytes_max: Size) -> Running {
    let mut config = config(folder, peer.address());
    config.outbox.bytes_max = bytes_max;
    config.inputs = vec![InputConfig::Mqtt(MqttConfig {
        name: "local".to_owned(),
        address: local.address().into(),
        filter: "sensors/#".to_owned(),
        user: None,
        password: None,
    })];
    let running = Running::start(config).await;
    wait_until(SOON, "a subscription", async || match local.filters(0) {
        filters if filters == ["sensors/#"] => Ok(()),
        filters => Err(filters),
    })
    .await;
    running
}

#[tokio::test]
async fn messages_of_a_local_broker_become_readings() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let local = Peer::start(Script::default()).await;
    let running = with_local(&peer, &local, folder.path(), Size::mib(1)).await;
    local.publish(message("sensors/power/active", b"old news", true));
    local.publish(message("sensors/power/active", b"1", false));
    local.publish(message("sensors/power active", b"2", false));
    local.publish(message("sensors", b"3", false));
    local.publish(message("sensors/door", b"4", false));
    running.until("accepted", |progress| progress.accepted == 2).await;
    running.stop().await;
    let held = held.lock().unwrap();
    let seen: Vec<_> = held.records.iter().map(|(key, r)| (key.0.as_str(), r.payload.as_slice())).collect();
    assert_eq!(seen, [("cityA/meter-1/door", &b"4"[..]), ("cityA/meter-1/power/active", b"1")]);
}

#[tokio::test]
async fn messages_that_find_the_outbox_full_leave_tombstones() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, _) = relay(|_| Answer::Hold).await;
    let local = Peer::start(Script::default()).await;
    let running = with_local(&peer, &local, folder.path(), Size(300)).await;
    for sent in 1..=20 {
        local.publish(message("sensors/power", b"x", false));
        running.until("taken or dropped", |progress| progress.taken + progress.dropped == sent).await;
    }
    let progress = running.agent.progress();
    assert_eq!((progress.taken, progress.dropped), (4, 16), "{progress:?}");
    let tombstones = Terminal::open(folder.path()).unwrap().tombstones().unwrap();
    assert_eq!(tombstones.iter().map(|t| (t.first, t.last, t.reason.as_str())).collect::<Vec<_>>(), [(5, 20, "outbox full")]);
    running.stop().await;
}
