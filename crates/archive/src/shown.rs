//! One record of a chunk with its way to the chunk's root, for somebody who has the root and not the chunk (C5).

use wire::{RecordKey, Shown, merkle};

use crate::archive::Archive;
use crate::chunk::leaves_of;
use crate::error::{Damage, ReadError};
use crate::ledger;

/// Whether a record can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Showing {
    /// It can. Whether its way leads to the root that the chunk had when it was written, whoever has that root sees.
    Shown(Box<Shown>),
    /// The chunk is not here, or does not hold it.
    Absent,
    /// The secret of its epoch is not known, so that leaves can't be had.
    NoSecret,
}

impl Archive {
    /// Shows the record under `key` from a chunk, as its body is now.
    ///
    /// # Errors
    /// As [`Archive::scan`]; [`ReadError::Damaged`] if the chunk can't be read.
    pub fn show(&self, chunk: u64, key: &RecordKey) -> Result<Showing, ReadError> {
        let shared = &*self.inner.shared;
        let Ok(id) = i64::try_from(chunk) else { return Ok(Showing::Absent) };
        let Some(whole) = self.inner.readers.read(|tx| ledger::chunk(tx, shared, id))? else { return Ok(Showing::Absent) };
        let Ok(index) = whole.readings.seqs.binary_search(&key.seq) else { return Ok(Showing::Absent) };
        if whole.series != key.series || whole.epoch != key.epoch {
            return Ok(Showing::Absent);
        }
        let series = key.series.as_str();
        let Some(secret) = shared.secrets.of(series, key.epoch) else { return Ok(Showing::NoSecret) };
        let leaves = leaves_of(&whole.readings, series, key.epoch, &secret);
        let view = whole.readings.view(series, key.epoch, index);
        if view.at < 0 {
            return Err(Damage::Row("a reading is from before 1970").into());
        }
        let (salt, record) = (secret.salt(&view), view.to_record());
        let path = merkle::path(&leaves, index);
        Ok(Showing::Shown(Box::new(Shown { record, salt, chunk, index: index as u64, path })))
    }
}
