//! A configuration fault names the key, where it comes from and the fix.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::io::Write;
use std::path::Path;

use chassis::{ConfigFault, Size, Span, load_config};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: String,
    port: u16,
    #[serde(default)]
    verbose: bool,
    uplink: Uplink,
    #[serde(default)]
    sensors: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Uplink {
    address: String,
    timeout: Span,
    buffer: Size,
}

const GOOD: &str = r#"
listen = "127.0.0.1"
port = 1883
[uplink]
address = "cloud:1883"
timeout = "30s"
buffer = "512MiB"
"#;

fn load(text: &str, vars: &[(&str, &str)]) -> Result<Settings, ConfigFault> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let vars = vars.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    load_config(file.path(), "FOREBAY_RELAY", vars)
}

fn fault(text: &str, vars: &[(&str, &str)]) -> String {
    load(text, vars).unwrap_err().to_string()
}

#[test]
fn reads_the_file() {
    let settings = load(GOOD, &[("OTHER", "x"), ("FOREBAY_CLOUD__PORT", "7")]).unwrap();
    assert_eq!((settings.listen.as_str(), settings.port), ("127.0.0.1", 1883));
    assert_eq!(settings.uplink.address, "cloud:1883");
    assert_eq!(settings.uplink.timeout, Span::seconds(30));
    assert_eq!(settings.uplink.buffer, Size::mib(512));
    assert!(!settings.verbose && settings.sensors.is_empty());
}

#[test]
fn variables_override_and_add() {
    let settings = load(
        GOOD,
        &[
            ("FOREBAY_RELAY__PORT", "2883"),
            ("FOREBAY_RELAY__VERBOSE", "true"),
            ("FOREBAY_RELAY__LISTEN", "::1"),
            ("FOREBAY_RELAY__UPLINK__TIMEOUT", "5m"),
            ("FOREBAY_RELAY__SENSORS", r#"["a/b", "c/d"]"#),
        ],
    )
    .unwrap();
    assert_eq!((settings.listen.as_str(), settings.port), ("::1", 2883));
    assert!(settings.verbose);
    assert_eq!(settings.uplink.timeout, Span::seconds(300));
    assert_eq!(settings.uplink.address, "cloud:1883");
    assert_eq!(settings.sensors, ["a/b", "c/d"]);
}

#[test]
fn a_missing_file_is_named_with_the_flag() {
    let none = load_config::<Settings>(Path::new("/nowhere/relay.toml"), "X", []);
    let text = none.unwrap_err().to_string();
    assert!(text.contains("/nowhere/relay.toml"), "{text}");
    assert!(text.contains("--config"), "{text}");
}

#[test]
fn broken_toml_is_named_with_its_line() {
    let text = fault("listen = \"x\"\nport = = 3\n", &[]);
    assert!(text.contains("line 2"), "{text}");
}

#[test]
fn an_unknown_key_is_named_with_the_known_ones() {
    let text = fault(&GOOD.replace("address", "adress"), &[]);
    assert!(text.contains("`uplink.adress`"), "{text}");
    assert!(text.contains("`address`"), "{text}");
    assert!(text.contains(".tmp"), "the file is named: {text}");
}

#[test]
fn an_unknown_variable_is_named() {
    let text = fault(GOOD, &[("FOREBAY_RELAY__UPLINK__ADRESS", "x")]);
    assert!(text.contains("`uplink.adress`"), "{text}");
    assert!(text.contains("FOREBAY_RELAY__UPLINK__ADRESS"), "{text}");
}

#[test]
fn a_missing_key_is_named() {
    let text = fault(&GOOD.replace("timeout = \"30s\"", ""), &[]);
    assert!(text.contains("`uplink.timeout`"), "{text}");
    assert!(text.contains("missing"), "{text}");
}

#[test]
fn a_wrong_type_is_named_with_what_it_must_be() {
    let text = fault(&GOOD.replace("1883\n", "\"many\"\n"), &[]);
    assert!(text.contains("`port`"), "{text}");
    assert!(text.contains("many") && text.contains("integer"), "{text}");

    let text = fault(GOOD, &[("FOREBAY_RELAY__PORT", "70000")]);
    assert!(text.contains("`port`") && text.contains("70000"), "{text}");
    assert!(text.contains("FOREBAY_RELAY__PORT"), "{text}");
}

#[test]
fn a_quantity_without_unit_is_named_with_the_fix() {
    let text = fault(&GOOD.replace("\"30s\"", "30"), &[]);
    assert!(text.contains("`uplink.timeout`"), "{text}");
    assert!(text.contains("30s"), "{text}");

    let text = fault(GOOD, &[("FOREBAY_RELAY__UPLINK__BUFFER", "12MB")]);
    assert!(text.contains("`uplink.buffer`") && text.contains("512MiB"), "{text}");
}
