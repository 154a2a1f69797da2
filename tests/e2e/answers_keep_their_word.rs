//! At any moment: what a relay has acknowledged is in the answer, or the answer says that it is not complete. Real processes, killed at random.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use link::Link;
use serde_json::Value;
use testkit::wait_until;

use crate::town::{self, PATIENCE, Role};

const RELAYS: usize = 3;
const SERIES: usize = 4;
/// How long it goes on.
const TIME: Duration = Duration::from_secs(20);

/// A relay whose segments stay open for `age`.
async fn relay(folder: &Path, number: usize, age: &str, listen: SocketAddr, cloud: SocketAddr) -> Role {
    let file = folder.join(format!("relay-{number}.toml"));
    let config = format!(
        "relay = \"relay-{number}\"\nlisten = [\"{listen}\"]\ndata = {:?}\naccess = \"anonymous\"\n\n\
         [cloud]\nhost = \"{}\"\nport = {}\n\n[storage]\nsegment_age = \"{age}\"\n",
        folder.join(format!("relay-{number}")),
        cloud.ip(),
        cloud.port(),
    );
    std::fs::write(&file, config).unwrap();
    Role::start(&["relay", "--config", file.to_str().unwrap()]).await
}

/// A cheap generator: the test is about moments, and these are random anyway.
fn dice(seed: &mut u64, sides: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % sides
}

/// What was acknowledged, as series and payload.
type Acknowledged = Arc<Mutex<BTreeSet<(String, String)>>>;

/// Publishes to one relay for as long as the test goes on, whatever becomes of the relay.
async fn publish(number: usize, link: Link, acknowledged: Acknowledged, until: Instant) {
    let mut seed = 7 + number as u64;
    for n in 0.. {
        if Instant::now() >= until {
            return;
        }
        let series = format!("cityA/meter-{}/power", dice(&mut seed, SERIES as u64));
        let operation = if dice(&mut seed, 4) == 0 { "forward" } else { "store" };
        let payload = format!("{number}-{n}");
        let publishing = link.publish(format!("op/{operation}/{series}"), payload.clone());
        // Without an acknowledgement nothing was promised.
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(3), publishing).await {
            acknowledged.lock().unwrap().insert((series, payload));
        }
        tokio::time::sleep(Duration::from_millis(5 + dice(&mut seed, 40))).await;
    }
}

/// All pages of an answer: what it holds, and its completeness statement.
async fn answer(cloud: &Role, query: &str) -> (BTreeSet<(String, String)>, Value) {
    let (mut held, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let (status, page) = town::get(cloud, &format!("/api/v1/records?{query}{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        let text = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
        held.extend(page["records"].as_array().unwrap().iter().map(|record| (text(record, "series"), text(record, "payload"))));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (held, page["completeness"].clone()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_at_any_moment_what_a_relay_acknowledged_is_in_the_answer_or_the_answer_is_not_complete() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = town::cloud(folder.path()).await;
    // One keeps its segments open for the whole test, the others close them under the questions.
    let ages = ["60s", "300ms", "1s"];
    let mut roles = Vec::new();
    for (number, age) in ages.iter().enumerate() {
        roles.push(relay(folder.path(), number, age, town::any_port(), cloud.place("listen")).await);
    }
    let until = Instant::now() + TIME;
    let acknowledged = Acknowledged::default();
    let (mut publishing, mut links) = (Vec::new(), Vec::new());
    for (number, role) in roles.iter().enumerate() {
        let (link, incoming) = town::client(&format!("meter-{number}"), role.place("listen"));
        publishing.push(tokio::spawn(publish(number, link, acknowledged.clone(), until)));
        links.push(incoming);
    }
    wait_until(PATIENCE, "the cloud has heard all relays", async || {
        let (held, said) = answer(&cloud, "filter=cityA/%23").await;
        if said["complete"] == true && held.len() > 3 * RELAYS { Ok(()) } else { Err(said) }
    })
    .await;
    let (mut seed, mut complete, mut incomplete) = (20_261_122_u64, 0, 0);
    let mut down: Option<(usize, SocketAddr, Instant)> = None;
    while Instant::now() < until {
        match down {
            None if dice(&mut seed, 12) == 0 => {
                let number = dice(&mut seed, RELAYS as u64) as usize;
                let listen = roles[number].place("listen");
                roles[number].child.kill_9().await;
                down = Some((number, listen, Instant::now() + Duration::from_millis(dice(&mut seed, 1_500))));
            }
            Some((number, listen, back)) if Instant::now() >= back => {
                roles[number] = relay(folder.path(), number, ages[number], listen, cloud.place("listen")).await;
                down = None;
            }
            _ => {}
        }
        let one = format!("cityA/meter-{}/power", dice(&mut seed, SERIES as u64));
        let (query, of) = match dice(&mut seed, 3) {
            0 => ("filter=cityA/%23&limit=37".to_owned(), None),
            1 => ("filter=%2B/%2B/power".to_owned(), None),
            _ => (format!("series={one}"), Some(one)),
        };
        let mut promised = acknowledged.lock().unwrap().clone();
        promised.retain(|(series, _)| of.as_ref().is_none_or(|of| of == series));
        let (held, said) = answer(&cloud, &query).await;
        let lacking: Vec<_> = promised.difference(&held).collect();
        if said["complete"] == true {
            assert_eq!(lacking, Vec::<&(String, String)>::new(), "{query} calls itself complete");
            complete += 1;
        } else {
            incomplete += 1;
        }
    }
    for one in publishing {
        one.await.unwrap();
    }
    if let Some((number, listen, _)) = down {
        roles[number] = relay(folder.path(), number, ages[number], listen, cloud.place("listen")).await;
    }
    let all = acknowledged.lock().unwrap().clone();
    let held = wait_until(PATIENCE, "an answer that is complete", async || {
        let (held, said) = answer(&cloud, "filter=cityA/%23").await;
        if said["complete"] == true { Ok(held) } else { Err(said) }
    })
    .await;
    assert_eq!(all.difference(&held).count(), 0);
    assert!(complete >= 10 && incomplete >= 1, "{complete} complete answers, {incomplete} others, of {} readings", all.len());
}
