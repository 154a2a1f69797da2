//! The file of users: one `name:$argon2id$…` a line, `#` for comments.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};

/// What can be wrong with the file of users.
#[derive(Debug, thiserror::Error)]
pub enum UsersFault {
    /// The file can't be read or written.
    #[error("users file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not `name:$argon2id$…`.
    #[error("users file {path}, line {line}: {fault}; write `name:$argon2id$…`, or set the password anew")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        fault: &'static str,
    },
    /// A user name that the file can't hold.
    #[error("user name {0:?} is not allowed: use 1 to 128 characters without `:`, `/`, `+`, `#` and control characters")]
    Name(String),
    /// The password could not be hashed.
    #[error("password can't be hashed: {0}")]
    Hash(String),
}

/// Users and the hashes of their passwords.
#[derive(Default)]
pub(crate) struct Users {
    hashes: HashMap<String, String>,
    /// Checked for names that don't exist, so that they take as long as those that do.
    decoy: Option<String>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("count", &self.hashes.len()).finish_non_exhaustive()
    }
}

impl Users {
    pub(crate) fn read(path: &Path) -> Result<Users, UsersFault> {
        let text = fs::read_to_string(path).map_err(|source| UsersFault::Io { path: path.into(), source })?;
        Users::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Users, UsersFault> {
        let mut hashes = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |fault| UsersFault::Line { path: path.into(), line: number + 1, fault };
            let (name, hash) = line.split_once(':').ok_or_else(|| fault("no `:`"))?;
            if !valid_name(name) {
                return Err(fault("the name has a character that is not allowed"));
            }
            if !hash.starts_with("$argon2id$") || PasswordHash::new(hash).is_err() {
                return Err(fault("the hash is not an argon2id hash"));
            }
            if hashes.insert(name.to_owned(), hash.to_owned()).is_some() {
                return Err(fault("the name is there twice"));
            }
        }
        let decoy = hashes.values().next().cloned();
        Ok(Users { hashes, decoy })
    }

    /// Whether `password` is the user's. Takes tens of milliseconds and 19 MiB: never call it on a runtime thread.
    pub(crate) fn check(&self, name: &str, password: &[u8]) -> bool {
        let (hash, known) = match (self.hashes.get(name), &self.decoy) {
            (Some(hash), _) => (hash, true),
            (None, Some(decoy)) => (decoy, false),
            (None, None) => return false,
        };
        let Ok(hash) = PasswordHash::new(hash) else { return false };
        Argon2::default().verify_password(password, &hash).is_ok() && known
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.hashes.contains_key(name)
    }
}

fn valid_name(name: &str) -> bool {
    (1..=128).contains(&name.chars().count()) && !name.contains([':', '/', '+', '#']) && !name.contains(char::is_control)
}

/// Adds a user to the file, or gives an existing one a new password. The file is made if it is not there, readable by its
/// owner only, and replaced as a whole, so a reader never sees half of it.
///
/// # Errors
/// The file can't be read or written or has a faulty line, or the name is not allowed.
pub fn set_password(path: &Path, name: &str, password: &[u8]) -> Result<(), UsersFault> {
    if !valid_name(name) {
        return Err(UsersFault::Name(name.to_owned()));
    }
    let hash = Argon2::default().hash_password(password).map_err(|fault| UsersFault::Hash(fault.to_string()))?;
    rewrite(path, name, Some(&format!("{name}:{hash}")))
}

/// Takes a user out of the file. Returns whether it was there.
///
/// # Errors
/// The file can't be read or written or has a faulty line.
pub fn remove_user(path: &Path, name: &str) -> Result<bool, UsersFault> {
    let there = Users::read(path)?.contains(name);
    if there {
        rewrite(path, name, None)?;
    }
    Ok(there)
}

/// Replaces the line of `name` (or takes it away) and keeps all others, comments included.
fn rewrite(path: &Path, name: &str, entry: Option<&str>) -> Result<(), UsersFault> {
    let failed = |source| UsersFault::Io { path: path.into(), source };
    let old = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => String::new(),
        Err(fault) => return Err(failed(fault)),
    };
    Users::parse(&old, path)?;
    let mut text = String::with_capacity(old.len() + 128);
    let mut entry = entry;
    for line in old.lines() {
        if line.split_once(':').is_some_and(|(other, _)| other == name) {
            if let Some(new) = entry.take() {
                text.push_str(new);
                text.push('\n');
            }
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    if let Some(new) = entry {
        text.push_str(new);
        text.push('\n');
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file_name = path.file_name().unwrap_or_default().to_os_string();
    file_name.push(format!(".{}.new", std::process::id()));
    let fresh = folder.join(file_name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_set_replaced_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, "# ours\n").unwrap();
        set_password(&path, "anna", b"first").unwrap();
        set_password(&path, "b ob", b"other").unwrap();
        set_password(&path, "anna", b"second").unwrap();
        let users = Users::read(&path).unwrap();
        assert!(users.check("anna", b"second"));
        assert!(!users.check("anna", b"first"));
        assert!(users.check("b ob", b"other"));
        assert!(!users.check("nobody", b"other"));
        assert!(fs::read_to_string(&path).unwrap().starts_with("# ours\nanna:"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(remove_user(&path, "anna").unwrap());
        assert!(!Users::read(&path).unwrap().contains("anna"));
        assert!(!format!("{users:?}").contains("argon2"));
    }

    #[test]
    fn a_faulty_line_is_named() {
        let fault = Users::parse("# c\nanna:plain\n", Path::new("users")).unwrap_err().to_string();
        assert!(fault.contains("line 2"), "{fault}");
        assert!(Users::parse("a+b:$argon2id$v=19$m=1$x$y\n", Path::new("users")).is_err());
    }
}
