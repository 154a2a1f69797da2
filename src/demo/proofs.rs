//! A proof is made, checked with the chain's address alone, changed in one digit, and checked again.

use anchor::verify::Options;
use anyhow::Context;
use serde_json::Value;

use super::readers::Reader;
use super::town::Town;
use crate::verify;

/// Whether the proof of `key` is accepted, and whether a changed copy is refused.
pub(super) async fn verify_and_tamper(town: &Town, reader: &Reader, key: &str) -> anyhow::Result<(bool, bool)> {
    let proof = reader.get(&format!("/api/v1/proofs/{key}")).await?;
    let genuine = town.folder().join("proof.json");
    std::fs::write(&genuine, serde_json::to_vec_pretty(&proof)?)?;
    let verified = verify::check(&genuine, &town.rpc, &Options::default()).await?.is_ok();

    let mut changed = proof;
    let payload = changed.pointer_mut("/record/payload").context("the proof's payload")?;
    *payload = flip(payload).context("the proof's payload is hex")?;
    let tampered = town.folder().join("proof-tampered.json");
    std::fs::write(&tampered, serde_json::to_vec_pretty(&changed)?)?;
    let refused = verify::check(&tampered, &town.rpc, &Options::default()).await?.is_err();
    Ok((verified, refused))
}

/// The same hex text with its last digit changed.
fn flip(payload: &Value) -> Option<Value> {
    let mut text = payload.as_str()?.to_owned();
    let last = text.pop()?;
    text.push(if last == '0' { '1' } else { '0' });
    Some(Value::String(text))
}
