//! Who sends an HTTP request: Basic authentication against the users that MQTT has, or a token of whom the policy trusts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use broker::{Denied, Policy};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use wire::At;

use super::Api;
use crate::history::Viewer;
use crate::problem::Problem;

/// How long a checked password is remembered. A check takes a core for some 20 ms, by design.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Passwords remembered at once; then all are forgotten.
const REMEMBERED_MAX: usize = 1_024;

/// Checks credentials, and remembers shortly which were right. Only salted digests are kept, and only until users change.
pub(crate) struct Identities {
    policy: Policy,
    salt: [u8; 32],
    right: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    version: u64,
    since: FxHashMap<[u8; 32], Instant>,
}

impl Identities {
    /// Identities of a policy.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn new(policy: Policy) -> Result<Self, getrandom::Error> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt)?;
        Ok(Self { policy, salt, right: Mutex::default() })
    }

    /// The verified user of a request at `now`.
    ///
    /// # Errors
    /// The credentials don't hold, or can't be checked.
    pub(crate) async fn check(&self, credentials: &Credentials, now: At) -> Result<Option<String>, Problem> {
        let (user, password) = match credentials {
            Credentials::None => return self.policy.authenticate(None, None, now).await.map_err(denied),
            // Checked each time: that is cheap, and a token ends.
            Credentials::Token(token) => {
                return self.policy.identify(token, now).map(|vouched| Some(vouched.user)).map_err(denied);
            }
            Credentials::Password { user, password } => (user, password),
        };
        // Read before the check: a reload meanwhile must not let the old answer live on.
        let version = self.policy.version();
        let digest = self.digest(user, password);
        if self.remembers(digest, version) {
            return Ok(Some(user.clone()));
        }
        let verified = self.policy.authenticate(Some(user), Some(password.as_bytes()), now).await.map_err(denied)?;
        // A token in the place of a password ends, and stands for another name.
        if verified.as_ref() == Some(user) && self.policy.is_lasting(user) {
            self.remember(digest, version);
        }
        Ok(verified)
    }

    fn digest(&self, user: &str, password: &str) -> [u8; 32] {
        let hash = Sha256::new().chain_update(self.salt).chain_update((user.len() as u64).to_be_bytes());
        hash.chain_update(user).chain_update(password).finalize().into()
    }

    fn remembers(&self, digest: [u8; 32], version: u64) -> bool {
        let right = self.right.lock();
        right.version == version && right.since.get(&digest).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, digest: [u8; 32], version: u64) {
        let mut right = self.right.lock();
        if right.version != version || right.since.len() >= REMEMBERED_MAX {
            right.since.clear();
            right.version = version;
        }
        right.since.insert(digest, Instant::now());
    }
}

fn denied(denied: Denied) -> Problem {
    match denied {
        Denied::Unavailable => Problem::unavailable(),
        Denied::NoCredentials | Denied::WrongCredentials | Denied::WrongToken => Problem::unauthorized(denied.to_string()),
    }
}

/// What a request says about its sender.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    None,
    Password { user: String, password: String },
    Token(String),
}

impl Credentials {
    /// Those of the `Authorization` header.
    ///
    /// # Errors
    /// It is neither Basic nor Bearer.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(Self::None) };
        let read = || {
            let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
            if scheme.eq_ignore_ascii_case("bearer") {
                return Some(Self::Token(rest.trim().to_owned()));
            }
            if !scheme.eq_ignore_ascii_case("basic") {
                return None;
            }
            let text = String::from_utf8(BASE64.decode(rest.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            Some(Self::Password { user: user.to_owned(), password: password.to_owned() })
        };
        read().ok_or_else(|| {
            Problem::unauthorized(
                "the Authorization header is neither Basic with user:password in base64 nor Bearer with a token",
            )
        })
    }
}

/// The verified sender of a request.
pub(crate) struct Asker(pub(crate) Viewer);

impl FromRequestParts<Arc<Api>> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let credentials = Credentials::of(&parts.headers)?;
        api.identities.check(&credentials, api.clock.now()).await.map(|user| Self(Viewer::user(user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn read(header: &str) -> Result<Credentials, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        Credentials::of(&headers)
    }

    #[test]
    fn basic_credentials_and_tokens_are_read_and_nothing_else_is() {
        let password = |user: &str, password: &str| Credentials::Password { user: user.into(), password: password.into() };
        assert_eq!(read("Basic YW5hOmE6Yg=="), Ok(password("ana", "a:b")));
        assert_eq!(read("basic YW5hOg=="), Ok(password("ana", "")));
        assert_eq!(read("Bearer YW5hOmE="), Ok(Credentials::Token("YW5hOmE=".into())));
        assert_eq!(Credentials::of(&HeaderMap::new()), Ok(Credentials::None));
        for header in ["Digest YW5hOmE=", "Basic", "Bearer", "Basic ???", "Basic YW5h", "Basic /////w=="] {
            assert_eq!(read(header).unwrap_err().status, 401, "{header}");
        }
    }
}
