//! `forebay demo`: everything together, on real data, shortened.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::town::FOREBAY;

#[test]
fn the_demonstration_ends_with_nothing_lost_and_everything_anchored() {
    let readings = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/simbench-loads-2016-01.csv");
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("town");
    let anvil = testkit::anvil::binary().unwrap_or_else(|missing| panic!("{missing}"));
    let output = Command::new(FOREBAY)
        .args(["--log", "warn", "demo", "--json", "--seconds", "6", "--days", "4"])
        .args(["--readings", readings.to_str().unwrap(), "--anvil", anvil.to_str().unwrap()])
        .args(["--keep", kept.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let summary: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let count = |field: &str| summary[field].as_u64().unwrap_or_else(|| panic!("{field} of {summary}"));
    let taken = count("taken");
    assert_eq!(taken - count("about_themselves"), 4 * 96 * 27, "four days of 27 meters");
    assert!(
        count("proxy_replaced_ms") < 3_000 && count("proxy_terms") > 1 && count("spills") > 0 && count("pulled") > 0,
        "{summary}"
    );
    for (field, expected) in [
        ("relay_durable", taken.into()),
        ("cloud_durable", (4 * 96 * 27).into()),
        ("targets_mirrored", 27.into()),
        ("audit_clean", Value::Bool(true)),
        ("lost", 0.into()),
        ("duplicated", 0.into()),
        ("anchored_terminal", taken.into()),
        ("anchored_cloud", summary["held"].clone()),
        ("proof_verified", Value::Bool(true)),
        ("tampered_proof_refused", Value::Bool(true)),
        ("foreign_read_refused", Value::Bool(true)),
    ] {
        assert_eq!(summary[field], expected, "{field} of {summary}\n{said}");
    }
    let steady = |cost: &Value| cost["steady_gas"].as_u64().unwrap() / cost["steady_batches"].as_u64().unwrap().max(1);
    let cloud = &summary["batches"][1];
    assert_eq!(cloud["by"], "the cloud", "{summary}");
    assert!(cloud["records"].as_u64() >= Some(count("anchored_cloud")) && steady(cloud) <= 40_000, "{summary}");
    // The tool for it reads the same from the ledger; what came after the table was made may be in it, too.
    let ledger = kept.join("cloud/anchor.sqlite");
    let output = Command::new(FOREBAY).args(["anchor", "cost", "--json", ledger.to_str().unwrap()]).output().unwrap();
    let cost: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(cost["records"].as_u64() >= cloud["records"].as_u64() && steady(&cost) <= 40_000, "{cost}");
}
