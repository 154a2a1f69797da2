//! An archive from outside, for reading only, with its process running or not: for audits. It shows one state of the database, as it was
//! when the view was opened, and never more of it at a time than a page of rows or one chunk. A row that can't be read is told as such and
//! stops nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};
use store::Snapshot;
use wire::{Announcement, At, Digest, Epoch, EpochSecret, Intervals, Record, RunView, Series};

use crate::archive::DATABASE;
use crate::chunk;
use crate::error::{Damage, OpenError, ReadError};
use crate::schema::{decode, from_sql, to_sql};
use crate::secrets::Secrets;

/// An audit shares the machine with the archive that it looks at.
const CACHE_BYTES: u64 = 4 << 20;

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
    /// The columns that it is looked up by: first number, last number, count.
    pub beside: (i64, i64, i64),
    /// The earliest generation time.
    pub at_min: At,
    /// The latest one.
    pub at_max: At,
    /// The root, once the secret was known.
    pub root: Option<Digest>,
}

/// A run in a page that is in no chunk yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenRun {
    /// Its first sequence number.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// Its page.
    pub page: i64,
    /// Where in the page it begins.
    pub offset: usize,
}

/// A chunk's row with its place in the order of first numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChunk {
    /// The first number, as it is looked up by.
    pub first: i64,
    /// The chunk's id.
    pub id: i64,
    /// The row, or why it can't be read.
    pub chunk: Result<StoredChunk, Damage>,
}

/// Number, generation time and leaf of one record.
pub type TimedLeaf = (u64, At, Digest);

/// The archive of a folder, opened for reading.
#[derive(Debug)]
pub struct View {
    snapshot: Snapshot,
    epoch: Epoch,
    secrets: Secrets,
    /// Chunks above this one belong to a segment that was not closed: their records are still in open pages.
    published: i64,
    /// What is in no chunk yet: at most a segment, and what came while it was closed.
    open: BTreeMap<(String, u64), Vec<OpenRun>>,
}

const CHUNK: &str = "SELECT c.id, s.name, c.epoch, c.seqs, c.at_min, c.at_max, c.root, c.seq_first, c.seq_last, c.records
                     FROM chunks c LEFT JOIN series s ON s.id = c.series ";

impl View {
    /// Opens the archive in `folder`, and holds the state that it is in.
    ///
    /// # Errors
    /// [`OpenError`] if there is none, or it can't be read.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let options = store::Options { cache_bytes: CACHE_BYTES, ..store::Options::default() };
        let snapshot = Snapshot::open(&folder.join(DATABASE), &options)?;
        let (epoch, secrets, published) = snapshot.read(known)?;
        let open = snapshot.read(|db| open_runs(db, published.1))?;
        Ok(Self { snapshot, epoch, secrets, published: published.0, open })
    }

    /// The database's own epoch, which names it as a source of chunks.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The secret that salts the records of a series in an epoch.
    pub fn secret(&self, series: &str, epoch: Epoch) -> Option<Arc<EpochSecret>> {
        self.secrets.of(series, epoch)
    }

    /// A chunk's row; `None` also if it is not published.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it is not what this program writes.
    pub fn chunk(&self, id: i64) -> Result<Option<StoredChunk>, ReadError> {
        self.snapshot.read(|db| {
            let mut statement = db.prepare_cached(&format!("{CHUNK} WHERE c.id = ?1 AND c.id <= ?2"))?;
            let mut rows = statement.query([id, self.published])?;
            rows.next()?.map(stored).transpose()
        })
    }

    /// Whether there is a published chunk of that id.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn holds(&self, id: i64) -> Result<bool, ReadError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM chunks WHERE id = ?1 AND id <= ?2)";
        self.snapshot.read(|db| Ok(db.prepare_cached(sql)?.query_row([id, self.published], |row| row.get(0))?))
    }

    /// The ids of published chunks above `id`, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn ids_after(&self, id: i64, limit: usize) -> Result<Vec<i64>, ReadError> {
        self.snapshot.read(|db| {
            let sql = "SELECT id FROM chunks WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3";
            let mut statement = db.prepare_cached(sql)?;
            let ids = statement.query_map((id, self.published, limited(limit)), |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }

    /// How many published chunks there are, counted by the table itself and by no index.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn count(&self) -> Result<u64, ReadError> {
        let sql = "SELECT count(*) FROM chunks NOT INDEXED WHERE id <= ?1";
        self.snapshot.read(|db| Ok(db.query_row(sql, [self.published], |row| row.get::<_, i64>(0))?.cast_unsigned()))
    }

    /// The ids of published chunks whose series has no name, or none that a series can have: at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn nameless(&self, limit: usize) -> Result<Vec<i64>, ReadError> {
        self.snapshot.read(|db| {
            let mut statement = db.prepare(
                "SELECT c.id, s.name FROM (SELECT DISTINCT series FROM chunks) d LEFT JOIN series s ON s.id = d.series
                 JOIN chunks c ON c.series = d.series WHERE c.id <= ?1",
            )?;
            let mut rows = statement.query([self.published])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()?
                && found.len() < limit
            {
                if name(row, 1).is_err() {
                    found.push(row.get(0)?);
                }
            }
            Ok(found)
        })
    }

    /// The series and epoch behind `after`, in the order of their names and of the signed epochs, of which there are chunks, numbers or
    /// open pages. Series without a name are passed over: see [`View::nameless`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn group_after(&self, after: Option<(&str, Epoch)>) -> Result<Option<(Series, Epoch)>, ReadError> {
        let (mut series, mut epoch) = match after {
            None => (String::new(), None),
            Some((series, epoch)) => (series.to_owned(), Some(to_sql(epoch.0))),
        };
        loop {
            if let Ok(named) = series.parse::<Series>()
                && let Some(next) = self.epoch_after(&series, epoch)?
            {
                return Ok(Some((named, next)));
            }
            let Some(next) = self.series_after(&series)? else { return Ok(None) };
            (series, epoch) = (next, None);
        }
    }

    fn series_after(&self, name: &str) -> Result<Option<String>, ReadError> {
        let sql = "SELECT name FROM series WHERE name > ?1 ORDER BY name LIMIT 1";
        let kept: Option<String> = self
            .snapshot
            .read(|db| Ok::<_, ReadError>(db.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?))?;
        let open = self.open.keys().map(|(series, _)| series).filter(|series| series.as_str() > name).min().cloned();
        Ok(kept.into_iter().chain(open).min())
    }

    fn epoch_after(&self, series: &str, after: Option<i64>) -> Result<Option<Epoch>, ReadError> {
        let sql = "SELECT min(epoch) FROM (
                     SELECT min(c.epoch) AS epoch FROM series s JOIN chunks c ON c.series = s.id
                      WHERE s.name = ?1 AND (?2 IS NULL OR c.epoch > ?2)
                     UNION ALL SELECT min(h.epoch) FROM series s JOIN held h ON h.series = s.id
                      WHERE s.name = ?1 AND (?2 IS NULL OR h.epoch > ?2))";
        let kept: Option<i64> =
            self.snapshot.read(|db| Ok::<_, ReadError>(db.prepare_cached(sql)?.query_row((series, after), |row| row.get(0))?))?;
        let open = self.open.range((series.to_owned(), 0)..=(series.to_owned(), u64::MAX)).map(|((_, epoch), _)| to_sql(*epoch));
        let open = open.filter(|epoch| after.is_none_or(|after| *epoch > after)).min();
        Ok(kept.into_iter().chain(open).min().map(|epoch| Epoch(from_sql(epoch))))
    }

    /// The published chunks of a series and epoch behind the one with first number and id `after`, in that order, at most `limit`. A row
    /// that can't be read comes with its id and the reason.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn chunks_after(
        &self,
        series: &Series,
        epoch: Epoch,
        after: (i64, i64),
        limit: usize,
    ) -> Result<Vec<FoundChunk>, ReadError> {
        self.snapshot.read(|db| {
            let sql = format!(
                "{CHUNK} WHERE s.name = ?1 AND c.epoch = ?2 AND (c.seq_first, c.id) > (?3, ?4) AND c.id <= ?5
                 ORDER BY c.seq_first, c.id LIMIT ?6"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows =
                statement.query((series.as_str(), to_sql(epoch.0), after.0, after.1, self.published, limited(limit)))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let chunk = match stored(row) {
                    Ok(chunk) => Ok(chunk),
                    Err(ReadError::Damaged(damage)) => Err(damage),
                    Err(other) => return Err(other),
                };
                found.push(FoundChunk { first: row.get(7)?, id: row.get(0)?, chunk });
            }
            Ok(found)
        })
    }

    /// The records of a chunk in the order of their numbers; `None` if there is no such chunk.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if its body does not hold what its row says.
    pub fn records(&self, id: i64) -> Result<Option<Vec<Record>>, ReadError> {
        self.read_chunk(id, |series, epoch, readings| {
            (0..readings.len()).map(|index| readings.view(series.as_str(), epoch, index).to_record()).collect()
        })
    }

    /// Number, time and leaf of each record of a chunk; `None` if there is no such chunk.
    ///
    /// # Errors
    /// As [`View::records`].
    pub fn leaves(&self, id: i64, secret: &EpochSecret) -> Result<Option<Vec<TimedLeaf>>, ReadError> {
        self.read_chunk(id, |series, epoch, readings| {
            let view = |index| readings.view(series.as_str(), epoch, index);
            (0..readings.len()).map(|index| (view(index).seq, view(index).at, secret.leaf(&view(index)))).collect()
        })
    }

    fn read_chunk<T>(&self, id: i64, read: impl FnOnce(&Series, Epoch, &chunk::Readings) -> T) -> Result<Option<T>, ReadError> {
        self.snapshot.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT s.name, c.epoch, c.seqs, c.body FROM chunks c LEFT JOIN series s ON s.id = c.series WHERE c.id = ?1",
            )?;
            let mut rows = statement.query([id])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let (series, epoch) = (name(row, 0)?, Epoch(from_sql(integer(row, 1)?)));
            let seqs = intervals(blob(row, 2)?)?;
            let readings = chunk::decode(blob(row, 3)?, &seqs)?;
            Ok(Some(read(&series, epoch, &readings)))
        })
    }

    /// The runs of a series and epoch that are in no chunk yet, by their first numbers.
    pub fn open_runs(&self, series: &Series, epoch: Epoch) -> &[OpenRun] {
        self.open.get(&(series.as_str().to_owned(), epoch.0)).map_or(&[], Vec::as_slice)
    }

    /// The records of a run that is in no chunk yet.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_records(&self, run: &OpenRun) -> Result<Vec<Record>, ReadError> {
        self.snapshot.read(|db| {
            let mut statement = db.prepare_cached("SELECT body FROM buffer WHERE id = ?1")?;
            let mut rows = statement.query([run.page])?;
            let gone = || Damage::Row("an open page is gone");
            let row = rows.next()?.ok_or_else(gone)?;
            let body = blob(row, 0)?.get(run.offset..).ok_or_else(gone)?;
            let page = run.page.cast_unsigned();
            let (run, _) = RunView::parse(body).map_err(|fault| Damage::Page { page, fault })?;
            Ok(run.records().map(|record| record.to_record()).collect())
        })
    }

    /// The sequence numbers of a series and epoch that were received until the last segment was closed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn received(&self, series: &Series, epoch: Epoch) -> Result<Intervals, ReadError> {
        self.snapshot.read(|db| {
            let sql = "SELECT h.seqs FROM series s JOIN held h ON h.series = s.id WHERE s.name = ?1 AND h.epoch = ?2";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query((series.as_str(), to_sql(epoch.0)))?;
            let Some(row) = rows.next()? else { return Ok(Intervals::new()) };
            Ok(decode(blob(row, 0)?).map_err(|fault| Damage::Intervals { table: "held", fault })?)
        })
    }
}

/// Epoch, secrets, and how far chunks and pages are settled: the last published chunk, the last page that is in chunks.
fn known(db: &Connection) -> Result<(Epoch, Secrets, (i64, i64)), OpenError> {
    let (epoch, own): (i64, Vec<u8>) =
        db.query_row("SELECT epoch, secret FROM identity", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let secrets = Secrets::default();
    let add = |epoch: i64, scope: &str, secret: Vec<u8>| {
        if let (Ok(secret), Ok(scope)) = (<[u8; 32]>::try_from(secret), scope_of(scope)) {
            secrets.add(&Announcement { epoch: Epoch(from_sql(epoch)), scope, secret: EpochSecret::new(secret) });
        }
    };
    add(epoch, "", own);
    let mut statement = db.prepare("SELECT epoch, scope, secret FROM epochs ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        add(row.get(0)?, &row.get::<_, String>(1)?, row.get(2)?);
    }
    let marks = db.query_row("SELECT chunks_published, buffer_done FROM marks", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((Epoch(from_sql(epoch)), secrets, marks))
}

fn open_runs(db: &Connection, done: i64) -> Result<BTreeMap<(String, u64), Vec<OpenRun>>, OpenError> {
    let mut statement = db.prepare("SELECT id, body FROM buffer WHERE id > ?1 ORDER BY id")?;
    let mut rows = statement.query([done])?;
    let mut open = BTreeMap::<_, Vec<OpenRun>>::new();
    while let Some(row) = rows.next()? {
        let page: i64 = row.get(0)?;
        let body = blob(row, 1).map_err(|damage| OpenError::Fault(damage.into()))?;
        let mut offset = 0;
        while offset < body.len() {
            let damage = |fault| OpenError::Fault(Damage::Page { page: page.cast_unsigned(), fault }.into());
            let (run, _) = RunView::parse(&body[offset..]).map_err(damage)?;
            let at = OpenRun { first: run.first_seq(), last: run.last_seq(), page, offset };
            open.entry((run.series().to_owned(), run.epoch().0)).or_default().push(at);
            offset += run.raw().len();
        }
    }
    open.values_mut().for_each(|runs| runs.sort_unstable());
    Ok(open)
}

fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn scope_of(scope: &str) -> Result<Option<wire::SensorId>, ()> {
    if scope.is_empty() { Ok(None) } else { scope.parse().map(Some).map_err(drop) }
}

fn name(row: &Row<'_>, column: usize) -> Result<Series, Damage> {
    let name = row.get_ref(column).ok().and_then(|value| value.as_str().ok().and_then(|name| name.parse().ok()));
    name.ok_or(Damage::Row("its series has no name"))
}

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], Damage> {
    let value = row.get_ref(column).ok().and_then(|value| value.as_blob().ok());
    value.ok_or(Damage::Row("a column is not of its type"))
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, Damage> {
    let value = row.get_ref(column).ok().and_then(|value| value.as_i64().ok());
    value.ok_or(Damage::Row("a column is not of its type"))
}

fn intervals(bytes: &[u8]) -> Result<Intervals, Damage> {
    decode(bytes).map_err(|fault| Damage::Intervals { table: "chunks", fault })
}

fn stored(row: &Row<'_>) -> Result<StoredChunk, ReadError> {
    let root = match row.get_ref(6)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(Digest::try_from(blob(row, 6)?).map_err(|_| Damage::Row("its root has another length"))?),
    };
    Ok(StoredChunk {
        id: integer(row, 0)?,
        series: name(row, 1)?,
        epoch: Epoch(from_sql(integer(row, 2)?)),
        seqs: intervals(blob(row, 3)?)?,
        beside: (integer(row, 7)?, integer(row, 8)?, integer(row, 9)?),
        at_min: integer(row, 4)?,
        at_max: integer(row, 5)?,
        root,
    })
}
