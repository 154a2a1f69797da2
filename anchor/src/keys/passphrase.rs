//! What opens a key file: words that are told to this process and to nobody else.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::KeyError;

/// Bytes of a passphrase at most; more than that is another file.
const BYTES_MAX: usize = 1_024;

/// A passphrase. It prints as nothing, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl Passphrase {
    /// A passphrase that `origin` (a variable, a file, the terminal) has given.
    ///
    /// # Errors
    /// [`KeyError::Empty`], [`KeyError::Long`].
    pub fn new(text: String, origin: &str) -> Result<Self, KeyError> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => Err(KeyError::Empty { origin: origin.to_owned() }),
            1..=BYTES_MAX => Ok(Self(text)),
            _ => Err(KeyError::Long { origin: origin.to_owned() }),
        }
    }

    /// The first line of a file.
    ///
    /// # Errors
    /// [`KeyError`], among others for a file that everybody may read.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let fault = |source| KeyError::PassphraseFile { path: path.into(), source };
        let file = File::open(path).map_err(fault)?;
        let mode = file.metadata().map_err(fault)?.permissions().mode() & 0o777;
        // The group is let in: a credential of systemd is given to a service by an access list, and that shows as the group's rights.
        if mode & 0o007 != 0 {
            return Err(KeyError::Open { path: path.into(), mode });
        }
        // As large as it may become from the start: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(BYTES_MAX + 8));
        file.take(BYTES_MAX as u64 + 4).read_to_string(&mut text).map_err(fault)?;
        Self::new(text.lines().next().unwrap_or_default().to_owned(), &path.display().to_string())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_of_a_file_that_not_everybody_reads() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("passphrase");
        let put = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Passphrase::read(&path)
        };
        let words = put("two words \r\nand a note\n", 0o600).unwrap();
        assert_eq!(words.as_bytes(), b"two words ");
        assert_eq!(format!("{words:?}"), "Passphrase(…)");
        assert!(put("two words\n", 0o440).is_ok());
        assert!(matches!(put("two words\n", 0o604), Err(KeyError::Open { .. })));
        for empty in ["", "\n", "\nsecond line"] {
            let refusal = put(empty, 0o600).unwrap_err().to_string();
            assert!(refusal.contains(path.to_str().unwrap()) && refusal.contains("empty"), "{refusal}");
        }
        assert!(matches!(put(&"a".repeat(1_025), 0o600), Err(KeyError::Long { .. })));
        assert!(matches!(put(&"a".repeat(100_000), 0o600), Err(KeyError::Long { .. })));
        assert!(put(&"a".repeat(1_024), 0o600).is_ok());
    }
}
