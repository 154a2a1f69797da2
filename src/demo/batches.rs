//! What anchoring took, by who wrote, read from the ledgers.

use serde::Serialize;

use super::meters::data_folder;
use super::plan::Plan;
use super::town::Town;
use crate::cost::Cost;

/// What one side has written.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Batches {
    /// Who.
    pub by: &'static str,
    /// How much.
    #[serde(flatten)]
    pub cost: Cost,
}

/// Both sides.
pub(super) fn count(town: &Town, plan: &Plan) -> anyhow::Result<Vec<Batches>> {
    let (mut meters, mut cloud) = (Cost::default(), Cost::default());
    for meter in &plan.meters {
        meters.add(&data_folder(town, meter).join("anchor.sqlite"))?;
    }
    cloud.add(&town.folder().join("cloud").join("anchor.sqlite"))?;
    Ok(vec![Batches { by: "the meters", cost: meters }, Batches { by: "the cloud", cost: cloud }])
}
