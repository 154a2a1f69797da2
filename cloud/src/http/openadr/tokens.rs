//! `POST auth/token`: OAuth 2 client credentials (RFC 6749, section 4.4) against the users that everything else has.
//!
//! Clients of the standard want a token. It is random, kept in memory as a digest, and holds for an hour; one whose user is gone does
//! not hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use broker::Policy;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::Api;
use super::super::identity::Credentials;
use crate::problem::Problem;

/// How long a token holds.
const HOLDS: Duration = Duration::from_secs(3600);
/// Tokens at once; one more is refused until one has ended.
const TOKENS_MAX: usize = 10_000;

struct Issued {
    user: Option<String>,
    until: Instant,
}

/// Tokens that hold.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<FxHashMap<[u8; 32], Issued>>);

impl Tokens {
    fn issue(&self, user: Option<String>, now: Instant) -> Result<String, Problem> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|fault| {
            tracing::error!(%fault, "the system gives no randomness");
            Problem::unavailable()
        })?;
        let token = URL_SAFE_NO_PAD.encode(secret);
        let mut issued = self.0.lock();
        if issued.len() >= TOKENS_MAX {
            issued.retain(|_, issued| issued.until > now);
        }
        if issued.len() >= TOKENS_MAX {
            return Err(Problem::conflict("too many tokens hold now; use the one you have, or Basic credentials"));
        }
        issued.insert(Sha256::digest(token.as_bytes()).into(), Issued { user, until: now + HOLDS });
        Ok(token)
    }

    /// Whose a token is, `Some(None)` being nobody, where nobody is let in; `None` if none was issued here that holds.
    pub(crate) fn user_of(&self, token: &str, policy: &Policy) -> Option<Option<String>> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let issued = self.0.lock();
        let found = issued.get(&digest).filter(|issued| issued.until > Instant::now());
        found.map(|issued| issued.user.clone()).filter(|user| policy.knows(user.as_deref()))
    }
}

/// Says where tokens are had: at the address under which the client has found this.
pub(super) async fn server(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    let base = match super::service(&api)?.book.settings().url.clone() {
        Some(url) => url,
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            format!("http://{}/openadr3/3.1.0", host.ok_or_else(|| Problem::field("Host", "is missing"))?)
        }
    };
    Ok(Json(json!({"tokenURL": format!("{}/auth/token", base.trim_end_matches('/'))})))
}

/// Issues a token for the credentials in the header, or `client_id` and `client_secret` in the form.
pub(super) async fn issue(State(api): State<Arc<Api>>, mut headers: HeaderMap, body: String) -> Response {
    let refused = |status: StatusCode, error: &str| (status, Json(json!({"error": error}))).into_response();
    let form: Vec<(String, String)> = match format!("/?{body}").parse::<Uri>().map(|uri| Query::try_from_uri(&uri)) {
        Ok(Ok(Query(form))) => form,
        _ => return refused(StatusCode::BAD_REQUEST, "invalid_request"),
    };
    let of = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if of("grant_type") != Some("client_credentials") {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    if let (false, Some(id), Some(secret)) = (headers.contains_key(AUTHORIZATION), of("client_id"), of("client_secret"))
        && let Ok(header) = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(format!("{id}:{secret}"))))
    {
        headers.insert(AUTHORIZATION, header);
    }
    let Ok(credentials) = Credentials::of(&headers) else { return refused(StatusCode::UNAUTHORIZED, "invalid_client") };
    let Ok(user) = api.identities.check(&credentials, api.clock.now()).await else {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    };
    match api.tokens.issue(user, Instant::now()) {
        Ok(token) => {
            let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": HOLDS.as_secs()});
            ([(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}
