//! One side's records, as an audit reads them: a page of rows or one chunk at a time.

use wire::{At, Digest, Epoch, EpochSecret, Intervals, Record, Series};

use crate::source::SourceError;

/// The records of one origin in one series: numbered without a gap, and compared as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The series.
    pub series: Series,
    /// The origin's database.
    pub epoch: Epoch,
}

/// What holds records together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A chunk, by its id.
    Chunk(i64),
    /// A row that is in no chunk yet, by its id.
    Row(i64),
    /// A run in an open page: the page, and where it begins there.
    Page(i64, usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chunk(id) => write!(f, "chunk {id}"),
            Self::Row(id) => write!(f, "outbox row {id}"),
            Self::Page(page, _) => write!(f, "open page {page}"),
        }
    }
}

/// What one side holds together: a chunk, or records that are in none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it is.
    pub place: Place,
    /// Its series.
    pub series: Series,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its sequence numbers, as the store says.
    pub seqs: Intervals,
    /// The earliest generation time, as the store says; none where it says nothing.
    pub times: Option<(At, At)>,
    /// The root that the store keeps, if it keeps one.
    pub root: Option<Digest>,
    /// Whether its row says that it is on chain, in a store that says so.
    pub on_chain: Option<bool>,
    /// What of its row contradicts the rest of it.
    pub fault: Option<String>,
}

/// One record of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its sequence number.
    pub seq: u64,
    /// Its leaf: computed from the record, or kept.
    pub leaf: Digest,
    /// The leaf that is kept beside a record, where there is one.
    pub kept: Option<Digest>,
    /// Its generation time, where the record is there.
    pub at: Option<At>,
}

/// What is in a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its records, in the order of their sequence numbers.
    Items(Vec<Item>),
    /// The leaves were given up for room; the root is all that is kept.
    Gone,
    /// The epoch's secret is not known, so no leaf can be computed.
    NoSecret,
    /// It can't be read.
    Damaged(String),
}

/// Numbers that a terminal gave up on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grave {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Why.
    pub reason: String,
    /// Whether the records had been taken before.
    pub taken: bool,
    /// When.
    pub at: At,
}

/// Where a page of rows begins: behind the piece of that number and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// The number that the store orders pieces by: their first one or, where pieces never overlap, their last one.
    pub number: i64,
    /// Its id.
    pub id: i64,
}

impl After {
    /// Before everything.
    pub const START: Self = Self { number: i64::MIN, id: i64::MIN };
}

/// A piece with its place in the order, or why its row can't be read.
pub type Row = (After, Result<Piece, (Place, String)>);

/// One side's records as they were at one moment. Everything is read only, in one read transaction, and piece by piece.
pub trait Store {
    /// The group behind `after`, in an order of the store's own.
    ///
    /// # Errors
    /// [`SourceError`] if the database can't be read; so do all.
    fn group_after(&self, after: Option<&Group>) -> Result<Option<Group>, SourceError>;

    /// The chunks of a group by their first numbers, at most `limit`.
    ///
    /// # Errors
    /// [`SourceError`].
    fn chunks(&self, group: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError>;

    /// What is in no chunk yet, in the same way.
    ///
    /// # Errors
    /// [`SourceError`].
    fn loose(&self, group: &Group, after: After, limit: usize) -> Result<Vec<Row>, SourceError>;

    /// What is in a piece.
    ///
    /// # Errors
    /// [`SourceError`].
    fn content(&self, piece: &Piece) -> Result<Content, SourceError>;

    /// The records of a piece, where the store has them.
    ///
    /// # Errors
    /// [`SourceError`].
    fn records(&self, piece: &Piece) -> Result<Vec<Record>, SourceError>;

    /// Whether there is a chunk of that id.
    ///
    /// # Errors
    /// [`SourceError`].
    fn holds(&self, chunk: i64) -> Result<bool, SourceError>;

    /// How many chunks there are, counted in another way than by groups.
    ///
    /// # Errors
    /// [`SourceError`].
    fn count(&self) -> Result<u64, SourceError>;

    /// Some chunks that are in no group, because their series can't be told.
    ///
    /// # Errors
    /// [`SourceError`].
    fn stray(&self) -> Result<Vec<i64>, SourceError>;

    /// The sequence numbers that this side says it gave out (a terminal) or received (a cloud).
    ///
    /// # Errors
    /// [`SourceError`].
    fn numbered(&self, group: &Group) -> Result<Intervals, SourceError>;

    /// Those that were given up on purpose.
    ///
    /// # Errors
    /// [`SourceError`].
    fn given_up(&self, group: &Group) -> Result<Vec<Grave>, SourceError>;

    /// Those that others have told this side that they keep, with who does.
    ///
    /// # Errors
    /// [`SourceError`].
    fn elsewhere(&self, group: &Group) -> Result<Vec<(String, Intervals)>, SourceError>;

    /// The secret of a group's epoch.
    fn secret(&self, group: &Group) -> Option<EpochSecret>;
}
