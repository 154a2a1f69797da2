//! A few read-only connections that scans share. Under WAL they neither block the writer nor wait for it.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};

use crate::open::{OpenError, Options, is_damage, open_reader};

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No connection could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database is damaged where it was read.
    #[error("the database is damaged: {0}")]
    Corrupt(String),
    /// SQLite refused for another reason.
    #[error("sqlite: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        if is_damage(&error) { Self::Corrupt(error.to_string()) } else { Self::Sqlite(error) }
    }
}

/// A bounded pool of read-only connections. When all are in use, the next reader waits.
#[derive(Debug)]
pub struct Readers {
    path: PathBuf,
    options: Options,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<Connection>,
    /// How many more may be opened.
    unopened: usize,
}

impl Readers {
    /// A pool over the database at `path` of at most `connections_max` connections, opened as they are needed.
    pub fn new(path: PathBuf, options: Options, connections_max: usize) -> Self {
        let pool = Pool { idle: Vec::new(), unopened: connections_max.max(1) };
        Self { path, options, pool: Mutex::new(pool), returned: Condvar::new() }
    }

    /// Runs `read` in one read transaction: all its statements see the same state of the database. Keep it short: while a snapshot is
    /// open the write-ahead log can't start over.
    ///
    /// # Errors
    /// What `read` failed with, or that no connection could be opened.
    pub fn read<T, E: From<ReadError>>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut lent = Lent { readers: self, connection: Some(self.take()?) };
        let connection = lent.connection.as_mut().expect("a connection is lent until the end");
        // Dropping a deferred transaction that wrote nothing just ends its snapshot.
        let tx = connection.transaction().map_err(ReadError::from)?;
        read(&tx)
    }

    fn take(&self) -> Result<Connection, ReadError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.unopened > 0 {
                pool.unopened -= 1;
                drop(pool);
                return open_reader(&self.path, &self.options).map_err(|error| {
                    self.lock().unopened += 1;
                    self.returned.notify_one();
                    error.into()
                });
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the connection back also when a reader panics.
struct Lent<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.lock().idle.push(connection);
            self.readers.returned.notify_one();
        }
    }
}
