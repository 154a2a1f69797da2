//! An agent whose key has no funds: it signs its roots, the anchor service at the cloud writes them, and everybody else can check it.

use std::path::{Path, PathBuf};
use std::process::Command;

use edge_agent::Terminal;
use testkit::anvil::Options;
use testkit::{Anvil, wait_until};

use crate::town::{self, FOREBAY, PATIENCE, Role};

fn key_file(place: &Path, name: &str, key: &str) -> PathBuf {
    let path = place.join(name);
    anchor::keys::import(&path, &wire::digest::from_hex(key.trim_start_matches("0x")).unwrap()).unwrap();
    path
}

fn forebay(args: &[&str]) -> (i32, String) {
    let output = Command::new(FOREBAY).args(["--log", "error"]).args(args).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_an_agent_without_funds_comes_on_chain_through_the_anchor_service() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let anvil = Anvil::start_with(Options { block_time: Some(0.2), ..Options::default() }).await;
    let rpc = anvil.rpc();
    let deployer = anchor::keys::load(&key_file(path, "deployer", &anvil.keys()[9])).unwrap();
    let contract = anchor::deploy(&rpc, &deployer, PATIENCE).await.unwrap().contract.to_string();
    let (own, service) = (key_file(path, "cloud.key", &anvil.keys()[1]), key_file(path, "service.key", &anvil.keys()[2]));
    let section = |key: &Path| {
        format!(
            "[anchor]\nrpc = {rpc:?}\ncontract = {contract:?}\nkey_file = {key:?}\npoll = \"50ms\"\nconfirmation = {{ depth = 1 }}\n\
             batch = {{ chunks_max = 9, age = \"100ms\" }}\n[anchor.sponsor]\n"
        )
    };
    let cloud_toml = format!(
        "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\naccess = \"anonymous\"\n[storage]\nbudget = \"1GiB\"\n\
         segment_age = \"300ms\"\n{}key_file = {service:?}\ngather = {{ age = \"200ms\" }}\n",
        path.join("cloud"),
        section(&own)
    );
    std::fs::write(path.join("cloud.toml"), cloud_toml).unwrap();
    let cloud = Role::start(&["cloud", "--config", path.join("cloud.toml").to_str().unwrap()]).await;
    let relay = town::relay(path, "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let rows: String = (0..20).map(|n| format!("2026-01-01T00:{n:02}:00Z,{n}.5\n")).collect();
    std::fs::write(path.join("rows.csv"), format!("time,a\n{rows}")).unwrap();
    let meter = anchor::keys::create(&path.join("meter.key")).unwrap();
    let sponsor = &anvil.addresses()[2];
    let agent_toml = format!(
        "sensor = \"cityA/meter-1\"\ndata = {:?}\n[[relays]]\nname = \"relay-1\"\naddress = \"{}\"\n[[stream]]\nmatch = \"#\"\n\
         operation = \"forward\"\n[report]\nenabled = false\n[[input]]\nkind = \"csv\"\nname = \"rows\"\npath = {:?}\ntime = \"time\"\ncolumns = {{ a = \"power\" }}\n\
         duration = \"1s\"\n[chunk]\nrecords_max = 8\nage_max = \"200ms\"\npoll = \"50ms\"\n{}account = {sponsor:?}\naddress = \"{}\"\n",
        path.join("agent"),
        relay.place("listen"),
        path.join("rows.csv"),
        section(&path.join("meter.key")),
        cloud.place("listen"),
    );
    std::fs::write(path.join("agent.toml"), agent_toml).unwrap();
    let _agent = Role::start(&["agent", "--config", path.join("agent.toml").to_str().unwrap()]).await;
    let folder = path.join("agent");
    wait_until(PATIENCE, "everything is on chain", async || {
        let anchored = Terminal::open(&folder).map(|terminal| terminal.progress().unwrap().anchored).unwrap_or_default();
        if anchored >= 20 { Ok(()) } else { Err(anchored) }
    })
    .await;
    let epoch = Terminal::open(&folder).unwrap().origin().epoch;
    let key = format!("cityA/meter-1/power@{epoch}.7");
    let (proof, http) = (path.join("proof.json"), format!("http://{}", cloud.place("http")));
    let (proof, folder) = (proof.to_str().unwrap(), folder.to_str().unwrap());
    let (code, said) = forebay(&["proof", &key, "--terminal", folder, "--cloud", &http, "--output", proof]);
    assert_eq!(code, 0, "{said}");
    let signer = meter.address().to_string();
    let (code, said) = forebay(&["verify", proof, "--rpc", &rpc, "--depth", "1", "--signer", &signer, "--submitter", sponsor]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("{signer} (as demanded), written by the anchor service")), "{said}");
    let (code, said) = forebay(&["verify", proof, "--rpc", &rpc, "--depth", "1", "--signer", sponsor]);
    assert_eq!(code, 1, "{said}");
    let cloud_folder = path.join("cloud");
    let (code, said) = forebay(&[
        "audit",
        "--terminal",
        folder,
        "--cloud",
        cloud_folder.to_str().unwrap(),
        "--rpc",
        &rpc,
        "--terminal-account",
        sponsor,
    ]);
    assert_eq!((code, said.as_str()), (0, ""));
}
