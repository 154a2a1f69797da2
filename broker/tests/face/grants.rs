//! Grants at publish, at subscribe and at every delivery.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::{Message, Policy, users};

use crate::host::{Held, Host, host, settings};
use crate::peer::{Hello, Peer, hello};

const GRANTS: &str = r#"
[[grant]]
users = ["meter"]
actions = ["publish"]
topics = ["op/store/cityA/%c/#", "own/%u"]

[[grant]]
users = ["analyst"]
actions = ["subscribe"]
topics = ["data/cityA/#"]
"#;

async fn town(folder: &Path, held: &Held) -> (Host, Policy) {
    let (names, grants) = (folder.join("users"), folder.join("grants.toml"));
    users::set_password(&names, "meter", b"m").unwrap();
    users::set_password(&names, "analyst", b"a").unwrap();
    std::fs::write(&grants, GRANTS).unwrap();
    let policy = Policy::open(&names, &grants).unwrap();
    (host(settings(), policy.clone(), Arc::new(held.clone())).await, policy)
}

fn meter(v5: bool) -> Hello<'static> {
    Hello { login: Some(("meter", "m")), ..hello(v5, "meter-1") }
}

fn analyst(v5: bool) -> Hello<'static> {
    Hello { login: Some(("analyst", "a")), ..hello(v5, "desk") }
}

#[tokio::test]
async fn a11_nobody_publishes_without_a_grant() {
    let (folder, held) = (tempfile::tempdir().unwrap(), Held::default());
    let (host, _) = town(folder.path(), &held).await;
    let mut peer = Peer::join(host.address, meter(true)).await;
    for (id, topic) in (1..).zip(["op/store/cityA/meter-2/p", "op/store/cityB/meter-1/p", "data/cityA/meter-1/p", "own/other"]) {
        peer.publish(topic, "x", 1, id).await;
        peer.expect_ack(0x40, id, 0x87).await;
    }
    assert_eq!(held.offered(), 0);
    peer.publish("own/meter", "x", 1, 8).await;
    peer.expect_ack(0x40, 8, 0).await;
    peer.publish("op/store/cityA/meter-1/p", "x", 1, 9).await;
    host.until("it is offered", |_| held.waiting() == 1).await;
    held.resolve(false, Ok(()));
    peer.expect_ack(0x40, 9, 0).await;
    let mut old = Peer::join(host.address, Hello { id: "old", ..meter(false) }).await;
    old.publish("data/cityA/x", "x", 1, 1).await;
    assert_eq!(old.next().await, None, "3.1.1 has no code, so the connection ends");
}

#[tokio::test]
async fn a11_a_filter_must_be_covered_as_a_whole() {
    let (folder, held) = (tempfile::tempdir().unwrap(), Held::default());
    let (host, _) = town(folder.path(), &held).await;
    for v5 in [true, false] {
        let mut peer = Peer::join(host.address, analyst(v5)).await;
        assert_eq!(peer.subscribe("data/cityA/+/power", 1).await, 1);
        for filter in ["#", "data/#", "data/+/x", "data/cityB/#", "op/#"] {
            assert_eq!(peer.subscribe(filter, 1).await, if v5 { 0x87 } else { 0x80 }, "{filter}");
        }
        assert_eq!(peer.subscribe("data/cityA/#/x", 1).await, if v5 { 0x8F } else { 0x80 });
        host.broker.hub().publish(Message::new("data/cityB/m/power", "secret")).await;
        host.broker.hub().publish(Message::new("data/cityA/m/power", "seen")).await;
        assert_eq!(peer.recv().await.publish(v5).4, b"seen");
    }
}

#[tokio::test]
async fn c9_a_revocation_bites_live_subscriptions_within_a_second() {
    let (folder, held) = (tempfile::tempdir().unwrap(), Held::default());
    let (host, policy) = town(folder.path(), &held).await;
    let mut peer = Peer::join(host.address, analyst(true)).await;
    assert_eq!(peer.subscribe("data/cityA/#", 0).await, 0);
    let mut source = Peer::join(host.address, meter(true)).await;
    source.publish("own/meter", "x", 1, 1).await;
    source.expect_ack(0x40, 1, 0).await;
    let hub = host.broker.hub();
    hub.publish(Message::new("data/cityA/m/power", "before")).await;
    assert_eq!(peer.recv().await.publish(true).4, b"before");

    let narrowed = GRANTS.replace("data/cityA/#", "data/cityA/public/#").replace(", \"own/%u\"", "");
    std::fs::write(folder.path().join("grants.toml"), narrowed).unwrap();
    policy.reload().unwrap();
    hub.publish(Message::new("data/cityA/m/power", "after")).await;
    hub.publish(Message::new("data/cityA/public/x", "still")).await;
    assert_eq!(peer.recv().await.publish(true).4, b"still", "what was revoked is not delivered any more");
    source.publish("own/meter", "x", 1, 2).await;
    source.expect_ack(0x40, 2, 0x87).await;
    assert_eq!(host.metric("broker_deliveries_withheld_total{reason=\"NotAuthorized\"}"), 1.0);

    std::fs::write(folder.path().join("grants.toml"), "[[grant]]\nusers = 5\n").unwrap();
    assert!(policy.reload().is_err(), "a faulty file changes nothing");
    hub.publish(Message::new("data/cityA/public/x", "still")).await;
    assert_eq!(peer.recv().await.publish(true).4, b"still");

    std::fs::write(folder.path().join("grants.toml"), GRANTS).unwrap();
    users::remove_user(&folder.path().join("users"), "analyst").unwrap();
    policy.reload().unwrap();
    peer.send(&[0xC0, 0]).await;
    peer.expect_end(0x87).await;
}

#[tokio::test]
async fn c9_a_grant_that_ends_bites_without_a_reload() {
    let (folder, held) = (tempfile::tempdir().unwrap(), Held::default());
    let (host, policy) = town(folder.path(), &held).await;
    let until = GRANTS.replace("topics = [\"data/cityA/#\"]", "topics = [\"data/cityA/#\"]\nuntil = \"1970-01-01T00:01:00Z\"");
    std::fs::write(folder.path().join("grants.toml"), until).unwrap();
    policy.reload().unwrap();
    let mut peer = Peer::join(host.address, analyst(true)).await;
    assert_eq!(peer.subscribe("data/cityA/#", 0).await, 0);
    let hub = host.broker.hub();
    hub.publish(Message::new("data/cityA/m", "1")).await;
    assert_eq!(peer.recv().await.publish(true).4, b"1");
    host.clock.advance(Duration::from_secs(61));
    tokio::time::sleep(Duration::from_secs(1)).await;
    hub.publish(Message::new("data/cityA/m", "2")).await;
    host.until("it is withheld", |host| host.metric("broker_deliveries_withheld_total{reason=\"NotAuthorized\"}") == 1.0).await;
    peer.expect_silence().await;
}
