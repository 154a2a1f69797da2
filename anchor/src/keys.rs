//! The private key of a party: one file that only its owner reads, encrypted with a passphrase. It never leaves this module in a form
//! that prints.
//!
//! The file is an Ethereum keystore of version 3, which geth and cast open too. A key as 64 hex digits is taken as well, for development
//! chains, and the log says so.

mod keystore;
mod passphrase;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use wire::Digest;
use zeroize::Zeroizing;

pub use passphrase::Passphrase;

/// Why a key can't be made or used. None of these carries any part of the key or of the passphrase.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("key file {path} does not exist; make a key with: forebay keys new {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be read or written.
    #[error("key file {path} can't be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is a file already where a new key should go.
    #[error("key file {path} is there already, and a key is never overwritten; choose another name, or move the file away")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("{path} is open to others (mode {mode:o}); run: chmod 600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It does not hold a key.
    #[error("{path} is not a key file: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is encrypted, and nobody has said with what.
    #[error(
        "key file {path} is encrypted; give its passphrase in the variable FOREBAY_KEY_PASSPHRASE, or in a file that \
         passphrase_file in the configuration (--passphrase-file on the command line) names"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase is another one.
    #[error("key file {path} does not open with this passphrase")]
    Wrong {
        /// The file.
        path: PathBuf,
    },
    /// There is no passphrase where one is expected.
    #[error("{origin}: the passphrase is empty; a key that anybody can open is not protected")]
    Empty {
        /// The variable or the file.
        origin: String,
    },
    /// More than a passphrase may have.
    #[error("{origin}: the passphrase is longer than 1024 bytes")]
    Long {
        /// The variable or the file.
        origin: String,
    },
    /// Bytes that are no text.
    #[error("{origin}: the passphrase is not UTF-8")]
    NotText {
        /// The variable.
        origin: String,
    },
    /// The passphrase's file can't be read.
    #[error("passphrase file {path} can't be read")]
    PassphraseFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
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

    /// A key from 64 hex digits, with or without 0x, if they are one.
    #[must_use]
    pub fn of_hex(text: &str) -> Option<Self> {
        let digits = Zeroizing::new(text.trim().to_lowercase());
        let bytes = Zeroizing::new(wire::digest::from_hex(digits.trim_start_matches("0x")).ok()?);
        Self::of_bytes(&bytes)
    }

    /// A new key that nobody had before.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn random() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        // All but 2^-128 of the numbers are keys, so this ends at the first.
        loop {
            getrandom::fill(&mut *bytes).map_err(|fault| KeyError::Randomness(fault.to_string()))?;
            if let Some(key) = Self::of_bytes(&bytes) {
                return Ok(key);
            }
        }
    }

    fn secret(&self) -> Zeroizing<Digest> {
        Zeroizing::new(self.0.credential().to_bytes().into())
    }
}

/// Whether a new key file can go there, before somebody is asked for a passphrase. It is the writing that decides.
///
/// # Errors
/// [`KeyError::Exists`].
pub fn vacant(path: &Path) -> Result<(), KeyError> {
    match path.symlink_metadata() {
        Ok(_) => Err(KeyError::Exists { path: path.into() }),
        Err(_) => Ok(()),
    }
}

/// Keeps a key, encrypted, in a new file with mode 0600.
///
/// # Errors
/// [`KeyError`]; a file that is there already is not touched.
pub fn keep(path: &Path, key: &Key, passphrase: &Passphrase) -> Result<(), KeyError> {
    vacant(path)?;
    write(path, &keystore::seal(key, passphrase)?)
}

/// Puts another passphrase on a key file, or a first one on one that is not encrypted. The file is replaced at once or not at all.
///
/// # Errors
/// [`KeyError`]; then the file is what it was.
pub fn change(path: &Path, key: &Key, passphrase: &Passphrase) -> Result<(), KeyError> {
    let fault = |source| KeyError::File { path: path.into(), source };
    // A link would be replaced by the file, and what it names would keep the old passphrase.
    let path = path.canonicalize().map_err(fault)?;
    let text = keystore::seal(key, passphrase)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    write(&beside, &text)?;
    std::fs::rename(&beside, &path).map_err(|source| {
        // What is left behind would be in the way of the next try.
        let _ = std::fs::remove_file(&beside);
        fault(source)
    })?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(fault)
}

/// Makes a new key in a new file with mode 0600, not encrypted: for development chains.
///
/// # Errors
/// [`KeyError`]; a file that is there already is not touched.
pub fn create(path: &Path) -> Result<Key, KeyError> {
    let key = Key::random()?;
    write_plain(path, &key)?;
    Ok(key)
}

/// Keeps a key that is known (a development chain's) in a new file with mode 0600, not encrypted.
///
/// # Errors
/// [`KeyError`]; a file that is there already is not touched.
pub fn import(path: &Path, bytes: &Digest) -> Result<Key, KeyError> {
    let key = Key::of_bytes(bytes).ok_or_else(|| KeyError::Malformed { path: path.into(), why: NOT_A_KEY.to_owned() })?;
    write_plain(path, &key)?;
    Ok(key)
}

fn write_plain(path: &Path, key: &Key) -> Result<(), KeyError> {
    let mut digits = Zeroizing::new(wire::digest::to_hex(&*key.secret()));
    digits.push('\n');
    write(path, &digits)
}

fn write(path: &Path, text: &str) -> Result<(), KeyError> {
    let fault = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => KeyError::Exists { path: path.into() },
        _ => KeyError::File { path: path.into(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|source| {
        // Half a key is none, and it would be in the way of the next try.
        let _ = std::fs::remove_file(path);
        fault(source)
    })
}

const NOT_A_KEY: &str = "it must hold an Ethereum keystore (JSON, version 3), or one private key as 64 hex digits";

/// What a key file holds.
pub enum KeyFile {
    /// A key that whoever reads the file has.
    Plain(Key),
    /// A key behind a passphrase.
    Encrypted(Encrypted),
}

/// A key behind a passphrase.
#[derive(Debug)]
pub struct Encrypted {
    path: PathBuf,
    text: String,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(key) => write!(f, "Plain({key:?})"),
            Self::Encrypted(encrypted) => write!(f, "Encrypted({})", encrypted.path.display()),
        }
    }
}

impl KeyFile {
    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyError`], among others for a file that others may read.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let fault = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound => KeyError::Missing { path: path.into() },
            _ => KeyError::File { path: path.into(), source },
        };
        let file = File::open(path).map_err(fault)?;
        let mode = file.metadata().map_err(fault)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.into(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(keystore::BYTES_MAX as usize + 64));
        file.take(keystore::BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fault)?;
        let unfit = || KeyError::Malformed { path: path.into(), why: NOT_A_KEY.to_owned() };
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() as u64 <= keystore::BYTES_MAX).ok_or_else(unfit)?;
        if text.trim_start().starts_with('{') {
            return Ok(Self::Encrypted(Encrypted { path: path.into(), text: text.to_owned() }));
        }
        Key::of_hex(text).map(Self::Plain).ok_or_else(unfit)
    }

    /// The account, if it can be told without a passphrase. An encrypted file is believed: its address is proven when it is opened.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn address(&self) -> Result<Option<Address>, KeyError> {
        match self {
            Self::Plain(key) => Ok(Some(key.address())),
            Self::Encrypted(encrypted) => keystore::address(&encrypted.text).map_err(|fault| encrypted.fault(fault)),
        }
    }

    /// The key. The passphrase is asked for if there is one; that takes a while, on purpose.
    ///
    /// # Errors
    /// What `passphrase` says, [`KeyError::Wrong`] and [`KeyError::Malformed`].
    pub fn key<E: From<KeyError>>(self, passphrase: impl FnOnce(&Path) -> Result<Passphrase, E>) -> Result<Key, E> {
        match self {
            Self::Plain(key) => Ok(key),
            Self::Encrypted(encrypted) => {
                let passphrase = passphrase(&encrypted.path)?;
                Ok(keystore::open(&encrypted.text, &passphrase).map_err(|fault| encrypted.fault(fault))?)
            }
        }
    }
}

impl Encrypted {
    fn fault(&self, fault: keystore::Fault) -> KeyError {
        let path = self.path.clone();
        match fault {
            keystore::Fault::Malformed(why) => KeyError::Malformed { path, why },
            keystore::Fault::Wrong => KeyError::Wrong { path },
        }
    }
}

/// Reads a key that is not encrypted.
///
/// # Errors
/// [`KeyError`], among others for a file that others may read.
pub fn load(path: &Path) -> Result<Key, KeyError> {
    KeyFile::read(path)?.key(|path| Err(KeyError::Locked { path: path.into() }))
}

/// What opens the key file of a role: a file that holds the passphrase goes before one that was told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Unlock {
    /// File whose first line is the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// The passphrase, as the process was told it.
    pub passphrase: Option<Passphrase>,
}

impl Unlock {
    /// Opens the key file of a role at its start, and says in the log whose key it is and whether it is protected.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(&self, path: &Path) -> Result<Key, KeyError> {
        let file = KeyFile::read(path)?;
        let plain = matches!(file, KeyFile::Plain(_));
        let key = file.key(|path| match (&self.passphrase_file, &self.passphrase) {
            (Some(file), _) => Passphrase::read(file),
            (None, Some(passphrase)) => Ok(passphrase.clone()),
            (None, None) => Err(KeyError::Locked { path: path.into() }),
        })?;
        let (account, file) = (key.address(), path.display());
        if plain {
            let fix = format!("forebay keys change-passphrase {file}");
            tracing::warn!(%account, %file, fix, "the key is not encrypted: good for a development chain, and for nothing else");
        } else {
            tracing::info!(%account, %file, "the key is open");
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned(), "a test").unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn unlock(told: Option<&str>, file: Option<&Path>) -> Unlock {
        Unlock { passphrase_file: file.map(Path::to_owned), passphrase: told.map(words) }
    }

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_never_printed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let key = create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(load(&path).unwrap().address(), key.address());
        let shown = format!("{key:?}{:?}{:?}", KeyFile::read(&path).unwrap(), Unlock::default()).to_lowercase();
        assert!(!shown.contains(text.trim()));
        assert_eq!(format!("{key:?}"), format!("Key({})", key.address()));
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_and_with_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (path, told) = (place.path().join("key"), place.path().join("passphrase"));
        let key = Key::random().unwrap();
        keep(&path, &key, &words("one")).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(unlock(Some("one"), None).open(&path).unwrap().address(), key.address());
        assert!(matches!(unlock(Some("two"), None).open(&path), Err(KeyError::Wrong { .. })));
        let locked = unlock(None, None).open(&path).unwrap_err().to_string();
        assert!(locked.contains("FOREBAY_KEY_PASSPHRASE") && locked.contains("passphrase_file"), "{locked}");
        assert!(matches!(load(&path), Err(KeyError::Locked { .. })));
        // The file that the configuration names for this key goes before what the process was told for all of them.
        std::fs::write(&told, "one\n").unwrap();
        std::fs::set_permissions(&told, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(unlock(Some("two"), Some(&told)).open(&path).unwrap().address(), key.address());
        let gone = unlock(Some("one"), Some(&place.path().join("gone"))).open(&path).unwrap_err();
        assert!(matches!(gone, KeyError::PassphraseFile { .. }), "{gone}");
    }

    #[test]
    fn another_passphrase_replaces_the_first_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let (path, link) = (place.path().join("key"), place.path().join("link"));
        let key = create(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        change(&link, &key, &words("one")).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink(), "the link is still one");
        assert_eq!(unlock(Some("one"), None).open(&path).unwrap().address(), key.address());
        change(&path, &key, &words("two")).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(unlock(Some("two"), None).open(&path).unwrap().address(), key.address());
        assert!(matches!(unlock(Some("one"), None).open(&path), Err(KeyError::Wrong { .. })));
        // Somebody else is at it: nothing changes.
        let before = std::fs::read(&path).unwrap();
        std::fs::write(place.path().join("key.new"), "").unwrap();
        assert!(matches!(change(&path, &key, &words("three")), Err(KeyError::Exists { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_key_that_is_there_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let key = create(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(create(&path), Err(KeyError::Exists { .. })));
        assert!(matches!(keep(&path, &key, &words("one")), Err(KeyError::Exists { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // Not by a link that leads nowhere, either.
        let (link, target) = (place.path().join("link"), place.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(keep(&link, &key, &words("one")), Err(KeyError::Exists { .. })));
        assert!(matches!(create(&link), Err(KeyError::Exists { .. })));
        assert!(!target.exists());
    }

    #[test]
    fn open_files_and_files_that_hold_no_key_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let key = Key::random().unwrap();
        keep(&path, &key, &words("one")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refusal = unlock(Some("one"), None).open(&path).unwrap_err().to_string();
        assert!(refusal.contains(&format!("chmod 600 {}", path.display())), "{refusal}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let long = "a".repeat(1 << 20);
        for text in ["", "0x", "12", &"0".repeat(64), &"f".repeat(64), &"a".repeat(65), "{", "{}", &long, &format!("{{{long}")] {
            std::fs::write(&path, text).unwrap();
            let refusal = unlock(Some("one"), None).open(&path).unwrap_err();
            assert!(matches!(refusal, KeyError::Malformed { .. }), "{refusal}");
        }
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert!(matches!(load(&path), Err(KeyError::Malformed { .. })));
    }
}
