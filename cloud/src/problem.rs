//! What an asker is told when the answer is no: RFC 9457 problem details, over HTTP and over MQTT alike.

use serde::{Deserialize, Serialize};

/// `{"type":"about:blank","title":…,"status":…,"detail":…,"field":…}`.
///
/// `status` is the HTTP status code, over MQTT too; `field` names the part of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
    /// The field of the request that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// Media type of a [`Problem`].
pub const PROBLEM_TYPE: &str = "application/problem+json";

impl Problem {
    fn new(status: u16, title: &str, detail: impl Into<String>) -> Self {
        Self { kind: "about:blank".to_owned(), title: title.to_owned(), status, detail: detail.into(), field: None }
    }

    /// 400: `field` of the request is wrong.
    pub fn field(field: &str, detail: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(400, "Bad Request", detail) }
    }

    /// 400: the request as a whole can't be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, "Bad Request", detail)
    }

    /// 401: a user and a password are needed.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(401, "Unauthorized", detail)
    }

    /// 403: no grant.
    pub fn forbidden() -> Self {
        Self::new(403, "Forbidden", "no grant allows this")
    }

    /// 403, with what is missing.
    pub fn refused(detail: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", detail)
    }

    /// 429: too many of something; wait.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(429, "Too Many Requests", detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "Not Found", detail)
    }

    /// 405: the path exists, but not for this method.
    pub fn method() -> Self {
        Self::new(405, "Method Not Allowed", "this path does not take this method")
    }

    /// 409: the state does not allow it now.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "Conflict", detail)
    }

    /// 501: part of the standard, and not done here.
    pub fn not_implemented(detail: impl Into<String>) -> Self {
        Self::new(501, "Not Implemented", detail)
    }

    /// 503: try again later. The log has the reason.
    pub fn unavailable() -> Self {
        Self::new(503, "Service Unavailable", "the archive can't answer now; try again later")
    }
}
