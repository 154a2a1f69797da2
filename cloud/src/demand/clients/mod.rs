//! Clients of other makers that take part: what they say about themselves, what they want to be told, and what is still to be told. A
//! small database of its own; events and reports are not in it, they are records.

pub(crate) mod calls;
mod resources;
pub(crate) mod subscriptions;
mod told;
mod vens;

use std::path::Path;

use archive::ReadError;
use parking_lot::Mutex;
use store::rusqlite::{Connection, Transaction, TransactionBehavior};
use store::{OpenError, Options, Step};

const STEPS: &[Step] = &[
    Step { name: "vens", sql: include_str!("../../sql/001_vens.sql") },
    Step { name: "clients", sql: include_str!("../../sql/002_clients.sql") },
];

/// Why clients can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientsFault {
    /// The database can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database failed.
    #[error("sqlite: {0}")]
    Sqlite(#[from] store::rusqlite::Error),
    /// The archive can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is held is not what was written.
    #[error("{0} is damaged")]
    Damaged(&'static str),
    /// There is one of this name.
    #[error("there is a {0} of this name already")]
    Taken(&'static str),
    /// There are enough.
    #[error("there are {1} {0} already, which is the limit; remove one")]
    TooMany(&'static str, i64),
}

/// The database. Calls block shortly: it is small.
pub(crate) struct Clients(Mutex<Connection>);

impl Clients {
    /// Opens the database, making it if need be.
    pub(crate) fn open(path: &Path) -> Result<Self, ClientsFault> {
        let options = Options { cache_bytes: 1 << 20, wal_bytes: 1 << 20, ..Options::default() };
        Ok(Self(Mutex::new(store::open(path, STEPS, &options)?)))
    }

    /// All that `work` does is kept, or nothing of it.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Desk<'_>) -> Result<T, ClientsFault>) -> Result<T, ClientsFault> {
        let mut connection = self.0.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&Desk(&tx))?;
        tx.commit()?;
        Ok(done)
    }

    /// Reads one state of it.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Desk<'_>) -> Result<T, ClientsFault>) -> Result<T, ClientsFault> {
        let mut connection = self.0.lock();
        let tx = connection.transaction()?;
        work(&Desk(&tx))
    }
}

/// The database within one transaction.
pub(crate) struct Desk<'a>(&'a Transaction<'a>);

/// Whose objects are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose<'a> {
    /// A user's; an empty name is nobody's, where anybody may come.
    User(&'a str),
    /// Everybody's: an operator asks.
    All,
}

impl<'a> Whose<'a> {
    /// Everybody's for an operator, else the user's.
    pub(crate) const fn of(is_operator: bool, user: &'a str) -> Self {
        if is_operator { Self::All } else { Self::User(user) }
    }

    /// The user's name; nothing for everybody.
    const fn user(self) -> Option<&'a str> {
        match self {
            Self::User(user) => Some(user),
            Self::All => None,
        }
    }
}

fn number_of(id: &str, kind: &str) -> Option<i64> {
    id.strip_prefix(kind)?.strip_prefix('-')?.parse().ok()
}

fn json<T: serde::Serialize>(value: Option<&T>) -> Option<String> {
    value.and_then(|value| serde_json::to_string(value).ok())
}

fn list(text: Option<String>) -> Vec<String> {
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// A user's name as an OpenADR client id. Clients of the standard take fewer characters than a name here may have.
pub(crate) fn client_id(user: &str) -> String {
    let allowed = |byte: char| if byte.is_ascii_alphanumeric() || byte == '-' { byte } else { '_' };
    if user.is_empty() { "anonymous".to_owned() } else { user.chars().map(allowed).take(128).collect() }
}

#[cfg(test)]
mod tests;
