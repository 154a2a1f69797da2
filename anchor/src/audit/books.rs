//! One side: its store held against its ledger, piece by piece.

use std::cell::Cell;

use wire::digest::to_hex;
use wire::{ChunkHeader, Digest, Epoch, Intervals, Series, merkle};

use super::finding::{Evidence, Finding, Sink, Subject, Tally, What};
use super::ledger::{self, Judged, is_row_fault};
use super::store::{Content, Piece, Place};
use super::{Account, AuditError, notes};
use crate::content;

/// How a piece stands to what its side anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It makes the root that the chain has.
    Sound,
    /// It does not, or the chain does not have the root.
    Unsound,
    /// It is not on chain yet.
    Open,
}

/// A chunk as the ledger has it.
#[derive(Debug, Clone)]
pub(super) struct Anchored {
    pub batch: u64,
    pub header: ChunkHeader,
    /// Whether the chain has the batch as the ledger's rows make it. `None`: it is not on chain yet.
    pub sound: Option<bool>,
    /// The transaction, where the chain's log names it.
    pub tx: Option<Digest>,
}

impl Anchored {
    /// Where the anchored root stands, in words.
    pub fn place(&self) -> String {
        notes::place(self.batch, self.tx)
    }
}

/// A piece that was looked at.
#[derive(Debug)]
pub(super) struct Seen {
    pub piece: Piece,
    pub first: u64,
    pub last: u64,
    pub anchored: Option<Anchored>,
    pub standing: Standing,
    /// Whether its batch is on chain as the ledger says; then it is the piece that was changed.
    pub batch_sound: bool,
    /// Whether it was held against the other side.
    pub judged: Cell<bool>,
}

impl Seen {
    /// Whether its row stands under another series or epoch than it was anchored under.
    pub fn is_misplaced(&self) -> bool {
        let header = self.anchored.as_ref().map(|anchored| &anchored.header);
        header.is_some_and(|header| header.series != self.piece.series || header.epoch != self.piece.epoch)
    }
}

/// What a look at a piece gave.
pub(super) enum Look {
    /// It can be compared.
    Seen(Box<Seen>, Content),
    /// It can't be read; these are its numbers, as far as the ledger tells.
    Damaged(Intervals),
}

/// One side, while it is audited.
pub(super) struct Book<'a> {
    pub account: &'a Account<'a>,
    pub judged: Judged,
    /// Chunks that were come across in groups, and those of them that are in a batch.
    visited: Cell<u64>,
    batched: Cell<u64>,
}

impl<'a> Book<'a> {
    /// Judges the ledger.
    pub fn open(account: &'a Account<'a>, sink: &mut dyn Sink, tally: &mut Tally) -> Result<Self, AuditError> {
        let judged = ledger::judge(account, sink, tally)?;
        Ok(Self { account, judged, visited: Cell::new(0), batched: Cell::new(0) })
    }

    pub fn find(&self, sink: &mut dyn Sink, what: What, subject: Subject, evidence: Evidence) {
        sink.finding(Finding { side: self.account.side, party: self.account.name.clone(), what, subject, evidence });
    }

    /// When everything was looked at: did groups and batches lead to every chunk that is there?
    pub fn close(&self, sink: &mut dyn Sink) -> Result<(), AuditError> {
        let stray = self.account.store.stray()?;
        for id in &stray {
            let evidence = Evidence::of("its series has no name, or none that a series can have");
            self.find(sink, What::Damaged, Subject::Chunk(*id), evidence);
        }
        let (count, visited) = (self.account.store.count()?, self.visited.get());
        if stray.is_empty() && count != visited {
            let words =
                format!("it has {count} chunks, and by its indexes {visited} are found: an index was changed or is damaged");
            self.find(sink, What::Damaged, Subject::Database, Evidence::of(words));
        }
        let (present, batched) = (self.judged.present, self.batched.get());
        if stray.is_empty() && count == visited && present != batched {
            let words = format!(
                "its batches have {present} chunks of the database, and {batched} chunks are found in a batch: an index was changed or is damaged"
            );
            self.find(sink, What::Damaged, Subject::Ledger, Evidence::of(words));
        }
        Ok(())
    }

    /// A row that can't be read.
    pub fn unreadable(&self, sink: &mut dyn Sink, place: Place, fault: &str) -> Result<Intervals, AuditError> {
        let Place::Chunk(id) = place else {
            self.find(sink, What::Damaged, Subject::Database, Evidence::of(format!("{place}: {fault}")));
            return Ok(Intervals::new());
        };
        self.visited.set(self.visited.get() + 1);
        match self.anchored(id)? {
            Some(Some(anchored)) => {
                self.batched.set(self.batched.get() + 1);
                self.damaged(sink, &anchored, place, fault);
                Ok(anchored.header.intervals)
            }
            _ => {
                self.find(sink, What::Damaged, Subject::Chunk(id), Evidence::of(fault));
                Ok(Intervals::new())
            }
        }
    }

    fn damaged(&self, sink: &mut dyn Sink, anchored: &Anchored, place: Place, fault: &str) {
        let header = &anchored.header;
        let evidence = Evidence::of(format!("{place} of {}: {fault}", anchored.place()));
        let evidence = Evidence { expected: Some(header.root), ..evidence };
        let evidence = evidence.batch(anchored.batch, anchored.tx).time(header.at_min, header.at_max);
        self.find(sink, What::Damaged, Subject::ends(&header.series, header.epoch, &header.intervals), evidence);
    }

    /// What the ledger has of a chunk: nothing, a leaf that can't be believed, or its header.
    fn anchored(&self, chunk: i64) -> Result<Option<Option<Anchored>>, AuditError> {
        let Account { ledger, onchain, .. } = self.account;
        let leaf = match ledger.leaf(chunk) {
            Ok(Some(leaf)) => leaf,
            Ok(None) => return Ok(None),
            Err(fault) if is_row_fault(&fault) => return Ok(Some(None)),
            Err(error) => return Err(error.into()),
        };
        let Ok(content::Content::Chunk(header)) = leaf.content() else { return Ok(Some(None)) };
        let tx = onchain.notes.log(leaf.batch)?.map(|log| log.tx);
        Ok(Some(Some(Anchored { batch: leaf.batch, header, sound: onchain.notes.sound(leaf.batch)?, tx })))
    }

    /// A piece, held against what its side anchored.
    pub fn look(&self, sink: &mut dyn Sink, tally: &mut Tally, piece: Piece) -> Result<Look, AuditError> {
        if let Place::Chunk(id) = piece.place {
            self.visited.set(self.visited.get() + 1);
            if let Some(found) = self.anchored(id)? {
                return match found {
                    Some(anchored) => self.in_batch(sink, tally, piece, anchored),
                    // The ledger was found out already.
                    None => self.in_none(sink, tally, piece),
                };
            }
            // A chunk of the cloud has no root before its secret is known, and another id afterwards.
            let is_late = id <= self.judged.last_chunk && (piece.root.is_some() || piece.on_chain.is_some());
            if is_late {
                let words = format!("{} is in no batch, though later ones are", piece.place);
                self.of_piece(sink, What::Added, &piece, Evidence::of(words));
            }
        }
        self.in_none(sink, tally, piece)
    }

    fn of_piece(&self, sink: &mut dyn Sink, what: What, piece: &Piece, evidence: Evidence) {
        let evidence = Evidence { time: piece.times, ..evidence };
        self.find(sink, what, Subject::ends(&piece.series, piece.epoch, &piece.seqs), evidence);
    }

    /// A piece that no batch has.
    fn in_none(&self, sink: &mut dyn Sink, tally: &mut Tally, piece: Piece) -> Result<Look, AuditError> {
        if piece.on_chain == Some(true) {
            let words = format!("the row of {} says OnChain, and no batch has it", piece.place);
            self.of_piece(sink, What::Changed, &piece, Evidence::of(words));
        }
        if let Some(fault) = &piece.fault {
            self.of_piece(sink, What::Changed, &piece, Evidence::of(format!("{}: {fault}", piece.place)));
        }
        let content = self.account.store.content(&piece)?;
        match &content {
            Content::Damaged(fault) => {
                self.of_piece(sink, What::Damaged, &piece, Evidence::of(format!("{}: {fault}", piece.place)));
                return Ok(Look::Damaged(piece.seqs));
            }
            Content::Items(items) => {
                tally.records += items.len() as u64;
                tally.open += items.len() as u64;
                let leaves: Vec<Digest> = items.iter().map(|item| item.leaf).collect();
                let made = merkle::root(&leaves);
                if let Some(root) = piece.root.filter(|root| *root != made) {
                    let words =
                        format!("{} keeps root 0x{}, and what it holds makes 0x{}", piece.place, to_hex(&root), to_hex(&made));
                    self.of_piece(sink, What::Changed, &piece, Evidence::of(words).digests(root, made));
                }
            }
            Content::Gone | Content::NoSecret => {}
        }
        Ok(Look::Seen(Box::new(seen(piece, None, Standing::Open)), content))
    }

    /// A piece that is in a batch.
    fn in_batch(&self, sink: &mut dyn Sink, tally: &mut Tally, piece: Piece, anchored: Anchored) -> Result<Look, AuditError> {
        self.batched.set(self.batched.get() + 1);
        let header = &anchored.header;
        let evidence = |words: String| Evidence::of(words).batch(anchored.batch, anchored.tx).time(header.at_min, header.at_max);
        let subject = || Subject::ends(&header.series, header.epoch, &header.intervals);
        for (column, is, was) in differing(&piece, header) {
            let words = format!("{column} of {} is {is}, {} anchored {was}", piece.place, anchored.place());
            self.find(sink, What::Changed, subject(), evidence(words));
        }
        if let Some(fault) = &piece.fault {
            self.find(sink, What::Changed, subject(), evidence(format!("{}: {fault}", piece.place)));
        }
        if piece.on_chain == Some(true) && anchored.sound.is_none() {
            let words = format!("the row of {} says OnChain, and the chain does not have {}", piece.place, anchored.place());
            self.find(sink, What::Changed, subject(), evidence(words));
        }
        let content = self.account.store.content(&piece)?;
        let (holds, made) = match &content {
            Content::Items(items) => {
                tally.records += items.len() as u64;
                let leaves: Vec<Digest> = items.iter().map(|item| item.leaf).collect();
                let made = merkle::root(&leaves);
                let numbers = header.intervals.as_slice().iter().flat_map(|(low, high)| *low..=*high);
                (made == header.root && items.iter().map(|item| item.seq).eq(numbers), Some(made))
            }
            Content::Gone => (piece.root.is_none_or(|root| root == header.root), piece.root),
            // It was known when the chunk got its root.
            Content::NoSecret => {
                let words = format!(
                    "the secret of epoch {} is gone, so nobody can show that {} holds what {} anchored",
                    piece.epoch,
                    piece.place,
                    anchored.place()
                );
                self.find(sink, What::Deleted, subject(), evidence(words));
                return Ok(Look::Damaged(header.intervals.clone()));
            }
            Content::Damaged(fault) => {
                self.damaged(sink, &anchored, piece.place, fault);
                return Ok(Look::Damaged(header.intervals.clone()));
            }
        };
        let standing = match (anchored.sound, holds) {
            (Some(true), true) => Standing::Sound,
            (None, true) => Standing::Open,
            _ => Standing::Unsound,
        };
        match standing {
            Standing::Sound => tally.chunks += 1,
            Standing::Open => tally.open = tally.open.saturating_add(header.count),
            Standing::Unsound => {
                tracing::debug!(place = %piece.place, expected = to_hex(&header.root), found = ?made.map(|made| to_hex(&made)), "unsound");
            }
        }
        Ok(Look::Seen(Box::new(seen(piece, Some(anchored), standing)), content))
    }
}

fn seen(piece: Piece, anchored: Option<Anchored>, standing: Standing) -> Seen {
    let batch_sound = anchored.as_ref().is_some_and(|anchored| anchored.sound == Some(true));
    let (first, last) = (piece.seqs.first().unwrap_or_default(), piece.seqs.last().unwrap_or_default());
    Seen { piece, first, last, anchored, standing, batch_sound, judged: Cell::new(false) }
}

/// The columns of a chunk's row that are not what its header said.
fn differing(piece: &Piece, header: &ChunkHeader) -> Vec<(&'static str, String, String)> {
    let spell = |seqs: &Intervals| format!("{:?}", seqs.as_slice());
    let series = |series: &Series| series.to_string();
    let epoch = |epoch: Epoch| epoch.to_string();
    let mut columns = vec![
        ("the series", series(&piece.series), series(&header.series)),
        ("the epoch", epoch(piece.epoch), epoch(header.epoch)),
        ("the sequence numbers", spell(&piece.seqs), spell(&header.intervals)),
    ];
    if let Some((from, to)) = piece.times {
        columns.push(("the earliest time", from.to_string(), header.at_min.to_string()));
        columns.push(("the latest time", to.to_string(), header.at_max.to_string()));
    }
    if let Some(root) = piece.root {
        columns.push(("the root", to_hex(&root), to_hex(&header.root)));
    }
    columns.retain(|(_, is, was)| is != was);
    columns
}
