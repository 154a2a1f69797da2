//! A terminal's database as one side of an audit.
//!
//! What is left at a terminal: of a record that no relay has answered for yet, its payload and its leaf. Of one that was accepted,
//! its key and its leaf; the payload is forgotten. Of one that is on chain, the chunk with its root, and the leaves as long as
//! their budget lasts. So a payload can be changed here only before it was accepted, and shows against its leaf; later it is the
//! leaf that can be changed, and shows against the root.

use anchor::SourceError;
use anchor::audit::{After, Content, Grave, Group, Item, Piece, Place, Row, Store};
use wire::{Digest, EpochSecret, Intervals, Record, RunView};

use crate::outbox::evidence;
use crate::outbox::reading_back::ReadFault;
use crate::terminal::Terminal;

impl Terminal {
    fn is_ours(&self, group: &Group) -> bool {
        group.epoch == self.origin().epoch
    }

    fn rows<T: Default>(
        &self,
        group: &Group,
        read: impl FnOnce(&store::rusqlite::Connection) -> Result<T, ReadFault>,
    ) -> Result<T, SourceError> {
        if self.is_ours(group) { self.read(read).map_err(SourceError::new) } else { Ok(T::default()) }
    }
}

impl Store for Terminal {
    fn group_after(&self, after: Option<&Group>) -> Result<Option<Group>, SourceError> {
        let after = after.map_or("", |group| group.series.as_str());
        let series = self.read(|db| evidence::series_after(db, after)).map_err(SourceError::new)?;
        Ok(series.map(|series| Group { series, epoch: self.origin().epoch }))
    }

    fn chunks(&self, group: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError> {
        self.rows(group, |db| evidence::chunks(db, (&group.series, group.epoch), after, limit))
    }

    fn loose(&self, group: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError> {
        self.rows(group, |db| evidence::loose(db, (&group.series, group.epoch), after, limit))
    }

    fn content(&self, piece: &Piece) -> Result<Content, SourceError> {
        let read = match piece.place {
            Place::Chunk(id) => self.read(|db| evidence::of_chunk(db, id)),
            Place::Row(id) => self.read(|db| evidence::of_row(db, id)),
            Place::Page(..) => Ok(None),
        };
        match read {
            Ok(None) => Ok(Content::Gone),
            Ok(Some(kept)) => Ok(self.items(piece, &kept.leaves, kept.run.as_deref())),
            Err(fault @ ReadFault::Invalid(_)) => Ok(Content::Damaged(fault.to_string())),
            Err(fault) => Err(SourceError::new(fault)),
        }
    }

    fn records(&self, _: &Piece) -> Result<Vec<Record>, SourceError> {
        Ok(Vec::new())
    }

    fn holds(&self, chunk: i64) -> Result<bool, SourceError> {
        self.read(|db| evidence::holds(db, chunk)).map_err(SourceError::new)
    }

    fn count(&self) -> Result<u64, SourceError> {
        self.read(evidence::count).map_err(SourceError::new)
    }

    fn stray(&self) -> Result<Vec<i64>, SourceError> {
        self.read(evidence::stray).map_err(SourceError::new)
    }

    fn numbered(&self, group: &Group) -> Result<Intervals, SourceError> {
        self.rows(group, |db| evidence::numbered(db, &group.series))
    }

    fn given_up(&self, group: &Group) -> Result<Vec<Grave>, SourceError> {
        self.rows(group, |db| evidence::given_up(db, &group.series))
    }

    fn elsewhere(&self, _: &Group) -> Result<Vec<(String, Intervals)>, SourceError> {
        Ok(Vec::new())
    }

    fn secret(&self, group: &Group) -> Option<EpochSecret> {
        self.is_ours(group).then(|| self.origin().secret.clone())
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
            let item = |(seq, leaf): (u64, &Digest)| Item { seq, leaf: *leaf, kept: None, at: None };
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
            at: Some(record.at),
        };
        Content::Items(records.into_iter().zip(leaves).map(item).collect())
    }
}
