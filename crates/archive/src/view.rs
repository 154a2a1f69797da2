//! An archive from outside, for reading only, with its process running or not: for audits. A row that can't be read is told as such and
//! stops nothing.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{OptionalExtension, Row, Transaction};
use store::Readers;
use wire::{Announcement, At, Digest, Epoch, EpochSecret, Intervals, Record, RunView, Series};

use crate::archive::DATABASE;
use crate::chunk;
use crate::error::{Damage, OpenError, ReadError};
use crate::schema::{decode, from_sql, to_sql};
use crate::secrets::Secrets;

/// A chunk's row, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// Its id.
    pub id: i64,
    /// Its series.
    pub series: Series,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its sequence numbers.
    pub seqs: Intervals,
    /// The earliest generation time.
    pub at_min: At,
    /// The latest one.
    pub at_max: At,
    /// The root, once the secret was known.
    pub root: Option<Digest>,
}

/// The archive of a folder, opened for reading.
#[derive(Debug)]
pub struct View {
    readers: Readers,
    epoch: Epoch,
    secrets: Secrets,
}

const CHUNK: &str =
    "SELECT c.id, s.name, c.epoch, c.seqs, c.at_min, c.at_max, c.root FROM chunks c LEFT JOIN series s ON s.id = c.series ";

impl View {
    /// Opens the archive in `folder`.
    ///
    /// # Errors
    /// [`OpenError`] if there is none, or it can't be read.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let options = store::Options::default();
        let path = folder.join(DATABASE);
        let connection = store::open_reader(&path, &options)?;
        let (epoch, own): (i64, Vec<u8>) =
            connection.query_row("SELECT epoch, secret FROM identity", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let secrets = Secrets::default();
        let add = |epoch: i64, scope: &str, secret: Vec<u8>| {
            if let (Ok(secret), Ok(scope)) = (<[u8; 32]>::try_from(secret), scope_of(scope)) {
                secrets.add(&Announcement { epoch: Epoch(from_sql(epoch)), scope, secret: EpochSecret::new(secret) });
            }
        };
        add(epoch, "", own);
        let mut statement = connection.prepare("SELECT epoch, scope, secret FROM epochs ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            add(row.get(0)?, &row.get::<_, String>(1)?, row.get(2)?);
        }
        Ok(Self { readers: Readers::new(path, options, 1), epoch: Epoch(from_sql(epoch)), secrets })
    }

    /// The database's own epoch, which names it as a source of chunks.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The secret that salts the records of a series in an epoch.
    pub fn secret(&self, series: &str, epoch: Epoch) -> Option<Arc<EpochSecret>> {
        self.secrets.of(series, epoch)
    }

    /// A chunk's row.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it is not what this program writes.
    pub fn chunk(&self, id: i64) -> Result<Option<StoredChunk>, ReadError> {
        self.readers.read(|tx| {
            let mut statement = tx.prepare_cached(&format!("{CHUNK} WHERE c.id = ?1"))?;
            let mut rows = statement.query([id])?;
            rows.next()?.map(stored).transpose()
        })
    }

    /// The ids of published chunks above `id`, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn ids_after(&self, id: i64, limit: usize) -> Result<Vec<i64>, ReadError> {
        self.readers.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT id FROM chunks WHERE id > ?1 ORDER BY id LIMIT ?2")?;
            let ids = statement.query_map((id, i64::try_from(limit).unwrap_or(i64::MAX)), |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }

    /// The records of a chunk in the order of their numbers; `None` if there is no such chunk.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if its body does not hold what its row says.
    pub fn records(&self, id: i64) -> Result<Option<Vec<Record>>, ReadError> {
        self.readers.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT s.name, c.epoch, c.seqs, c.body FROM chunks c LEFT JOIN series s ON s.id = c.series WHERE c.id = ?1",
            )?;
            let read = |row: &Row<'_>| {
                Ok((row.get::<_, Option<String>>(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Vec<u8>>(3)?))
            };
            let Some((name, epoch, seqs, body)) = statement.query_row([id], read).optional()? else { return Ok(None) };
            let (series, epoch) = (series_of(name)?, Epoch(from_sql(epoch)));
            let seqs = intervals(&seqs)?;
            let readings = chunk::decode(&body, &seqs)?;
            Ok(Some((0..readings.len()).map(|index| readings.view(series.as_str(), epoch, index).to_record()).collect()))
        })
    }

    /// The records of one epoch in the pages that are in no chunk yet.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_records(&self, epoch: Epoch) -> Result<Vec<Record>, ReadError> {
        self.readers.read(|tx| {
            let mut statement =
                tx.prepare_cached("SELECT id, body FROM buffer WHERE id > (SELECT buffer_done FROM marks) ORDER BY id")?;
            let mut rows = statement.query([])?;
            let mut records = Vec::new();
            while let Some(row) = rows.next()? {
                let (page, body): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
                let mut rest = body.as_slice();
                while !rest.is_empty() {
                    let damage = |fault| Damage::Page { page: page.cast_unsigned(), fault };
                    let (run, behind) = RunView::parse(rest).map_err(damage)?;
                    if run.epoch() == epoch {
                        records.extend(run.records().map(|record| record.to_record()));
                    }
                    rest = behind;
                }
            }
            Ok(records)
        })
    }

    /// The sequence numbers of one epoch that were received until the last segment was closed, by series.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn received(&self, epoch: Epoch) -> Result<Vec<(Series, Intervals)>, ReadError> {
        self.readers.read(|tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT s.name, h.seqs FROM held h LEFT JOIN series s ON s.id = h.series WHERE h.epoch = ?1 ORDER BY s.name",
            )?;
            let mut rows = statement.query([to_sql(epoch.0)])?;
            let mut received = Vec::new();
            while let Some(row) = rows.next()? {
                let seqs = decode(&row.get::<_, Vec<u8>>(1)?).map_err(|fault| Damage::Intervals { table: "held", fault })?;
                received.push((series_of(row.get(0)?)?, seqs));
            }
            Ok(received)
        })
    }
}

fn scope_of(scope: &str) -> Result<Option<wire::SensorId>, ()> {
    if scope.is_empty() { Ok(None) } else { scope.parse().map(Some).map_err(drop) }
}

fn series_of(name: Option<String>) -> Result<Series, Damage> {
    name.and_then(|name| name.parse().ok()).ok_or(Damage::Row("its series has no name"))
}

fn intervals(bytes: &[u8]) -> Result<Intervals, Damage> {
    decode(bytes).map_err(|fault| Damage::Intervals { table: "chunks", fault })
}

fn stored(row: &Row<'_>) -> Result<StoredChunk, ReadError> {
    let root = row.get::<_, Option<Vec<u8>>>(6)?;
    let root = root.map(Digest::try_from).transpose().map_err(|_| Damage::Row("its root has another length"))?;
    Ok(StoredChunk {
        id: row.get(0)?,
        series: series_of(row.get(1)?)?,
        epoch: Epoch(from_sql(row.get(2)?)),
        seqs: intervals(&row.get::<_, Vec<u8>>(3)?)?,
        at_min: row.get(4)?,
        at_max: row.get(5)?,
        root,
    })
}
