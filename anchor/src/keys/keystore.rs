//! Web3 Secret Storage, version 3: the JSON file that geth, cast and most wallets keep a key in.
//!
//! The passphrase becomes 32 bytes by a function that is slow on purpose. The first half of them encrypts the key (AES-128-CTR), the
//! second half goes with the ciphertext into a Keccak-256 hash, by which a wrong passphrase is told.

use aes::Aes128;
use aes::cipher::{KeyIvInit, StreamCipher};
use alloy::primitives::keccak256;
use ctr::Ctr128BE;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use wire::digest::{from_hex, to_hex};
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use super::{Key, KeyError};

/// What our own files ask of whoever guesses: 32 MiB and about a quarter of a second of one core for each guess. These are OWASP's
/// parameters for 32 MiB (p = 3 makes up for the memory that n = 2^17 would take): a gateway that runs an agent can spare that once
/// at its start, and the 256 MiB of geth's standard it can't.
const OURS: Scrypt = Scrypt { log_n: 15, r: 8, p: 3 };

/// What is still opened of others: memory up to that of geth's standard (n = 2^18, r = 8), and the time of a minute at most.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;
const PASSES_MAX: u32 = 16;
const ROUNDS_MAX: u32 = 10_000_000;

/// The JSON of a key file at most.
pub(super) const BYTES_MAX: u64 = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scrypt {
    log_n: u8,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Keystore {
    /// Other makers leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
    #[serde(default)]
    id: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: serde_json::Value,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Serialize, Deserialize)]
struct ScryptParams {
    dklen: u32,
    n: u64,
    p: u32,
    r: u32,
    salt: String,
}

#[derive(Deserialize)]
struct Pbkdf2Params {
    c: u32,
    dklen: u32,
    prf: String,
    salt: String,
}

type Derived = Zeroizing<[u8; 32]>;

/// Why a file of this kind is of no use, before it is known which file it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not what the format says, or asks for what we don't do.
    Malformed(String),
    /// The passphrase is another one.
    Wrong,
}

fn malformed(why: impl Into<String>) -> Fault {
    Fault::Malformed(why.into())
}

/// The file's text for a key. All randomness is fresh, so no two texts are the same.
pub(super) fn seal(key: &Key, passphrase: &Passphrase) -> Result<String, KeyError> {
    let (mut salt, mut iv, mut id) = ([0u8; 32], [0u8; 16], [0u8; 16]);
    for bytes in [&mut salt[..], &mut iv[..], &mut id[..]] {
        getrandom::fill(bytes).map_err(|fault| KeyError::Randomness(fault.to_string()))?;
    }
    let derived = OURS.derive(passphrase, &salt).map_err(|_| KeyError::Randomness("scrypt refused its parameters".into()))?;
    let mut ciphertext = *key.secret();
    crypt(&derived, &iv, &mut ciphertext);
    let params = ScryptParams { dklen: 32, n: 1 << OURS.log_n, p: OURS.p, r: OURS.r, salt: to_hex(&salt) };
    let file = Keystore {
        address: Some(to_hex(key.address().as_slice())),
        crypto: Crypto {
            cipher: "aes-128-ctr".into(),
            cipherparams: CipherParams { iv: to_hex(&iv) },
            ciphertext: to_hex(&ciphertext),
            kdf: "scrypt".into(),
            kdfparams: serde_json::to_value(params).unwrap_or_default(),
            mac: to_hex(&mac(&derived, &ciphertext)),
        },
        id: uuid(id),
        version: 3,
    };
    Ok(serde_json::to_string_pretty(&file).unwrap_or_default() + "\n")
}

/// The key of a file's text.
pub(super) fn open(text: &str, passphrase: &Passphrase) -> Result<Key, Fault> {
    let file = parse(text)?;
    let crypto = &file.crypto;
    if crypto.cipher != "aes-128-ctr" {
        return Err(malformed(format!("cipher {:?} is not supported, only \"aes-128-ctr\"", crypto.cipher)));
    }
    let iv: [u8; 16] = hex(&crypto.cipherparams.iv, "crypto.cipherparams.iv")?;
    let ciphertext: [u8; 32] = hex(&crypto.ciphertext, "crypto.ciphertext")?;
    let expected: [u8; 32] = hex(&crypto.mac, "crypto.mac")?;
    let derived = derive(crypto, passphrase)?;
    if mac(&derived, &ciphertext) != expected {
        return Err(Fault::Wrong);
    }
    let mut secret = Zeroizing::new(ciphertext);
    crypt(&derived, &iv, &mut secret);
    let key = Key::of_bytes(&secret).ok_or_else(|| malformed("what is encrypted is not a private key"))?;
    match told(&file)? {
        Some(address) if address != key.address() => Err(malformed(format!("it says {address}, but holds {}", key.address()))),
        _ => Ok(key),
    }
}

/// The account that the file's text names, if it does. It is what the file says, and not proven without the passphrase.
pub(super) fn address(text: &str) -> Result<Option<alloy::primitives::Address>, Fault> {
    told(&parse(text)?)
}

fn told(file: &Keystore) -> Result<Option<alloy::primitives::Address>, Fault> {
    let read = |text: &String| hex::<20>(text, "address").map(alloy::primitives::Address::from);
    file.address.as_ref().map(read).transpose()
}

fn parse(text: &str) -> Result<Keystore, Fault> {
    let file: Keystore =
        serde_json::from_str(text).map_err(|fault| malformed(format!("it is no Ethereum keystore of version 3: {fault}")))?;
    match file.version {
        3 => Ok(file),
        other => Err(malformed(format!("version {other} is not supported, only 3"))),
    }
}

fn derive(crypto: &Crypto, passphrase: &Passphrase) -> Result<Derived, Fault> {
    let params = crypto.kdfparams.clone();
    let unread = |fault: serde_json::Error| malformed(format!("crypto.kdfparams: {fault}"));
    match crypto.kdf.as_str() {
        "scrypt" => {
            let ScryptParams { dklen, n, p, r, salt } = serde_json::from_value(params).map_err(unread)?;
            let salt = bytes(&salt, "crypto.kdfparams.salt")?;
            let fits = n.checked_mul(u64::from(r) * 128).is_some_and(|memory| memory <= MEMORY_MAX);
            if dklen != 32 || n < 2 || !n.is_power_of_two() || r == 0 || !fits || !(1..=PASSES_MAX).contains(&p) {
                return Err(malformed(format!(
                    "scrypt with n = {n}, r = {r}, p = {p}, dklen = {dklen} is not supported: at most 256 MiB (128 * n * r), p of 1 to \
                     {PASSES_MAX}, dklen = 32"
                )));
            }
            // A power of two has an exact logarithm below 64.
            let log_n = u8::try_from(n.trailing_zeros()).unwrap_or_default();
            Scrypt { log_n, r, p }.derive(passphrase, &salt)
        }
        "pbkdf2" => {
            let Pbkdf2Params { c, dklen, prf, salt } = serde_json::from_value(params).map_err(unread)?;
            let salt = bytes(&salt, "crypto.kdfparams.salt")?;
            if dklen != 32 || prf != "hmac-sha256" || !(1..=ROUNDS_MAX).contains(&c) {
                return Err(malformed(format!(
                    "pbkdf2 with prf = {prf:?}, c = {c}, dklen = {dklen} is not supported: hmac-sha256, at most {ROUNDS_MAX} rounds, \
                     dklen = 32"
                )));
            }
            let mut derived = Derived::default();
            pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), &salt, c, &mut *derived);
            Ok(derived)
        }
        other => Err(malformed(format!("kdf {other:?} is not supported, only \"scrypt\" and \"pbkdf2\""))),
    }
}

impl Scrypt {
    fn derive(self, passphrase: &Passphrase, salt: &[u8]) -> Result<Derived, Fault> {
        let unfit = || malformed(format!("scrypt refuses n = 2^{}, r = {}, p = {}", self.log_n, self.r, self.p));
        let params = scrypt::Params::new(self.log_n, self.r, self.p).map_err(|_| unfit())?;
        let mut derived = Derived::default();
        scrypt::scrypt(passphrase.as_bytes(), salt, &params, &mut *derived).map_err(|_| unfit())?;
        Ok(derived)
    }
}

/// Encrypts and decrypts: the cipher is its own inverse.
fn crypt(derived: &Derived, iv: &[u8; 16], bytes: &mut [u8; 32]) {
    let mut key = Zeroizing::new([0u8; 16]);
    key.copy_from_slice(&derived[..16]);
    Ctr128BE::<Aes128>::new((&*key).into(), iv.into()).apply_keystream(bytes);
}

fn mac(derived: &Derived, ciphertext: &[u8; 32]) -> [u8; 32] {
    let mut input = Zeroizing::new([0u8; 48]);
    input[..16].copy_from_slice(&derived[16..]);
    input[16..].copy_from_slice(ciphertext);
    *keccak256(*input)
}

/// Others write capitals, or `0x` in front.
fn hex<const N: usize>(text: &str, field: &str) -> Result<[u8; N], Fault> {
    from_hex(text.to_lowercase().trim_start_matches("0x")).map_err(|fault| malformed(format!("{field}: {fault}")))
}

fn bytes(text: &str, field: &str) -> Result<Vec<u8>, Fault> {
    alloy::hex::decode(text).map_err(|fault| malformed(format!("{field}: {fault}")))
}

/// A random UUID (RFC 9562, version 4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = to_hex(&bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";

    fn words(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned(), "a test").unwrap()
    }

    /// The two vectors of the format's definition, which also name their key.
    fn vector(kdf: &str, params: &str, iv: &str, ciphertext: &str, mac: &str) -> String {
        format!(
            r#"{{"crypto":{{"cipher":"aes-128-ctr","cipherparams":{{"iv":"{iv}"}},"ciphertext":"{ciphertext}","kdf":"{kdf}",
            "kdfparams":{params},"mac":"{mac}"}},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}}"#
        )
    }

    fn pbkdf2_vector() -> String {
        vector(
            "pbkdf2",
            r#"{"c":262144,"dklen":32,"prf":"hmac-sha256","salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"}"#,
            "6087dab2f9fdbbfaddc31a909735c1e6",
            "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        )
    }

    fn scrypt_vector() -> String {
        vector(
            "scrypt",
            r#"{"dklen":32,"n":262144,"p":8,"r":1,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"}"#,
            "83dbcc02d8ccb40e466191a123791e0e",
            "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
        )
    }

    #[test]
    fn the_vectors_of_the_format_open() {
        let expected = Key::of_bytes(&from_hex(SECRET).unwrap()).unwrap().address();
        // As older wallets write it, one of them.
        for text in [pbkdf2_vector(), scrypt_vector().replace("crypto", "Crypto")] {
            assert_eq!(open(&text, &words("testpassword")).unwrap().address(), expected);
        }
    }

    /// Made by `cast wallet new` of Foundry 1.7.1 for this test.
    #[test]
    fn a_file_of_cast_opens() {
        let text = vector(
            "scrypt",
            r#"{"dklen":32,"n":8192,"p":1,"r":8,"salt":"4d65cec9e3be7e10af2c63a63c6854aa602d0414f01687de00d5da958bd4cf15"}"#,
            "3feaf3dc39f7e690965a748caa5a09db",
            "580bbe53ed391e2c22e972cf97ef33b754386a7978c22c74ac0c3a1f3925150a",
            "777f9a7292cc37c465e6edc80a3722ecd93078abe959e2d90ecb8754c9a1610e",
        );
        let key = open(&text, &words("correct horse")).unwrap();
        assert_eq!(key.address().to_string(), "0x5ed9b221c4e16660680A62661da127D4aE3dE650");
        assert_eq!(address(&text).unwrap(), None, "cast does not say whose it is");
    }

    #[test]
    fn what_is_sealed_opens_with_its_passphrase_alone_and_holds_the_key_in_no_readable_form() {
        let key = Key::of_bytes(&from_hex(SECRET).unwrap()).unwrap();
        let (one, two) = (seal(&key, &words("käse 42")).unwrap(), seal(&key, &words("käse 42")).unwrap());
        assert_ne!(one, two, "salt and iv are fresh");
        assert_eq!(open(&one, &words("käse 42")).unwrap().address(), key.address());
        assert_eq!(open(&one, &words("käse 43")).unwrap_err(), Fault::Wrong);
        for text in [&one, &two] {
            assert_eq!(address(text).unwrap(), Some(key.address()));
            assert!(!text.to_lowercase().contains(SECRET) && !text.contains("käse"));
            assert!(u64::try_from(text.len()).unwrap() < BYTES_MAX);
        }
        let shape: Keystore = serde_json::from_str(&one).unwrap();
        let id: Vec<usize> = shape.id.split('-').map(str::len).collect();
        assert_eq!((id.as_slice(), &shape.id[14..15]), ([8, 4, 4, 4, 12].as_slice(), "4"));
    }

    #[test]
    fn a_changed_file_does_not_open() {
        let key = Key::of_bytes(&from_hex(SECRET).unwrap()).unwrap();
        let text = seal(&key, &words("a")).unwrap();
        let with = |place: &str, value: serde_json::Value| {
            let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
            *file.pointer_mut(place).unwrap() = value;
            open(&file.to_string(), &words("a")).unwrap_err()
        };
        for (place, bytes) in [("/crypto/ciphertext", 32), ("/crypto/mac", 32), ("/crypto/kdfparams/salt", 32)] {
            assert_eq!(with(place, "77".repeat(bytes).into()), Fault::Wrong, "{place}");
        }
        // The hash does not cover the iv, so another key comes out; the address gives it away.
        assert!(matches!(with("/crypto/cipherparams/iv", "77".repeat(16).into()), Fault::Malformed(_)));
        assert!(matches!(with("/address", "77".repeat(20).into()), Fault::Malformed(_)));
    }

    #[test]
    fn parameters_that_would_take_the_machine_are_refused_before_they_are_tried() {
        for (found, put) in [
            ("262144", "18446744073709551615"),
            ("262144", "9223372036854775808"),
            ("262144", "4611686018427387904"),
            ("262144", "262143"),
            ("262144", "1"),
            ("262144", "0"),
            (r#""p":8"#, r#""p":4294967295"#),
            (r#""p":8"#, r#""p":0"#),
            (r#""r":1"#, r#""r":4294967295"#),
            (r#""r":1"#, r#""r":0"#),
            (r#""dklen":32"#, r#""dklen":16"#),
            (r#""dklen":32"#, r#""dklen":-1"#),
            ("\"scrypt\"", "\"argon2id\""),
            ("aes-128-ctr", "aes-128-cbc"),
            (r#""version":3"#, r#""version":1"#),
            ("83dbcc02", "83dbcc0"),
            ("ab0c7876", "ab0c787z"),
        ] {
            let text = scrypt_vector().replace(found, put);
            assert_ne!(text, scrypt_vector());
            assert!(matches!(open(&text, &words("testpassword")), Err(Fault::Malformed(_))), "{put}");
        }
        for (found, put) in [(r#""c":262144"#, r#""c":4294967295"#), ("hmac-sha256", "hmac-sha1"), (r#""c":262144"#, r#""c":0"#)]
        {
            let text = pbkdf2_vector().replace(found, put);
            assert!(matches!(open(&text, &words("testpassword")), Err(Fault::Malformed(_))), "{put}");
        }
    }
}
