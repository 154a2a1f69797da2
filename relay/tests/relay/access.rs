//! Users and grants, and that they are read again when they change.

use broker::Access;
use link::PublishError;

use crate::town::{Town, dev, eventually};

fn grant(area: &str) -> String {
    format!("[[grant]]\nusers = [\"meter-1\"]\nactions = [\"publish\"]\ntopics = [\"op/+/{area}/%u/#\"]\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_a_changed_grants_file_bites_on_live_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (users, grants) = (folder.path().join("users"), folder.path().join("grants.toml"));
    broker::users::set_password(&users, "meter-1", b"meter-1").unwrap();
    std::fs::write(&grants, grant("cityA")).unwrap();
    let mut config = dev(folder.path(), None);
    config.access = Access::Files { users, grants: grants.clone(), sensors: None };
    let town = Town::start(config).await;
    let sensor = town.client("meter-1").await;
    let publish = async |area: &str| sensor.publish(&format!("op/store/{area}/meter-1/power"), "1").await;
    let denied = Err(PublishError::Refused { reason_code: 0x87 });
    assert_eq!(publish("cityA").await, Ok(()));
    assert_eq!(publish("cityB").await, denied);
    assert_eq!(sensor.publish("op/store/cityA/meter-2/power", "1").await, denied, "nobody speaks for another");
    // Half written: the old grants stay.
    std::fs::write(&grants, "[[grant]]\nusers = 7\n").unwrap();
    std::fs::write(&grants, grant("cityB")).unwrap();
    eventually("the new grant", async || publish("cityB").await == Ok(())).await;
    assert_eq!(publish("cityA").await, denied);
    town.stop().await;
}
