//! Hand-overs that the cloud or an operator asks for.

use chassis::{Admin, AdminParts, Readiness, Stopper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::Command;

use crate::town::{Cloud, Town, dev, eventually, stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_pull_brings_one_series_and_a_flush_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let sensor = town.client("meter-1").await;
    for n in 0..5 {
        sensor.publish("op/store/cityA/meter-1/power", format!("power {n}")).await.unwrap();
        sensor.publish("op/store/cityA/meter-1/volts", format!("volts {n}")).await.unwrap();
    }
    eventually("the uplink", async || town.metric("relay_uplink_connected") == 1).await;
    cloud.say("commands", b"nonsense".to_vec()).await;
    let pull = |series: &str, id| Command::Pull { id, series: series.parse().unwrap(), from: 0, to: i64::MAX };
    cloud.command(pull("cityA/meter-1/none", 1)).await;
    cloud.command(pull("cityA/meter-1/volts", 2)).await;
    eventually("the pull", async || cloud.payloads().len() == 5).await;
    assert_eq!(cloud.payloads(), (0..5).map(|n| format!("volts {n}")).collect::<Vec<_>>());
    assert!(cloud.seen().iter().all(|seen| seen.historical));
    assert_eq!(stored(&town.archive, "cityA/meter-1/power").len(), 5);
    assert_eq!(stored(&town.archive, "cityA/meter-1/volts").len(), 0);
    cloud.command(Command::Flush { id: 3 }).await;
    eventually("the flush", async || cloud.payloads().len() == 10 && town.waiting() == 0).await;
    assert_eq!(stored(&town.archive, "cityA/meter-1/power").len(), 0);
    // Asked again, as after a restart of the cloud: there is nothing left, and nothing comes twice.
    cloud.command(Command::Flush { id: 3 }).await;
    sensor.publish("op/store/cityA/meter-1/power", "later").await.unwrap();
    cloud.command(Command::Flush { id: 4 }).await;
    eventually("the last", async || cloud.payloads().len() == 11).await;
    assert_eq!(cloud.seen().iter().map(|seen| seen.records.len()).sum::<usize>(), 11);
    eventually("counted", async || town.metric("relay_records_handed_over_total") == 11).await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn post_flush_on_the_admin_port_hands_everything_over_and_counts_it() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let town = Town::start(dev(folder.path(), Some(cloud.address))).await;
    let parts = AdminParts {
        name: "relay",
        version: "0",
        registry: town.registry.clone(),
        readiness: Readiness::new(),
        routes: town.admin.clone(),
    };
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap(), parts).await.unwrap();
    let (address, stopper) = (admin.address(), Stopper::new());
    let serving = tokio::spawn(admin.serve(stopper.token()));
    let ask = async |method: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} /flush HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let sensor = town.client("meter-1").await;
    for n in 0..7 {
        sensor.publish("op/store/cityA/meter-1/power", n.to_string()).await.unwrap();
    }
    assert!(ask("GET").await.starts_with("HTTP/1.1 405"), "reading the route changes nothing");
    let answer = ask("POST").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"records\":7}\n"), "{answer}");
    assert!(ask("POST").await.ends_with("{\"records\":0}\n"));
    eventually("all", async || cloud.payloads().len() == 7).await;
    // The admin port is the last to go: what it is asked then is answered, too.
    town.stop().await;
    assert!(ask("POST").await.starts_with("HTTP/1.1 503"));
    stopper.stop();
    serving.await.unwrap().unwrap();
}
