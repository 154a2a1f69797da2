//! Signed tokens: JSON Web Tokens (RFC 7519) in compact form, checked as RFC 8725 advises.
//!
//! The key decides the algorithm and not the token; the list of algorithms is closed; issuer, audience and times are always checked;
//! nothing in a token names a place where a key could be had (`jku`, `x5u` and `jwk` are never looked at).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use serde_json::{Map, Value};
use wire::At;

use super::keys::{Algorithm, KeySet};

/// Bytes of a token, at most.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Characters of a subject, at most.
const SUBJECT_CHARS_MAX: usize = 128;
const NANOS: f64 = 1e9;

/// What a token must say.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) algorithms: Vec<Algorithm>,
    /// How far clocks may differ, in nanoseconds.
    pub(crate) leeway: At,
}

/// Why a token does not hold. For the log; its bearer learns no more than that it does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("{0} can't be read")]
    Malformed(&'static str),
    #[error("algorithm {0:?} is not among those configured")]
    Algorithm(String),
    #[error("it has critical extensions, and none is known here")]
    Critical,
    #[error("it is of type {0:?}, not a JWT")]
    Type(String),
    #[error("no key {kid:?} for {algorithm} is known")]
    UnknownKey { kid: String, algorithm: Algorithm },
    #[error("the signature is wrong")]
    Signature,
    #[error("its issuer is {0:?}")]
    Issuer(String),
    #[error("it is not for this audience")]
    Audience,
    #[error("it has ended")]
    Expired,
    #[error("it does not hold yet")]
    Early,
    #[error("its subject is missing, too long, or has / + # * or control characters")]
    Subject,
}

/// What a token that holds says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims {
    pub(crate) subject: String,
    /// When it ends, leeway included.
    pub(crate) until: At,
    pub(crate) all: Map<String, Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// Whether a text is meant as a token: three parts, and the first one begins as `{"` does in base64.
pub(crate) fn is_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Checks a token.
///
/// # Errors
/// The first [`TokenFault`]. Nothing of the claims is believed before the signature.
pub(crate) fn check(token: &str, keys: &KeySet, expected: &Expected, now: At) -> Result<Claims, TokenFault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenFault::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed("it"))?;
    let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed("it"))?;
    let decode = |part: &str, name| BASE64.decode(part).map_err(|_| TokenFault::Malformed(name));
    let header: Header =
        serde_json::from_slice(&decode(header, "its header")?).map_err(|_| TokenFault::Malformed("its header"))?;
    let algorithm = Algorithm::named(&header.alg).filter(|algorithm| expected.algorithms.contains(algorithm));
    let algorithm = algorithm.ok_or_else(|| TokenFault::Algorithm(header.alg.chars().take(16).collect()))?;
    if header.crit.is_some() {
        return Err(TokenFault::Critical);
    }
    if let Some(kind) = &header.typ
        && !["JWT", "at+jwt", "application/at+jwt"].iter().any(|known| known.eq_ignore_ascii_case(kind))
    {
        return Err(TokenFault::Type(kind.chars().take(32).collect()));
    }
    let kid = header.kid.unwrap_or_default();
    match keys.verify(&kid, algorithm, signed.as_bytes(), &decode(signature, "its signature")?) {
        None => return Err(TokenFault::UnknownKey { kid: kid.chars().take(64).collect(), algorithm }),
        Some(false) => return Err(TokenFault::Signature),
        Some(true) => {}
    }
    let all: Map<String, Value> =
        serde_json::from_slice(&decode(claims, "its claims")?).map_err(|_| TokenFault::Malformed("its claims"))?;
    let text = |name: &str| all.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("iss") != expected.issuer {
        return Err(TokenFault::Issuer(text("iss").chars().take(128).collect()));
    }
    let is_audience = |value: &Value| value.as_str() == Some(&expected.audience);
    if !all.get("aud").is_some_and(|aud| is_audience(aud) || aud.as_array().is_some_and(|all| all.iter().any(is_audience))) {
        return Err(TokenFault::Audience);
    }
    let until = moment(&all, "exp")?.ok_or(TokenFault::Expired)?.saturating_add(expected.leeway);
    if until <= now {
        return Err(TokenFault::Expired);
    }
    for name in ["nbf", "iat"] {
        if moment(&all, name)?.is_some_and(|from| from > now.saturating_add(expected.leeway)) {
            return Err(TokenFault::Early);
        }
    }
    let subject = text("sub").to_owned();
    if !(1..=SUBJECT_CHARS_MAX).contains(&subject.chars().count())
        || subject.contains(['/', '+', '#', '*'])
        || subject.contains(char::is_control)
    {
        return Err(TokenFault::Subject);
    }
    Ok(Claims { subject, until, all })
}

/// A NumericDate: seconds since 1970, perhaps with a fraction.
fn moment(claims: &Map<String, Value>, name: &'static str) -> Result<Option<At>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite()).ok_or(TokenFault::Malformed(name))?;
    // A float too large for an integer becomes the largest one.
    Ok(Some((seconds * NANOS) as At))
}

#[cfg(test)]
#[path = "../../tests/town/issuer.rs"]
mod issuer;
#[cfg(test)]
mod tests;
