//! https to a node of the chain: who is trusted, who is not, and what of the node's address is told to anybody.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use edge_agent::Terminal;
use testkit::anvil::Options;
use testkit::{Anvil, Authority, wait_until};

use crate::town::{self, FOREBAY, PATIENCE, put, ready, role};

const PASSWORD: &str = "Nachtigall5";
const API_KEY: &str = "0e7d1bb9c2aa4f06";

/// The address of a node as it is sold: with a password, and with a key.
fn secret(at: SocketAddr) -> String {
    format!("https://forebay:{PASSWORD}@{at}/?key={API_KEY}")
}

fn assert_silent(said: &str, what: &str) {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("forebay:{PASSWORD}"));
    for secret in [PASSWORD, API_KEY, &basic] {
        assert!(!said.contains(secret), "{what} tells {secret}");
    }
}

/// Runs `forebay {args}` at the level `trace` with these variables: exit code, and all that it said.
fn forebay(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(FOREBAY);
    command.args(["--log", "trace"]).args(args).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_silent(&said, &format!("{args:?}"));
    (output.status.code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_a_node_is_asked_by_tls_if_an_authority_vouches_for_its_name() {
    let place = tempfile::tempdir().unwrap();
    let anvil = Anvil::start().await;
    let behind = SocketAddr::from(([127, 0, 0, 1], anvil.port()));
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (right, elsewhere) = (ours.front("127.0.0.1", behind).await, ours.front("node.example.net", behind).await);
    let (our_ca, their_ca) = (put(&place.path().join("ours"), &ours.pem()), put(&place.path().join("theirs"), &theirs.pem()));
    let key = put(&place.path().join("key"), &anvil.keys()[0]);
    let deploy = |rpc: &str, more: &[&str], variables: &[(&str, &str)]| {
        let args = [&["anchor", "deploy", "--key-file", &key, "--rpc", rpc], more].concat();
        forebay(&args, variables)
    };
    let (code, said) = deploy(&secret(right.address), &["--ca", &our_ca], &[]);
    assert!(code == 0 && said.contains(" TRACE "), "{said}");
    // As if the machine's list had it.
    let (code, said) = deploy(&secret(right.address), &[], &[("SSL_CERT_FILE", &our_ca)]);
    assert_eq!(code, 0, "{said}");
    let node = format!("https://{}", right.address);
    // A named authority stands alone, so the machine's list does not help.
    let listed = [("SSL_CERT_FILE", our_ca.as_str())];
    for (more, variables) in
        [(&["--ca", their_ca.as_str()] as &[_], &listed as &[_]), (&[], &[("SSL_CERT_FILE", their_ca.as_str())])]
    {
        let (code, said) = deploy(&secret(right.address), more, variables);
        assert!(code == 2 && said.contains("signed by no authority that is trusted here") && said.contains(&node), "{said}");
    }
    let (code, said) = deploy(&secret(elsewhere.address), &["--ca", &our_ca], &[]);
    assert!(code == 2 && said.contains("for another name"), "{said}");
    let (code, said) = deploy(&secret(behind), &["--ca", &our_ca], &[]);
    assert!(code == 2 && said.contains("does it speak TLS at this port?"), "{said}");
    let (code, said) = deploy(&anvil.rpc(), &["--ca", &our_ca], &[]);
    assert!(code == 2 && said.contains("--ca") && said.contains("https://"), "{said}");
    for (ca, expected) in [("/nowhere/ca.pem", "can't be read"), (&key, "BEGIN CERTIFICATE")] {
        let (code, said) = deploy(&secret(right.address), &["--ca", ca], &[]);
        assert!(code == 2 && said.contains(ca) && said.contains(expected), "{said}");
    }
    // What answers by TLS and is no node: its page repeats what it was asked.
    let (code, said) = deploy(&format!("https://forebay:{PASSWORD}@{}/v3/{API_KEY}", right.address), &["--ca", &our_ca], &[]);
    assert!(code == 2 && said.contains("HTTP 404"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_an_agent_anchors_through_tls_and_a_verifier_and_an_auditor_look_through_it() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let anvil = Anvil::start_with(Options { block_time: Some(0.2), ..Options::default() }).await;
    let authority = Authority::new();
    let front = authority.front("127.0.0.1", SocketAddr::from(([127, 0, 0, 1], anvil.port()))).await;
    let (ca, rpc) = (put(&path.join("ca.pem"), &authority.pem()), secret(front.address));
    let key = put(&path.join("key"), &anvil.keys()[0]);
    let deployer = anchor::keys::load(Path::new(&key)).unwrap();
    let contract = anchor::deploy(&anvil.rpc(), &deployer, PATIENCE).await.unwrap().contract.to_string();
    let cloud = town::cloud(path).await;
    let relay = town::relay(path, "relay-1", town::any_port(), Some(cloud.place("listen"))).await;
    let rows: String = (0..8).map(|n| format!("2026-01-01T00:{n:02}:00Z,{n}.5\n")).collect();
    let rows = put(&path.join("rows.csv"), &format!("time,a\n{rows}"));
    let agent_toml = format!(
        "sensor = \"cityA/meter-1\"\ndata = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"\n[[relays]]\nname = \"relay-1\"\naddress = \"{}\"\n\
         [[stream]]\nmatch = \"#\"\noperation = \"forward\"\n[report]\nenabled = false\n[[input]]\nkind = \"csv\"\nname = \"rows\"\n\
         path = {rows:?}\ntime = \"time\"\ncolumns = {{ a = \"power\" }}\nduration = \"1s\"\n[chunk]\nrecords_max = 8\nage_max = \"200ms\"\n\
         poll = \"50ms\"\n[anchor]\nrpc = {rpc:?}\nrpc_ca = {ca:?}\ncontract = {contract:?}\nkey_file = {key:?}\npoll = \"50ms\"\n\
         confirmation = {{ depth = 1 }}\nbatch = {{ chunks_max = 9, age = \"100ms\" }}\n",
        path.join("agent"),
        relay.place("listen"),
    );
    let (config, log, folder) = (put(&path.join("agent.toml"), &agent_toml), path.join("agent.log"), path.join("agent"));
    let mut agent = role(&["agent", "--config", &config], &log, &[]);
    let admin = ready(&mut agent, "admin").await;
    wait_until(PATIENCE, "everything is on chain", async || {
        let anchored = Terminal::open(&folder).map(|terminal| terminal.progress().unwrap().anchored).unwrap_or_default();
        if anchored >= 8 { Ok(()) } else { Err(anchored) }
    })
    .await;

    let epoch = Terminal::open(&folder).unwrap().origin().epoch;
    let (record, proof) = (format!("cityA/meter-1/power@{epoch}.3"), path.join("proof.json"));
    let (http, folder, proof) = (format!("http://{}", cloud.place("http")), folder.to_str().unwrap(), proof.to_str().unwrap());
    let (code, said) = forebay(&["proof", &record, "--terminal", folder, "--cloud", &http, "--output", proof], &[]);
    assert_eq!(code, 0, "{said}");
    let node = [("FOREBAY_RPC", rpc.as_str()), ("FOREBAY_RPC_CA", ca.as_str())];
    let (code, said) = forebay(&["verify", proof, "--depth", "1"], &node);
    assert!(code == 0 && said.contains("verified"), "{said}");
    let (code, said) = forebay(&["verify", proof, "--depth", "1"], &node[..1]);
    assert!(code == 2 && said.contains("signed by no authority"), "{said}");
    let (code, said) = forebay(&["audit", "--terminal", folder], &node);
    assert_eq!(code, 0, "{said}");

    // The node goes away: what is said of that is what must not tell too much.
    drop(front);
    drop(anvil);
    wait_until(PATIENCE, "the log says that the node is away", async || {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains("is away") { Ok(()) } else { Err(said.len()) }
    })
    .await;
    let metrics = reqwest::get(format!("http://{admin}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("anchor_"), "{metrics}");
    assert_silent(&metrics, "the page of metrics");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(" TRACE "));
    assert_silent(&said, "the agent's log");
}
