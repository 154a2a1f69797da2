//! What anchoring took: batches, records and gas by who wrote, read from the ledgers.

use std::path::Path;

use anchor::LedgerView;
use anchor::machine::State;
use serde::Serialize;

use super::meters::data_folder;
use super::plan::Plan;
use super::town::Town;

/// The states of batches are the same for every source of chunks.
const NO_SOURCE: wire::Epoch = wire::Epoch(0);

/// What one side has written.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Batches {
    /// Who.
    pub by: &'static str,
    /// Batches that are final, each one transaction.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Gas of their transactions.
    pub gas: u64,
}

/// Both sides.
pub(super) fn count(town: &Town, plan: &Plan) -> anyhow::Result<Vec<Batches>> {
    let mut meters = Batches { by: "the meters", ..Batches::default() };
    for meter in &plan.meters {
        meters.add(&data_folder(town, meter).join("anchor.sqlite"))?;
    }
    let mut cloud = Batches { by: "the cloud", ..Batches::default() };
    cloud.add(&town.folder().join("cloud").join("anchor.sqlite"))?;
    Ok(vec![meters, cloud])
}

impl Batches {
    fn add(&mut self, ledger: &Path) -> anyhow::Result<()> {
        let ledger = LedgerView::open(ledger, NO_SOURCE)?;
        for number in 1..=ledger.last_batch()? {
            let Some(batch) = ledger.batch(number)?.filter(|batch| batch.progress.state == State::Final) else { continue };
            self.batches += 1;
            self.gas += batch.progress.mined.as_ref().map_or(0, |mined| mined.gas_used);
            for leaf in ledger.leaves(number)? {
                self.records += leaf.header()?.count;
            }
        }
        Ok(())
    }
}
