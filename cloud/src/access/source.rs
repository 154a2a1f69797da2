//! Where the issuer's keys come from: a file, or an HTTP address on this machine.
//!
//! The program has no TLS: an issuer elsewhere is reached through a file that something else keeps up to date, or through a proxy on
//! this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::config::Tokens;
use super::keys::{KeySet, KeysFault, SET_BYTES_MAX};
use crate::config::ConfigError;

/// How long an address may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why keys can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceFault {
    /// The file can't be read.
    #[error("the keys in {} can't be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The address does not answer.
    #[error("the keys at {url} can't be had")]
    Http {
        /// The address.
        url: Url,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// What came is no key set.
    #[error("what {place} holds {source}")]
    Keys {
        /// The file or the address.
        place: String,
        /// What is wrong.
        source: KeysFault,
    },
}

/// A place of keys.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Http(Url),
}

impl Source {
    pub(crate) fn new(tokens: &Tokens) -> Result<Self, ConfigError> {
        if !tokens.keys.contains("://") {
            return Ok(Self::File(PathBuf::from(&tokens.keys)));
        }
        let fault = |fix: &str| ConfigError::Range { field: "authority.tokens.keys", fix: fix.to_owned() };
        let url: Url = tokens.keys.parse().map_err(|_| fault("is neither a file nor an address"))?;
        let here = url.host_str().is_some_and(|host| {
            host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        });
        if url.scheme() != "http" || !here {
            return Err(fault(
                "must be a file, or http on a loopback address: whoever sits between here and the issuer could put in keys of his \
                 own, and there is no TLS here; keep a file up to date with curl, or run a proxy that speaks TLS",
            ));
        }
        Ok(Self::Http(url))
    }

    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Http(_) => None,
        }
    }

    /// Gets the keys. Follows no redirect, and reads no more than a key set may have. A file is small and local: it is read at once.
    pub(crate) async fn get(&self) -> Result<KeySet, SourceFault> {
        let (place, bytes) = match self {
            Self::File(path) => {
                let read = std::fs::read(path).map_err(|source| SourceFault::File { path: path.clone(), source })?;
                (path.display().to_string(), read)
            }
            Self::Http(url) => {
                (url.to_string(), fetch(url).await.map_err(|source| SourceFault::Http { url: url.clone(), source })?)
            }
        };
        KeySet::parse(&bytes).map_err(|source| SourceFault::Keys { place, source })
    }
}

async fn fetch(url: &Url) -> Result<Vec<u8>, reqwest::Error> {
    let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
    let mut response = client.get(url.clone()).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        // One byte too many is what the parser refuses.
        if bytes.len() > SET_BYTES_MAX {
            break;
        }
    }
    Ok(bytes)
}
