//! One state of a database, held for as long as it is looked at.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use crate::open::{OpenError, Options, open_reader};

/// A database as it was when this was opened, whatever its writer does meanwhile. Under WAL the writer is not held up; its log
/// grows until this is dropped, so don't keep it for longer than it takes to read.
#[derive(Debug)]
pub struct Snapshot {
    connection: Mutex<Connection>,
}

impl Snapshot {
    /// Opens the database at `path` for reading only, and holds the state that it is in now.
    ///
    /// # Errors
    /// As [`open_reader`].
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let connection = open_reader(path, options)?;
        // A read transaction begins with its first read.
        connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Reads.
    ///
    /// # Errors
    /// What `read` failed with.
    pub fn read<T, E>(&self, read: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        // Nothing is ever written, so a reader that panicked has left nothing half done.
        read(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Step, open};

    #[test]
    fn a_snapshot_stays_as_it_was_and_holds_up_no_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        let steps = [Step { name: "one", sql: "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1);" }];
        let options = Options { busy_timeout: std::time::Duration::ZERO, ..Options::default() };
        let writer = open(&path, &steps, &options).unwrap();
        let before = Snapshot::open(&path, &options).unwrap();
        writer.execute("INSERT INTO t VALUES (2)", []).unwrap();
        let sum = |snapshot: &Snapshot| {
            snapshot.read(|tx| tx.query_row("SELECT sum(n) FROM t", [], |row| row.get::<_, i64>(0))).unwrap()
        };
        assert_eq!(sum(&before), 1);
        writer.execute("INSERT INTO t VALUES (3)", []).unwrap();
        assert_eq!(sum(&before), 1);
        assert_eq!(sum(&Snapshot::open(&path, &options).unwrap()), 6);
        assert!(before.read(|tx| tx.execute("DELETE FROM t", [])).is_err(), "it only reads");
    }
}
