//! `forebay demo`: everything together, on real data, shortened.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::town::FOREBAY;

#[test]
fn the_demonstration_ends_with_nothing_lost_and_everything_anchored() {
    let readings = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/simbench-loads-2016-01.csv");
    let anvil = testkit::anvil::binary().unwrap_or_else(|missing| panic!("{missing}"));
    let output = Command::new(FOREBAY)
        .args(["--log", "warn", "demo", "--json", "--seconds", "6", "--days", "4"])
        .args(["--readings", readings.to_str().unwrap(), "--anvil", anvil.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let summary: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let taken = summary["taken"].as_u64().unwrap();
    assert_eq!(taken, 4 * 96 * 27, "four days of 27 meters");
    for (field, expected) in [
        ("relay_durable", taken.into()),
        ("cloud_durable", taken.into()),
        ("lost", 0.into()),
        ("duplicated", 0.into()),
        ("anchored_terminal", taken.into()),
        ("anchored_cloud", taken.into()),
        ("proof_verified", Value::Bool(true)),
        ("tampered_proof_refused", Value::Bool(true)),
        ("foreign_read_refused", Value::Bool(true)),
    ] {
        assert_eq!(summary[field], expected, "{field} of {summary}\n{said}");
    }
}
