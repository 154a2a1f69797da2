//! The cloud's archive as one side of an audit. It holds the records themselves, so every leaf is computed anew.

use std::path::{Path, PathBuf};

use anchor::SourceError;
use anchor::audit::{Content, Item, Piece, Store};
use archive::{OpenError, ReadError, View};
use wire::{Digest, Epoch, Intervals, Record, Series};

use crate::config::LEDGER_FILE;

/// The data folder of a cloud, opened for reading, with the cloud running or not.
#[derive(Debug)]
pub struct Archived {
    folder: PathBuf,
    view: View,
}

impl Archived {
    /// Opens the data folder of a cloud.
    ///
    /// # Errors
    /// [`OpenError`] if no cloud has worked there.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Ok(Self { folder: folder.to_owned(), view: View::open(folder)? })
    }

    /// Where the anchor ledger is, if the cloud anchors.
    pub fn ledger(&self) -> PathBuf {
        self.folder.join(LEDGER_FILE)
    }

    /// The database that the ledger's chunks are from.
    pub fn source(&self) -> Epoch {
        self.view.epoch()
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

impl Store for Archived {
    fn numbered(&self, epoch: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError> {
        self.view.received(epoch).map_err(SourceError::new)
    }

    fn given_up(&self, _: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError> {
        Ok(Vec::new())
    }

    fn chunk(&self, id: i64) -> Result<Option<Result<Piece, String>>, SourceError> {
        let piece = |chunk: archive::StoredChunk| Piece {
            chunk: Some(id),
            place: format!("chunk {id}"),
            series: chunk.series,
            epoch: chunk.epoch,
            seqs: chunk.seqs,
            at_min: chunk.at_min,
            at_max: chunk.at_max,
            root: chunk.root,
        };
        Ok(told(self.view.chunk(id))?.map(|found| found.map(piece)).transpose())
    }

    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<i64>, SourceError> {
        self.view.ids_after(id, limit).map_err(SourceError::new)
    }

    fn loose(&self, epoch: Epoch) -> Result<Vec<Piece>, SourceError> {
        let mut pieces: Vec<Piece> = Vec::new();
        for record in self.view.open_records(epoch).map_err(SourceError::new)? {
            let Record { key, at, .. } = record;
            match pieces.iter_mut().find(|piece| piece.series == key.series) {
                Some(piece) => {
                    piece.seqs.insert(key.seq, key.seq);
                    (piece.at_min, piece.at_max) = (piece.at_min.min(at), piece.at_max.max(at));
                }
                None => pieces.push(Piece {
                    chunk: None,
                    place: "the open pages".to_owned(),
                    seqs: Intervals::of(key.seq, key.seq),
                    series: key.series,
                    epoch,
                    at_min: at,
                    at_max: at,
                    root: None,
                }),
            }
        }
        Ok(pieces)
    }

    fn content(&self, piece: &Piece) -> Result<Content, SourceError> {
        let read = match piece.chunk {
            Some(id) => told(self.view.records(id))?.map(Option::unwrap_or_default),
            None => told(self.view.open_records(piece.epoch))?
                .map(|records| records.into_iter().filter(|record| record.key.series == piece.series).collect()),
        };
        let mut records = match read {
            Ok(records) => records,
            Err(damage) => return Ok(Content::Damaged(damage)),
        };
        let Some(secret) = self.view.secret(piece.series.as_str(), piece.epoch) else { return Ok(Content::NoSecret) };
        records.sort_by_key(|record| record.key.seq);
        records.dedup_by_key(|record| record.key.seq);
        let item =
            |record: Record| Item { seq: record.key.seq, leaf: secret.leaf(&record.view()), kept: None, record: Some(record) };
        Ok(Content::Items(records.into_iter().map(item).collect()))
    }

    fn leaf(&self, record: &Record) -> Option<Digest> {
        let secret = self.view.secret(record.key.series.as_str(), record.key.epoch)?;
        Some(secret.leaf(&record.view()))
    }
}
