//! Who vouches for whom: an issuer of tokens, and the directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use broker::{Denied, Vouched};
use serde_json::{Map, Value};
use wire::At;

use super::config::{Authority, DIRECTORY, Requests};
use super::directory::{Directory, DirectoryFault};
use super::keys::KeySet;
use super::ledger::Identity;
use super::source::{Source, SourceFault};
use super::token::{self, Claims, Expected, TokenFault};
use crate::config::ConfigError;
use crate::metrics::Metrics;

/// Claims that operators see of whoever asks, beside those that rules look at.
const SHOWN: [&str; 4] = ["name", "email", "organisation", "roles"];
/// Bytes of one claim as JSON, at most; a longer one is left out.
const CLAIM_BYTES_MAX: usize = 1_024;

/// Everybody who vouches.
pub(crate) struct Authorities {
    tokens: Option<Issuer>,
    directory: Option<Listed>,
    /// Names of the claims and attributes that are kept with a request.
    kept: Vec<String>,
    metrics: Metrics,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

/// The issuer of tokens.
struct Issuer {
    name: String,
    expected: Expected,
    source: Source,
    keys: ArcSwap<KeySet>,
    /// A token named a key that is not known: perhaps the issuer has a new one.
    missed: AtomicBool,
}

struct Listed {
    path: PathBuf,
    directory: ArcSwap<Directory>,
}

impl Authorities {
    /// Reads the directory. The keys come with the first [`Authorities::renew_keys`].
    pub(crate) fn open(authority: &Authority, requests: &Requests, metrics: Metrics) -> Result<Self, AuthorityFault> {
        let tokens = match &authority.tokens {
            None => None,
            Some(tokens) => Some(Issuer {
                name: tokens.name.clone(),
                expected: Expected {
                    issuer: tokens.issuer.clone(),
                    audience: tokens.audience.clone(),
                    algorithms: tokens.algorithms.clone(),
                    leeway: At::try_from(tokens.leeway.duration().as_nanos()).unwrap_or(At::MAX),
                },
                source: Source::new(tokens)?,
                keys: ArcSwap::default(),
                missed: AtomicBool::new(false),
            }),
        };
        let directory = match &authority.directory {
            None => None,
            Some(path) => Some(Listed { path: path.clone(), directory: ArcSwap::from_pointee(Directory::read(path)?) }),
        };
        let named = requests.rules.iter().flat_map(|rule| rule.claims.keys().map(String::as_str));
        let mut kept: Vec<String> = SHOWN.into_iter().chain(named).map(str::to_owned).collect();
        kept.sort();
        kept.dedup();
        Ok(Self { tokens, directory, kept, metrics })
    }

    /// Whom a token vouches for.
    pub(crate) fn of_token(&self, token: &str, now: At) -> Option<Identity> {
        let issuer = self.tokens.as_ref()?;
        let claims = issuer.check(token, now).ok()?;
        let user = Vouched::new(&issuer.name, claims.subject, claims.until).user;
        Some(Identity { user, authority: issuer.name.clone(), attributes: self.keep(&claims.all) })
    }

    /// What the directory knows about a user whose password was checked.
    pub(crate) fn of_user(&self, user: &str, now: At) -> Option<Identity> {
        let directory = self.directory.as_ref()?.directory.load();
        let attributes = self.keep(directory.attributes(user, now)?);
        Some(Identity { user: user.to_owned(), authority: DIRECTORY.to_owned(), attributes })
    }

    /// Whether what was granted to somebody still may be in force. A token's user is checked when he comes.
    pub(crate) fn stands(&self, who: &Identity, now: At) -> bool {
        match &self.tokens {
            _ if who.authority == DIRECTORY => self.of_user(&who.user, now).is_some(),
            Some(issuer) => issuer.name == who.authority,
            None => false,
        }
    }

    /// Whether anybody vouches for anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_none() && self.directory.is_none()
    }

    pub(crate) fn keys_file(&self) -> Option<&Path> {
        self.tokens.as_ref()?.source.file()
    }

    pub(crate) fn directory_file(&self) -> Option<&Path> {
        Some(&self.directory.as_ref()?.path)
    }

    /// Whether a token named a key that is not known since this was asked the last time.
    pub(crate) fn missed_a_key(&self) -> bool {
        self.tokens.as_ref().is_some_and(|issuer| issuer.missed.swap(false, Ordering::Relaxed))
    }

    /// Whether no key is known, so that no token can hold.
    pub(crate) fn has_no_keys(&self) -> bool {
        self.tokens.as_ref().is_some_and(|issuer| issuer.keys.load().is_empty())
    }

    /// Gets the issuer's keys; says whether one that was trusted is gone.
    pub(crate) async fn renew_keys(&self) -> Result<bool, SourceFault> {
        let Some(issuer) = &self.tokens else { return Ok(false) };
        match issuer.source.get().await {
            Ok(keys) => {
                let gone = !issuer.keys.load().within(&keys);
                issuer.keys.store(keys.into());
                Ok(gone)
            }
            Err(fault) => {
                self.metrics.access_keys_failed.inc();
                Err(fault)
            }
        }
    }

    /// Reads the directory again.
    pub(crate) fn renew_directory(&self) -> Result<(), DirectoryFault> {
        if let Some(listed) = &self.directory {
            listed.directory.store(Directory::read(&listed.path)?.into());
        }
        Ok(())
    }

    /// When the next entry of the directory ends.
    pub(crate) fn next_end(&self, now: At) -> Option<At> {
        self.directory.as_ref()?.directory.load().next_end(now)
    }

    fn keep(&self, all: &Map<String, Value>) -> Map<String, Value> {
        let of = |name: &String| {
            let value = all.get(name).filter(|value| value.to_string().len() <= CLAIM_BYTES_MAX)?;
            Some((name.clone(), value.clone()))
        };
        self.kept.iter().filter_map(of).collect()
    }
}

impl Issuer {
    fn check(&self, text: &str, now: At) -> Result<Claims, TokenFault> {
        token::check(text, &self.keys.load(), &self.expected, now)
    }
}

impl broker::Authority for Authorities {
    fn check(&self, text: &str, now: At) -> Option<Result<Vouched, Denied>> {
        let issuer = self.tokens.as_ref().filter(|_| token::is_token(text))?;
        Some(issuer.check(text, now).map(|claims| Vouched::new(&issuer.name, claims.subject, claims.until)).map_err(|fault| {
            if matches!(fault, TokenFault::UnknownKey { .. }) {
                issuer.missed.store(true, Ordering::Relaxed);
            }
            self.metrics.access_tokens_refused.inc();
            tracing::info!(issuer = issuer.name, %fault, "a token does not hold");
            Denied::WrongToken
        }))
    }
}

/// Why nobody can vouch.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityFault {
    /// The configuration does not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory can't be read.
    #[error(transparent)]
    Directory(#[from] DirectoryFault),
    /// The file of keys can't be read.
    #[error(transparent)]
    Keys(#[from] SourceFault),
    /// The ledger can't be opened.
    #[error(transparent)]
    Ledger(#[from] super::ledger::LedgerFault),
}
