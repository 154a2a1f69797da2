//! The target registry's mirror: what agents say about their target, and who may read it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use serde_json::json;
use town::{Frame, Town, dev, folder, guarded};

fn says(relay: &str, why: &str) -> String {
    json!({"relay": relay, "rtt_ns": 5_000_000, "since_ns": 1_000_000_000, "why": why, "from": null}).to_string()
}

fn series(sensor: &str) -> String {
    format!("{sensor}/forebay/targets")
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_the_cloud_mirrors_the_newest_target_of_each_sensor_also_after_a_restart() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    assert_eq!(town.get("", "/api/v1/targets").await, (200, json!({"targets": [], "next_cursor": null})));
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(&series("cityA/meter-1"), 1, &[&says("relay-1", "first"), &says("relay-2", "gone")])).await;
    relay.send(&Frame::new(2).run(&series("cityB/meter-1"), 1, &[&says("relay-3", "only")])).await;
    let expected = json!({"sensor": "cityA/meter-1", "relay": "relay-2", "rtt_ns": 5_000_000, "since": "1970-01-01T00:00:01.000000000Z",
        "why": "gone", "from": null, "at": "1970-01-01T00:00:02.000000000Z", "key": "cityA/meter-1/forebay/targets@e.2"});
    let (_, page) = town.get("", "/api/v1/targets").await;
    assert_eq!((&page["targets"][0], page["targets"].as_array().unwrap().len()), (&expected, 2));
    town.archive.close_now().unwrap();
    town.stop().await;
    let town = Town::start(dev(&path)).await;
    let (_, first) = town.get("", "/api/v1/targets?limit=1").await;
    assert_eq!((&first["targets"], &first["next_cursor"]), (&json!([expected]), &json!("cityA/meter-1")));
    let (_, second) = town.get("", "/api/v1/targets?limit=1&cursor=cityA/meter-1").await;
    assert_eq!((&second["targets"][0]["relay"], &second["next_cursor"]), (&json!("relay-3"), &json!(null)));
    // What is new is shown at once.
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(3).run(&series("cityA/meter-1"), 3, &[&says("relay-1", "faster")])).await;
    let (_, page) = town.get("", "/api/v1/targets?area=cityA").await;
    assert_eq!((&page["targets"][0]["relay"], page["targets"].as_array().unwrap().len()), (&json!("relay-1"), 1));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_a_target_is_shown_to_those_whose_grants_name_it() {
    let (_dir, path) = folder();
    let grants = "[[grant]]\nusers = [\"relay-1\"]\nactions = [\"publish\"]\ntopics = [\"up/%u/#\"]\n\
                  [[grant]]\nusers = [\"ana\"]\nactions = [\"query\"]\nareas = [\"cityA\"]\n";
    let town = Town::start(guarded(&path, &["relay-1", "ana", "eve"], grants)).await;
    let relay = town.client("relay-1").await;
    let both = Frame::new(1).run(&series("cityA/m"), 1, &[&says("r", "only")]).run(&series("cityB/m"), 1, &[&says("r", "only")]);
    relay.send(&both).await;
    let (_, page) = town.get("ana", "/api/v1/targets").await;
    assert_eq!(page["targets"].as_array().unwrap().len(), 1);
    assert_eq!(page["targets"][0]["sensor"], "cityA/m");
    assert_eq!(town.get("eve", "/api/v1/targets").await.1["targets"], json!([]));
    assert_eq!(town.get("", "/api/v1/targets").await.0, 401);
    assert_eq!(town.get("ana", "/api/v1/targets?limit=x").await.0, 400);
    town.stop().await;
}
