//! Callbacks: notifications are posted to whom a subscription names. At least once, in order within a subscription, over restarts.
//!
//! The cloud calls only hosts that its configuration names: a subscriber must not be able to make it call others (its own network, the
//! metadata service of a data centre). Redirects are not followed, proxies of the environment are not used, answers are not read.

use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Span, Stop, web};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::clients::calls::{Call, Next};
use super::clients::{Clients, ClientsFault};
use crate::metrics::Metrics;

/// Longest address.
const URL_MAX: usize = 8_000;
/// Calls at once.
const CALLS_AT_ONCE: usize = 16;
/// How often it is looked whether a call is due.
const LOOK: Duration = Duration::from_millis(250);

/// Whom the cloud calls about changes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callbacks {
    /// Hosts that may be called, each with or without a port. Without any nobody is.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// How long an answer is waited for.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// How long a notification is tried to be delivered; then it is dropped and counted.
    #[serde(default = "kept")]
    pub kept: Span,
}

const fn timeout() -> Span {
    Span::seconds(10)
}

const fn kept() -> Span {
    Span::seconds(86_400)
}

impl Default for Callbacks {
    fn default() -> Self {
        Self { hosts: Vec::new(), timeout: timeout(), kept: kept() }
    }
}

/// Why an address is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlFault {
    #[error("is not the address of a web server: {0}")]
    Malformed(String),
    #[error("is neither http nor https")]
    Scheme,
    #[error("has a user name or a password in it; use bearerToken")]
    Credentials,
    #[error("names the host {0}, which the operator does not allow; it would have to be in demand.callbacks.hosts of the cloud")]
    Host(String),
}

impl Callbacks {
    /// Whether an address may be called.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, text: &str) -> Result<Url, UrlFault> {
        if text.len() > URL_MAX {
            return Err(UrlFault::Malformed("it is longer than 8000 bytes".to_owned()));
        }
        let url: Url = text.parse().map_err(|fault| UrlFault::Malformed(format!("{fault}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlFault::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlFault::Credentials);
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(UrlFault::Malformed("it has no host".to_owned()));
        };
        let with_port = format!("{host}:{port}");
        let allowed = |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(&with_port);
        if !self.hosts.iter().any(allowed) {
            return Err(UrlFault::Host(with_port));
        }
        Ok(url)
    }

    /// The key that is out of range, and how to mend it.
    pub(super) fn check_limits(&self) -> Result<(), (&'static str, &'static str)> {
        if self.timeout.duration().is_zero() {
            return Err(("timeout", "must not be zero"));
        }
        if self.kept.duration().is_zero() {
            return Err(("kept", "must not be zero"));
        }
        let is_host = |host: &String| !host.is_empty() && !host.contains(['/', '@', ' ']);
        if !self.hosts.iter().all(is_host) {
            return Err(("hosts", "has an entry that is no host; write host or host:port, without http://"));
        }
        Ok(())
    }
}

/// How a call went.
#[derive(Debug, thiserror::Error)]
enum CallFault {
    #[error("it {0}")]
    Url(#[from] UrlFault),
    #[error("it was answered with {0}")]
    Answer(StatusCode),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// Delivers until told to stop.
pub(crate) async fn run(clients: Arc<Clients>, callbacks: Callbacks, clock: Arc<dyn Clock>, metrics: Metrics, stop: Stop) {
    let made = web::client_of_any().map_err(|fault| fault.to_string()).and_then(|builder| {
        let client = builder.timeout(callbacks.timeout.duration()).user_agent("forebay").build();
        client.map_err(web::explain)
    });
    let client = match made {
        Ok(client) => client,
        Err(fault) => {
            tracing::error!(%fault, "callbacks can't be made");
            return stop.stopped().await;
        }
    };
    let caller = Caller { client, clients, callbacks, clock, metrics };
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        loop {
            let worked = tokio::select! {
                // What is under way is repeated at the next start.
                () = stop.stopped() => return,
                worked = caller.look() => worked,
            };
            match worked {
                Ok(0) => break,
                Ok(_) => {}
                Err(fault) => {
                    tracing::error!(%fault, "the clients' database can't be read or written; callbacks wait");
                    break;
                }
            }
        }
    }
}

#[derive(Clone)]
struct Caller {
    client: reqwest::Client,
    clients: Arc<Clients>,
    callbacks: Callbacks,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Caller {
    /// Makes the calls that are due; gives how many were taken.
    async fn look(&self) -> Result<usize, ClientsFault> {
        let now = self.clock.now();
        let (due, waiting) =
            self.on_thread(move |clients| clients.read(|desk| Ok((desk.due(now, CALLS_AT_ONCE)?, desk.waiting()?)))).await?;
        self.metrics.demand_calls_waiting.set(waiting);
        let mut calls = JoinSet::new();
        for call in due {
            let caller = self.clone();
            calls.spawn(async move { caller.make(call).await });
        }
        let mut taken = 0;
        while let Some(made) = calls.join_next().await {
            taken += match made {
                Ok(made) => usize::from(made?),
                Err(ended) => std::panic::resume_unwind(ended.into_panic()),
            };
        }
        Ok(taken)
    }

    /// Whether it was taken.
    async fn make(&self, call: Call) -> Result<bool, ClientsFault> {
        let fault = match self.post(&call).await {
            Ok(()) => {
                self.metrics.demand_calls.inc();
                let id = call.id;
                self.on_thread(move |clients| clients.write(|desk| desk.end_call(id))).await?;
                return Ok(true);
            }
            Err(fault) => fault,
        };
        self.metrics.demand_calls_failed.inc();
        let kept = i64::try_from(self.callbacks.kept.duration().as_nanos()).unwrap_or(i64::MAX);
        let next = match fault {
            // Not allowed any more: trying again changes nothing.
            CallFault::Url(_) => Next::Never,
            _ => call.after_failure(self.clock.now(), kept),
        };
        let (url, tries) = (&call.url, call.tries + 1);
        match next {
            Next::Again(_) => tracing::warn!(url, tries, %fault, "a callback failed and is tried again"),
            Next::Never => {
                self.metrics.demand_calls_dropped.inc();
                tracing::error!(url, tries, %fault, "a callback is given up");
            }
        }
        self.on_thread(move |clients| {
            clients.write(|desk| match next {
                Next::Again(due) => desk.put_off(call.id, due),
                Next::Never => desk.end_call(call.id),
            })
        })
        .await?;
        Ok(false)
    }

    async fn post(&self, call: &Call) -> Result<(), CallFault> {
        let url = self.callbacks.check(&call.url)?;
        let request = self.client.post(url).header("Content-Type", "application/json").body(call.body.clone());
        let request = match &call.bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let status = request.send().await?.status();
        if status.is_success() { Ok(()) } else { Err(CallFault::Answer(status)) }
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Clients) -> Result<T, ClientsFault> + Send + 'static,
    ) -> Result<T, ClientsFault> {
        let clients = self.clients.clone();
        let done = tokio::task::spawn_blocking(move || work(&clients)).await;
        done.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_only_hosts_that_the_operator_names_are_called() {
        let callbacks = Callbacks { hosts: vec!["hooks.example.org".into(), "127.0.0.1:9000".into()], ..Callbacks::default() };
        for good in [
            "http://hooks.example.org/a?b=c",
            "https://hooks.example.org/a",
            "http://HOOKS.example.org:81/",
            "http://127.0.0.1:9000/x",
            "http://127.1:9000/",
        ] {
            assert!(callbacks.check(good).is_ok(), "{good}");
        }
        let fault = |text: &str| callbacks.check(text).unwrap_err();
        for bad in [
            "http://127.0.0.1/x",
            "http://127.0.0.1:9001/x",
            "http://169.254.169.254/latest",
            "http://hooks.example.org.evil.org/",
            "http://[::1]:9000/",
            "http://0x7f000001/",
        ] {
            assert!(matches!(fault(bad), UrlFault::Host(_)), "{bad}");
        }
        assert_eq!(fault("http://a:b@hooks.example.org/"), UrlFault::Credentials);
        assert_eq!(fault("ftp://hooks.example.org/"), UrlFault::Scheme);
        assert_eq!(fault("file:///etc/passwd"), UrlFault::Scheme);
        assert!(matches!(fault("hooks.example.org"), UrlFault::Malformed(_)));
        assert!(matches!(Callbacks::default().check("http://127.0.0.1/").unwrap_err(), UrlFault::Host(_)));
    }
}
