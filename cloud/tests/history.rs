//! Pages of the past: no hole and no repeat, while records keep arriving.

mod town;

use town::{Frame, Town, dev, folder};

const SERIES: &str = "cityA/meter-1/power";

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_by_cursor_has_no_hole_and_no_repeat_while_records_arrive() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    // Segments close all the time, so the walk crosses from pages to chunks under its feet.
    config.storage.segment_records = 100;
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let mut next = 1;
    let mut frame = |number| {
        let payloads: Vec<String> = (next..next + 40).map(|seq| seq.to_string()).collect();
        let frame = Frame::new(number).run(SERIES, next, &payloads.iter().map(String::as_str).collect::<Vec<_>>());
        next += 40;
        frame
    };
    for number in 1..=10 {
        relay.send(&frame(number)).await;
    }
    let writing = tokio::spawn({
        let frames: Vec<_> = (11..=30).map(&mut frame).collect();
        async move {
            for frame in &frames {
                relay.send(frame).await;
            }
        }
    });
    let during = town.walk("", SERIES, 7).await;
    writing.await.unwrap();
    let seqs: Vec<u64> = during.iter().map(|reading| reading.key.seq).collect();
    assert!(seqs.len() >= 400, "{}", seqs.len());
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let after = town.walk("", SERIES, 333).await;
    assert_eq!(after.len(), 1_200);
    assert!(
        after.iter().zip(1..).all(|(reading, seq)| reading.key.seq == seq && reading.payload.0 == seq.to_string().into_bytes())
    );
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_and_to_cut_the_time_and_other_series_stay_out() {
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let relay = town.client("relay-1").await;
    relay.send(&Frame::new(1).run(SERIES, 1, &["1", "2", "3", "4"]).run("cityA/meter-1/powers", 1, &["no"])).await;
    let query = "from=1970-01-01T00:00:02Z&to=4000000000";
    let (status, page) = town.get("", &format!("/api/v1/records?series={SERIES}&{query}")).await;
    assert_eq!(status, 200, "{page}");
    let payloads: Vec<_> = page["records"].as_array().unwrap().iter().map(|record| record["payload"].as_str().unwrap()).collect();
    assert_eq!(payloads, ["2", "3"]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_stays_within_its_bytes() {
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.history.page_bytes = chassis::Size(4_000);
    let town = Town::start(config).await;
    let relay = town.client("relay-1").await;
    let large = "x".repeat(10_000);
    relay.send(&Frame::new(1).run(SERIES, 1, &["1", "2", &large, "4", "5"])).await;
    let (_, page) = town.get("", &format!("/api/v1/records?series={SERIES}")).await;
    assert_eq!(page["records"].as_array().unwrap().len(), 2);
    // A page that is read in several pieces, with a limit in the midst of one and at its edge.
    let small = vec!["s"; 1_000];
    relay.send(&Frame::new(2).run("cityA/meter-2/power", 1, &small)).await;
    for limit in [255, 256, 257, 999, 1_000, 1_001] {
        let walked = town.walk("", "cityA/meter-2/power", limit).await;
        assert!(walked.iter().map(|reading| reading.key.seq).eq(1..=1_000), "{limit}");
    }
    let seqs: Vec<_> = town.walk("", SERIES, 100).await.iter().map(|reading| reading.key.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_half_a_request_holds_nobody_up() {
    use tokio::io::AsyncWriteExt;
    let (_dir, path) = folder();
    let mut config = dev(&path);
    config.history.connections_max = 2;
    let town = Town::start(config).await;
    let mut silent = tokio::net::TcpStream::connect(town.http).await.unwrap();
    silent.write_all(b"GET /api/v1/rec").await.unwrap();
    assert_eq!(town.get("", "/api/v1/status").await.0, 200);
    assert_eq!(town.get("", "/api/v1/nothing").await.0, 404);
    assert_eq!(town.get("", "/").await.0, 404);
    town.stop().await;
}
