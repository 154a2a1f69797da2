//! Takes requests, has them decided, and keeps the policy in step with what is granted.

use std::path::Path;
use std::sync::Arc;

use broker::Policy;
use chassis::Clock;
use tokio::sync::Mutex;
use wire::At;

use super::audit::Entry;
use super::authorities::{Authorities, AuthorityFault};
use super::config::{Authority, Requests};
use super::ledger::{Decided, Identity, Ledger, Limits, Refused, Request};
use super::rule::judge;
use super::state::{Event, State};
use super::want::{Ask, Narrowed, Want, words};
use crate::metrics::Metrics;
use crate::problem::Problem;

/// The one place through which requests go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registrar(Arc<Inner>);

struct Inner {
    ledger: Arc<Ledger>,
    authorities: Arc<Authorities>,
    config: Requests,
    policy: Policy,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// Held from reading what is granted to putting it in force, so that an older state never replaces a newer one.
    order: Mutex<()>,
}

impl Registrar {
    /// Opens the ledger in the folder `data`, and puts in force what is granted. From now on the policy trusts the authority.
    pub(crate) async fn open(
        data: &Path,
        authority: &Authority,
        config: Requests,
        policy: Policy,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, AuthorityFault> {
        let authorities = Arc::new(Authorities::open(authority, &config, metrics.clone())?);
        match authorities.renew_keys().await {
            Ok(_) => {}
            // A file that is not there is a mistake of whoever wrote the configuration; an address may come later.
            Err(fault) if authorities.keys_file().is_some() => return Err(fault.into()),
            Err(fault) => tracing::warn!(error = %Shown(&fault), "no token holds until the issuer's keys can be had"),
        }
        let (ledger, broken) = Ledger::open(data)?;
        if let Some(seq) = broken {
            tracing::error!(seq, "ALARM: the audit trail of access was changed: this entry does not follow from the one before");
        }
        policy.trust(authorities.clone());
        let ledger = Arc::new(ledger);
        let inner = Inner { ledger, authorities, config, policy, clock, metrics, order: Mutex::default() };
        let registrar = Self(Arc::new(inner));
        registrar.put_in_force().await.map_err(|fault| match fault {
            Refused::Fault(fault) => AuthorityFault::Ledger(fault),
            Refused::Problem(problem) => {
                AuthorityFault::Config(crate::ConfigError::Range { field: "access.sqlite", fix: problem.detail })
            }
        })?;
        Ok(registrar)
    }

    pub(crate) fn authorities(&self) -> &Authorities {
        &self.0.authorities
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.0.policy
    }

    pub(crate) fn now(&self) -> At {
        self.0.clock.now()
    }

    /// Takes a request; a rule may approve it at once.
    pub(crate) async fn ask(&self, who: Identity, ask: &Ask) -> Result<Request, Problem> {
        let now = self.now();
        let config = &self.0.config;
        let lasting_max = At::try_from(config.lasting_max.duration().as_nanos()).unwrap_or(At::MAX);
        let want = Want::new(ask, now, lasting_max)?;
        let given = judge(&config.rules, &who.authority, &who.attributes, &want, now);
        let limits = Limits { waiting_max: config.waiting_max, day_max: config.day_max, kept_max: config.kept_max };
        let request = self.write(move |ledger| ledger.ask(&who, &want, given.as_ref(), limits, now)).await?;
        tracing::info!(request = request.id, user = request.who.user, state = %request.state, "access was asked for");
        self.0.metrics.access(State::Waiting);
        if request.state == State::Approved {
            self.0.metrics.access(State::Approved);
            self.in_force().await?;
        }
        Ok(request)
    }

    /// Decides a request in the name of `by`. What is granted, or taken away, is in force when this returns.
    pub(crate) async fn decide(
        &self,
        id: u64,
        event: Event,
        by: String,
        reason: &str,
        narrowed: Narrowed,
    ) -> Result<Request, Problem> {
        let by = Decided { at: self.now(), by, reason: words("reason", reason)? };
        let request = self.write(move |ledger| ledger.decide(id, event, &by, &narrowed)).await?;
        let by = request.decided.as_ref().map(|decided| decided.by.as_str());
        tracing::info!(request = id, user = request.who.user, state = %request.state, by, "access was decided");
        self.0.metrics.access(request.state);
        self.in_force().await?;
        Ok(request)
    }

    /// One request.
    pub(crate) async fn get(&self, id: u64) -> Result<Option<Request>, Problem> {
        self.write(move |ledger| Ok(ledger.get(id)?)).await
    }

    /// See [`Ledger::list`].
    pub(crate) async fn list(
        &self,
        user: Option<String>,
        state: Option<State>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Request>, Problem> {
        self.write(move |ledger| Ok(ledger.list(user.as_deref(), state, before, limit)?)).await
    }

    /// See [`Ledger::log`].
    pub(crate) async fn log(&self, after: u64, limit: u64) -> Result<Vec<Entry>, Problem> {
        self.write(move |ledger| Ok(ledger.log(after, limit)?)).await
    }

    /// Puts in force what is granted to those whom their authority still knows.
    ///
    /// # Errors
    /// The ledger can't be read; then what was in force stays.
    pub(crate) async fn put_in_force(&self) -> Result<(), Refused> {
        let _order = self.0.order.lock().await;
        let now = self.now();
        let granted = run(&self.0.ledger, move |ledger| Ok(ledger.in_force(now)?)).await?;
        let of = |request: &Request| {
            let (bounds, until) = request.granted.as_ref().filter(|_| self.0.authorities.stands(&request.who, now))?;
            Some(bounds.grant(&request.who.user, Some(request.want.from), Some(*until)))
        };
        let put = self.0.policy.put_approved(granted.iter().filter_map(of).collect());
        put.map_err(|faults| Refused::Problem(Problem::conflict(format!("what is granted makes no sense: {faults}"))))
    }

    async fn in_force(&self) -> Result<(), Problem> {
        self.put_in_force().await.map_err(told)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Problem> {
        run(&self.0.ledger, work).await.map_err(told)
    }
}

/// Works on the ledger on a thread where waiting for the disk hurts nobody. The work goes on when nobody waits for it any more.
async fn run<T: Send + 'static>(
    ledger: &Arc<Ledger>,
    work: impl FnOnce(&Ledger) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let ledger = ledger.clone();
    let done = tokio::task::spawn_blocking(move || work(&ledger)).await;
    done.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

fn told(refused: Refused) -> Problem {
    match refused {
        Refused::Problem(problem) => problem,
        Refused::Fault(fault) => {
            tracing::error!(error = %Shown(&fault), "access can't be decided");
            Problem::unavailable()
        }
    }
}

/// An error with its causes.
pub(super) struct Shown<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(fault) = cause {
            write!(f, ": {fault}")?;
            cause = fault.source();
        }
        Ok(())
    }
}
