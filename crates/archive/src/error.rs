//! Why an archive can't be opened or read.

use store::{Fault, LockError};

/// Why an archive can't be opened. A damaged database is none of the reasons: it is put aside and a fresh one is started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The file system refused.
    #[error("can't use the archive's folder")]
    Io(#[from] std::io::Error),
    /// The system has no randomness to make an epoch from.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The first commits failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database refused.
    #[error(transparent)]
    Store(#[from] store::ReadError),
    /// Bytes at rest are not what was written.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// The writer thread is gone.
    #[error(transparent)]
    Writer(#[from] Fault),
    /// It can't be said now.
    #[error("{0}")]
    Unready(&'static str),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

/// Bytes at rest that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A page's runs can't be read.
    #[error("page {page}: {fault}")]
    Page {
        /// The page.
        page: u64,
        /// What is wrong.
        fault: wire::Fault,
    },
    /// A chunk can't be read.
    #[error("chunk: {0}")]
    Chunk(&'static str),
    /// Intervals can't be read.
    #[error("intervals of {table}: {fault}")]
    Intervals {
        /// Where they stand.
        table: &'static str,
        /// What is wrong.
        fault: wire::Fault,
    },
    /// A row names something that is not there.
    #[error("{0}")]
    Row(&'static str),
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Self {
        Self::Corrupt(damage.to_string().into())
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(store::ReadError::Sqlite(error)) => error.into(),
            ReadError::Store(store::ReadError::Corrupt(detail)) => Self::Corrupt(detail.into()),
            ReadError::Store(store::ReadError::Open(error)) => Self::Work(error.to_string().into()),
            ReadError::Damaged(damage) => damage.into(),
            ReadError::Writer(fault) => fault,
            ReadError::Unready(why) => Self::Work(why.into()),
        }
    }
}
