//! A relay whose storage area is far too small for what is stored, and that gets kill -9 again and again while it makes room.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use link::PublishError;
use testkit::{Seed, wait_until};

use crate::town::{self, Role};

const KILLS: usize = 6;
const SERIES: [&str; 3] = ["cityA/meter-1/power", "cityA/meter-2/power", "cityB/meter-1/volts"];

/// 300 kilobytes of storage area, of which a third is to be free, in segments of 20 kilobytes.
async fn small_relay(folder: &Path, listen: SocketAddr, cloud: SocketAddr) -> Role {
    let file = folder.join("relay.toml");
    let text = format!(
        "relay = \"small\"\nlisten = [\"{listen}\"]\nadmin = \"127.0.0.1:0\"\ndata = \"{data}\"\naccess = \"anonymous\"\n\
         [cloud]\nhost = \"{}\"\nport = {}\n\
         [storage]\nbudget = \"300KiB\"\nfree_min = \"33%\"\ndisk_free_min = \"0B\"\nsegment_bytes = \"20KiB\"\n",
        cloud.ip(),
        cloud.port(),
        data = folder.join("small").display(),
    );
    std::fs::write(&file, text).unwrap();
    Role::start(&["relay", "--config", file.to_str().unwrap()]).await
}

async fn metric(relay: &Role, name: &str) -> u64 {
    let Ok(answer) = reqwest::get(format!("http://{}/metrics", relay.place("admin"))).await else { return 0 };
    let text = answer.text().await.unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

/// A reading that hardly compresses.
fn reading(number: u64) -> String {
    let mut state = number + 1;
    let noise = (0..1_500).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 58) as u8 % 26)
    });
    format!("{number} {}", noise.collect::<String>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_a_relay_that_is_killed_while_it_makes_room_loses_nothing_and_the_cloud_knows_what_it_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let seed = Seed::new();
    let mut random = seed.rng();
    let cloud = town::cloud(folder.path()).await;
    let mut relay = small_relay(folder.path(), town::any_port(), cloud.place("listen")).await;
    let at = relay.place("listen");
    let (mut number, mut acknowledged, mut refused, mut spills) = (0_u64, BTreeMap::new(), 0, 0);
    for kill in 0..=KILLS {
        let (link, _incoming) = town::client(&format!("meter-{kill}"), at);
        let wanted = acknowledged.len() + 150 + rand::Rng::next_u32(&mut random) as usize % 100;
        let deadline = tokio::time::Instant::now() + town::PATIENCE;
        while acknowledged.len() < wanted || metric(&relay, "relay_spills_total").await == 0 {
            assert!(tokio::time::Instant::now() < deadline, "kill {kill}: {} of {wanted}, {refused} refused", acknowledged.len());
            for _ in 0..20 {
                number += 1;
                let series = SERIES[number as usize % 3];
                match link.publish(format!("op/store/{series}").as_str(), reading(number)).await {
                    Ok(()) => drop(acknowledged.insert(number, series)),
                    Err(PublishError::Refused { reason_code: 0x97 }) => {
                        refused += 1;
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        spills += metric(&relay, "relay_spills_total").await;
        if kill < KILLS {
            relay.child.kill_9().await;
            relay = small_relay(folder.path(), at, cloud.place("listen")).await;
        }
    }
    assert!(spills > KILLS as u64, "{spills} spills");

    // Everything comes up, and each reading once.
    let flush = format!("http://{}/flush", relay.place("admin"));
    let missing = |held: &BTreeMap<u64, u32>| acknowledged.keys().filter(|number| !held.contains_key(number)).count();
    let held = wait_until(town::PATIENCE, "the cloud holds every acknowledged reading", async || {
        let flushed = reqwest::Client::new().post(&flush).send().await.unwrap().status();
        let mut held: BTreeMap<u64, u32> = BTreeMap::new();
        for series in SERIES {
            for record in town::records(&cloud, series).await {
                let text = record["payload"].as_str().unwrap();
                *held.entry(text.split_once(' ').unwrap().0.parse().unwrap()).or_default() += 1;
            }
        }
        if missing(&held) == 0 {
            Ok(held)
        } else {
            Err(format!("{flushed}: {} missing of {}", missing(&held), acknowledged.len()))
        }
    })
    .await;
    let doubled: BTreeSet<_> = held.iter().filter(|(_, times)| **times != 1).map(|(number, _)| number).collect();
    assert!(doubled.is_empty(), "more than once: {doubled:?}");

    // The index has forgotten what the relay keeps no more, and every chunk came as it was announced.
    let index = rusqlite::Connection::open(folder.path().join("cloud").join("index.sqlite")).unwrap();
    let count = |sql: &str| index.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    wait_until(town::PATIENCE, "the index is empty", async || match count("SELECT count(*) FROM entries") {
        0 => Ok(()),
        left => Err((left, count("SELECT count(*) FROM entries WHERE left_at IS NULL"))),
    })
    .await;
    assert!(count("SELECT count(*) FROM series") >= 3, "entries were there");
    assert_eq!(count("SELECT count(*) FROM mismatches"), 0);

    // What both keep is what was written, beside the running processes.
    for name in ["small", "cloud"] {
        let examined = tokio::process::Command::new(town::FOREBAY)
            .args(["examine", folder.path().join(name).to_str().unwrap()])
            .output()
            .await
            .unwrap();
        assert!(examined.status.success(), "{name}: {examined:?}");
        assert!(String::from_utf8_lossy(&examined.stderr).contains(" 0 unsound"), "{name}: {examined:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_byte_that_somebody_changes_in_the_storage_area_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = town::relay(folder.path(), "relay-1", town::any_port(), None).await;
    let (meter, _) = town::client("meter", relay.place("listen"));
    meter.publish("op/store/cityA/meter-1/energy", "100").await.unwrap();
    relay.child.kill_9().await;
    let data = folder.path().join("relay-1");
    {
        let options = archive::Options::new("relay-1".parse().unwrap(), std::sync::Arc::new(|| 0));
        archive::Archive::open(&data, options).unwrap().0.close_now().unwrap();
    }
    let examine = async || {
        let command =
            tokio::process::Command::new(town::FOREBAY).args(["examine", "--json", data.to_str().unwrap()]).output().await;
        let output = command.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(examine().await, (Some(0), String::new()));
    let database = rusqlite::Connection::open(data.join("archive.sqlite")).unwrap();
    let (id, mut body): (i64, Vec<u8>) =
        database.query_row("SELECT id, body FROM chunks", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let last = body.len() - 1;
    body[last] ^= 1;
    assert_eq!(database.execute("UPDATE chunks SET body = ?1 WHERE id = ?2", (&body, id)).unwrap(), 1);
    let (code, text) = examine().await;
    let found: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!((code, &found["chunk"], &found["series"]), (Some(1), &id.into(), &"cityA/meter-1/energy".into()));
}
