//! Who must not lose a record now.

use wire::Operation;

use crate::town::{Cloud, Town, dev, eventually, frame, reopen, run, stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_puback_means_that_a_reopened_archive_has_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let town = Town::start(dev(folder.path(), None)).await;
    let sensor = town.client("meter-1").await;
    let agent = run("cityA/meter-2/power", Operation::Store, 7, 1, &["agent 1", "agent 2"]);
    sensor.publish("op/store/cityA/meter-1/power", "raw").await.unwrap();
    sensor.publish("op/forward/cityA/meter-1/alarm", "forwarded").await.unwrap();
    sensor.publish("op/store/cityA/meter-2", frame(&[(7, 1)], &[&agent])).await.unwrap();
    // What a kill -9 would leave: the files as they are now.
    let left = tempfile::tempdir().unwrap();
    std::fs::create_dir(left.path().join("data")).unwrap();
    for entry in std::fs::read_dir(folder.path().join("data")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), left.path().join("data").join(entry.file_name())).unwrap();
    }
    let archive = reopen(left.path());
    assert_eq!(stored(&archive, "cityA/meter-1/power"), ["raw"]);
    assert_eq!(stored(&archive, "cityA/meter-2/power"), ["agent 1", "agent 2"]);
    assert_eq!(archive.outgoing(archive::Lane::Live, 0, 1 << 20).unwrap().len(), 1);
    assert_eq!(archive.announcements_after(0, 9).unwrap().len(), 1);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_there_is_no_puback_before_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let town = Town::start(dev(folder.path(), None)).await;
    let sensor = town.client("meter-1").await;
    town.archive.faults().hold();
    let mut ticket = sensor.link.enqueue("op/store/cityA/meter-1/power", "1").await.unwrap();
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.faults().wait_at_gate()).await.unwrap();
    // Applied, not committed. A publish that waits for nothing overtakes nothing: its acknowledgement stays behind.
    let probe = sensor.link.enqueue("probe/cityA/meter-1", "").await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut ticket).await;
    assert!(early.is_err(), "{early:?}");
    town.archive.faults().release();
    ticket.await.unwrap();
    probe.await.unwrap();
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_store_stays_and_forward_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..50 {
        sensor.publish("op/store/cityA/meter-1/power", format!("stored {n}")).await.unwrap();
        sensor.publish("op/forward/cityA/meter-1/power", format!("forwarded {n}")).await.unwrap();
    }
    let forwarded: Vec<String> = (0..50).map(|n| format!("forwarded {n}")).collect();
    let seen = cloud.seen_until("all forwarded", |seen| seen.iter().map(|s| s.records.len()).sum::<usize>() >= 50).await;
    assert_eq!(cloud.payloads(), forwarded);
    assert!(seen.iter().all(|seen| !seen.historical && seen.epoch == town.archive.epoch()));
    // One sequence, given by the relay: what is stored and what is forwarded share it.
    let last = &seen.last().unwrap().records.last().unwrap().0;
    assert_eq!(*last, format!("cityA/meter-1/power@{}.100", town.archive.epoch()));
    assert_eq!(stored(&town.archive, "cityA/meter-1/power"), (0..50).map(|n| format!("stored {n}")).collect::<Vec<_>>());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b8_the_keys_and_bytes_of_agents_pass_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let agent = town.client("agent").await;
    let first = run("cityA/meter-1/power", Operation::Forward, 0x9f3c, 1_029, &["a", "", "c"]);
    let second = run("cityA/meter-1/power", Operation::Forward, 0x9f3c, 5, &["late"]);
    agent.publish("op/forward/cityA/meter-1", frame(&[], &[&first, &second])).await.unwrap();
    // The same frame again, as after a lost acknowledgement: the same keys again, for the cloud to de-duplicate.
    agent.publish("op/forward/cityA/meter-1", frame(&[], &[&first, &second])).await.unwrap();
    let seen = cloud.seen_until("both", |seen| seen.iter().map(|s| s.records.len()).sum::<usize>() == 8).await;
    let runs: Vec<u8> = seen.iter().flat_map(|seen| seen.runs.clone()).collect();
    assert_eq!(runs, [&first[..], &second, &first, &second].concat());
    assert_eq!(seen[0].records[0].0, "cityA/meter-1/power@9f3c.1029");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_delete_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..5 {
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    // Sent, and acknowledged by the cloud's broker: that is not a receipt.
    let seen = cloud.seen_until("five frames", |seen| seen.len() >= 5).await;
    let numbers: Vec<u64> = seen.iter().map(|seen| seen.number).collect();
    let epoch = town.archive.epoch();
    town.stop().await;
    assert_eq!(reopen(folder.path()).stats().waiting_pages, 5);

    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    assert_eq!(town.archive.epoch(), epoch);
    cloud.seen_until("five frames again", |seen| seen.len() >= 10).await;
    cloud.receipt(epoch, &[(numbers[0], numbers[1]), (numbers[3], numbers[3])]).await;
    eventually("three receipts", async || town.waiting() == 2).await;
    town.stop().await;
    let archive = reopen(folder.path());
    let left: Vec<u64> = archive.outgoing(archive::Lane::Live, 0, 1 << 20).unwrap().iter().map(|page| page.id).collect();
    assert_eq!(left, [numbers[2], numbers[4]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_receipts_delete_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.cloud.as_mut().unwrap().window_frames = 2;
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    for n in 0..5 {
        sensor.publish("op/forward/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    let seen = cloud.seen_until("a full window", |seen| seen.len() == 2).await;
    let epoch = town.archive.epoch();
    // For another database of this name, not canonical, and nonsense.
    cloud.receipt(wire::Epoch(epoch.0 ^ 1), &[(1, 100)]).await;
    cloud.say("receipts", vec![0x83, 0x01]).await;
    cloud.say("receipts", Vec::new()).await;
    // Only of this one are the two frames on their way; frames that were never sent can't have arrived.
    cloud.receipt(epoch, &[(seen[1].number, 1_000_000)]).await;
    let seen = cloud.seen_until("one more frame", |seen| seen.len() == 3).await;
    assert_eq!(seen[2].number, seen[1].number + 1);
    eventually("one receipt", async || town.waiting() == 4).await;
    assert_eq!(town.metric("relay_frames_receipted_total"), 1);
    cloud.receipts(true);
    cloud.receipt(epoch, &[(1, 1_000_000)]).await;
    cloud.seen_until("the others", |seen| seen.len() >= 5).await;
    eventually("all receipted", async || town.waiting() == 0).await;
    assert_eq!(cloud.payloads().len(), 5);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_could_not_be_kept_is_kept_later() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/forward/cityA/meter-1/power", "1").await.unwrap();
    let seen = cloud.seen_until("the frame", |seen| seen.len() == 1).await;
    town.archive.faults().fail_commits(1);
    cloud.receipt(seen[0].epoch, &[(seen[0].number, seen[0].number)]).await;
    eventually("kept", async || town.waiting() == 0).await;
    assert!(town.archive.stats().writer.failed_groups >= 1);
    assert_eq!(cloud.seen().len(), 1, "and it was not sent again for that");
    town.stop().await;
}
