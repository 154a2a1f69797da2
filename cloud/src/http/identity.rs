//! Who sends an HTTP request: Basic authentication against the users that MQTT has.

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

    /// Whose the credentials of a request are.
    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<Option<String>, Problem> {
        let Some((user, password)) = credentials(headers)? else {
            return self.policy.authenticate(None, None).await.map_err(denied);
        };
        // Read before the check: a reload meanwhile must not let the old answer live on.
        let version = self.policy.version();
        let digest = self.digest(&user, &password);
        if self.remembers(digest, version) {
            return Ok(Some(user));
        }
        let verified = self.policy.authenticate(Some(&user), Some(password.as_bytes())).await.map_err(denied)?;
        self.remember(digest, version);
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

/// User and password of the header, if there is one.
fn credentials(headers: &HeaderMap) -> Result<Option<(String, String)>, Problem> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let read = || {
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(BASE64.decode(token.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    };
    read().map(Some).ok_or_else(|| Problem::unauthorized("the Authorization header is not Basic with user:password in base64"))
}

/// The verified sender of a request.
pub(crate) struct Asker(pub(crate) Viewer);

impl FromRequestParts<Arc<Api>> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        api.identities.check(&parts.headers).await.map(|user| Self(Viewer::user(user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn read(header: &str) -> Result<Option<(String, String)>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        credentials(&headers)
    }

    #[test]
    fn basic_credentials_are_read_and_nothing_else_is() {
        assert_eq!(read("Basic YW5hOmE6Yg==").unwrap(), Some(("ana".into(), "a:b".into())));
        assert_eq!(read("basic YW5hOg==").unwrap(), Some(("ana".into(), String::new())));
        assert_eq!(credentials(&HeaderMap::new()).unwrap(), None);
        for header in ["Bearer YW5hOmE=", "Basic", "Basic ???", "Basic YW5h", "Basic /////w=="] {
            assert_eq!(read(header).unwrap_err().status, 401, "{header}");
        }
    }
}
