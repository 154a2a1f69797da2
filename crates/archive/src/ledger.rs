//! Chunks as the anchoring and the index see them: headers, leaves, and which chunk a record is in.

use rusqlite::{OptionalExtension, Transaction};
use wire::{ChunkHeader, Digest, Epoch, RecordKey, merkle};

use crate::chunk::{self, Readings, leaves_of};
use crate::error::{Damage, ReadError};
use crate::schema::{decode, from_sql, to_sql};
use crate::shared::Shared;

/// Published chunks with a root whose id is above `id`.
pub(crate) fn chunks_after(
    tx: &Transaction<'_>,
    shared: &Shared,
    id: i64,
    limit: usize,
) -> Result<Vec<(i64, ChunkHeader)>, ReadError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, series, epoch, seqs, at_min, at_max, root FROM chunks
         WHERE id > ?1 AND id <= (SELECT chunks_published FROM marks) AND root IS NOT NULL ORDER BY id LIMIT ?2",
    )?;
    let mut rows = statement.query((id, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut headers = Vec::new();
    while let Some(row) = rows.next()? {
        let intervals = decode(&row.get::<_, Vec<u8>>(3)?).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
        let root = <Digest>::try_from(row.get::<_, Vec<u8>>(6)?).map_err(|_| Damage::Row("a chunk's root has another length"))?;
        let count = intervals.count();
        let series = series_name(shared, row.get(1)?)?;
        let header = ChunkHeader {
            series,
            epoch: Epoch(from_sql(row.get(2)?)),
            intervals,
            at_min: row.get(4)?,
            at_max: row.get(5)?,
            count,
            root,
        };
        headers.push((row.get(0)?, header));
    }
    Ok(headers)
}

pub(crate) fn series_name(shared: &Shared, id: u32) -> Result<wire::Series, ReadError> {
    let name = shared.series.name(id).and_then(|name| name.parse().ok());
    name.ok_or(ReadError::Damaged(Damage::Row("a chunk's series has no name")))
}

/// One chunk's readings, with what they belong to.
pub(crate) struct Whole {
    pub(crate) series: wire::Series,
    pub(crate) epoch: Epoch,
    pub(crate) readings: Readings,
    pub(crate) body_bytes: i64,
}

pub(crate) fn chunk(tx: &Transaction<'_>, shared: &Shared, id: i64) -> Result<Option<Whole>, ReadError> {
    let mut statement = tx.prepare_cached("SELECT series, epoch, seqs, body FROM chunks WHERE id = ?1")?;
    let found: Option<(u32, i64, Vec<u8>, Vec<u8>)> =
        statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).optional()?;
    let Some((series, epoch, seqs, body)) = found else { return Ok(None) };
    let seqs = decode(&seqs).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
    let readings = chunk::decode(&body, &seqs)?;
    Ok(Some(Whole {
        series: series_name(shared, series)?,
        epoch: Epoch(from_sql(epoch)),
        readings,
        body_bytes: body.len() as i64,
    }))
}

/// The leaves under a chunk's root, or `None` if there is no such chunk or its epoch's secret is not known.
pub(crate) fn leaves(tx: &Transaction<'_>, shared: &Shared, id: i64) -> Result<Option<Vec<Digest>>, ReadError> {
    let Some(whole) = chunk(tx, shared, id)? else { return Ok(None) };
    let secret = shared.secrets.of(whole.series.as_str(), whole.epoch);
    Ok(secret.map(|secret| leaves_of(&whole.readings, whole.series.as_str(), whole.epoch, &secret)))
}

/// The published chunk that holds `key`, and the place of its leaf.
pub(crate) fn chunk_of(tx: &Transaction<'_>, shared: &Shared, key: &RecordKey) -> Result<Option<(i64, usize)>, ReadError> {
    let Some(series) = shared.series.get(key.series.as_str()) else { return Ok(None) };
    let mut statement = tx.prepare_cached(
        "SELECT id, seqs FROM chunks WHERE series = ?1 AND epoch = ?2 AND seq_first <= ?3 AND seq_last >= ?3
         AND id <= (SELECT chunks_published FROM marks) ORDER BY seq_first DESC",
    )?;
    let mut rows = statement.query((series, to_sql(key.epoch.0), key.seq.cast_signed()))?;
    while let Some(row) = rows.next()? {
        let seqs = decode(&row.get::<_, Vec<u8>>(1)?).map_err(|fault| Damage::Intervals { table: "chunks", fault })?;
        if seqs.contains(key.seq) {
            let before: u64 = seqs
                .as_slice()
                .iter()
                .take_while(|(low, _)| *low <= key.seq)
                .map(|(low, high)| key.seq.min(*high + 1) - low)
                .sum();
            return Ok(Some((row.get(0)?, before as usize)));
        }
    }
    Ok(None)
}

/// Chunks without a root whose epoch's secret is known by now, with the roots they get.
pub(crate) fn missing_roots(tx: &Transaction<'_>, shared: &Shared, limit: usize) -> Result<Vec<(i64, Digest)>, ReadError> {
    let mut statement = tx.prepare_cached("SELECT id, series, epoch FROM chunks WHERE root IS NULL ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut roots = Vec::new();
    while let Some(row) = rows.next()? {
        if roots.len() >= limit {
            break;
        }
        let (id, series, epoch): (i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if shared.secrets.of(series_name(shared, series)?.as_str(), Epoch(from_sql(epoch))).is_some()
            && let Some(leaves) = leaves(tx, shared, id)?
        {
            roots.push((id, merkle::root(&leaves)));
        }
    }
    Ok(roots)
}
