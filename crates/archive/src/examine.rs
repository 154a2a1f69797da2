//! Are the chunks at rest what was written? A check that reads only, beside a process that may be running (C5).
//!
//! Each chunk's root is computed anew from its records. Whoever changes a body must find another one under the same root, which can't be
//! done; who changes body and root together is found by the index and the batches, which had the first root before.

use std::path::Path;

use rusqlite::{OptionalExtension, Transaction};
use store::{OpenError, Readers};
use wire::{Digest, Epoch, EpochSecret, merkle};

use crate::archive::DATABASE;
use crate::chunk::{self, leaves_of};
use crate::error::{Damage, OpenError as ArchiveError, ReadError};
use crate::recover::secrets;
use crate::schema::{decode, from_sql};
use crate::secrets::Secrets;

/// Faults told one by one at most.
const FAULTS_MAX: usize = 10_000;
/// Chunks read under one snapshot.
const PIECE: i64 = 64;

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// Chunks looked at.
    pub chunks: u64,
    /// Records in those that are sound.
    pub records: u64,
    /// Chunks without a root, because their epoch's secret is not known: they can be read, and nothing more can be said of them.
    pub without_root: u64,
    /// Chunks that are not what was written.
    pub unsound: u64,
    /// The first ten thousand of those.
    pub faults: Vec<Unsound>,
}

/// A chunk that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    /// Its number.
    pub chunk: i64,
    /// The series that it is said to be of; empty if that can't be told either.
    pub series: String,
    /// The epoch of its records.
    pub epoch: Epoch,
    /// What is wrong with it.
    pub why: Why,
}

/// See [`Unsound`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Unreadable(Damage),
    /// Its records give another root.
    #[error("its records give another root than was written with them")]
    Root {
        /// The root that was written.
        written: Digest,
        /// The root that its records give.
        found: Digest,
    },
    /// What is said about it beside the records contradicts them.
    #[error("its {0} is not that of its records")]
    Header(&'static str),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// There is no database that could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be read, or the rows beside the chunks are damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Names and secrets can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl From<store::ReadError> for ExamineError {
    fn from(error: store::ReadError) -> Self {
        Self::Read(error.into())
    }
}

impl From<rusqlite::Error> for ExamineError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read(error.into())
    }
}

/// Checks every published chunk of the archive in `folder`. Changes nothing, and needs no lock: the archive may be in use. Chunks that come
/// while it runs are looked at, too; those that go are not missed.
///
/// # Errors
/// [`ExamineError`] when nothing can be said. What is wrong with chunks is part of the answer.
pub fn examine(folder: &Path) -> Result<Examined, ExamineError> {
    let readers = Readers::new(folder.join(DATABASE), store::Options::default(), 1);
    let secrets = readers.read(known_secrets)?;
    let mut examined = Examined::default();
    let mut after = 0;
    loop {
        let last = readers.read(|tx| piece(tx, &secrets, after, &mut examined))?;
        match last {
            Some(last) => after = last,
            None => return Ok(examined),
        }
    }
}

fn known_secrets(tx: &Transaction<'_>) -> Result<Secrets, ExamineError> {
    let own: Option<(i64, Vec<u8>)> =
        tx.query_row("SELECT epoch, secret FROM identity", [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (epoch, secret) = own.ok_or(ReadError::Damaged(Damage::Row("the database has no identity")))?;
    let secret = secret.try_into().map_err(|_| ReadError::Damaged(Damage::Row("the epoch's secret has another length")))?;
    Ok(secrets(tx, Epoch(from_sql(epoch)), &EpochSecret::new(secret))?)
}

/// Looks at the chunks behind `after`; gives the last one, or nothing at the end.
fn piece(tx: &Transaction<'_>, secrets: &Secrets, after: i64, examined: &mut Examined) -> Result<Option<i64>, ExamineError> {
    let mut statement = tx.prepare_cached(
        "SELECT chunks.id, epoch, at_min, at_max, records, seqs, root, body, coalesce(name, '')
         FROM chunks LEFT JOIN series ON series.id = chunks.series
         WHERE chunks.id > ?1 AND chunks.id <= (SELECT chunks_published FROM marks) ORDER BY chunks.id LIMIT ?2",
    )?;
    let mut rows = statement.query((after, PIECE))?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let (id, epoch, series): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(8)?);
        let epoch = Epoch(from_sql(epoch));
        let header = Header { at_min: row.get(2)?, at_max: row.get(3)?, records: row.get(4)? };
        let (seqs, root, body): (Vec<u8>, Option<Vec<u8>>, Vec<u8>) = (row.get(5)?, row.get(6)?, row.get(7)?);
        last = Some(id);
        examined.chunks += 1;
        examined.without_root += u64::from(root.is_none());
        match look(secrets, &series, epoch, &header, (&seqs, root.as_deref(), &body)) {
            Ok(records) => examined.records += records,
            Err(why) => {
                examined.unsound += 1;
                if examined.faults.len() < FAULTS_MAX {
                    examined.faults.push(Unsound { chunk: id, series, epoch, why });
                }
            }
        }
    }
    Ok(last)
}

struct Header {
    at_min: i64,
    at_max: i64,
    records: i64,
}

fn look(
    secrets: &Secrets,
    series: &str,
    epoch: Epoch,
    header: &Header,
    (seqs, root, body): (&[u8], Option<&[u8]>, &[u8]),
) -> Result<u64, Why> {
    let seqs = decode(seqs).map_err(|fault| Why::Unreadable(Damage::Intervals { table: "chunks", fault }))?;
    let readings = chunk::decode(body, &seqs).map_err(Why::Unreadable)?;
    if header.records != readings.len() as i64 {
        return Err(Why::Header("number of records"));
    }
    if readings.ats.iter().min() != Some(&header.at_min) || readings.ats.iter().max() != Some(&header.at_max) {
        return Err(Why::Header("time"));
    }
    let Some(root) = root else { return Ok(readings.len() as u64) };
    let written = Digest::try_from(root).map_err(|_| Why::Unreadable(Damage::Row("a chunk's root has another length")))?;
    let Some(secret) = secrets.of(series, epoch) else { return Err(Why::Header("series or epoch")) };
    let found = merkle::root(&leaves_of(&readings, series, epoch, &secret));
    match found == written {
        true => Ok(readings.len() as u64),
        false => Err(Why::Root { written, found }),
    }
}
