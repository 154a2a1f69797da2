//! Puts a damaged database aside, so that a fresh one can take its place and the damage can be looked at.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Renames the database at `path` with its `-wal` and `-shm` to `<name>.damaged-<n>`, with the first `n` that is free, and gives the new
/// path of the database file.
///
/// # Errors
/// The rename that failed. Files already moved stay moved; a missing `-wal` or `-shm` is no error.
pub fn quarantine(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1u32;
    let aside = loop {
        let candidate = with_suffix(path, &format!(".damaged-{number}"));
        if !candidate.try_exists()? {
            break candidate;
        }
        number += 1;
    };
    // The log first: a crash in between must not leave an old log beside a new database.
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            other => other?,
        }
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    tracing::error!(from = %path.display(), to = %aside.display(), "put a damaged database aside");
    Ok(aside)
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
