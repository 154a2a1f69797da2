//! A terminal's database as one side of an audit.
//!
//! What is left at a terminal: of a record that no relay has answered for yet, its payload and its leaf. Of one that was accepted,
//! its key and its leaf; the payload is forgotten. Of one that is on chain, the chunk with its root, and the leaves as long as
//! their budget lasts. So a payload can be changed here only before it was accepted, and shows against its leaf; later it is the
//! leaf that can be changed, and shows against the root.

use anchor::SourceError;
use anchor::audit::{Content, Item, Piece, Store};
use wire::{Digest, Epoch, Intervals, Record, RunView, Series};

use crate::outbox::evidence::{self, Kept};
use crate::outbox::reading_back::{self, ReadFault};
use crate::terminal::Terminal;

impl Store for Terminal {
    fn numbered(&self, epoch: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError> {
        if epoch != self.origin().epoch {
            return Ok(Vec::new());
        }
        self.read(evidence::numbered).map_err(SourceError::new)
    }

    fn given_up(&self, epoch: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError> {
        if epoch != self.origin().epoch {
            return Ok(Vec::new());
        }
        self.read(evidence::given_up).map_err(SourceError::new)
    }

    fn chunk(&self, id: i64) -> Result<Option<Result<Piece, String>>, SourceError> {
        let epoch = self.origin().epoch;
        match self.read(|tx| reading_back::chunks_after(tx, epoch, id - 1, 1)) {
            Ok(found) => Ok(found.into_iter().find(|chunk| chunk.id == id).map(|chunk| {
                let header = chunk.header;
                Ok(Piece {
                    chunk: Some(id),
                    place: format!("chunk {id}"),
                    series: header.series,
                    epoch: header.epoch,
                    seqs: header.intervals,
                    at_min: header.at_min,
                    at_max: header.at_max,
                    root: Some(header.root),
                })
            })),
            Err(fault @ ReadFault::Invalid(_)) => Ok(Some(Err(fault.to_string()))),
            Err(fault) => Err(SourceError::new(fault)),
        }
    }

    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<i64>, SourceError> {
        self.read(|tx| evidence::chunk_ids_after(tx, id, limit)).map_err(SourceError::new)
    }

    fn loose(&self, epoch: Epoch) -> Result<Vec<Piece>, SourceError> {
        if epoch != self.origin().epoch {
            return Ok(Vec::new());
        }
        let rows = self.read(evidence::loose).map_err(SourceError::new)?;
        let piece = |row: evidence::LooseRow| Piece {
            chunk: None,
            place: format!("outbox row {}", row.id),
            series: row.series,
            epoch,
            seqs: Intervals::of(row.first, row.last),
            at_min: row.at_min,
            at_max: row.at_max,
            root: None,
        };
        Ok(rows.into_iter().map(piece).collect())
    }

    fn content(&self, piece: &Piece) -> Result<Content, SourceError> {
        let read = match piece.chunk {
            Some(chunk) => {
                self.read(|tx| reading_back::leaves(tx, chunk)).map(|leaves| leaves.map(|leaves| Kept { leaves, run: None }))
            }
            None => {
                let row = piece.place.rsplit(' ').next().and_then(|id| id.parse().ok()).unwrap_or_default();
                self.read(|tx| evidence::kept(tx, row))
            }
        };
        match read {
            Ok(None) => Ok(Content::Gone),
            Ok(Some(kept)) => Ok(self.items(piece, &kept.leaves, kept.run.as_deref())),
            Err(fault @ ReadFault::Invalid(_)) => Ok(Content::Damaged(fault.to_string())),
            Err(fault) => Err(SourceError::new(fault)),
        }
    }

    fn leaf(&self, record: &Record) -> Option<Digest> {
        (record.key.epoch == self.origin().epoch).then(|| self.origin().secret.leaf(&record.view()))
    }
}

impl Terminal {
    /// Numbers, leaves and, where it is kept, the run that the leaves were made from.
    fn items(&self, piece: &Piece, leaves: &[Digest], run: Option<&[u8]>) -> Content {
        let count = piece.seqs.count();
        if leaves.len() as u64 != count {
            return Content::Damaged(format!("{} leaves stand for {count} records", leaves.len()));
        }
        let seqs = piece.seqs.as_slice().iter().flat_map(|(low, high)| *low..=*high);
        let Some(run) = run else {
            let item = |(seq, leaf): (u64, &Digest)| Item { seq, leaf: *leaf, kept: None, record: None };
            return Content::Items(seqs.zip(leaves).map(item).collect());
        };
        let Ok((run, [])) = RunView::parse(run) else {
            return Content::Damaged("its payloads can't be read".to_owned());
        };
        let records: Vec<Record> = run.records().map(|record| record.to_record()).collect();
        let alike = run.series() == piece.series.as_str() && records.iter().map(|record| record.key.seq).eq(seqs);
        if !alike {
            return Content::Damaged("its payloads are not those of its numbers".to_owned());
        }
        let item = |(record, kept): (Record, &Digest)| Item {
            seq: record.key.seq,
            leaf: self.origin().secret.leaf(&record.view()),
            kept: Some(*kept),
            record: Some(record),
        };
        Content::Items(records.into_iter().zip(leaves).map(item).collect())
    }
}
