//! Public keys of an issuer: a JSON Web Key Set (RFC 7517).

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Keys of a set, at most.
pub(crate) const KEYS_MAX: usize = 64;
/// Bytes of a set, at most.
pub(crate) const SET_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the smallest RSA modulus that is taken: 2048 bits.
const RSA_BYTES_MIN: usize = 256;

/// How a token is signed. There are no others: none is no signature, and HS* would make a password of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 and at least 2048 bits.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519 (RFC 8037).
    EdDSA,
}

impl Algorithm {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::RS256, Self::ES256, Self::EdDSA];

    const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a key set can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysFault {
    /// Too large.
    #[error("is larger than {SET_BYTES_MAX} bytes or has more than {KEYS_MAX} keys")]
    TooLarge,
    /// Not a key set.
    #[error("is not a JSON Web Key Set ({0})")]
    Json(#[from] serde_json::Error),
    /// Somebody published his secret.
    #[error(
        "key {0:?} is a private one: whoever reads the file can sign tokens; publish the public keys only, and change this one"
    )]
    Private(String),
    /// Nothing in it can check a token.
    #[error("has no key with a kid for RS256 (2048 bits or more), ES256 or EdDSA")]
    Empty,
}

#[derive(PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::RS256,
            Self::P256(_) => Algorithm::ES256,
            Self::Ed25519(_) => Algorithm::EdDSA,
        }
    }
}

/// Keys by kid and algorithm. A key checks tokens of its own algorithm only, whatever the token says.
#[derive(Default)]
pub(crate) struct KeySet(HashMap<(String, Algorithm), Material>);

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Deserialize)]
struct Written {
    keys: Vec<serde_json::Value>,
}

/// Of a key, what says how to check with it. Other members are ignored, as the RFC wants.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde_json::Value>,
}

impl KeySet {
    /// Reads a key set. Keys of other kinds and for other uses are left out.
    ///
    /// # Errors
    /// [`KeysFault`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, KeysFault> {
        if bytes.len() > SET_BYTES_MAX {
            return Err(KeysFault::TooLarge);
        }
        let Written { keys } = serde_json::from_slice(bytes)?;
        if keys.len() > KEYS_MAX {
            return Err(KeysFault::TooLarge);
        }
        let mut set = HashMap::new();
        for key in keys {
            // A key that can't be read may be of a kind that is not known yet.
            let Ok(key) = serde_json::from_value::<Jwk>(key) else { continue };
            if key.d.is_some() {
                return Err(KeysFault::Private(key.kid.unwrap_or_default()));
            }
            let Some((kid, material)) = usable(key) else { continue };
            set.insert((kid, material.algorithm()), material);
        }
        if set.is_empty() { Err(KeysFault::Empty) } else { Ok(Self(set)) }
    }

    /// Whether there is no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every key of this set is in `other` too.
    pub(crate) fn within(&self, other: &Self) -> bool {
        self.0.iter().all(|(name, material)| other.0.get(name) == Some(material))
    }

    /// Whether `signature` over `signed` is one of the key `kid`; `None` when there is no such key.
    pub(crate) fn verify(&self, kid: &str, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Option<bool> {
        let checked = match self.0.get(&(kid.to_owned(), algorithm))? {
            Material::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature)
            }
            Material::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, signature),
            Material::Ed25519(point) => UnparsedPublicKey::new(&signature::ED25519, point).verify(signed, signature),
        };
        Some(checked.is_ok())
    }
}

fn usable(key: Jwk) -> Option<(String, Material)> {
    if key.purpose.is_some_and(|purpose| purpose != "sig") || key.key_ops.is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
    {
        return None;
    }
    let bytes = |member: Option<String>| BASE64.decode(member?).ok();
    let material = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => {
            let (mut n, e) = (bytes(key.n)?, bytes(key.e)?);
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            n.drain(..zeros);
            (n.len() >= RSA_BYTES_MIN).then_some(Material::Rsa { n, e })?
        }
        ("EC", Some("P-256")) => {
            let mut point = vec![4];
            point.extend(bytes(key.x)?);
            point.extend(bytes(key.y)?);
            Material::P256(point.try_into().ok()?)
        }
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(key.x)?.try_into().ok()?),
        _ => return None,
    };
    key.alg.is_none_or(|alg| alg == material.algorithm().name()).then_some((key.kid?, material))
}
