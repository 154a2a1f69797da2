//! Frames that are sent again, frames that are refused, lanes that share the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use broker::Refusal;
use chassis::{Span, Stopper};
use testkit::{Answer, CutLink, Peer, Publish, Script};
use wire::{Operation, Receipt, UpFrame};

use crate::town::{Cloud, DEADLINE, RELAY, Town, dev, eventually, frame, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_without_receipt_is_sent_again_with_the_same_number_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.cloud.as_mut().unwrap().receipt_timeout = Span::millis(100);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    for n in 0..3 {
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    let seen = cloud.seen_until("each of the three three times", |seen| {
        (1..=3).all(|number| seen.iter().filter(|seen| seen.number == number).count() >= 3)
    });
    let seen = seen.await;
    for number in 1..=3 {
        let mut same = seen.iter().filter(|seen| seen.number == number);
        let first = same.next().unwrap();
        for again in same {
            assert_eq!(again.runs, first.runs);
            // The first frame of a connection tells the secrets beside them.
            assert!(!first.secrets.is_empty() || again.bytes == first.bytes);
        }
    }
    assert!(town.metric("relay_frames_resent_total") >= 6);
    assert_eq!(town.waiting(), 3);
    cloud.receipts(true);
    eventually("receipts", async || town.waiting() == 0).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnect_everything_without_receipt_is_sent_again_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let cut = CutLink::start(cloud.address).await;
    let town = Town::start(dev(folder.path(), Some(cut.address()))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..20 {
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    let before = cloud.seen_until("twenty frames", |seen| seen.len() == 20).await;
    cloud.receipt(before[0].epoch, &[(before[0].number, before[4].number)]).await;
    eventually("five receipts", async || town.waiting() == 15).await;
    cut.reset();
    let seen = cloud.seen_until("fifteen again", |seen| seen.len() >= 35).await;
    let again = |seen: &crate::town::Seen| (seen.number, seen.runs.clone());
    assert_eq!(seen[20..35].iter().map(again).collect::<Vec<_>>(), before[5..].iter().map(again).collect::<Vec<_>>());
    cloud.receipts(true);
    cut.reset();
    eventually("receipts", async || town.waiting() == 0).await;
    assert_eq!(cloud.payloads(), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_refused_for_good_is_kept_and_holds_nobody_up() {
    for refusal in [Refusal::PayloadFormatInvalid, Refusal::TopicNameInvalid, Refusal::NotAuthorized] {
        let folder = tempfile::tempdir().unwrap();
        let cloud = Cloud::start().await;
        let cut = CutLink::start(cloud.address).await;
        let stubborn = Arc::new(AtomicBool::new(true));
        let refuses = stubborn.clone();
        cloud.verdict(move |seen| if seen.number == 3 && refuses.load(Ordering::SeqCst) { Err(refusal) } else { Ok(()) });
        let town = Town::start(dev(folder.path(), Some(cut.address()))).await;
        let sensor = town.client("meter-1").await;
        for n in 0..10 {
            sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
        }
        eventually("the nine others", async || town.waiting() == 1).await;
        eventually("told", async || town.metric("relay_pages_aside") == 1).await;
        assert!(town.metric("relay_frames_refused_total{reason=\"ForGood\"}") >= 1);
        // Tried again once the others went through, and then left alone for a minute.
        let tries = || cloud.seen().iter().filter(|seen| seen.number == 3).count();
        eventually("one more try", async || tries() == 2).await;
        sensor.publish("op/forward/cityA/meter-1/power", "10").await.unwrap();
        eventually("the next one", async || town.waiting() == 1).await;
        assert_eq!(tries(), 2);
        // Another connection may be another cloud.
        stubborn.store(false, Ordering::SeqCst);
        cut.reset();
        eventually("all", async || town.waiting() == 0).await;
        eventually("told", async || town.metric("relay_pages_aside") == 0).await;
        assert_eq!(cloud.payloads().len(), 11);
        town.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_larger_than_the_clouds_packets_is_kept_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::with(1 << 20).await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.cloud.as_mut().unwrap().compress = false;
    let town = Town::start(config).await;
    let agent = town.client("agent").await;
    let payload = "x".repeat(200 << 10);
    let large = run("cityA/meter-1/power", Operation::Forward, 7, 1, &[payload.as_str(); 8]);
    agent.publish("op/forward/cityA/meter-1", frame(&[], &[&large])).await.unwrap();
    agent.publish("op/forward/cityA/meter-2/power", "small").await.unwrap();
    eventually("the small one", async || cloud.payloads() == ["small"]).await;
    eventually("the large one is aside", async || town.waiting() == 1 && town.metric("relay_pages_aside") == 1).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_many_meters_is_packed_for_the_way_and_holds_the_same_runs() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let agent = town.client("agent").await;
    let payload = "0.25 ".repeat(10_000);
    let large = run("cityA/meter-1/power", Operation::Forward, 7, 1, &[payload.as_str(); 4]);
    agent.publish("op/forward/cityA/meter-1", frame(&[], &[&large])).await.unwrap();
    eventually("its receipt", async || town.waiting() == 0).await;
    let seen = cloud.seen();
    assert!(seen[0].bytes.len() < payload.len() && seen[0].runs == large, "{} bytes", seen[0].bytes.len());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_is_full_is_tried_slowly_and_gets_everything_later() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let full = Arc::new(AtomicBool::new(true));
    let is_full = full.clone();
    cloud.verdict(move |_| if is_full.load(Ordering::SeqCst) { Err(Refusal::QuotaExceeded) } else { Ok(()) });
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..100 {
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    // One burst at the most, and then one frame a pause: 250 ms, 500 ms, 1 s.
    eventually("some tries", async || town.metric("relay_frames_refused_total{reason=\"Now\"}") >= 3).await;
    let tries = cloud.seen().len();
    assert!(tries <= 105, "{tries}");
    assert_eq!((town.waiting(), town.metric("relay_pages_aside")), (100, 0));
    full.store(false, Ordering::SeqCst);
    eventually("all", async || town.waiting() == 0).await;
    assert_eq!(cloud.payloads().len(), 100);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_room_holds_up_neither_receipts_nor_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    // Takes one publish at a time and never acknowledges it.
    let mut script = Script::default().publishes(Answer::Hold);
    script.limits.receive_max = Some(1);
    let peer = Peer::start(script).await;
    let town = Town::start(dev(folder.path(), Some(peer.address()))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..5 {
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    eventually("one frame", async || peer.held() == 1).await;
    let sent = peer.publishes().remove(0);
    let plain = wire::packed::unpack(&sent.payload, 16 << 20).unwrap();
    let frame = UpFrame::parse(&plain).unwrap();
    let receipt = Receipt { relay_epoch: frame.relay_epoch, numbers: wire::Intervals::of(1, 1) };
    let publish = Publish {
        topic: format!("down/{RELAY}/receipts"),
        payload: receipt.encode().into(),
        qos: 1,
        pkid: 1,
        ..Publish::default()
    };
    peer.publish(publish);
    eventually("its receipt", async || town.waiting() == 4).await;
    assert_eq!((peer.publish_count(), peer.held()), (1, 1), "still without room");
    let started = std::time::Instant::now();
    town.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_was_refused_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Arc::new(AtomicUsize::new(0));
    let asked = cloud.clone();
    // Refused at first, until the operator has mended the grants.
    let script = Script::default().on_subscribe(move |_| if asked.fetch_add(1, Ordering::SeqCst) < 2 { 0x87 } else { 1 });
    let peer = Peer::start(script).await;
    let mut config = dev(folder.path(), Some(peer.address()));
    config.cloud.as_mut().unwrap().receipt_timeout = Span::millis(100);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/forward/cityA/meter-1/power", "1").await.unwrap();
    eventually("asked again", async || cloud.load(Ordering::SeqCst) >= 4).await;
    assert_eq!(peer.accepted(), 1, "on the same connection");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_the_backlog_gets_its_share_while_live_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.cloud.as_mut().unwrap().window_frames = 8;
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    // Live pages enough to fill the window many times, and a backlog behind them.
    for n in 0..80 {
        sensor.publish("op/forward/cityA/meter-1/power", format!("live {n}")).await.unwrap();
    }
    for n in 0..10 {
        sensor.publish("op/store/cityA/meter-1/power", format!("old {n}")).await.unwrap();
        let archive = town.archive.clone();
        tokio::task::spawn_blocking(move || archive.hand_over(&archive::Selection::All).unwrap()).await.unwrap();
    }
    cloud.seen_until("a full window", |seen| seen.len() == 8).await;
    let epoch = town.archive.epoch();
    cloud.receipts(true);
    cloud.receipt(epoch, &[(1, 1_000)]).await;
    eventually("all", async || town.waiting() == 0).await;
    let seen = cloud.seen();
    assert_eq!(seen.len(), 90);
    let old: Vec<usize> = (0..90).filter(|place| seen[*place].historical).collect();
    assert_eq!(old.len(), 10);
    // Of every four frames behind the first window one is the backlog's, as long as it has any.
    assert!(old.windows(2).all(|pair| pair[1] - pair[0] <= 4), "{old:?}");
    assert!(old[0] <= 8 + 4 && old[9] < 60, "{old:?}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_the_file_goes_up_beside_what_comes_in() {
    let folder = tempfile::tempdir().unwrap();
    let town = Town::start(dev(folder.path(), None)).await;
    let sensor = town.client("meter-1").await;
    let payload = "x".repeat(100 << 10);
    for n in 0..120 {
        sensor.publish("op/forward/cityA/meter-1/old", format!("{n} {payload}")).await.unwrap();
    }
    town.stop().await;
    // After a restart nothing of it is in memory.
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..50 {
        sensor.publish("op/forward/cityA/meter-1/new", n.to_string()).await.unwrap();
    }
    eventually("all", async || town.waiting() == 0).await;
    let payloads = cloud.payloads();
    assert_eq!(payloads.iter().filter(|p| p.len() > 1_000).count(), 120);
    assert_eq!(cloud.seen().len(), 170, "each once");
    town.stop().await;
}

/// With its parts in hand: a page that is refused for good comes again after its time, on the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_put_aside_comes_again_after_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = tries.clone();
    cloud.verdict(move |seen| match seen.number {
        2 if tried.fetch_add(1, Ordering::SeqCst) < 4 => Err(Refusal::PayloadFormatInvalid),
        _ => Ok(()),
    });
    let options = archive::Options::new(RELAY.parse().unwrap(), Arc::new(|| 0));
    let (archive, _) = archive::Archive::open(folder.path(), options).unwrap();
    let mut config = link::LinkConfig::new(cloud.address.ip().to_string(), cloud.address.port(), "relay");
    config.seed = Some(1);
    let limits = relay::Limits { frames_max: 8, bytes_max: 1 << 20, receipt_timeout: Duration::from_secs(60) };
    let metrics = relay::Metrics::default();
    let uplink = relay::Uplink {
        relay: RELAY.parse().unwrap(),
        archive: archive.clone(),
        dial: relay::Dial::cloud(config),
        member: None,
        window: relay::Window::new(limits),
        refused_retry: Duration::from_millis(50),
        backlog: relay::Backlog { bytes_per_second: None, late_after: Duration::from_secs(3_600) },
        handover: Arc::new(relay::Handover::new(archive.clone(), 1 << 30, metrics.clone())),
        announcing: relay::Announcing::default(),
        packer: None,
        outlet: relay::Outlet::new(RELAY.parse().unwrap()),
        clock: Arc::new(chassis::SystemClock),
        metrics,
    };
    for n in 0..3 {
        let mut run = wire::RunBuilder::new("cityA/meter-1/power".parse().unwrap(), Operation::Forward);
        run.push(1, format!("{n}").as_bytes()).unwrap();
        let append = archive::Append::Raw { lane: archive::Lane::Live, runs: vec![run] };
        archive.append(append).unwrap().await.unwrap();
    }
    let stopper = Stopper::new();
    let running = tokio::spawn(uplink.run(stopper.token()));
    eventually("all", async || archive.stats().waiting_pages == 0).await;
    assert_eq!(tries.load(Ordering::SeqCst), 5);
    stopper.stop();
    tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
}
