//! Metrics under the names of the manual, and the questions that an operator asks from the shell.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use crate::town::{self, FOREBAY, Role};

/// The names that `docs/metrics.md` lists.
fn manual() -> BTreeSet<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect()
}

/// The names that a role shows.
async fn shown(role: &Role) -> BTreeSet<String> {
    let text = reqwest::get(format!("http://{}/metrics", role.place("admin"))).await.unwrap().text().await.unwrap();
    let name = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(format!("{name}{}", if kind == "counter" { "_total" } else { "" }))
    };
    text.lines().filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_a_relay_and_an_agent_is_in_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = format!(
        "relay = \"relay-1\"\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ndata = {:?}\naccess = \"anonymous\"\n\n\
         [cloud]\nhost = \"127.0.0.1\"\nport = 9\n\n[group]\nname = \"north\"\n",
        path("relay")
    );
    std::fs::write(path("relay.toml"), config).unwrap();
    let relay = Role::start(&["relay", "--config", &path("relay.toml")]).await;
    let config = format!(
        "sensor = \"cityA/meter-1\"\ndata = {:?}\n\n[[relays]]\nname = \"relay-1\"\naddress = \"{}\"\n\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n",
        path("agent"),
        relay.place("listen"),
    );
    std::fs::write(path("agent.toml"), config).unwrap();
    let agent = Role::start(&["agent", "--config", &path("agent.toml")]).await;
    let manual = manual();
    for (name, role, prefix) in [("relay", &relay, "relay_"), ("agent", &agent, "agent_")] {
        let shown = shown(role).await;
        assert!(shown.iter().any(|metric| metric.starts_with(prefix)), "{name} shows none of its own: {shown:?}");
        let missing: Vec<_> = shown.difference(&manual).collect();
        assert!(missing.is_empty(), "{name} shows what docs/metrics.md does not list: {missing:?}");
    }
}

fn forebay(args: &[&str]) -> Output {
    Command::new(FOREBAY).args(args).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_c3_where_and_gaps_answer_in_text_and_by_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = town::cloud(folder.path()).await;
    let relay = town::relay(folder.path(), "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let (meter, _) = town::client("meter", relay.place("listen"));
    meter.publish("op/forward/cityA/meter-1/power", "0.5").await.unwrap();
    let held = town::wait_for_records(&cloud, "cityA/meter-1/power", 1).await;
    let key = held[0]["key"].as_str().unwrap();
    let http = format!("http://{}", cloud.place("http"));

    let found = forebay(&["where", key, "--cloud", &http]);
    assert!(found.status.success(), "{found:?}");
    assert!(String::from_utf8(found.stdout).unwrap().contains("relay-1"), "the rung names the relay");
    let beyond = key.replace(".1", ".7");
    let unknown = forebay(&["where", &beyond, "--cloud", &http]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let gaps = forebay(&["gaps", "cityA/meter-1/power", "--cloud", &http]);
    assert_eq!(gaps.status.code(), Some(0), "{gaps:?}");
    let nobody = forebay(&["gaps", "--cloud", "http://127.0.0.1:9"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
}
