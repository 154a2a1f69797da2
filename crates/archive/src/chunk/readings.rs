//! Readings of one series and epoch, column by column.

use wire::{At, Epoch, Operation, RecordView, RunBuilder, RunView, Series};

/// Readings of one series and epoch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Readings {
    pub(crate) seqs: Vec<u64>,
    pub(crate) ats: Vec<At>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) payloads: Vec<u8>,
    /// Where each payload ends.
    pub(crate) ends: Vec<usize>,
}

impl Readings {
    pub(crate) fn of_run(run: &RunView<'_>) -> Self {
        let mut readings = Self::default();
        for record in run.records() {
            readings.push(&record);
        }
        readings
    }

    pub(crate) fn push(&mut self, record: &RecordView<'_>) {
        self.seqs.push(record.seq);
        self.ats.push(record.at);
        self.operations.push(record.operation);
        self.payloads.extend_from_slice(record.payload);
        self.ends.push(self.payloads.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.seqs.len()
    }

    pub(crate) fn payload(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.payloads[start..self.ends[index]]
    }

    pub(crate) fn view<'a>(&'a self, series: &'a str, epoch: Epoch, index: usize) -> RecordView<'a> {
        RecordView {
            series,
            epoch,
            seq: self.seqs[index],
            at: self.ats[index],
            operation: self.operations[index],
            payload: self.payload(index),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.seqs.clear();
        self.ats.clear();
        self.operations.clear();
        self.payloads.clear();
        self.ends.clear();
    }

    /// The same readings in order of their numbers; of several under one number the first stays. Gives also the places of those that
    /// did not stay and had another content.
    pub(crate) fn sorted(&self) -> (Self, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|index| self.seqs[*index]);
        let mut sorted = Self::default();
        let mut others = Vec::new();
        let mut kept: Option<usize> = None;
        for index in order {
            // Series and epoch are beside the readings, not in them.
            let view = self.view("", Epoch(0), index);
            match kept.map(|kept| self.view("", Epoch(0), kept)).filter(|kept| kept.seq == view.seq) {
                Some(same) if same == view => {}
                Some(_) => others.push(index),
                None => {
                    sorted.push(&view);
                    kept = Some(index);
                }
            }
        }
        (sorted, others)
    }

    /// Writes the readings as canonical runs: one for each stretch of consecutive numbers of one operation.
    pub(crate) fn write_runs(&self, series: &Series, epoch: Epoch, out: &mut Vec<u8>) -> Result<(), wire::Fault> {
        let mut start = 0;
        while start < self.len() {
            let mut end = start + 1;
            let operation = self.operations[start];
            while end < self.len() && self.seqs[end] == self.seqs[end - 1] + 1 && self.operations[end] == operation {
                end += 1;
            }
            let mut run = RunBuilder::new(series.clone(), operation);
            for index in start..end {
                run.push(self.ats[index], self.payload(index))?;
            }
            run.write(epoch, self.seqs[start], out);
            start = end;
        }
        Ok(())
    }
}
