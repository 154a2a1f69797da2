//! What anchoring takes: the batches of a ledger that are final, their records, and the gas of their transactions.

use std::path::Path;

use anchor::LedgerView;
use anchor::machine::State;
use serde::Serialize;

/// What a batch holds is the same for every source of chunks.
const NO_SOURCE: wire::Epoch = wire::Epoch(0);

/// What one or several ledgers have written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Cost {
    /// Batches that are final, each one transaction.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Gas of their transactions.
    pub gas: u64,
    /// The batches behind the first one of each ledger: the first one pays for the place in the contract's state.
    pub steady_batches: u64,
    /// Gas of these.
    pub steady_gas: u64,
}

impl Cost {
    /// Adds what a ledger says. Reads it only.
    pub(crate) fn add(&mut self, ledger: &Path) -> anyhow::Result<()> {
        let ledger = LedgerView::open(ledger, NO_SOURCE)?;
        for number in 1..=ledger.last_batch()? {
            let Some(batch) = ledger.batch(number)?.filter(|batch| batch.progress.state == State::Final) else { continue };
            let gas = batch.progress.mined.as_ref().map_or(0, |mined| mined.gas_used);
            self.batches += 1;
            self.gas += gas;
            if number > 1 {
                self.steady_batches += 1;
                self.steady_gas += gas;
            }
            for leaf in ledger.leaves(number)? {
                self.records += leaf.content()?.records();
            }
        }
        Ok(())
    }

    /// Gas of a batch behind the first one, on average; `None` while there is none.
    pub(crate) fn steady_gas_a_batch(&self) -> Option<f64> {
        over(self.steady_gas, self.steady_batches)
    }

    /// Gas of a record, on average.
    pub(crate) fn gas_a_record(&self) -> Option<f64> {
        over(self.gas, self.records)
    }
}

fn over(gas: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| gas as f64 / count as f64)
}

/// An average, or a dash.
pub(crate) fn shown(average: Option<f64>, decimals: usize) -> String {
    average.map_or_else(|| "-".to_owned(), |average| format!("{average:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_leave_out_the_first_batch_and_are_none_of_nothing() {
        let cost = Cost { batches: 3, records: 1_000, gas: 120_000, steady_batches: 2, steady_gas: 64_000 };
        assert_eq!((shown(cost.steady_gas_a_batch(), 0), shown(cost.gas_a_record(), 1)), ("32000".into(), "120.0".into()));
        assert_eq!((Cost::default().steady_gas_a_batch(), shown(Cost::default().gas_a_record(), 1)), (None, "-".into()));
    }
}
