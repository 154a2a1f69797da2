//! One side's pieces of one group, in the order of their numbers, with a window on those that the other side may still speak about.

use std::collections::VecDeque;
use std::rc::Rc;

use wire::Intervals;

use super::AuditError;
use super::books::{Book, Look, Seen};
use super::finding::{Evidence, Sink, Subject, Tally, What};
use super::store::{After, Content, Grave, Group, Piece, Place, Row};

/// Rows that are read at once.
const ROWS_MAX: usize = 128;
/// Contents that are kept: neighbours on one side overlap the same piece of the other.
const CONTENTS_MAX: usize = 4;

/// Which rows a feed reads.
#[derive(Clone, Copy)]
enum Kind {
    Chunks,
    Loose,
}

/// Rows of one kind, a page at a time.
struct Feed {
    kind: Kind,
    rows: VecDeque<Row>,
    after: After,
    ended: bool,
}

impl Feed {
    fn new(kind: Kind) -> Self {
        Self { kind, rows: VecDeque::new(), after: After::START, ended: false }
    }

    /// The first number of the next row; 0 if it can't be read.
    fn peek(&mut self, book: &Book<'_>, group: &Group) -> Result<Option<u64>, AuditError> {
        if self.rows.is_empty() && !self.ended {
            let store = book.account.store;
            let rows = match self.kind {
                Kind::Chunks => store.chunks(group, self.after, ROWS_MAX)?,
                Kind::Loose => store.loose(group, self.after, ROWS_MAX)?,
            };
            match rows.last() {
                Some((after, _)) => self.after = *after,
                None => self.ended = true,
            }
            self.rows = rows.into();
        }
        let first = |row: &Row| row.1.as_ref().ok().and_then(|piece| piece.seqs.first()).unwrap_or_default();
        Ok(self.rows.front().map(first))
    }
}

/// One side of a group.
pub(super) struct Lane<'a> {
    pub book: &'a Book<'a>,
    pub group: Group,
    pub numbered: Intervals,
    pub graves: Vec<Grave>,
    pub elsewhere: Vec<(String, Intervals)>,
    /// Chunks of the ledger that the store has not.
    pub lost: Intervals,
    chunks: Feed,
    loose: Feed,
    pub window: VecDeque<Rc<Seen>>,
    contents: VecDeque<(Place, Rc<Content>)>,
    /// What chunks hold, and what is in none.
    in_chunks: Intervals,
    in_rows: Intervals,
}

impl<'a> Lane<'a> {
    pub fn open(book: &'a Book<'a>, group: &Group) -> Result<Self, AuditError> {
        let store = book.account.store;
        Ok(Self {
            book,
            group: group.clone(),
            numbered: store.numbered(group)?,
            graves: store.given_up(group)?,
            elsewhere: store.elsewhere(group)?,
            lost: book.account.onchain.notes.lost(&group.series, group.epoch)?,
            chunks: Feed::new(Kind::Chunks),
            loose: Feed::new(Kind::Loose),
            window: VecDeque::new(),
            contents: VecDeque::new(),
            in_chunks: Intervals::new(),
            in_rows: Intervals::new(),
        })
    }

    pub fn subject(&self, first: u64, last: u64) -> Subject {
        Subject::stretch(&self.group.series, self.group.epoch, first, last)
    }

    pub fn find(&self, sink: &mut dyn Sink, what: What, (first, last): (u64, u64), evidence: Evidence) {
        self.book.find(sink, what, self.subject(first, last), evidence);
    }

    /// Where the next row stands, in chunks or outside of them.
    fn peek(&mut self) -> Result<Option<(Kind, u64)>, AuditError> {
        let chunk = self.chunks.peek(self.book, &self.group)?.map(|first| (Kind::Chunks, first));
        let row = self.loose.peek(self.book, &self.group)?.map(|first| (Kind::Loose, first));
        Ok(match (chunk, row) {
            (Some(chunk), Some(row)) => Some(if chunk.1 <= row.1 { chunk } else { row }),
            (chunk, row) => chunk.or(row),
        })
    }

    /// Reads one row into the window, if it can be read.
    fn fetch(&mut self, kind: Kind, sink: &mut dyn Sink, tally: &mut Tally) -> Result<(), AuditError> {
        let feed = match kind {
            Kind::Chunks => &mut self.chunks,
            Kind::Loose => &mut self.loose,
        };
        let Some((_, row)) = feed.rows.pop_front() else { return Ok(()) };
        match row {
            Err((place, fault)) => {
                let numbers = self.book.unreadable(sink, place, &fault)?;
                self.cover(kind, &numbers);
            }
            Ok(piece) => {
                self.twice(kind, &piece, sink);
                self.cover(kind, &piece.seqs);
                match self.book.look(sink, tally, piece)? {
                    Look::Damaged(numbers) => self.cover(kind, &numbers),
                    Look::Seen(seen, content) => {
                        self.keep(seen.piece.place, Rc::new(content));
                        self.window.push_back(Rc::from(seen));
                    }
                }
            }
        }
        Ok(())
    }

    fn cover(&mut self, kind: Kind, numbers: &Intervals) {
        match kind {
            Kind::Chunks => self.in_chunks.extend(numbers),
            Kind::Loose => self.in_rows.extend(numbers),
        }
    }

    /// Numbers that another piece of this side has already.
    fn twice(&self, kind: Kind, piece: &Piece, sink: &mut dyn Sink) {
        let shared: Intervals = piece
            .seqs
            .as_slice()
            .iter()
            .flat_map(|(low, high)| [common(&self.in_chunks, *low, *high), common(&self.in_rows, *low, *high)])
            .flatten()
            .collect();
        for &(first, last) in shared.as_slice() {
            let words = match kind {
                Kind::Loose => format!("{} has numbers that a chunk or another row has already", piece.place),
                Kind::Chunks => format!("{} has numbers that another chunk, or a row, has already", piece.place),
            };
            self.find(sink, What::Added, (first, last), Evidence { time: piece.times, ..Evidence::of(words) });
        }
    }

    /// The first piece that was not held against the other side yet.
    pub fn front(&mut self, sink: &mut dyn Sink, tally: &mut Tally) -> Result<Option<Rc<Seen>>, AuditError> {
        loop {
            if let Some(seen) = self.window.iter().find(|seen| !seen.judged.get()) {
                return Ok(Some(Rc::clone(seen)));
            }
            let Some((kind, _)) = self.peek()? else { return Ok(None) };
            self.fetch(kind, sink, tally)?;
        }
    }

    /// Reads everything that begins up to `last`.
    pub fn reach(&mut self, last: u64, sink: &mut dyn Sink, tally: &mut Tally) -> Result<(), AuditError> {
        while let Some((kind, first)) = self.peek()?
            && first <= last
        {
            self.fetch(kind, sink, tally)?;
        }
        Ok(())
    }

    /// Forgets what was judged and ends before `first`: the other side has nothing more to say about it.
    pub fn pass(&mut self, first: u64) {
        self.window.retain(|seen| !seen.judged.get() || seen.last >= first);
    }

    fn keep(&mut self, place: Place, content: Rc<Content>) {
        if self.contents.len() >= CONTENTS_MAX {
            self.contents.pop_front();
        }
        self.contents.push_back((place, content));
    }

    /// What is in a piece of the window.
    pub fn content(&mut self, seen: &Seen) -> Result<Rc<Content>, AuditError> {
        let place = seen.piece.place;
        if let Some((_, content)) = self.contents.iter().find(|(kept, _)| *kept == place) {
            return Ok(Rc::clone(content));
        }
        let content = Rc::new(self.book.account.store.content(&seen.piece)?);
        self.keep(place, Rc::clone(&content));
        Ok(content)
    }

    /// What this side holds in whatever piece.
    pub fn covered(&self) -> Intervals {
        let mut covered = self.in_chunks.clone();
        covered.extend(&self.in_rows);
        covered
    }

    pub fn in_chunks(&self) -> &Intervals {
        &self.in_chunks
    }
}

/// What of `low..=high` is in `set`.
pub(super) fn common(set: &Intervals, low: u64, high: u64) -> Vec<(u64, u64)> {
    if !set.overlaps(low, high) {
        return Vec::new();
    }
    let mut inside = Intervals::of(low, high);
    for (first, last) in set.missing(low, high) {
        inside.remove(first, last);
    }
    inside.as_slice().to_vec()
}

/// What of `from` is not in `without`.
pub(super) fn apart(from: &Intervals, without: &Intervals) -> Intervals {
    from.as_slice().iter().flat_map(|(low, high)| without.missing(*low, *high)).collect()
}
