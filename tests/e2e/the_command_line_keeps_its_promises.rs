//! Exit codes, clear errors, and the shipped configuration.

use std::path::Path;
use std::process::Command;

use crate::town::FOREBAY;

/// Runs `forebay {args}` to its end: exit code, stdout, stderr.
fn forebay(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(FOREBAY).args(args).env_remove("FOREBAY_USER").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_shipped_configuration_holds() {
    for kind in ["relay", "cloud", "agent", "broker", "grants", "sensors"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/{kind}.toml"));
        let file = file.to_str().unwrap();
        // Named, and told from the file's own keys.
        for args in [vec!["check", kind, "--config", file], vec!["check", "--config", file]] {
            let (code, _, said) = forebay(&args);
            assert_eq!(code, 0, "{args:?}: {said}");
        }
    }
}

#[test]
fn a_wrong_configuration_ends_with_78_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let shipped = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/relay.toml")).unwrap();
    for (change, named) in [
        (("segment_age", "segment_ages"), "segment_ages"),
        (("\"8GiB\"", "\"8 parsecs\""), "storage.budget"),
        (("window_frames = 256", "window_frames = 0"), "cloud.window_frames"),
        (("relay = \"relay-1\"", "relay = \"relay/1\""), "relay"),
    ] {
        std::fs::write(&file, shipped.replacen(change.0, change.1, 1)).unwrap();
        let (code, _, said) = forebay(&["check", "relay", "--config", file.to_str().unwrap()]);
        assert_eq!(code, 78, "{change:?}: {said}");
        assert!(said.contains(named), "{change:?}: {said}");
    }
    let (code, _, said) = forebay(&["relay", "--config", "/nowhere/relay.toml"]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("/nowhere/relay.toml"), "{said}");
}

#[test]
fn the_form_without_a_file_refuses_addresses_that_others_can_reach() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    for args in [
        vec!["relay", "--dev", "--listen", "0.0.0.0:0", "--data", data],
        vec!["cloud", "--dev", "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0", "--data", data],
        vec!["cloud", "--dev", "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0", "--data", data],
        vec!["broker", "--dev", "--listen", "0.0.0.0:0", "--data", data],
    ] {
        let (code, _, said) = forebay(&args);
        assert!(code == 78 || code == 2, "{args:?}: {code} {said}");
        assert!(said.contains("loopback"), "{args:?}: {said}");
        assert!(!Path::new(data).exists(), "{args:?} made a folder");
    }
}

#[test]
fn a_proof_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proof.json");
    std::fs::write(&file, b"{\"not\": \"a proof\"}").unwrap();
    let (code, _, said) = forebay(&["verify", file.to_str().unwrap(), "--rpc", "http://127.0.0.1:9"]);
    assert!(code == 1 || code == 2, "{code} {said}");
    let (code, _, said) = forebay(&["verify", "/nowhere/proof.json", "--rpc", "http://127.0.0.1:9"]);
    assert_eq!(code, 2, "{said}");
}

#[test]
fn users_are_added_and_removed_and_their_file_is_private() {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let mut child = Command::new(FOREBAY)
        .args(["user", "add", file.to_str().unwrap(), "analyst"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a secret\n").unwrap();
    assert!(child.wait().unwrap().success());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("analyst:$argon2id$") && !text.contains("a secret"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(forebay(&["user", "remove", file.to_str().unwrap(), "analyst"]).0, 0);
    assert_eq!(forebay(&["user", "remove", file.to_str().unwrap(), "analyst"]).0, 1);
}
