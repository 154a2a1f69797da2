//! Opens a database so that a commit means what it says, and proves it by reading every pragma back.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::steps::{Step, migrate};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// How a database is opened. The defaults suit a writer that stores tens of megabytes a second.
#[derive(Debug, Clone)]
pub struct Options {
    /// Page size of a new database; an old one keeps its own.
    pub page_bytes: u32,
    /// Page cache of one connection.
    pub cache_bytes: u64,
    /// How large the write-ahead log grows before a commit copies it into the database. The copy costs two syncs and is paid by one
    /// commit, so at 50 MB/s a small log (SQLite's default is 4 MB) would pay it twelve times a second; a log that has once grown is
    /// overwritten in place, which is also what makes its sync cheap.
    pub wal_bytes: u64,
    /// How long a statement waits for another connection's lock.
    pub busy_timeout: Duration,
    /// A database up to this size is checked page by page when it is opened; a larger one shows its damage when it is read.
    pub check_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_bytes: 4096,
            cache_bytes: 16 * MIB,
            wal_bytes: 64 * MIB,
            busy_timeout: Duration::from_secs(5),
            check_bytes_max: 64 * MIB,
        }
    }
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is no database or is damaged: put it aside with [`crate::quarantine()`] and open a fresh one.
    #[error("{} is damaged: {detail}", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// A newer program has written this database.
    #[error("the database has schema version {found} but this program knows {known}; run the newer program")]
    Newer {
        /// Version in the file.
        found: i64,
        /// Version of the last known step.
        known: i64,
    },
    /// A migration failed; the database is as it was before that step.
    #[error("migration step {name:?} failed")]
    Step {
        /// The step.
        name: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A pragma did not take, so the promises of this crate would not hold.
    #[error("pragma {name} is {found:?} though {wanted:?} was asked for")]
    Pragma {
        /// The pragma.
        name: &'static str,
        /// What it was set to.
        wanted: String,
        /// What it reads back as.
        found: String,
    },
    /// The file or its folder can't be used.
    #[error("can't open {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// SQLite refused for another reason.
    #[error("sqlite: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl OpenError {
    /// Turns the errors that mean damage into [`OpenError::Corrupt`].
    fn at(self, path: &Path) -> Self {
        let (Self::Sqlite(source) | Self::Step { source, .. }) = &self else { return self };
        match is_damage(source) {
            true => Self::Corrupt { path: path.to_owned(), detail: source.to_string() },
            false => self,
        }
    }
}

/// Whether an error says that the file itself is damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Opens the database at `path` for its one writer, making it (mode 0600) if it is not there, and migrates it to the last of `steps`.
///
/// # Errors
/// [`OpenError`] says which promise could not be had. The database is never used with less.
pub fn open(path: &Path, steps: &[Step], options: &Options) -> Result<Connection, OpenError> {
    make_private(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    open_writer(path, steps, options).map_err(|error| error.at(path))
}

/// SQLite makes `-wal` and `-shm` with the mode of the database file, so that one mode guards all three.
fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        file.set_permissions(PermissionsExt::from_mode(mode & 0o700))?;
    }
    Ok(())
}

fn open_writer(path: &Path, steps: &[Step], options: &Options) -> Result<Connection, OpenError> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    set_common(&connection, options)?;
    if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))? == 0 {
        // Before the first write; the file decides afterwards, so this one is not asserted.
        connection.pragma_update(None, "page_size", options.page_bytes)?;
    }
    set(&connection, "journal_mode", "WAL", "wal")?;
    set(&connection, "synchronous", "FULL", "2")?;
    let page_bytes: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0))?.into();
    let pages = (options.wal_bytes / page_bytes).max(1).to_string();
    set(&connection, "wal_autocheckpoint", &pages, &pages)?;
    check(&connection, path, options)?;
    migrate(&mut connection, steps)?;
    Ok(connection)
}

/// Opens the database at `path` for reading only. It must have been opened by [`open()`] before.
///
/// # Errors
/// [`OpenError`] as for the writer.
pub fn open_reader(path: &Path, options: &Options) -> Result<Connection, OpenError> {
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        set_common(&connection, options)?;
        set(&connection, "query_only", "ON", "1")?;
        Ok(connection)
    };
    open().map_err(|error: OpenError| error.at(path))
}

fn set_common(connection: &Connection, options: &Options) -> Result<(), OpenError> {
    connection.set_prepared_statement_cache_capacity(64);
    let busy = options.busy_timeout.as_millis().to_string();
    set(connection, "busy_timeout", &busy, &busy)?;
    set(connection, "foreign_keys", "ON", "1")?;
    set(connection, "trusted_schema", "OFF", "0")?;
    set(connection, "temp_store", "MEMORY", "2")?;
    let cache = format!("-{}", (options.cache_bytes / KIB).max(64));
    set(connection, "cache_size", &cache, &cache)?;
    // A failing disk under a memory map is a SIGBUS that ends the process; under a read it is an error that one caller gets.
    set(connection, "mmap_size", "0", "0")
}

/// Sets a pragma and reads it back.
fn set(connection: &Connection, name: &'static str, value: &str, wanted: &str) -> Result<(), OpenError> {
    // Some pragmas answer with a row when they are set, some do not; the second statement is the one that counts.
    connection.query_row(&format!("PRAGMA {name} = {value}"), [], |_| Ok(())).or_else(|error| match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        other => Err(other),
    })?;
    let found = connection.query_row(&format!("PRAGMA {name}"), [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        })
    });
    match found {
        Ok(found) if found == wanted => Ok(()),
        Ok(found) => Err(OpenError::Pragma { name, wanted: wanted.to_owned(), found }),
        Err(error) => Err(error.into()),
    }
}

fn check(connection: &Connection, path: &Path, options: &Options) -> Result<(), OpenError> {
    let bytes = std::fs::metadata(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?.len();
    if bytes > options.check_bytes_max {
        return Ok(());
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(OpenError::Corrupt { path: path.to_owned(), detail: verdict }),
    }
}
