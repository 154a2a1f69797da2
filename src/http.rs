//! Asking the cloud's HTTP API.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chassis::web;
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
    pub trust: Trust,
    #[command(flatten)]
    pub login: Login,
}

/// Who vouches for the cloud.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Trust {
    /// File with the authorities (PEM) that alone vouch for an https:// cloud; without it those of this machine do.
    #[arg(long, value_name = "FILE", env = "FOREBAY_CLOUD_CA")]
    cloud_ca: Option<PathBuf>,
}

impl Cloud {
    /// A request to `path` of the API.
    pub(crate) fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let url = self.cloud.parse().context("--cloud is not an address, like http://127.0.0.1:8080")?;
        let client = web::client(&url, self.trust.cloud_ca.as_deref())?.timeout(TIMEOUT);
        let client = client.build().context("the HTTP client does not start")?;
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
        let place = || web::place_of(&self.cloud);
        let response = request
            .send()
            .await
            .map_err(|fault| anyhow!("the cloud at {} can't be reached: {}", place(), web::explain(fault)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = response.text().await.unwrap_or_default();
        bail!("the cloud answered {status}: {}", problem.trim());
    }
}
