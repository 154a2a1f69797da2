//! The audit: what terminals and cloud hold now, against what each of them anchored, and against each other.
//!
//! First by roots: the rows of a ledger make the roots that the chain has, or its proofs were re-written; what a chunk holds makes its
//! anchored root, or something in it was changed. Two chunks with the same root are the same and are not opened. Then downwards,
//! where roots differ: record by record, by leaves. Both sides compute the same leaf of a record, so the side that still
//! stands to what it anchored is the witness against the other.
//!
//! Both sides are read once, series by series in the order of numbers, like the two halves of a merge: what is in memory at a time is a
//! few chunks of each, however much there is. What must be remembered longer is in [`notes`], on disk.
//!
//! Nothing in here writes to what it reads, and nothing asks the chain but [`Before`]. The stores of the two sides are behind [`Store`].

mod books;
mod compare;
mod finding;
mod lane;
mod ledger;
mod notes;
mod onchain;
mod store;

use std::collections::HashSet;
use std::time::Duration;

use wire::{At, Epoch};

use crate::ledger::LedgerError;
use crate::source::SourceError;
use crate::view::LedgerView;

pub use finding::{Class, Evidence, Finding, Notice, Report, Side, Sink, Subject, Tally, What};
pub use onchain::{Before, GatherError, OnChain, Pinned};
pub use store::{After, Content, Grave, Group, Item, Piece, Place, Row, Store};

use books::Book;
use lane::Lane;

/// One side, to be audited. Hold the ledger before the store, so that every chunk of a batch is in the store, and ask the chain before
/// and after both.
pub struct Account<'a> {
    /// Which one.
    pub side: Side,
    /// Whose it is, by the store's word: a terminal's `area/sensor`; a cloud's name.
    pub name: String,
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
    /// Two databases are of one origin: a copy would be compared with itself.
    #[error("two of the terminals have epoch {0}: one of them is a copy of the other")]
    Twice(Epoch),
}

/// What an auditor decides.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The time now.
    pub now: At,
    /// How long a record that a terminal anchored may be on its way to the cloud before it counts as withheld.
    pub grace: Duration,
}

/// An audit of the cloud and any number of terminals, or of one side alone.
///
/// Hold the cloud's databases before the first terminal's: a number that the cloud has was given out by then.
pub struct Audit<'a> {
    cloud: Option<Book<'a>>,
    terms: Terms,
    epochs: HashSet<u64>,
    tally: Tally,
}

impl<'a> Audit<'a> {
    /// Begins with the cloud's ledger.
    ///
    /// # Errors
    /// [`AuditError`] if a database can't be read at all, here and below. What is in it is never an error, but a finding.
    pub fn begin(cloud: Option<&'a Account<'a>>, terms: Terms, sink: &mut dyn Sink) -> Result<Self, AuditError> {
        let mut tally = Tally::default();
        let cloud = cloud.map(|account| Book::open(account, sink, &mut tally)).transpose()?;
        Ok(Self { cloud, terms, epochs: HashSet::new(), tally })
    }

    /// Audits a terminal against the cloud.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn terminal(&mut self, account: &Account<'_>, epoch: Epoch, sink: &mut dyn Sink) -> Result<(), AuditError> {
        if !self.epochs.insert(epoch.0) {
            return Err(AuditError::Twice(epoch));
        }
        let book = Book::open(account, sink, &mut self.tally)?;
        let mut last = None;
        while let Some(group) = account.store.group_after(last.as_ref())? {
            let cloud = self.cloud.as_ref().map(|cloud| Lane::open(cloud, &group)).transpose()?;
            compare::secrets(account, self.cloud.as_ref(), &group, last.is_none(), sink);
            compare::group(Lane::open(&book, &group)?, cloud, self.terms, sink, &mut self.tally)?;
            if let Some(cloud) = &self.cloud {
                cloud.account.onchain.notes.finish(&group.series, group.epoch)?;
            }
            last = Some(group);
        }
        book.close(sink)
    }

    /// Audits what the cloud has besides, and says what was compared.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn finish(mut self, sink: &mut dyn Sink) -> Result<Tally, AuditError> {
        let Some(book) = self.cloud else { return Ok(self.tally) };
        let mut last = None;
        while let Some(group) = book.account.store.group_after(last.as_ref())? {
            if !book.account.onchain.notes.is_done(&group.series, group.epoch)? {
                if self.epochs.contains(&group.epoch.0) {
                    compare::unknown_series(book.account, &group, sink)?;
                }
                compare::group(Lane::open(&book, &group)?, None, self.terms, sink, &mut self.tally)?;
            }
            last = Some(group);
        }
        book.close(sink)?;
        Ok(self.tally)
    }
}
