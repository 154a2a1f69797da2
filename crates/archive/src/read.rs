//! Reading an archive: ranges, keys, what goes up, what is anchored.

use std::collections::BTreeMap;

use rusqlite::Transaction;
use wire::{Announcement, At, ChunkHeader, Digest, Epoch, Intervals, Record, RecordKey, Series, filter};

use crate::append::Lane;
use crate::archive::Archive;
use crate::engine::{Done, Job};
use crate::error::ReadError;
use crate::find::{find, received, times, within};
use crate::lanes::Page;
use crate::ledger;
use crate::recover::announcement;
use crate::scan::{Entry, Scan, relay, scan};

impl Archive {
    /// Records of one series in order of time, epoch and sequence number, each once. Sees every record of the storage area that was durable
    /// when it was called; what waits in the outgoing lanes is on its way and not part of it.
    ///
    /// # Errors
    /// The disk failed or what it gave is damaged.
    pub fn scan(&self, what: &Scan) -> Result<Vec<Entry>, ReadError> {
        let shared = &*self.inner.shared;
        let Some(series) = shared.series.get(what.series.as_str()) else { return Ok(Vec::new()) };
        if what.from >= what.to || what.limit == 0 {
            return Ok(Vec::new());
        }
        let from = what.after.map_or(what.from, |after| after.at.max(what.from));
        // First the open pages, then the snapshot: see `buffer`.
        let open = shared.buffer.runs(series, |_, page| page.at_max >= from && page.at_min < what.to);
        self.read(|tx| scan(tx, shared, what, open, series))
    }

    /// Names of the series that an MQTT topic filter matches, for example `cityA/+/power/#`; sorted. `#` gives all.
    pub fn series_like(&self, pattern: &str) -> Vec<Series> {
        let names = self.inner.shared.series.filter(|name| filter::matches(pattern, name));
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The record under `key`, if it is in the storage area.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn get(&self, key: &RecordKey) -> Result<Option<Entry>, ReadError> {
        let shared = &*self.inner.shared;
        let Some(series) = shared.series.get(key.series.as_str()) else { return Ok(None) };
        let epoch = key.epoch.0;
        // `find` looks at the open pages before its first statement takes the snapshot: see `buffer`.
        let found = self.read(|tx| find(tx, shared, series, epoch, (key.seq, key.seq), std::iter::empty()))?.remove(&key.seq);
        let Some(found) = found else { return Ok(None) };
        let record = Record { key: key.clone(), at: found.at, operation: found.operation, payload: found.payload };
        Ok(Some(Entry { record, via: relay(shared, found.via)? }))
    }

    /// Which sequence numbers of a series were given out or received here, by epoch. The gaps in it are what is missing (C3).
    ///
    /// # Errors
    /// The writer is stopped or has failed.
    pub fn held(&self, series: &Series) -> Result<Vec<(Epoch, Intervals)>, ReadError> {
        let Some(id) = self.inner.shared.series.get(series.as_str()) else { return Ok(Vec::new()) };
        match self.inner.writer.submit_ahead(Job::Held(id))?.wait()? {
            Done::Held(held) => Ok(held),
            other => Err(other.unexpected().into()),
        }
    }

    /// [`Archive::held`] of several series, in their order, without a word with the writer: it answers while the writer is busy or the disk
    /// full. Only right for an archive that takes everything into the storage area, as the cloud's: what was given out on the outgoing lanes
    /// since the last segment was closed is not part of it.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn received(&self, series: &[Series]) -> Result<Vec<Vec<(Epoch, Intervals)>>, ReadError> {
        let shared = &*self.inner.shared;
        // First the open pages, then the snapshot: see `buffer`. A page leaves them after its numbers were saved.
        let open = |id| (id, shared.buffer.runs(id, |_, _| true));
        let open: Vec<_> = series.iter().map(|series| shared.series.get(series.as_str()).map(open)).collect();
        self.read(|tx| {
            open.iter().map(|open| open.as_ref().map_or(Ok(Vec::new()), |(id, runs)| received(tx, *id, runs))).collect()
        })
    }

    /// Generation times of those records of a series and epoch that are in the storage area, among `seqs` in rising order.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn times(&self, series: &Series, epoch: Epoch, seqs: &[u64]) -> Result<BTreeMap<u64, At>, ReadError> {
        let shared = &*self.inner.shared;
        let Some(series) = shared.series.get(series.as_str()) else { return Ok(BTreeMap::new()) };
        // First the open pages, then the snapshot: see `buffer`.
        let open =
            shared.buffer.runs(series, |at, _| at.epoch == epoch.0 && !within(seqs, at.first_seq, at.last_seq()).is_empty());
        self.read(|tx| times(tx, open, series, epoch.0, seqs))
    }

    /// Pages of an outgoing lane behind page `after` that the cloud has not confirmed, oldest first: as many as fit `bytes_max`, and at
    /// least one if there is one.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn outgoing(&self, lane: Lane, after: u64, bytes_max: usize) -> Result<Vec<Page>, ReadError> {
        let table = match lane {
            Lane::Live => "SELECT id, records, taken_at, body FROM live WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
            Lane::Backlog => "SELECT id, records, taken_at, body FROM backlog WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
            Lane::Store => return Ok(Vec::new()),
        };
        let plan = self.inner.shared.outgoing.plan(lane, after, bytes_max);
        if plan.from_file.is_empty() {
            return Ok(plan.in_memory);
        }
        let mut pages: Vec<Page> = Vec::new();
        let mut left = bytes_max;
        self.read(|tx| {
            let mut statement = tx.prepare_cached(table)?;
            for (low, high) in &plan.from_file {
                let mut rows = statement.query((low.cast_signed(), high.cast_signed()))?;
                while let Some(row) = rows.next()? {
                    let body = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
                    if body.len() > left && !pages.is_empty() {
                        left = 0;
                        return Ok(());
                    }
                    left = left.saturating_sub(body.len());
                    pages.push(Page {
                        id: row.get::<_, i64>(0)?.cast_unsigned(),
                        records: row.get::<_, i64>(1)?.cast_unsigned(),
                        taken_at: row.get(2)?,
                        body: bytes::Bytes::copy_from_slice(body),
                    });
                }
            }
            Ok::<_, ReadError>(())
        })?;
        for page in plan.in_memory {
            if page.body.len() > left && !pages.is_empty() {
                break;
            }
            left = left.saturating_sub(page.body.len());
            pages.push(page);
        }
        Ok(pages)
    }

    /// Published chunks behind chunk `id`, oldest first. A chunk whose epoch's secret is not known yet comes when it is.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, ReadError> {
        self.read(|tx| ledger::chunks_after(tx, &self.inner.shared, id, limit))
    }

    /// The leaves under a chunk's root, in order; `None` if the chunk is gone or its epoch's secret is not known.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn chunk_leaves(&self, id: i64) -> Result<Option<Vec<Digest>>, ReadError> {
        self.read(|tx| ledger::leaves(tx, &self.inner.shared, id))
    }

    /// The chunk that holds a record and the place of its leaf; `None` while it is in an open page, or not here.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn chunk_of(&self, key: &RecordKey) -> Result<Option<(i64, usize)>, ReadError> {
        self.read(|tx| ledger::chunk_of(tx, &self.inner.shared, key))
    }

    /// Secrets of epochs learned from others, behind row `after`, oldest first. Our own is [`Archive::secret`].
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn announcements_after(&self, after: i64, limit: usize) -> Result<Vec<(i64, Announcement)>, ReadError> {
        self.read(|tx| {
            let mut statement =
                tx.prepare_cached("SELECT epoch, scope, secret, id FROM epochs WHERE id > ?1 ORDER BY id LIMIT ?2")?;
            let mut rows = statement.query((after, i64::try_from(limit).unwrap_or(i64::MAX)))?;
            let mut announcements = Vec::new();
            while let Some(row) = rows.next()? {
                announcements.push((row.get(3)?, announcement(row)??));
            }
            Ok(announcements)
        })
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T, ReadError>) -> Result<T, ReadError> {
        self.inner.readers.read(read)
    }
}
