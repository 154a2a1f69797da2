//! What a relay says of what it holds and has not stated (C6).

use std::time::Duration;

use chassis::Span;
use testkit::CutLink;
use wire::index::Outcome;
use wire::{Command, Epoch, Intervals, Operation, Unstated};

use crate::town::{Cloud, Town, dev, eventually, frame, run};

/// Asks, and gives the frames on their way and the rest.
async fn asked(cloud: &Cloud, id: u64, (relay_epoch, segment, after): (Epoch, u64, u64)) -> (Intervals, Unstated) {
    cloud.command(Command::Unstated { id, relay_epoch, segment, after }).await;
    match cloud.reply(id).await.outcome {
        Outcome::Unstated { frames, unstated } => (frames, unstated),
        other => panic!("{other:?}"),
    }
}

fn names(unstated: &Unstated) -> Vec<&str> {
    unstated.series.iter().map(wire::Series::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_a_relay_says_what_is_in_its_open_segment_and_what_is_new_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    eventually("the uplink", async || town.metric("relay_uplink_connected") == 1).await;
    let own = town.archive.epoch();
    let (_, nothing) = asked(&cloud, 1, (own, 0, 0)).await;
    assert_eq!((names(&nothing), nothing.at), (vec![], None));
    sensor.publish("op/store/cityA/meter-1/power", "1").await.unwrap();
    let (_, first) = asked(&cloud, 2, (own, nothing.segment, nothing.through)).await;
    assert_eq!(names(&first), ["cityA/meter-1/power"]);
    sensor.publish("op/store/cityA/meter-1/power", "2").await.unwrap();
    sensor.publish("op/store/cityA/meter-2/power", "1").await.unwrap();
    // What is known of this segment is not said again; to one who knows another database, all is.
    let (_, second) = asked(&cloud, 3, (own, first.segment, first.through)).await;
    assert_eq!((names(&second), second.after), (vec!["cityA/meter-2/power"], first.through));
    let (_, anew) = asked(&cloud, 4, (Epoch(own.0 ^ 1), second.segment, second.through)).await;
    assert_eq!((names(&anew), anew.after), (vec!["cityA/meter-1/power", "cityA/meter-2/power"], 0));
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.close_now().unwrap()).await.unwrap();
    // By the time of this reply the cloud has acknowledged what the index says of the chunks.
    let (_, closed) = asked(&cloud, 5, (own, second.segment, second.through)).await;
    assert_eq!(cloud.index().iter().map(|entry| entry.records).sum::<u64>(), 3);
    assert_eq!((names(&closed), closed.at, closed.after), (vec![], None, 0));
    sensor.publish("op/store/cityA/meter-1/power", "3").await.unwrap();
    let (_, next) = asked(&cloud, 6, (own, second.segment, second.through)).await;
    assert_eq!((names(&next), next.after), (vec!["cityA/meter-1/power"], 0));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_a_relay_says_which_series_have_chunks_that_the_index_never_names_and_what_is_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::silent().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let agent = town.client("agent").await;
    let stored = run("cityA/meter-1/power", Operation::Store, 7, 1, &["x"]);
    agent.publish("op/store/cityA/meter-1", frame(&[], &[&stored])).await.unwrap();
    let archive = town.archive.clone();
    tokio::task::spawn_blocking(move || archive.close_now().unwrap()).await.unwrap();
    eventually("the uplink", async || town.metric("relay_uplink_connected") == 1).await;
    let own = town.archive.epoch();
    let (frames, unstated) = asked(&cloud, 1, (own, 0, 0)).await;
    assert_eq!((unstated.rootless.len(), unstated.series.len(), frames.is_empty()), (1, 0, true));
    assert!(unstated.at.is_some());
    agent.publish("op/forward/cityA/meter-1/power", "raw").await.unwrap();
    let (frames, _) = asked(&cloud, 2, (own, 0, 0)).await;
    assert_eq!(frames, Intervals::of(1, 1));
    cloud.receipt(own, &[(1, 1)]).await;
    let mut id = 3;
    eventually("the receipt is kept", async || {
        id += 1;
        asked(&cloud, id, (own, 0, 0)).await.0.is_empty()
    })
    .await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_a_relay_says_nothing_before_the_cloud_has_taken_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let cut = CutLink::start(cloud.address).await;
    let mut config = dev(folder.path(), Some(cut.address()));
    config.storage.segment_age = Span::millis(100);
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    let mut said = 0;
    for n in 0..12_u64 {
        sensor.publish(&format!("op/store/cityA/meter-{n}/power"), "x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        if n % 5 == 4 {
            cut.reset();
            eventually("the uplink", async || town.metric("relay_uplink_connected") == 1).await;
        }
        cloud.command(Command::Unstated { id: 100 + n, relay_epoch: town.archive.epoch(), segment: 0, after: 0 }).await;
        // An order may be lost with its connection.
        let Ok(reply) = tokio::time::timeout(Duration::from_secs(6), cloud.reply(100 + n)).await else { continue };
        let Outcome::Unstated { unstated, .. } = reply.outcome else { continue };
        said += 1;
        let stated = cloud.index();
        for before in 0..=n {
            let name = format!("cityA/meter-{before}/power");
            let is_known = names(&unstated).contains(&name.as_str()) || stated.iter().any(|entry| entry.series.as_str() == name);
            assert!(is_known, "{name} is in neither, at {n}");
        }
    }
    assert!(said >= 6, "it said {said} times what it holds");
    town.stop().await;
}
