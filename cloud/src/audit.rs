//! The cloud's archive as one side of an audit. It holds the records themselves, so every leaf is computed anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anchor::SourceError;
use anchor::audit::{After, Content, Grave, Group, Item, Piece, Place, Row, Store};
use archive::{Damage, FoundChunk, OpenError, ReadError, StoredChunk, View};
use store::Snapshot;
use store::rusqlite::{self, params};
use wire::cbor::Strict;
use wire::{Epoch, EpochSecret, Intervals, Record};

use crate::config::LEDGER_FILE;
use crate::index;

/// Stray chunks that are named one by one.
const STRAY_MAX: usize = 64;

/// The data folder of a cloud, opened for reading, with the cloud running or not, as it was at that moment.
#[derive(Debug)]
pub struct Archived {
    folder: PathBuf,
    view: View,
    /// What relays have stated.
    index: Option<Snapshot>,
}

impl Archived {
    /// Opens the data folder of a cloud, and holds the state that it is in.
    ///
    /// # Errors
    /// [`OpenError`] if no cloud has worked there.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(index::DATABASE);
        // Before the archive: what a relay has sent meanwhile is then in the one, if not in the other.
        let index = path.exists().then(|| Snapshot::open(&path, &store::Options::default())).transpose()?;
        Ok(Self { folder: folder.to_owned(), view: View::open(folder)?, index })
    }

    /// Where the anchor ledger is, if the cloud anchors.
    pub fn ledger(&self) -> PathBuf {
        Self::ledger_of(&self.folder)
    }

    /// Where the anchor ledger of a cloud in `folder` is, if it anchors.
    pub fn ledger_of(folder: &Path) -> PathBuf {
        folder.join(LEDGER_FILE)
    }

    /// The database that the ledger's chunks are from.
    pub fn source(&self) -> Epoch {
        self.view.epoch()
    }

    /// Records of a piece; the error text says why they can't be read.
    fn read(&self, piece: &Piece) -> Result<Result<Vec<Record>, String>, SourceError> {
        told(match piece.place {
            Place::Chunk(id) => self.view.records(id).map(Option::unwrap_or_default),
            Place::Page(page, offset) => {
                let run =
                    self.view.open_runs(&piece.series, piece.epoch).iter().find(|run| (run.page, run.offset) == (page, offset));
                run.map_or(Ok(Vec::new()), |run| self.view.open_records(run))
            }
            Place::Row(_) => Ok(Vec::new()),
        })
    }
}

/// Tells what stands in a row from a database that can't be read.
fn told<T>(read: Result<T, ReadError>) -> Result<Result<T, String>, SourceError> {
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(ReadError::Damaged(damage)) => Ok(Err(damage.to_string())),
        Err(fault) => Err(SourceError::new(fault)),
    }
}

fn piece(chunk: StoredChunk) -> Piece {
    let (first, last, count) = chunk.beside;
    let beside = (first.cast_unsigned(), last.cast_unsigned(), count.cast_unsigned());
    let held = (chunk.seqs.first().unwrap_or_default(), chunk.seqs.last().unwrap_or_default(), chunk.seqs.count());
    let fault = (beside != held).then(|| {
        format!("it is looked up as {first} to {last} with {count} records, and holds {} to {} with {}", held.0, held.1, held.2)
    });
    Piece {
        place: Place::Chunk(chunk.id),
        series: chunk.series,
        epoch: chunk.epoch,
        seqs: chunk.seqs,
        times: Some((chunk.at_min, chunk.at_max)),
        root: chunk.root,
        on_chain: None,
        fault,
    }
}

impl Store for Archived {
    fn group_after(&self, after: Option<&Group>) -> Result<Option<Group>, SourceError> {
        let after = after.map(|group| (group.series.as_str(), group.epoch));
        let found = self.view.group_after(after).map_err(SourceError::new)?;
        Ok(found.map(|(series, epoch)| Group { series, epoch }))
    }

    fn chunks(&self, group: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError> {
        let found = self.view.chunks_after(&group.series, group.epoch, (after.number, after.id), limit);
        let row = |FoundChunk { first, id, chunk }| {
            let piece = chunk.map(piece).map_err(|damage: Damage| (Place::Chunk(id), damage.to_string()));
            (After { number: first, id }, piece)
        };
        Ok(found.map_err(SourceError::new)?.into_iter().map(row).collect())
    }

    fn loose(&self, group: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError> {
        let runs = self.view.open_runs(&group.series, group.epoch);
        // They are few enough to be in memory, so their places in the list will do for ids.
        let begin = if after == After::START { 0 } else { usize::try_from(after.id).unwrap_or(usize::MAX).saturating_add(1) };
        let row = |(index, run): (usize, &archive::OpenRun)| {
            let piece = Piece {
                place: Place::Page(run.page, run.offset),
                series: group.series.clone(),
                epoch: group.epoch,
                seqs: Intervals::of(run.first, run.last),
                times: None,
                root: None,
                on_chain: None,
                fault: None,
            };
            (After { number: run.first.cast_signed(), id: i64::try_from(index).unwrap_or(i64::MAX) }, Ok(piece))
        };
        Ok(runs.iter().enumerate().skip(begin).take(limit).map(row).collect())
    }

    fn content(&self, piece: &Piece) -> Result<Content, SourceError> {
        let secret = self.view.secret(piece.series.as_str(), piece.epoch);
        let item = |(seq, at, leaf)| Item { seq, leaf, kept: None, at: Some(at) };
        let read = match (piece.place, &secret) {
            (Place::Chunk(id), Some(secret)) => told(self.view.leaves(id, secret))?.map(Option::unwrap_or_default),
            _ => self.read(piece)?.map(|records| {
                let leaf = |record: &Record| secret.as_ref().map(|secret| secret.leaf(&record.view())).unwrap_or_default();
                records.iter().map(|record| (record.key.seq, record.at, leaf(record))).collect()
            }),
        };
        Ok(match read {
            Err(damage) => Content::Damaged(damage),
            Ok(_) if secret.is_none() => Content::NoSecret,
            Ok(items) => Content::Items(items.into_iter().map(item).collect()),
        })
    }

    fn records(&self, piece: &Piece) -> Result<Vec<Record>, SourceError> {
        Ok(self.read(piece)?.unwrap_or_default())
    }

    fn holds(&self, chunk: i64) -> Result<bool, SourceError> {
        self.view.holds(chunk).map_err(SourceError::new)
    }

    fn count(&self) -> Result<u64, SourceError> {
        self.view.count().map_err(SourceError::new)
    }

    fn stray(&self) -> Result<Vec<i64>, SourceError> {
        self.view.nameless(STRAY_MAX).map_err(SourceError::new)
    }

    fn numbered(&self, group: &Group) -> Result<Intervals, SourceError> {
        self.view.received(&group.series, group.epoch).map_err(SourceError::new)
    }

    fn given_up(&self, _: &Group) -> Result<Vec<Grave>, SourceError> {
        Ok(Vec::new())
    }

    fn elsewhere(&self, group: &Group) -> Result<Vec<(String, Intervals)>, SourceError> {
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let stated = |db: &rusqlite::Connection| {
            let mut statement = db.prepare_cached(
                "SELECT r.name, e.seqs FROM series s JOIN entries e ON e.series = s.id JOIN relays r ON r.id = e.relay
                 WHERE s.name = ?1 AND e.epoch = ?2 AND r.is_current = 1",
            )?;
            let mut rows = statement.query(params![group.series.as_str(), group.epoch.0.cast_signed()])?;
            let mut stated = BTreeMap::<String, Intervals>::new();
            while let Some(row) = rows.next()? {
                let bytes: Vec<u8> = row.get(1)?;
                // An entry that can't be read says nothing.
                if let Ok(seqs) = Intervals::decode(&mut Strict::new(&bytes)) {
                    stated.entry(row.get(0)?).or_default().extend(&seqs);
                }
            }
            Ok::<_, rusqlite::Error>(stated.into_iter().collect())
        };
        index.read(stated).map_err(SourceError::new)
    }

    fn secret(&self, group: &Group) -> Option<EpochSecret> {
        self.view.secret(group.series.as_str(), group.epoch).map(|secret| (*secret).clone())
    }
}
