//! The audit: what terminal and cloud hold now, against what each of them anchored, and against each other.
//!
//! First by roots: the rows of a ledger make the roots that the chain has, or its proofs were re-written; what a chunk holds makes its
//! anchored root, or something in it was changed. Two chunks with the same root are the same and are not opened. Then downwards,
//! where roots differ: record by record, by leaves. Both sides compute the same leaf of a record, so the side that still
//! stands to what it anchored is the witness against the other.
//!
//! Nothing in here writes, and nothing asks the chain but [`OnChain::gather`]. The stores of the two sides are behind [`Store`].

mod compare;
mod ledger;
mod onchain;

use std::fmt;

use serde::{Serialize, Serializer};
use wire::{At, Digest, Epoch, Intervals, Record, RecordKey, Series};

use crate::ledger::LedgerError;
use crate::source::SourceError;
use crate::view::LedgerView;

pub use onchain::{GatherError, OnChain, Pinned};

/// Who a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The edge agent's database.
    Terminal,
    /// The cloud's.
    Cloud,
    /// Both stand to what they anchored, and it differs: it was changed on its way, or by one of them before it anchored.
    Between,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminal => "terminal",
            Self::Cloud => "cloud",
            Self::Between => "between",
        })
    }
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Content, time or place in the series is another one than was anchored.
    Changed,
    /// It was there and is not any more.
    Deleted,
    /// It is there and was not.
    Added,
    /// The content of another record of the series stands at its place.
    Reordered,
    /// The ledger's rows are not what the chain has: proofs made from them don't hold.
    Rewritten,
    /// The two sides anchored different things under one key.
    Disagrees,
    /// It can't be read.
    Damaged,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Added => "added",
            Self::Reordered => "reordered",
            Self::Rewritten => "rewritten",
            Self::Disagrees => "disagrees",
            Self::Damaged => "damaged",
        })
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One record.
    Record(RecordKey),
    /// Some or all records of a stretch.
    Records {
        /// Their series.
        series: Series,
        /// Their epoch.
        epoch: Epoch,
        /// The first sequence number.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// A batch of the side's ledger.
    Batch(u64),
    /// The side's ledger as a whole.
    Ledger,
}

impl Subject {
    /// A stretch; of one record if it is one.
    fn stretch(series: &Series, epoch: Epoch, first: u64, last: u64) -> Self {
        let series = series.clone();
        if first == last {
            Self::Record(RecordKey { series, epoch, seq: first })
        } else {
            Self::Records { series, epoch, first, last }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(key) => write!(f, "{key}"),
            Self::Records { series, epoch, first, last } => write!(f, "{series}@{epoch}.{first}..{last}"),
            Self::Batch(number) => write!(f, "batch {number}"),
            Self::Ledger => f.write_str("the ledger"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Who.
    pub side: Side,
    /// What happened.
    pub what: What,
    /// To what.
    pub subject: Subject,
    /// What shows it.
    pub evidence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}: {}", self.side, self.what, self.subject, self.evidence)
    }
}

/// What an audit came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything that is not as it was anchored.
    pub findings: Vec<Finding>,
    /// Batches of both sides that the chain has as the ledgers say.
    pub batches: u64,
    /// Chunks of both sides that make their anchored roots.
    pub chunks: u64,
    /// Records that both sides anchored alike.
    pub agreed: u64,
    /// Records that only the terminal anchored: still at a relay, on their way, or withheld.
    pub terminal_only: u64,
    /// Records of this terminal that only the cloud anchored: the terminal's turn comes, or it gave up their leaves.
    pub cloud_only: u64,
    /// Records that are not anchored yet, on either side.
    pub open: u64,
}

/// What one side holds together: a chunk, or rows that are in none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The chunk's id; `None` for rows that are in no chunk.
    pub chunk: Option<i64>,
    /// Where it is, in the store's own words, like `outbox row 7`.
    pub place: String,
    /// Its series.
    pub series: Series,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its sequence numbers, as the store says.
    pub seqs: Intervals,
    /// The earliest generation time, as the store says.
    pub at_min: At,
    /// The latest one.
    pub at_max: At,
    /// The root that the store keeps, if it keeps one.
    pub root: Option<Digest>,
}

/// One record of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its sequence number.
    pub seq: u64,
    /// Its leaf: computed from the record, or kept.
    pub leaf: Digest,
    /// The leaf that is kept beside a record, where there is one.
    pub kept: Option<Digest>,
    /// The record, where the store has it.
    pub record: Option<Record>,
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

/// One side's records, as they are now. Everything is read only.
pub trait Store {
    /// The sequence numbers that this side says it gave out (a terminal) or received (a cloud), by series. Read before the pieces, so
    /// that those of a running process never look incomplete.
    ///
    /// # Errors
    /// [`SourceError`] if the database can't be read.
    fn numbered(&self, epoch: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError>;

    /// Those that were given up on purpose, by series.
    ///
    /// # Errors
    /// [`SourceError`].
    fn given_up(&self, epoch: Epoch) -> Result<Vec<(Series, Intervals)>, SourceError>;

    /// A chunk by its id; the error text says why its row can't be read.
    ///
    /// # Errors
    /// [`SourceError`].
    fn chunk(&self, id: i64) -> Result<Option<Result<Piece, String>>, SourceError>;

    /// The ids of all chunks above `id`, in their order, at most `limit`.
    ///
    /// # Errors
    /// [`SourceError`].
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<i64>, SourceError>;

    /// What is in no chunk yet, of one epoch.
    ///
    /// # Errors
    /// [`SourceError`].
    fn loose(&self, epoch: Epoch) -> Result<Vec<Piece>, SourceError>;

    /// What is in a piece.
    ///
    /// # Errors
    /// [`SourceError`].
    fn content(&self, piece: &Piece) -> Result<Content, SourceError>;

    /// The leaf of a record, if its salt is known.
    fn leaf(&self, record: &Record) -> Option<Digest>;
}

/// One side, to be audited.
pub struct Account<'a> {
    /// Which one.
    pub side: Side,
    /// Its ledger.
    pub ledger: &'a LedgerView,
    /// Its records.
    pub store: &'a dyn Store,
    /// What the chain has of it.
    pub onchain: &'a OnChain,
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A store can't be read.
    #[error("{0}")]
    Store(#[from] SourceError),
}

/// Audits a terminal and the cloud, or one of them alone. `epoch` is the terminal's: its records are compared one by one.
///
/// # Errors
/// [`AuditError`] if a database can't be read at all. What is in it is never an error, but a finding.
pub fn audit(terminal: Option<&Account<'_>>, cloud: Option<&Account<'_>>, epoch: Epoch) -> Result<Report, AuditError> {
    let mut report = Report::default();
    let mut books = Vec::new();
    for account in [terminal, cloud].into_iter().flatten() {
        let judged = ledger::judge(account, &mut report)?;
        books.push(compare::Book::open(account, judged, epoch, &mut report)?);
    }
    compare::compare(&books, &mut report)?;
    Ok(report)
}
