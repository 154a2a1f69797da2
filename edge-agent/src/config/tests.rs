use super::*;
use chassis::ConfigFault;
use std::path::Path;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/agent.toml");

fn load(path: &Path, variables: &[(&str, &str)]) -> Result<Config, ConfigFault> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config: Config = chassis::load_config(path, "FOREBAY_AGENT", variables)?;
    config.check().map(|()| config)
}

/// The shipped file with every commented default switched on.
fn all_keys() -> String {
    let text = std::fs::read_to_string(SHIPPED).unwrap();
    let is_key = |line: &str| {
        let name = line.split(" =").next().unwrap_or_default();
        line.starts_with('[') || (line.contains(" = ") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    text.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line).to_owned() + "\n").collect()
}

#[test]
fn the_shipped_file_holds_and_its_comments_are_the_defaults() {
    let shipped = load(Path::new(SHIPPED), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    // Only a user terminal has a [demand] section.
    let text = all_keys().replace("kind = \"meter\"", "kind = \"user\"");
    std::fs::write(&path, text).unwrap();
    let all = load(&path, &[]).unwrap();
    let parts = |config: &Config| {
        format!("{:?} {:?} {:?} {:?} {:?}", config.send, config.probe, config.report, config.outbox, config.chunk)
    };
    assert_eq!(parts(&all), parts(&shipped));
    let demand = all.demand.unwrap();
    let defaults = DemandConfig::new(demand.cloud.clone(), demand.programs.clone(), demand.curtailable_kw);
    assert_eq!((demand.stream, demand.unit, demand.baseline), (defaults.stream, defaults.unit, defaults.baseline));
    let anchor = all.anchor.unwrap();
    assert_eq!((anchor.batch, anchor.confirmation), (anchor::Batching::default(), anchor::Confirmation::default()));
    assert_eq!((all.inputs.len(), all.admin.listen.is_some(), shipped.anchor.is_none()), (3, true, true));
}

#[test]
fn faults_name_the_key_and_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let shipped = std::fs::read_to_string(SHIPPED).unwrap();
    for (from, to, key) in [
        ("address = \"127.0.0.1:1883\"", "address = \"127.0.0.1\"", "address"),
        ("filter = \"sensors/#\"", "filter = \"sensors/+/#\"", "input[2].filter"),
        ("\"power/active\" }", "\"forebay/targets\" }", "input[0].columns"),
        ("# kind = \"meter\"", "kind = \"user\"", "demand"),
        ("name = \"stdin\"", "name = \"replay\"", "input[1].name"),
        ("\"power/active\" }", "\"power active\" }", "input[0].columns"),
        ("duration = \"30s\"", "duration = \"30s\"\nspeed = 2.0", "input[0].speed"),
        ("match = \"power/#\"", "match = \"power#\"", "stream[0].match"),
        ("# frame_bytes_max = \"512KiB\"", "frame_bytes_max = \"1KiB\"", "send.frame_bytes_max"),
        ("# count = 5", "count = 0", "probe.count"),
        ("# poll = \"1s\"\n# Leaves", "pole = \"1s\"\n# Leaves", "pole"),
        ("# password = \"secret\"          #", "password = \"x\" #", "relays[0].user"),
    ] {
        assert!(shipped.contains(from), "{from}");
        std::fs::write(&path, shipped.replacen(from, to, 1)).unwrap();
        let fault = load(&path, &[]).unwrap_err().to_string();
        assert!(fault.contains(key), "{to}: {fault}");
    }
    let config = load(Path::new(SHIPPED), &[("FOREBAY_AGENT__SEND__LINGER", "20ms")]).unwrap();
    assert_eq!(config.send.linger, Span::millis(20));
}

#[test]
fn passwords_are_not_shown() {
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
}
