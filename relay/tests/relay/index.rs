//! The cloud's index of what this relay keeps.

use std::time::Duration;

use archive::Lane;
use chassis::Span;
use testkit::CutLink;
use wire::index::{IndexEntry, Outcome, Stretch};
use wire::uplink::NUMBER_MAX;
use wire::{Command, Intervals, Operation};

use crate::town::{Cloud, Town, dev, eventually, frame, run, stored};

fn own(town: &Town) -> Vec<IndexEntry> {
    town.archive.index_entries(Stretch { after: 0, through: NUMBER_MAX }, 10_000).unwrap()
}

async fn close(town: &Town) {
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.close_now().unwrap()).await.unwrap();
}

async fn agrees(town: &Town, cloud: &Cloud) {
    eventually("an index that agrees", async || cloud.index() == own(town)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_what_moves_into_the_storage_area_is_written_to_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.storage.segment_age = Span::millis(300);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    for n in 0..5 {
        sensor.publish("op/store/cityA/meter-1/power", format!("{n}")).await.unwrap();
    }
    sensor.publish("op/forward/cityA/meter-1/power", "forwarded").await.unwrap();
    // Nobody asks: the segment is due, and the cloud learns of it.
    eventually("the entries", async || cloud.index().iter().map(|entry| entry.records).sum::<u64>() == 5).await;
    let entries = cloud.index();
    let (epoch, secret) = (town.archive.epoch(), town.archive.secret());
    assert_eq!(entries, own(&town));
    let series = "cityA/meter-1/power".parse().unwrap();
    for entry in entries {
        assert_eq!((&entry.series, entry.epoch), (&series, epoch));
        // The root is over the records, whoever adds them up.
        let scan = archive::Scan { series: entry.series, from: entry.at_min, to: entry.at_max + 1, after: None, limit: 99 };
        let records = town.archive.scan(&scan).unwrap();
        let leaves: Vec<_> = records.iter().map(|found| secret.leaf(&found.record.view())).collect();
        assert_eq!((records.len() as u64, wire::merkle::root(&leaves)), (entry.records, entry.root));
    }
    assert_eq!(cloud.index_messages().0, 1, "sums once a connection");
    // It counts when the acknowledgement is here, which is a moment after the cloud has the page.
    eventually("the page is counted", async || town.metric("relay_index_messages_total{kind=\"Page\"}") >= 1).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_chunk_is_announced_when_its_secret_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let agent = town.client("agent").await;
    let stored = |first| run("cityA/meter-1/power", Operation::Store, 7, first, &["x"]);
    agent.publish("op/store/cityA/meter-1", frame(&[], &[&stored(1)])).await.unwrap();
    close(&town).await;
    agent.publish("op/store/cityB/meter-1/power", "raw").await.unwrap();
    close(&town).await;
    eventually("the relay's own", async || cloud.index().len() == 1).await;
    agent.publish("op/store/cityA/meter-1", frame(&[(7, 1)], &[&stored(2)])).await.unwrap();
    eventually("the agent's", async || cloud.index().len() == 2).await;
    assert_eq!(cloud.index()[1].seqs, Intervals::of(1, 1));
    agrees(&town, &cloud).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_after_each_connection_sums_find_every_difference_stale_entries_too() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let cut = CutLink::start(cloud.address).await;
    let town = Town::start(dev(folder.path(), Some(cut.address()))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..4 {
        sensor.publish(&format!("op/store/cityA/meter-{n}/power"), "x").await.unwrap();
        close(&town).await;
    }
    eventually("all entries", async || cloud.index().len() == 4).await;
    // One lost, one that never was, behind the last one of the relay, and one with another root.
    cloud.spoil_index(|entries| {
        let mut stale = entries.remove(&2).unwrap();
        stale.chunk = 900_000_000;
        entries.insert(stale.chunk, stale);
        entries.get_mut(&3).unwrap().root = [0; 32];
    });
    assert_ne!(cloud.index(), own(&town));
    cut.reset();
    agrees(&town, &cloud).await;
    // And when nothing differs, nothing is asked.
    let before = cloud.index_messages();
    cut.reset();
    eventually("sums again", async || cloud.index_messages().0 == before.0 + 1).await;
    sensor.publish("op/store/cityA/meter-9/power", "x").await.unwrap();
    close(&town).await;
    agrees(&town, &cloud).await;
    assert_eq!(cloud.index_messages(), (before.0 + 1, before.1 + 1));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_an_entry_is_taken_off_only_after_the_receipt_and_survives_a_restart_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/store/cityA/meter-1/power", "pulled").await.unwrap();
    sensor.publish("op/store/cityA/meter-1/volts", "kept").await.unwrap();
    close(&town).await;
    eventually("both entries", async || cloud.index().len() == 2).await;
    let series = "cityA/meter-1/power".parse().unwrap();
    cloud.command(Command::Pull { id: 3, series, from: 0, to: i64::MAX }).await;
    let reply = cloud.reply(3).await;
    let Outcome::Done { frames, records: 1 } = reply.outcome else { panic!("{reply:?}") };
    let seen = cloud.seen_until("the frame", |seen| seen.len() == 1).await;
    assert_eq!((frames, reply.relay_epoch), (Intervals::of(seen[0].number, seen[0].number), seen[0].epoch));
    assert_eq!(cloud.index().len(), 2);
    town.stop().await;

    // Its sums do not deny it either.
    let sums = cloud.index_messages().0;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    eventually("sums", async || cloud.index_messages().0 == sums + 1).await;
    cloud.seen_until("the frame again", |seen| seen.len() >= 2).await;
    assert_eq!((cloud.index().len(), own(&town).len()), (2, 2));
    cloud.receipt(town.archive.epoch(), &[(seen[0].number, seen[0].number)]).await;
    eventually("one entry", async || cloud.index().len() == 1).await;
    assert_eq!(cloud.index()[0].series.as_str(), "cityA/meter-1/volts");
    agrees(&town, &cloud).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_pull_finds_what_was_stored_a_moment_ago_and_equal_pulls_name_the_same_frames() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    let pull = |id| Command::Pull { id, series: "cityA/meter-1/power".parse().unwrap(), from: 0, to: i64::MAX };
    let frames = async |id| match cloud.reply(id).await.outcome {
        Outcome::Done { frames, .. } => frames,
        other => panic!("{other:?}"),
    };
    eventually("the uplink", async || town.metric("relay_uplink_connected") == 1).await;
    cloud.command(pull(1)).await;
    assert!(frames(1).await.is_empty(), "there is nothing");
    for n in 0..10 {
        sensor.publish("op/store/cityA/meter-1/power", format!("{n}")).await.unwrap();
        cloud.command(pull(10 + n)).await;
        let named = frames(10 + n).await;
        // Those that have no receipt yet, and the new one.
        assert_eq!(named.count(), n + 1);
        let carried = |seen: &[crate::town::Seen]| {
            seen.iter()
                .any(|seen| named.contains(seen.number) && seen.records.iter().any(|(_, payload)| *payload == n.to_string()))
        };
        cloud.seen_until("the record", carried).await;
    }
    for id in 50..90 {
        cloud.command(pull(id)).await;
    }
    for id in 50..90 {
        assert_eq!(frames(id).await.count(), 10);
    }
    assert_eq!(town.archive.stats().chunks.records, 0, "no segment was closed for that");
    assert_eq!(town.metric("relay_records_handed_over_total"), 10);
    // Deleted at the relay with the receipt, and not before.
    assert_eq!(town.archive.stats().backlog.records, 10);
    cloud.receipt(town.archive.epoch(), &[(1, 1_000)]).await;
    eventually("receipted", async || town.waiting() == 0).await;
    close(&town).await;
    eventually("deleted", async || town.archive.stats().backlog.records == 0).await;
    assert_eq!(stored(&town.archive, "cityA/meter-1/power"), Vec::<String>::new());
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_pull_that_cannot_be_done_says_why_and_keeps_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let mut config = dev(folder.path(), Some(cloud.address));
    config.storage.outgoing_budget = chassis::Size(1_000);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    sensor.publish("op/store/cityA/meter-1/power", "kept").await.unwrap();
    sensor.publish("op/forward/cityA/meter-1/noise", "x".repeat(1_200)).await.unwrap();
    let series: wire::Series = "cityA/meter-1/power".parse().unwrap();
    cloud.command(Command::Pull { id: 3, series: series.clone(), from: 0, to: i64::MAX }).await;
    let Outcome::Failed { reason } = cloud.reply(3).await.outcome else { panic!() };
    assert!(reason.contains("storage.outgoing_budget"), "{reason}");
    assert_eq!(stored(&town.archive, "cityA/meter-1/power"), ["kept"]);
    // With the receipt there is room.
    cloud.receipt(town.archive.epoch(), &[(1, 1)]).await;
    cloud.command(Command::Pull { id: 4, series, from: 0, to: i64::MAX }).await;
    let Outcome::Done { records, .. } = cloud.reply(4).await.outcome else { panic!() };
    assert_eq!((records, town.archive.outgoing(Lane::Backlog, 0, 1 << 20).unwrap().len()), (1, 1));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_an_index_that_the_cloud_does_not_take_is_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let peer = testkit::Peer::start(testkit::Script::default().publishes(testkit::Answer::Refuse(0x97))).await;
    let town = Town::start(dev(folder.path(), Some(peer.address()))).await;
    let said = || peer.publishes().iter().filter(|publish| publish.topic.ends_with("/index")).count();
    eventually("two tries", async || said() >= 2).await;
    assert!(town.metric("relay_index_messages_not_taken_total") >= 1);
    peer.script(|script| script.publishes(testkit::Answer::Ack));
    eventually("taken", async || town.metric("relay_index_messages_total{kind=\"Sums\"}") == 1).await;
    let after = said();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(said(), after, "and then there is nothing to say");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_record_is_shown_with_its_way_to_the_stated_root_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..5 {
        sensor.publish("op/store/cityA/meter-1/power", format!("{n}")).await.unwrap();
    }
    close(&town).await;
    eventually("the entry", async || cloud.index().len() == 1).await;
    let entry = cloud.index().remove(0);
    let key = |seq| wire::RecordKey { series: entry.series.clone(), epoch: entry.epoch, seq };
    let show = async |id, chunk, seq| {
        cloud.command(Command::Prove { id, chunk, key: key(seq) }).await;
        cloud.reply(id).await.outcome
    };
    for seq in 1..=5 {
        let Outcome::Shown(shown) = show(seq, entry.chunk, seq).await else { panic!("nothing is shown") };
        assert_eq!((shown.record.payload, &shown.record.key), ((seq - 1).to_string().into_bytes(), &key(seq)));
        let record = wire::Record { payload: (seq - 1).to_string().into_bytes(), ..shown.record };
        let leaf = wire::digest::leaf(&record.view(), &shown.salt);
        assert!(wire::merkle::verify(&leaf, shown.index, entry.records, &shown.path, &entry.root));
    }
    for (id, chunk, seq) in [(6, entry.chunk, 6), (7, entry.chunk + 1, 1), (8, u64::MAX, 1)] {
        assert!(matches!(show(id, chunk, seq).await, Outcome::Failed { reason } if reason.contains("not in the storage area")));
    }
    assert_eq!(stored(&town.archive, "cityA/meter-1/power").len(), 5, "nothing was handed over");
    // Somebody who has the file changes what the chunk holds: it can't be shown, or does not lead to the root.
    let file = rusqlite::Connection::open(folder.path().join("data/archive.sqlite")).unwrap();
    let body: Vec<u8> = file.query_row("SELECT body FROM chunks", [], |row| row.get(0)).unwrap();
    for place in 0..body.len() {
        let mut changed = body.clone();
        changed[place] ^= 1;
        file.execute("UPDATE chunks SET body = ?1", [&changed]).unwrap();
        match show(100 + place as u64, entry.chunk, 3).await {
            Outcome::Failed { reason } => assert!(reason.contains("can't be read"), "{reason}"),
            Outcome::Shown(shown) => {
                let leaf = wire::digest::leaf(&shown.record.view(), &shown.salt);
                let holds = wire::merkle::verify(&leaf, shown.index, entry.records, &shown.path, &entry.root);
                assert!(!holds || shown.record.payload == b"2", "byte {place}");
            }
            other => panic!("{other:?}"),
        }
    }
    town.stop().await;
}
