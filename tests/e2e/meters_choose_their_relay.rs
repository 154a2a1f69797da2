//! Three relays at different distances in a network of its own: the meter finds the nearest one, and moves when the distances change.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testkit::{Child, CutLink, Star, wait_until};

use crate::town::{FOREBAY, PATIENCE, Role};

const RELAYS: u8 = 3;
/// Where relays listen on their host, and where the link to the meter begins there.
const RELAY_PORT: u16 = 1884;
const LINK_PORT: u16 = 1883;

/// What the meter knows of its relays.
async fn targets(data: &Path) -> Value {
    let mut asked = Child::spawn(FOREBAY, ["targets", "--json", data.to_str().unwrap()], &[]);
    let line = asked.line(PATIENCE, "the answer", |line| line.starts_with('{').then(|| line.to_owned())).await;
    serde_json::from_str(&line).unwrap()
}

async fn wait_for_target(data: &Path, relay: &str) -> Value {
    wait_until(PATIENCE, "the meter's target", async || {
        let known = targets(data).await;
        if known["target"] == relay { Ok(known) } else { Err(known) }
    })
    .await
}

/// Ten readings a second for as long as the test may take.
fn readings(file: &Path) {
    let mut text = String::from("time,power\n");
    for second in 0..6_000 {
        let (minute, second) = (second / 60, second % 60);
        writeln!(text, "2026-01-01T{:02}:{:02}:{second:02}Z,{second}", minute / 60, minute % 60).unwrap();
    }
    std::fs::write(file, text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_the_nearest_of_three_relays_is_chosen_and_left_when_the_distances_change() {
    let star = match Star::new(RELAYS) {
        Ok(star) => star,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let mut relays = Vec::new();
    let mut links: Vec<CutLink> = Vec::new();
    let mut config = format!("sensor = \"cityA/meter-1\"\ndata = \"{}\"\n", folder.path().join("agent").display());
    for number in 0..RELAYS {
        let (name, listen) = (format!("relay-{number}"), format!("127.0.0.1:{RELAY_PORT}"));
        let data = folder.path().join(&name);
        let args = ["relay", "--dev", "--name", &name, "--listen", &listen, "--data", data.to_str().unwrap()];
        relays.push(Role::start_at(&star.at(number), &args).await);
        links.push(star.link(number, LINK_PORT, RELAY_PORT).await);
        writeln!(config, "[[relays]]\nname = \"{name}\"\naddress = \"{}:{LINK_PORT}\"", star.address(number)).unwrap();
    }
    let csv = folder.path().join("readings.csv");
    readings(&csv);
    write!(
        config,
        "[[stream]]\nmatch = \"#\"\noperation = \"store\"\n[[input]]\nkind = \"csv\"\nname = \"replay\"\npath = \"{}\"\n\
         columns = {{ power = \"power\" }}\nspeed = 10.0\n[probe]\nrtt_limit = \"60ms\"\ndistance = \"500ms\"\ntimeout = \"3s\"\n",
        csv.display()
    )
    .unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, config).unwrap();

    // One way each: the round trips are 10, 40 and 160 ms.
    let apart = |order: [u64; 3]| links.iter().zip(order).for_each(|(link, ms)| link.delay(Duration::from_millis(ms)));
    apart([20, 5, 80]);
    let _agent = Role::start_at(&star.at_centre(), &["agent", "--config", file.to_str().unwrap()]).await;
    let data = folder.path().join("agent");
    let known = wait_for_target(&data, "relay-1").await;
    let rtt = |known: &Value, relay: &str| {
        let found = known["relays"].as_array().unwrap().iter().find(|known| known["relay"] == relay);
        found.and_then(|found| found["rtt_ns"].as_u64()).unwrap_or_else(|| panic!("{relay} in {known}")) / 1_000_000
    };
    assert!(rtt(&known, "relay-1") >= 10 && rtt(&known, "relay-0") >= 40 && rtt(&known, "relay-2") >= 160, "{known}");

    // The target becomes the farthest: a send above the limit has all probed again.
    apart([20, 80, 5]);
    let known = wait_for_target(&data, "relay-2").await;
    assert_eq!((&known["moves"][0]["from"], &known["moves"][0]["why"]), (&"relay-1".into(), &"faster".into()), "{known}");

    // The cable of the target is pulled: no packet comes back, and no word of it either.
    star.plug(2, false).unwrap();
    let known = wait_for_target(&data, "relay-0").await;
    assert_eq!(known["moves"][0]["from"], "relay-2", "{known}");
}
