//! Asking the cloud's HTTP API.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder, Response};

use crate::user::Login;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where the cloud's HTTP API is and as whom it is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Cloud {
    /// The cloud's HTTP address, like http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", env = "FOREBAY_CLOUD")]
    pub cloud: String,
    #[command(flatten)]
    pub login: Login,
}

impl Cloud {
    /// A request to `path` of the API.
    pub(crate) fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().context("the HTTP client does not start")?;
        let mut request = client.request(method, format!("{}{path}", self.cloud.trim_end_matches('/')));
        if let Some(token) = self.login.token()? {
            request = request.bearer_auth(token);
        } else if let Some((user, password)) = self.login.credentials()? {
            request = request.basic_auth(user, Some(password));
        }
        Ok(request)
    }

    /// Sends a request; anything but success becomes an error with what the cloud said.
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.with_context(|| format!("the cloud at {} can't be reached", self.cloud))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = response.text().await.unwrap_or_default();
        bail!("the cloud answered {status}: {}", problem.trim());
    }
}
