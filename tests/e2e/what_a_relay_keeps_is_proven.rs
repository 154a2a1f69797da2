//! What a relay keeps is proven where it is, and whoever changes it there is found out: a real chain, a real relay, `sqlite3` under its nose.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use testkit::anvil::Options as Chain;
use testkit::{Anvil, wait_until};

use crate::town::{self, FOREBAY, PATIENCE, Role};

const SERIES: [&str; 2] = ["cityA/meter-1/power", "cityA/meter-2/power"];

/// A cloud that anchors.
async fn cloud(folder: &Path, anvil: &Anvil) -> Role {
    let key = |name: &str, key: &str| {
        let path = folder.join(name);
        anchor::keys::import(&path, &wire::digest::from_hex(key.trim_start_matches("0x")).unwrap()).unwrap();
        path
    };
    let deployer = anchor::keys::load(&key("deployer", &anvil.keys()[9])).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &deployer, PATIENCE).await.unwrap().contract.to_string();
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\naccess = \"anonymous\"\n[storage]\nbudget = \"1GiB\"\n\
         [anchor]\nrpc = {:?}\ncontract = {contract:?}\nkey_file = {:?}\npoll = \"50ms\"\n\
         batch = {{ chunks_max = 100, age = \"100ms\" }}\n",
        folder.join("cloud"),
        anvil.rpc(),
        key("cloud.key", &anvil.keys()[1]),
    );
    std::fs::write(folder.join("cloud.toml"), config).unwrap();
    Role::start(&["cloud", "--config", folder.join("cloud.toml").to_str().unwrap()]).await
}

async fn relay(folder: &Path, cloud: &Role) -> Role {
    let at = cloud.place("listen");
    let config = format!(
        "relay = \"relay-1\"\nlisten = [\"127.0.0.1:0\"]\ndata = {:?}\naccess = \"anonymous\"\n\n\
         [cloud]\nhost = \"{}\"\nport = {}\n\n[storage]\nsegment_age = \"300ms\"\n",
        folder.join("relay-1"),
        at.ip(),
        at.port(),
    );
    std::fs::write(folder.join("relay.toml"), config).unwrap();
    Role::start(&["relay", "--config", folder.join("relay.toml").to_str().unwrap()]).await
}

fn forebay(args: &[&str]) -> Output {
    Command::new(FOREBAY).args(["--log", "error"]).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_what_a_relay_keeps_is_proven_there_and_a_changed_byte_is_found() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let anvil = Anvil::start_with(Chain { block_time: Some(0.2), slots_in_an_epoch: Some(1), ..Chain::default() }).await;
    let cloud = cloud(folder, &anvil).await;
    let mut role = relay(folder, &cloud).await;
    let (link, _incoming) = town::client("meter", role.place("listen"));
    for series in SERIES {
        for number in 1..=20 {
            link.publish(format!("op/store/{series}"), format!("{number}.5")).await.unwrap();
        }
    }
    let database = folder.join("relay-1/archive.sqlite");
    let epoch = {
        let archive = Connection::open(&database).unwrap();
        let epoch: i64 = archive.query_row("SELECT epoch FROM identity", [], |row| row.get(0)).unwrap();
        wire::Epoch(epoch as u64)
    };
    let (url, rpc) = (format!("http://{}", cloud.place("http")), anvil.rpc());
    let file = folder.join("proof.json");
    let (file, relay_data) = (file.to_str().unwrap(), folder.join("relay-1"));
    let proof = |key: &str| forebay(&["proof", key, "--cloud", &url, "-o", file]);
    let key = |series: &str, seq: u64| format!("{series}@{epoch}.{seq}");
    wait_until(PATIENCE, "what the relay stated is on chain", async || {
        let made = [key(SERIES[0], 7), key(SERIES[1], 20)].map(|key| proof(&key));
        if made.iter().all(|made| made.status.success()) { Ok(()) } else { Err(made.map(|made| said(&made))) }
    })
    .await;
    // The file and a node's address are enough, and nothing has left the relay.
    assert!(proof(&key(SERIES[0], 7)).status.success());
    let verified = forebay(&["verify", file, "--rpc", &rpc]);
    let text = said(&verified);
    assert_eq!(verified.status.code(), Some(0), "{text}");
    assert!(text.contains("\"7.5\"") && text.contains("held by     relay relay-1, in chunk "), "{text}");
    assert!(text.contains(&format!("believed    {rpc}, that block ")), "{text}");
    // With the hash of the batch's block from elsewhere the node is believed nothing, and a wrong one is no answer.
    let block = serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap()["transaction"]["block_hash"].clone();
    let known = forebay(&["verify", file, "--rpc", &rpc, "--block-hash", block.as_str().unwrap()]);
    assert!(known.status.success() && said(&known).contains("believed    nothing of what"), "{}", said(&known));
    let unknown = forebay(&["verify", file, "--rpc", &rpc, "--block-hash", &"7".repeat(64)]);
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains("does not have block"), "{}", said(&unknown));
    let (_, status) = town::get(&cloud, "/api/v1/status").await;
    assert_eq!(status["records"]["held"], 0);
    let mut forged: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    forged["chunk"]["stated"]["relay"] = "relay-2".into();
    let forgery = folder.join("forged.json");
    std::fs::write(&forgery, forged.to_string()).unwrap();
    assert_eq!(forebay(&["verify", forgery.to_str().unwrap(), "--rpc", &rpc]).status.code(), Some(1));
    let ledger = folder.join("cloud/anchor.sqlite");
    let examine = || forebay(&["examine", relay_data.to_str().unwrap(), "--ledger", ledger.to_str().unwrap()]);
    let clean = examine();
    assert!(clean.status.success() && clean.stdout.is_empty(), "{}", said(&clean));

    // Somebody changes one byte of what the relay keeps.
    let archive = Connection::open(&database).unwrap();
    archive.busy_timeout(Duration::from_secs(10)).unwrap();
    let holds = "series = (SELECT id FROM series WHERE name = ?1) AND seq_first <= 7 AND seq_last >= 7";
    let (chunk, body): (i64, Vec<u8>) = archive
        .query_row(&format!("SELECT id, body FROM chunks WHERE {holds}"), [SERIES[0]], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    let mut changed = body.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    archive.execute("UPDATE chunks SET body = ?1 WHERE id = ?2", (&changed, chunk)).unwrap();
    let refused = proof(&key(SERIES[0], 7));
    assert!(refused.status.code() != Some(0) && said(&refused).contains("relay-1"), "{}", said(&refused));
    let examined = examine();
    assert!(examined.status.code() == Some(1) && said(&examined).starts_with(&format!("chunk {chunk} of {}", SERIES[0])));
    archive.execute("UPDATE chunks SET body = ?1 WHERE id = ?2", (&body, chunk)).unwrap();
    assert!(examine().status.success() && proof(&key(SERIES[0], 7)).status.success());

    // Somebody who knows how changes a chunk together with its root: by itself it is sound, and not what was stated.
    let columns = ["series", "epoch", "seq_first", "seq_last", "seqs", "at_min", "at_max", "records", "root", "body"];
    let set: Vec<String> = columns.iter().map(|column| format!("{column} = other.{column}")).collect();
    let other = format!("(SELECT * FROM chunks WHERE series = (SELECT id FROM series WHERE name = '{}') LIMIT 1)", SERIES[1]);
    archive
        .execute(&format!("UPDATE chunks SET {} FROM {other} AS other WHERE chunks.id = ?1", set.join(", ")), [chunk])
        .unwrap();
    assert!(forebay(&["examine", relay_data.to_str().unwrap()]).status.success(), "the chunk is sound by itself");
    let examined = examine();
    assert!(
        examined.status.code() == Some(1) && said(&examined).contains("was stated; relay-1 stated it, batch "),
        "{}",
        said(&examined)
    );
    let refused = proof(&key(SERIES[0], 7));
    assert!(refused.status.code() != Some(0) && said(&refused).contains("relay-1"), "{}", said(&refused));

    // A relay that is gone is named, too.
    role.child.kill_9().await;
    let gone = wait_until(PATIENCE, "the relay is known to be gone", async || {
        let gone = proof(&key(SERIES[1], 20));
        if said(&gone).contains("relay-1 keeps this record, and does not answer") { Ok(gone) } else { Err(said(&gone)) }
    })
    .await;
    assert_ne!(gone.status.code(), Some(0));
}
