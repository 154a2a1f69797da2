//! One process a data folder: the writer's counters live in memory, so a second writer would hand out the same numbers.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Why a data folder can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process works on it.
    #[error("{} is in use by another process; stop it or choose another data folder", .0.display())]
    InUse(PathBuf),
    /// The lock file can't be made.
    #[error("can't lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A lock on a file, held until dropped and released by the system when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, making the file if need be.
    ///
    /// # Errors
    /// [`LockError::InUse`] if somebody holds it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let fault = |source| LockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(fault(source)),
        }
    }
}
