//! Sending over real sockets to a scripted relay.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chassis::Span;
use common::{Running, SOON, config, relay};
use edge_agent::{Reading, State, Terminal};
use testkit::{Answer, Peer, Script, wait_until};
use wire::{FrameView, Operation, Series};

const QUOTA_EXCEEDED: u8 = 0x97;
const NOT_AUTHORIZED: u8 = 0x87;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

fn readings(stream: &str, operation: Operation, numbers: std::ops::Range<i64>) -> Vec<Reading> {
    let series: Series = format!("cityA/meter-1/{stream}").parse().unwrap();
    numbers.map(|n| Reading::new(series.clone(), operation, n, n.to_string()).unwrap()).collect()
}

#[tokio::test]
async fn a2_operation_decides_the_topic_and_every_record_carries_it() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    let outbox = running.agent.outbox();
    outbox.take(readings("power", Operation::Forward, 0..100), None).await.unwrap();
    outbox.take(readings("door", Operation::Store, 0..10), None).await.unwrap();
    tokio::time::timeout(SOON, running.agent.drained()).await.unwrap();
    running.stop().await;
    let held = held.lock().unwrap();
    assert_eq!(held.seqs("cityA/meter-1/power"), (1..=100).collect::<Vec<_>>());
    assert_eq!(held.seqs("cityA/meter-1/door"), (1..=10).collect::<Vec<_>>());
    let topics: std::collections::BTreeSet<_> = peer.publishes().into_iter().map(|publish| publish.topic).collect();
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["op/forward/cityA/meter-1", "op/store/cityA/meter-1"]);
}

#[tokio::test]
async fn b1_a_state_of_accepted_follows_the_acknowledgement_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(Script::default().publishes(Answer::Hold)).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..3), None).await.unwrap();
    wait_until(SOON, "a frame at the relay", async || if peer.held() == 1 { Ok(()) } else { Err(peer.held()) }).await;
    let terminal = Terminal::open(folder.path()).unwrap();
    let key = wire::RecordKey { series: "cityA/meter-1/power".parse().unwrap(), epoch: terminal.origin().epoch, seq: 2 };
    // Saved as sent before it was sent.
    assert_eq!(terminal.standing(&key).unwrap().unwrap().state, State::SentToServer);
    assert_eq!(running.agent.progress().accepted, 0);
    peer.release_all();
    running.until("accepted", |progress| progress.accepted == 3).await;
    assert_eq!(terminal.standing(&key).unwrap().unwrap().state, State::ServerAccepted);
    running.stop().await;
}

#[tokio::test]
async fn a_full_relay_gets_the_same_keys_and_bytes_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|number| if number < 3 { Answer::Refuse(QUOTA_EXCEEDED) } else { Answer::Ack }).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..50), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 50 && progress.rejected == 0).await;
    assert!(peer.publish_count() >= 4);
    let first = FrameView::parse(&peer.publishes()[0].payload).unwrap().runs().flat_map(|run| run.records()).count();
    assert_eq!((first, held.lock().unwrap().records.len()), (50, 50));
    assert_eq!(peer.publishes()[0].payload, peer.publishes()[3].payload);
    running.stop().await;
}

#[tokio::test]
async fn b1_a_final_refusal_is_server_rejected_and_leaves_a_tombstone() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, _) = relay(|number| if number == 0 { Answer::Refuse(PAYLOAD_FORMAT_INVALID) } else { Answer::Ack }).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..5), None).await.unwrap();
    running.until("rejected", |progress| progress.rejected == 5 && progress.pending() == 0).await;
    let terminal = Terminal::open(folder.path()).unwrap();
    let tombstones = wait_until(SOON, "a tombstone", async || {
        let found = terminal.tombstones().unwrap();
        if found.is_empty() { Err(running.agent.progress()) } else { Ok(found) }
    })
    .await;
    assert_eq!((tombstones[0].first, tombstones[0].last, tombstones[0].taken), (1, 5, true));
    assert!(tombstones[0].reason.contains("payload format invalid"), "{}", tombstones[0].reason);
    // The numbers go on behind the hole.
    running.agent.outbox().take(readings("power", Operation::Forward, 5..6), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 1).await;
    assert_eq!(running.stop().await.rejected, 5);
}

/// Each reason for which records are given up becomes a tombstone, and the tombstone a record that tells the cloud.
#[tokio::test]
async fn b7_c3_each_final_refusal_leaves_a_tombstone_that_is_told_with_its_reason() {
    let bad = "cityA/meter-1/bad";
    for (code, why) in
        [(0x90, "topic name invalid (0x90)"), (PAYLOAD_FORMAT_INVALID, "payload format invalid (0x99)"), (0, "the packet has")]
    {
        let folder = tempfile::tempdir().unwrap();
        let (peer, held) = relay(|_| Answer::Ack).await;
        peer.script(|mut script| {
            // A reading that no packet of this relay can carry.
            script.limits.packet_bytes_max = (code == 0).then_some(2_000);
            let held = held.clone();
            script.on_publish(move |_, publish| {
                if publish.topic.starts_with("probe/") {
                    return Answer::Ack;
                }
                if code != 0 && wire::FrameView::parse(&publish.payload).unwrap().runs().any(|run| run.series() == bad) {
                    return Answer::Refuse(code);
                }
                held.lock().unwrap().take(&publish.payload, &publish.topic);
                Answer::Ack
            })
        });
        let mut config = config(folder.path(), peer.address());
        (config.report.enabled, config.report.every) = (true, Span::millis(20));
        let running = Running::start(config).await;
        let large = Reading::new(bad.parse().unwrap(), Operation::Forward, 1, vec![b'x'; 4_000]).unwrap();
        running.agent.outbox().take(vec![large], None).await.unwrap();
        // With the whole frame if its topic was refused: what else was in it is the agent's own.
        running.until("rejected", |progress| progress.rejected >= 1).await;
        let stream = format!("cityA/meter-1/{}", wire::system::TOMBSTONES);
        let report = wait_until(SOON, "the tombstone is told", async || {
            let held = held.lock().unwrap();
            let told = held.records.iter().filter(|(key, _)| key.0 == stream);
            let mut reports = told.map(|(_, record)| wire::system::TombstoneReport::parse(&record.payload).unwrap());
            reports.find(|report| report.series.as_str() == bad).ok_or(running.agent.progress())
        })
        .await;
        assert_eq!((report.from_seq, report.to_seq), (1, 1));
        assert!(report.reason.starts_with(why), "{}", report.reason);
        let terminal = Terminal::open(folder.path()).unwrap();
        let key = wire::RecordKey { series: bad.parse().unwrap(), epoch: terminal.origin().epoch, seq: 1 };
        let found = terminal.whereabouts(&key).unwrap().unwrap();
        assert_eq!((found.state, found.reason), (State::ServerRejected, Some(report.reason)));
        running.stop().await;
    }
}

#[tokio::test]
async fn a_relay_that_does_not_let_us_costs_no_reading() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|number| if number < 3 { Answer::Refuse(NOT_AUTHORIZED) } else { Answer::Ack }).await;
    let mut config = config(folder.path(), peer.address());
    config.send.refused_retry = Span::millis(20);
    let running = Running::start(config).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..5), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 5 && progress.rejected == 0).await;
    running.stop().await;
    assert_eq!(held.lock().unwrap().seqs("cityA/meter-1/power"), (1..=5).collect::<Vec<_>>());
    assert_eq!(peer.publishes()[0].payload, peer.publishes()[3].payload);
    assert!(Terminal::open(folder.path()).unwrap().tombstones().unwrap().is_empty());
}

#[tokio::test]
async fn one_bad_row_of_a_frame_is_rejected_and_its_neighbours_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let held = Arc::new(std::sync::Mutex::new(common::Held::default()));
    let keeps = held.clone();
    // A relay that can't read whatever holds a reading of 13.
    let script = Script::default().on_publish(move |_, publish| {
        let frame = FrameView::parse(&publish.payload).unwrap();
        if frame.runs().flat_map(|run| run.records()).any(|record| record.payload == b"13") {
            return Answer::Refuse(PAYLOAD_FORMAT_INVALID);
        }
        keeps.lock().unwrap().take(&publish.payload, &publish.topic);
        Answer::Ack
    });
    let peer = Peer::start(script).await;
    let mut config = config(folder.path(), peer.address());
    config.send.linger = Span::millis(200);
    let running = Running::start(config).await;
    // A row each.
    for n in 0..30 {
        running.agent.outbox().take(readings("power", Operation::Forward, n..n + 1), None).await.unwrap();
    }
    running.until("settled", |progress| progress.accepted == 29 && progress.rejected == 1).await;
    running.stop().await;
    assert_eq!(held.lock().unwrap().seqs("cityA/meter-1/power"), (1..=30).filter(|seq| *seq != 14).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_secret_is_announced_until_it_is_acknowledged_on_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    let send = async |n: i64| {
        running.agent.outbox().take(readings("power", Operation::Forward, n..n + 1), None).await.unwrap();
        running.until("accepted", |progress| progress.accepted == n as u64 + 1).await;
    };
    for n in 0..4 {
        send(n).await;
    }
    assert_eq!(held.lock().unwrap().secrets, 1, "the relay has acknowledged it");
    peer.hang_up();
    wait_until(SOON, "a new connection", async || if peer.accepted() == 2 { Ok(()) } else { Err(peer.accepted()) }).await;
    for n in 4..8 {
        send(n).await;
    }
    assert_eq!(held.lock().unwrap().secrets, 2);
    let first = peer.publishes().remove(0);
    let (epoch, secret) = FrameView::parse(&first.payload).unwrap().secrets[0].clone();
    assert_eq!((epoch, &secret), (running.agent.outbox().origin().epoch, &running.agent.outbox().origin().secret));
    running.stop().await;
}

#[tokio::test]
async fn series_arrive_in_order_through_broken_connections_and_no_reading_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    // Every seventh frame ends the connection, unacknowledged.
    let (peer, held) = relay(|number| if number % 7 == 6 { Answer::Drop } else { Answer::Ack }).await;
    let mut config = config(folder.path(), peer.address());
    config.send.frame_records_max = 16;
    config.send.inflight_max = 4;
    let running = Running::start(config).await;
    for n in 0..200 {
        running.agent.outbox().take(readings("power", Operation::Forward, 5 * n..5 * n + 5), None).await.unwrap();
    }
    running.until("accepted", |progress| progress.accepted == 1000).await;
    running.stop().await;
    let held = held.lock().unwrap();
    assert_eq!(held.order.iter().map(|(_, seq)| *seq).collect::<Vec<_>>(), (1..=1000).collect::<Vec<_>>());
    assert!(held.conflicts.is_empty(), "{:?}", held.conflicts);
    assert!(peer.accepted() > 5, "{} connections", peer.accepted());
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_sent_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(Script::default().publishes(Answer::Hold)).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..20), None).await.unwrap();
    wait_until(SOON, "a frame at the relay", async || if peer.held() > 0 { Ok(()) } else { Err(()) }).await;
    drop(peer);
    let progress = running.stop().await;
    assert_eq!((progress.sent, progress.accepted), (20, 0));
    let (peer, held) = relay(|_| Answer::Ack).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.until("accepted", |progress| progress.accepted == 20).await;
    assert_eq!(held.lock().unwrap().seqs("cityA/meter-1/power"), (1..=20).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test]
async fn a_relay_that_takes_only_small_packets_gets_small_frames() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    peer.script(|mut script| {
        script.limits.packet_bytes_max = Some(4 * 1024);
        script
    });
    let running = Running::start(config(folder.path(), peer.address())).await;
    for n in 0..100 {
        running.agent.outbox().take(readings("power", Operation::Forward, 100 * n..100 * n + 100), None).await.unwrap();
    }
    running.until("settled", |progress| progress.accepted == 10_000).await;
    assert_eq!(held.lock().unwrap().records.len(), 10_000);
    running.stop().await;
}

#[tokio::test]
async fn every_send_is_timed_and_every_answer_counted() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let counts = refused.clone();
    let (peer, _) = relay(move |_| match counts.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::Refuse(QUOTA_EXCEEDED),
        _ => Answer::Ack,
    })
    .await;
    let parts = edge_agent::Parts::default();
    let registry = parts.registry.clone();
    let running = Running::start_with(config(folder.path(), peer.address()), parts).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..8), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 8).await;
    running.stop().await;
    let text = registry.encode();
    for line in ["agent_send_seconds_count 2", "agent_records_answered_total{answer=\"Accepted\"} 8", "{answer=\"Deferred\"} 1"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn many_agents_live_in_one_process_and_a_folder_has_one_agent() {
    let (peer, held) = relay(|_| Answer::Ack).await;
    let folders: Vec<_> = (0..27).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut running = Vec::new();
    for (index, folder) in folders.iter().enumerate() {
        let mut config = config(folder.path(), peer.address());
        config.sensor = format!("cityA/meter-{index}").parse().unwrap();
        running.push(Running::start(config).await);
    }
    let twice = edge_agent::start(config(folders[0].path(), peer.address()), edge_agent::Parts::default()).await;
    assert!(matches!(twice, Err(edge_agent::StartError::Lock(_))), "{twice:?}");
    for one in &running {
        let series: Series = format!("{}/power", one.agent.sensor()).parse().unwrap();
        let reading = Reading::new(series, Operation::Store, 1, *b"1").unwrap();
        one.agent.outbox().take(vec![reading; 10], None).await.unwrap();
    }
    for one in &running {
        one.until("accepted", |progress| progress.accepted == 10).await;
    }
    assert_eq!(held.lock().unwrap().records.len(), 270);
    for one in running {
        one.stop().await;
    }
}

#[tokio::test]
async fn a_damaged_outbox_is_put_aside_and_a_fresh_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, held) = relay(|_| Answer::Ack).await;
    let running = Running::start(config(folder.path(), peer.address())).await;
    running.agent.outbox().take(readings("power", Operation::Forward, 0..1), None).await.unwrap();
    let old = running.agent.outbox().origin().epoch;
    running.until("accepted", |progress| progress.accepted == 1).await;
    running.stop().await;
    std::fs::write(folder.path().join("outbox.sqlite"), b"this is not a database at all").unwrap();
    let running = Running::start(config(folder.path(), peer.address())).await;
    assert!(running.agent.quarantined().is_some_and(std::path::Path::exists));
    assert_ne!(running.agent.outbox().origin().epoch, old, "numbers start over, so the epoch must be another");
    running.agent.outbox().take(readings("power", Operation::Forward, 7..8), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 1).await;
    assert_eq!(held.lock().unwrap().records.len(), 2);
    assert!(held.lock().unwrap().conflicts.is_empty());
    running.stop().await;
}
