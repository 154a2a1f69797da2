//! Where the issuer's keys come from: a file, an address by TLS, or an HTTP address on this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chassis::web;
use reqwest::Url;

use super::config::Tokens;
use super::keys::{KeySet, KeysFault, SET_BYTES_MAX};
use crate::config::ConfigError;

/// How long an address may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why keys can't be had. Of an address the place is told, and not what may be secret in it.
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
    #[error("the keys at {place} can't be had: {why}")]
    Http {
        /// Scheme, host and port.
        place: String,
        /// Why.
        why: String,
    },
    /// Nobody can be trusted.
    #[error("the keys at {place} can't be had")]
    Trust {
        /// Scheme, host and port.
        place: String,
        /// Why.
        #[source]
        source: web::TrustFault,
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
#[derive(Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Http { url: Url, ca: Option<PathBuf> },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Http { url, .. } => write!(f, "Http({})", web::place(url)),
        }
    }
}

impl Source {
    pub(crate) fn new(tokens: &Tokens) -> Result<Self, ConfigError> {
        let field = "authority.tokens.keys";
        let fault = |field, fix: &str| Err(ConfigError::Range { field, fix: fix.to_owned() });
        let ca = tokens.keys_ca.clone();
        let useless = "authority.tokens.keys_ca";
        if !tokens.keys.contains("://") {
            return match ca {
                Some(_) => fault(useless, "is for keys at an https:// address, and they are in a file"),
                None => Ok(Self::File(PathBuf::from(&tokens.keys))),
            };
        }
        let Ok(url) = tokens.keys.parse::<Url>() else { return fault(field, "is neither a file nor an address") };
        let here = url.host_str().is_some_and(|host| {
            host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        });
        match (url.scheme(), here, &ca) {
            ("https", ..) => Ok(Self::Http { url, ca }),
            ("http", true, None) => Ok(Self::Http { url, ca }),
            ("http", true, Some(_)) => fault(useless, "is for an https:// address, and keys has none"),
            _ => fault(
                field,
                "must be a file, an https:// address, or http on a loopback address: without TLS whoever sits between here and the \
                 issuer could put in keys of his own",
            ),
        }
    }

    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Http { .. } => None,
        }
    }

    /// Gets the keys. Follows no redirect, and reads no more than a key set may have. A file is small and local: it is read at once.
    pub(crate) async fn get(&self) -> Result<KeySet, SourceFault> {
        let (place, bytes) = match self {
            Self::File(path) => {
                let read = std::fs::read(path).map_err(|source| SourceFault::File { path: path.clone(), source })?;
                (path.display().to_string(), read)
            }
            Self::Http { url, ca } => (web::place(url), fetch(url, ca.as_deref()).await?),
        };
        KeySet::parse(&bytes).map_err(|source| SourceFault::Keys { place, source })
    }
}

/// The client is made each time, so that an authority that was exchanged counts from the next time on.
async fn fetch(url: &Url, ca: Option<&Path>) -> Result<Vec<u8>, SourceFault> {
    let place = web::place(url);
    let client = web::client(url, ca).map_err(|source| SourceFault::Trust { place: place.clone(), source })?.timeout(PATIENCE);
    let failed = |fault| SourceFault::Http { place: place.clone(), why: web::explain(fault) };
    let client = client.build().map_err(failed)?;
    let mut response = client.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        // One byte too many is what the parser refuses.
        if bytes.len() > SET_BYTES_MAX {
            break;
        }
    }
    Ok(bytes)
}
