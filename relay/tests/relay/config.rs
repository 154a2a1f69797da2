//! The configuration: the shipped file holds, and every fault is named.

use std::path::Path;

use broker::Access;
use chassis::{Size, Span, load_config};
use relay::{Config, ConfigError};

fn shipped(vars: &[(&str, &str)]) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/relay.toml");
    let vars = vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    load_config(&path, "FOREBAY_RELAY", vars).unwrap()
}

#[test]
fn the_shipped_file_holds_and_says_the_defaults() {
    let config = shipped(&[]);
    config.check().unwrap();
    let defaults = (relay::Storage::default(), relay::BrokerLimits::default());
    assert_eq!((config.storage.budget, config.storage.segment_bytes), (defaults.0.budget, defaults.0.segment_bytes));
    assert_eq!(config.broker.packet_bytes_max, defaults.1.packet_bytes_max);
    let (cloud, default) = (config.cloud.unwrap(), relay::CloudConfig::anonymous("", 1));
    assert_eq!((cloud.window_frames, cloud.window_bytes), (default.window_frames, default.window_bytes));
    assert_eq!(cloud.receipt_timeout, default.receipt_timeout);
    let overridden = shipped(&[("FOREBAY_RELAY__CLOUD__HOST", "elsewhere")]);
    assert_eq!(overridden.cloud.unwrap().host, "elsewhere");
}

#[test]
fn a_relay_for_trying_out_holds() {
    let config = Config::dev("127.0.0.1:0".parse().unwrap(), "data".into(), None);
    config.check().unwrap();
    assert!(config.storage.budget >= Size::gib(8) && config.storage.outgoing_budget >= Size::gib(8));
}

#[test]
fn every_fault_is_named_with_its_field() {
    type Spoil = fn(&mut Config);
    let cases: [(&str, Spoil); 18] = [
        ("listen is empty", |c| c.listen.clear()),
        ("listen = 0.0.0.0:1883", |c| c.access = Access::Anonymous),
        ("admin = 0.0.0.0:1", |c| {
            c.access = Access::Anonymous;
            c.listen = vec!["127.0.0.1:0".parse().unwrap()];
            c.admin = Some("0.0.0.0:1".parse().unwrap());
        }),
        ("cloud.user and cloud.password_file", |c| c.cloud.as_mut().unwrap().user = None),
        ("cloud.user and cloud.password_file", |c| c.cloud.as_mut().unwrap().password_file = None),
        ("cloud.port is zero", |c| c.cloud.as_mut().unwrap().port = 0),
        ("cloud.window_frames is zero", |c| c.cloud.as_mut().unwrap().window_frames = 0),
        ("cloud.window_bytes is zero", |c| c.cloud.as_mut().unwrap().window_bytes = Size(0)),
        ("cloud.receipt_timeout is zero", |c| c.cloud.as_mut().unwrap().receipt_timeout = Span::seconds(0)),
        ("storage.budget is zero", |c| c.storage.budget = Size(0)),
        ("storage.outgoing_budget is zero", |c| c.storage.outgoing_budget = Size(0)),
        ("storage.segment_records is zero", |c| c.storage.segment_records = 0),
        ("storage.segment_bytes is zero", |c| c.storage.segment_bytes = Size(0)),
        ("storage.segment_age is zero", |c| c.storage.segment_age = Span::seconds(0)),
        ("broker.connections_max is zero", |c| c.broker.connections_max = 0),
        ("broker.packet_bytes_max is zero", |c| c.broker.packet_bytes_max = Size(0)),
        ("broker.packet_bytes_max is 16MiB; give at most 14MiB", |c| c.broker.packet_bytes_max = Size::mib(16)),
        ("broker.packet_bytes_max is 1GiB", |c| c.broker.packet_bytes_max = Size::gib(1)),
    ];
    for (message, spoil) in cases {
        let mut config = shipped(&[]);
        spoil(&mut config);
        let fault: ConfigError = config.check().expect_err(message);
        assert!(fault.to_string().starts_with(message), "{fault}");
    }
}

#[test]
fn an_unknown_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, "relay = \"r\"\nlisten = []\ndata = \"d\"\naccess = \"anonymous\"\nlisten_at = 1\n").unwrap();
    let fault = load_config::<Config>(&path, "FOREBAY_RELAY", []).unwrap_err().to_string();
    assert!(fault.contains("listen_at"), "{fault}");
}
