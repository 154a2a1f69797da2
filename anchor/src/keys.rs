//! The private key of a party: one file that only its owner reads. It never leaves this module in a form that prints.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use wire::Digest;

/// Why a key can't be made or used. None of these carries any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or written.
    #[error("key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("key file {path} is open to others (mode {mode:o}); chmod 600 it")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It does not hold a key.
    #[error("key file {path} must hold one private key: 64 hex digits, with or without 0x")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness to give.
    #[error("no randomness for a new key: {0}")]
    Randomness(String),
}

/// A key that signs. Prints as its public address only.
#[derive(Clone)]
pub struct Key(PrivateKeySigner);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.address())
    }
}

impl Key {
    /// The account that the key signs for.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.address()
    }

    pub(crate) fn sign(&self, digest: B256) -> Option<alloy::primitives::Signature> {
        self.0.sign_hash_sync(&digest).ok()
    }

    /// A key from its 32 bytes, if they are one.
    #[must_use]
    pub fn of_bytes(bytes: &Digest) -> Option<Self> {
        PrivateKeySigner::from_bytes(&B256::from(*bytes)).ok().map(Self)
    }
}

/// Makes a new key in a new file with mode 0600.
///
/// # Errors
/// [`KeyError`]; a file that is there already is not touched.
pub fn create(path: &Path) -> Result<Key, KeyError> {
    let mut bytes = [0u8; 32];
    // All but 2^-128 of the numbers are keys, so this ends at the first.
    let key = loop {
        getrandom::fill(&mut bytes).map_err(|fault| KeyError::Randomness(fault.to_string()))?;
        if let Some(key) = Key::of_bytes(&bytes) {
            break key;
        }
    };
    write(path, &bytes)?;
    Ok(key)
}

/// Keeps a key that is known (a development chain's) in a new file with mode 0600.
///
/// # Errors
/// [`KeyError`]; a file that is there already is not touched.
pub fn import(path: &Path, bytes: &Digest) -> Result<Key, KeyError> {
    let key = Key::of_bytes(bytes).ok_or_else(|| KeyError::Malformed { path: path.into() })?;
    write(path, bytes)?;
    Ok(key)
}

fn write(path: &Path, bytes: &Digest) -> Result<(), KeyError> {
    let fault = |source| KeyError::File { path: path.into(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    let text = format!("{}\n", wire::digest::to_hex(bytes));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)
}

/// Reads a key.
///
/// # Errors
/// [`KeyError`], among others for a file that others may read.
pub fn load(path: &Path) -> Result<Key, KeyError> {
    let fault = |source| KeyError::File { path: path.into(), source };
    let file = File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.into(), mode });
    }
    // A key is 67 characters at most; more than that is another file.
    let mut text = String::new();
    file.take(128).read_to_string(&mut text).map_err(fault)?;
    let digits = text.trim().trim_start_matches("0x");
    let bytes = wire::digest::from_hex(digits).ok();
    bytes.and_then(|bytes| Key::of_bytes(&bytes)).ok_or_else(|| KeyError::Malformed { path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_never_printed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let key = create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(load(&path).unwrap().address(), key.address());
        assert!(!format!("{key:?}").to_lowercase().contains(text.trim()));
        assert_eq!(format!("{key:?}"), format!("Key({})", key.address()));
    }

    #[test]
    fn a_key_that_is_there_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        create(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(create(&path), Err(KeyError::File { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn open_files_and_files_that_hold_no_key_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refusal = load(&path).unwrap_err().to_string();
        assert!(refusal.contains("chmod 600"), "{refusal}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "0x", "12", &"0".repeat(64), &"f".repeat(64), &"a".repeat(65)] {
            std::fs::write(&path, text).unwrap();
            let refusal = load(&path).unwrap_err();
            assert!(matches!(refusal, KeyError::Malformed { .. }), "{text}: {refusal}");
        }
    }
}
