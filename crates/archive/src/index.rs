//! What the index says of the storage area (A5), and what of that has changed.
//!
//! A chunk is in the index from the moment it is published with a root until the receipt of the frame that carries its records away. So
//! the cloud never takes a record for gone from the relay that it does not hold itself.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::Transaction;
use tokio::sync::watch;
use wire::index::{IndexEntry, Stretch};
use wire::{Digest, Epoch, Intervals};

use crate::error::{Damage, ReadError};
use crate::ledger::series_name;
use crate::schema::{decode, from_sql};
use crate::shared::Shared;

/// Changes kept apart at most; with more, everything may have changed.
const CHANGES_MAX: usize = 4096;

/// Numbers of chunks whose entries came or went since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexChange {
    /// These; among them may be numbers that no chunk has.
    Numbers(Intervals),
    /// So many that they were not kept apart: compare the whole index.
    Anything,
}

/// Collects changes until somebody looks. Those of an archive that nobody asks are few numbers: published chunks are one interval.
#[derive(Debug)]
pub(crate) struct Changes {
    since: Mutex<IndexChange>,
    told: watch::Sender<u64>,
    /// The highest number that was published.
    last: AtomicU64,
}

impl Changes {
    /// No changes yet; chunks up to `last` are published.
    pub(crate) fn new(last: u64) -> Self {
        let since = Mutex::new(IndexChange::Numbers(Intervals::new()));
        Self { since, told: watch::Sender::new(0), last: AtomicU64::new(last) }
    }

    pub(crate) fn add(&self, numbers: &Intervals) {
        let since = &mut *self.since.lock();
        if let IndexChange::Numbers(changed) = since {
            changed.extend(numbers);
            if changed.as_slice().len() > CHANGES_MAX {
                *since = IndexChange::Anything;
            }
        }
        self.told.send_modify(|times| *times += 1);
        self.last.fetch_max(numbers.last().unwrap_or(0), Ordering::SeqCst);
    }

    pub(crate) fn take(&self) -> IndexChange {
        std::mem::replace(&mut *self.since.lock(), IndexChange::Numbers(Intervals::new()))
    }

    /// The highest number whose publication was told.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }
}

/// The entries of a stretch, in order of their numbers.
pub(crate) fn entries(
    tx: &Transaction<'_>,
    shared: &Shared,
    stretch: Stretch,
    limit: usize,
) -> Result<Vec<IndexEntry>, ReadError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, series, epoch, at_min, at_max, records, seqs, root FROM chunks
         WHERE id > ?1 AND id <= ?2 AND id <= (SELECT chunks_published FROM marks) AND root IS NOT NULL
         UNION ALL
         SELECT chunk, series, epoch, at_min, at_max, records, seqs, root FROM leaving
         WHERE chunk > ?1 AND chunk <= ?2 AND root IS NOT NULL
         ORDER BY 1 LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query((stretch.after.cast_signed(), stretch.through.cast_signed(), limit))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let seqs = decode(&row.get::<_, Vec<u8>>(6)?).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
        let root = <Digest>::try_from(row.get::<_, Vec<u8>>(7)?).map_err(|_| Damage::Row("a chunk's root has another length"))?;
        entries.push(IndexEntry {
            chunk: row.get::<_, i64>(0)?.cast_unsigned(),
            series: series_name(shared, row.get(1)?)?,
            epoch: Epoch(from_sql(row.get(2)?)),
            at_min: row.get(3)?,
            at_max: row.get(4)?,
            records: row.get::<_, i64>(5)?.cast_unsigned(),
            seqs,
            root,
        });
    }
    Ok(entries)
}
