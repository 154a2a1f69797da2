//! `forebay tail --from`: what was before, then what comes, each reading once, over the end of a cloud.

use testkit::Child;

use crate::town::{self, FOREBAY, PATIENCE, Role};

#[tokio::test(flavor = "multi_thread")]
async fn c7_tail_from_a_time_prints_each_reading_once_even_when_the_cloud_is_killed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("cloud");
    let cloud_at = async |listen: &str| {
        let data = data.to_str().unwrap();
        Role::start(&["cloud", "--dev", "--listen", listen, "--http", "127.0.0.1:0", "--data", data]).await
    };
    let mut cloud = cloud_at("127.0.0.1:0").await;
    let address = cloud.place("listen").to_string();
    let relay = town::relay(folder.path(), "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let (meter, _) = town::client("meter", relay.place("listen"));
    let publish = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            meter.publish("op/forward/cityA/meter-1/power", number.to_string()).await.unwrap();
        }
    };
    publish(0..200).await;
    town::wait_for_records(&cloud, "cityA/meter-1/power", 200).await;

    let args = ["tail", "cityA/#", "--address", &address, "--from", "2016-01-01T01:00:00+01:00", "--count", "600"];
    let mut tail = Child::spawn(FOREBAY, args, &[]);
    publish(200..400).await;
    tail.line(PATIENCE, "a live reading", |line| line.ends_with("  399").then_some(())).await;
    cloud.child.kill_9().await;
    publish(400..500).await;
    let _cloud = cloud_at(&address).await;
    publish(500..600).await;
    assert!(tail.wait(PATIENCE).await.success(), "{}", tail.output());
    let values: Vec<u32> = tail.stdout().iter().map(|line| line.rsplit_once("  ").unwrap().1.parse().unwrap()).collect();
    assert_eq!(values, (0..600).collect::<Vec<_>>());
}
