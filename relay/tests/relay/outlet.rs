//! What is said to the cloud beside the frames.

use link::PublishError;
use testkit::{Answer, CutLink, Peer, Script};
use wire::topics::Up;

use crate::town::{DEADLINE, Town, dev, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_waits_for_a_connection_and_each_connection_has_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(Script::default()).await;
    let cut = CutLink::start(peer.address()).await;
    cut.refuse();
    let town = Town::start(dev(folder.path(), Some(cut.address()))).await;
    let outlet = town.outlet.clone();
    let mut connections = outlet.connections();
    assert_eq!(*connections.borrow_and_update(), 0);
    let early = tokio::spawn(async move { outlet.publish(Up::Index, "sums").await });
    eventually("an attempt", async || cut.accepted() > 0).await;
    assert!(!early.is_finished());
    cut.heal();
    tokio::time::timeout(DEADLINE, early).await.unwrap().unwrap().unwrap();
    assert_eq!(peer.publishes()[0].topic, "up/relay-dev/index");
    assert_eq!(*connections.borrow_and_update(), 1);
    cut.reset();
    tokio::time::timeout(DEADLINE, connections.wait_for(|number| *number == 2)).await.unwrap().unwrap();
    peer.script(|script| script.publishes(Answer::Refuse(0x97)));
    eventually("told the refusal", async || {
        matches!(town.outlet.publish(Up::Reply, "no").await, Err(PublishError::Refused { reason_code: 0x97 }))
    })
    .await;
    town.stop().await;
}
