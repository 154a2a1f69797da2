//! Keys: made, imported and changed by the tool, opened by the roles, and told to nobody, whatever is logged.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use edge_agent::Terminal;
use testkit::anvil::Options;
use testkit::{Anvil, wait_until};

use crate::town::{self, FOREBAY, PATIENCE, put, ready, role};

const PASSPHRASE: &str = "Wagenheber7-Dachs";
const OTHER: &str = "Anemone%23-Kies";
const VARIABLE: &str = "FOREBAY_KEY_PASSPHRASE";
const NEXT: &str = "FOREBAY_KEY_NEW_PASSPHRASE";

/// Runs `forebay keys {args}` with these variables and this text on stdin: exit code, stdout, stderr.
fn keys(args: &[&str], variables: &[(&str, &str)], stdin: &str) -> (i32, String, String) {
    let mut command = Command::new(FOREBAY);
    command.arg("keys").args(args).env_remove(VARIABLE).env_remove(NEXT).envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever does not read his input has closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn b2_a_new_key_is_encrypted_private_and_never_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.key");
    let file = path.to_str().unwrap();
    let (code, address, said) = keys(&["new", file], &[(VARIABLE, PASSPHRASE)], "");
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(address.starts_with("0x") && address.trim_end().len() == 42 && address.lines().count() == 1, "{address}");
    assert_eq!(mode(&path), 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"scrypt\"") && !text.contains(PASSPHRASE), "{text}");

    let (code, _, said) = keys(&["new", file], &[(VARIABLE, PASSPHRASE)], "");
    assert!(code == 2 && said.contains(file) && said.contains("never overwritten"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let told = put(&place.path().join("told"), &format!("{OTHER}\n"));
    let second = place.path().join("b.key");
    let (code, other, said) = keys(&["new", second.to_str().unwrap(), "--passphrase-file", &told], &[(VARIABLE, PASSPHRASE)], "");
    assert_eq!(code, 0, "{said}");
    assert_ne!(other, address);
    // Whose key it is, anybody who may read the file may know.
    assert_eq!(keys(&["address", file], &[], ""), (0, address, String::new()));

    for (variables, expected) in [(&[] as &[_], "on a terminal"), (&[(VARIABLE, "")], "empty")] {
        let third = place.path().join("c.key");
        let (code, out, said) = keys(&["new", third.to_str().unwrap()], variables, "");
        assert!(code == 2 && out.is_empty() && said.contains(VARIABLE) && said.contains(expected), "{said}");
        assert!(!third.exists());
    }
}

#[test]
fn b2_a_known_key_is_imported_and_passphrases_change() {
    let place = tempfile::tempdir().unwrap();
    // The first account of every anvil.
    let digits = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    let address = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266\n";
    let raw = put(&place.path().join("raw"), &format!("0x{digits}\n"));
    let (one, two) = (place.path().join("1.key"), place.path().join("2.key"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let (code, out, said) = keys(&["import", one, "--from", &raw], &[(VARIABLE, PASSPHRASE)], "");
    assert_eq!((code, out.as_str()), (0, address), "{said}");
    assert!(said.contains(&format!("shred -u {raw}")), "{said}");
    let (code, out, said) = keys(&["import", two], &[(VARIABLE, PASSPHRASE)], &format!("{}\n", digits.to_uppercase()));
    assert_eq!((code, out.as_str(), said.as_str()), (0, address, ""));
    let (code, _, said) = keys(&["import", &format!("{two}.x")], &[(VARIABLE, PASSPHRASE)], "12\n");
    assert!(code == 2 && said.contains("64 hex digits"), "{said}");

    let both = [(VARIABLE, PASSPHRASE), (NEXT, OTHER)];
    let (code, out, said) = keys(&["change-passphrase", one], &both, "");
    assert_eq!((code, out.as_str()), (0, address), "{said}");
    assert_eq!(mode(one.as_ref()), 0o600);
    let before = std::fs::read(one).unwrap();
    let (code, _, said) = keys(&["change-passphrase", one], &both, "");
    assert!(code == 2 && said.contains("does not open with this passphrase"), "{said}");
    assert_eq!(std::fs::read(one).unwrap(), before);
    // A key that lay open gets its first passphrase where it is.
    let (code, out, said) = keys(&["change-passphrase", &raw], &[(NEXT, OTHER)], "");
    assert_eq!((code, out.as_str()), (0, address), "{said}");
    assert!(!std::fs::read_to_string(&raw).unwrap().contains(digits));
    let back = [(VARIABLE, OTHER), (NEXT, PASSPHRASE)];
    assert_eq!(keys(&["change-passphrase", &raw], &back, "").1, address);

    std::fs::set_permissions(one, Permissions::from_mode(0o644)).unwrap();
    let (code, _, said) = keys(&["address", one], &[], "");
    assert!(code == 2 && said.contains("644") && said.contains(&format!("chmod 600 {one}")), "{said}");
    let other = put(&place.path().join("letter"), "Dear Sir,\n");
    let (code, _, said) = keys(&["address", &other], &[], "");
    assert!(code == 2 && said.contains("not a key file"), "{said}");
    let (code, _, said) = keys(&["address", "/nowhere/key"], &[], "");
    assert!(code == 2 && said.contains("does not exist"), "{said}");
}

/// `forebay keys {args}` at a terminal where somebody types, once he is asked: exit code and all that the terminal showed.
fn typed(args: &[&str], lines: &[(&str, &str)]) -> (i32, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let mut master = std::fs::File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let open = || {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
        std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(name.to_str().unwrap()).unwrap()
    };
    let mut command = Command::new(FOREBAY);
    command.arg("keys").args(args).env_remove(VARIABLE).env_remove(NEXT);
    let mut child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
    drop(command);
    let mut shown = String::new();
    let mut rest = lines.iter();
    let mut next = rest.next();
    let mut bytes = [0; 256];
    // The terminal gives an error when the last who has it open is gone.
    while let Ok(count @ 1..) = master.read(&mut bytes) {
        shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        if let Some((question, answer)) = next.filter(|(question, _)| shown.trim_end().ends_with(question)) {
            assert!(!question.is_empty());
            master.write_all(format!("{answer}\n").as_bytes()).unwrap();
            next = rest.next();
        }
    }
    (child.wait().unwrap().code().unwrap(), shown)
}

#[test]
fn b2_on_a_terminal_a_passphrase_is_asked_for_twice_and_not_shown() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.key");
    let file = path.to_str().unwrap();
    let (code, shown) = typed(&["new", file], &[("New passphrase:", PASSPHRASE), ("The same again:", OTHER)]);
    assert!(code == 2 && shown.contains("not the same") && !path.exists(), "{shown}");
    let (code, shown) = typed(&["new", file], &[("New passphrase:", PASSPHRASE), ("The same again:", PASSPHRASE)]);
    assert!(code == 0 && shown.contains("0x") && !shown.contains(PASSPHRASE), "{shown}");
    let asked = format!("Passphrase of {file}:");
    let lines = [(asked.as_str(), PASSPHRASE), ("New passphrase:", OTHER), ("The same again:", OTHER)];
    let (code, shown) = typed(&["change-passphrase", file], &lines);
    assert!(code == 0 && !shown.contains(PASSPHRASE) && !shown.contains(OTHER), "{shown}");
    assert!(anchor::keys::KeyFile::read(&path).is_ok());
    let (code, shown) = typed(&["change-passphrase", file], &lines[..1]);
    assert!(code == 2 && shown.contains("does not open"), "{shown}");
}

/// A key of the chain behind a passphrase.
fn sealed(place: &Path, name: &str, key: &str, passphrase: &str) -> PathBuf {
    let path = place.join(name);
    let (code, _, said) = keys(&["import", path.to_str().unwrap()], &[(VARIABLE, passphrase)], key);
    assert_eq!(code, 0, "{said}");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_roles_open_their_keys_at_the_start_and_no_log_at_any_level_tells_key_or_passphrase() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let anvil = Anvil::start_with(Options { block_time: Some(0.2), ..Options::default() }).await;
    let rpc = anvil.rpc();
    let of_cloud = sealed(path, "cloud.key", &anvil.keys()[1], OTHER);
    let of_service = sealed(path, "service.key", &anvil.keys()[2], PASSPHRASE);
    let of_agent = sealed(path, "agent.key", &anvil.keys()[0], PASSPHRASE);
    let told = put(&path.join("told"), OTHER);
    let deploy = Command::new(FOREBAY)
        .args(["--log", "error", "anchor", "deploy", "--rpc", &rpc, "--key-file", of_cloud.to_str().unwrap()])
        .env(VARIABLE, OTHER)
        .output()
        .unwrap();
    let contract = String::from_utf8(deploy.stdout).unwrap().trim().to_owned();
    assert!(deploy.status.success(), "{}", String::from_utf8_lossy(&deploy.stderr));
    let section = format!("[anchor]\nrpc = {rpc:?}\ncontract = {contract:?}\npoll = \"50ms\"\nconfirmation = {{ depth = 1 }}\n");
    // Two keys in one process: one passphrase comes from a file, the other from the environment.
    let cloud_toml = format!(
        "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\naccess = \"anonymous\"\n[storage]\nbudget = \"1GiB\"\n\
         {section}key_file = {of_cloud:?}\npassphrase_file = {told:?}\n[anchor.sponsor]\nkey_file = {of_service:?}\n",
        path.join("cloud")
    );
    let cloud_log = path.join("cloud.log");
    let cloud_toml = put(&path.join("cloud.toml"), &cloud_toml);
    let mut cloud = role(&["cloud", "--config", &cloud_toml], &cloud_log, &[(VARIABLE, PASSPHRASE)]);
    let at = ready(&mut cloud, "listen").await.parse().unwrap();
    let relay = town::relay(path, "relay-1", town::any_port(), Some(at)).await;
    let rows: String = (0..20).map(|n| format!("2026-01-01T00:{n:02}:00Z,{n}.5\n")).collect();
    let rows = put(&path.join("rows.csv"), &format!("time,a\n{rows}"));
    let agent_toml = format!(
        "sensor = \"cityA/meter-1\"\ndata = {:?}\n[[relays]]\nname = \"relay-1\"\naddress = \"{}\"\n[[stream]]\nmatch = \"#\"\n\
         operation = \"forward\"\n[report]\nenabled = false\n[[input]]\nkind = \"csv\"\nname = \"rows\"\npath = {rows:?}\ntime = \"time\"\n\
         columns = {{ a = \"power\" }}\nduration = \"1s\"\n[chunk]\nrecords_max = 8\nage_max = \"200ms\"\npoll = \"50ms\"\n\
         {section}key_file = {of_agent:?}\nbatch = {{ chunks_max = 9, age = \"100ms\" }}\n",
        path.join("agent"),
        relay.place("listen"),
    );
    let agent_toml = put(&path.join("agent.toml"), &agent_toml);
    let agent = ["agent", "--config", &agent_toml];

    // Without the passphrase, or with another one, it does not begin, and says what to do; a supervisor need not try again.
    for (variables, expected) in [(&[] as &[_], VARIABLE), (&[(VARIABLE, OTHER)], "does not open"), (&[(VARIABLE, "")], "empty")]
    {
        let log = path.join("refused.log");
        let mut refused = role(&agent, &log, variables);
        let status = refused.wait(PATIENCE).await;
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(said.contains(expected) && !said.contains(OTHER), "{expected}: {said}");
        assert_eq!(status.code(), Some(78), "{said}");
    }

    let agent_log = path.join("agent.log");
    let _agent = role(&agent, &agent_log, &[(VARIABLE, PASSPHRASE)]);
    let folder = path.join("agent");
    wait_until(PATIENCE, "everything is on chain", async || {
        let anchored = Terminal::open(&folder).map(|terminal| terminal.progress().unwrap().anchored).unwrap_or_default();
        if anchored >= 20 { Ok(()) } else { Err(anchored) }
    })
    .await;

    for (log, keys) in [(&agent_log, &anvil.keys()[..1]), (&cloud_log, &anvil.keys()[1..3])] {
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.contains(" TRACE ") && said.contains("the key is open"), "{}", log.display());
        for passphrase in [PASSPHRASE, OTHER] {
            assert!(!said.contains(passphrase), "{} tells a passphrase", log.display());
        }
        for key in keys {
            let digits = key.trim_start_matches("0x").to_lowercase();
            let bytes = wire::digest::from_hex::<32>(&digits).unwrap();
            let listed = format!("{:?}", &bytes[8..16]);
            assert!(!said.to_lowercase().contains(&digits[16..32]), "{} tells a key", log.display());
            assert!(!said.contains(listed.trim_matches(['[', ']'])), "{} tells a key", log.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_a_key_that_is_not_encrypted_is_taken_and_told_in_the_log() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let key = put(&path.join("agent.key"), &format!("{}\n", "11".repeat(32)));
    let agent_toml = format!(
        "sensor = \"cityA/meter-1\"\ndata = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"\n[[relays]]\nname = \"relay-1\"\naddress = \"127.0.0.1:9\"\n\
         [anchor]\nrpc = \"http://127.0.0.1:9\"\ncontract = \"0x{}\"\nkey_file = {key:?}\n",
        path.join("agent"),
        "22".repeat(20),
    );
    let agent_toml = put(&path.join("agent.toml"), &agent_toml);
    let log = path.join("agent.log");
    let mut agent = role(&["agent", "--config", &agent_toml], &log, &[]);
    ready(&mut agent, "admin").await;
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("WARN") && said.contains("not encrypted"), "{said}");
    assert!(said.contains(&format!("forebay keys change-passphrase {key}")) && !said.contains(&"11".repeat(16)), "{said}");
    // The same key, open to others, is not taken.
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    drop(agent);
    let mut agent = role(&["agent", "--config", &agent_toml], &log, &[]);
    assert_eq!(agent.wait(PATIENCE).await.code(), Some(78));
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("chmod 600 {key}")), "{said}");
}
