//! The anchor service: writes roots that other parties signed, many of them with one transaction.
//!
//! It can leave a root out or be late, and it can write what it likes under its own account; it can't make a party's signature. So a
//! proof carries the signature, and a party looks at the chain before it believes anything (see `docs/adr`).
//!
//! Each transaction writes one batch of the service's own stream first, over the roots that it carries. By that batch the service knows
//! its transactions as any party does: same ledger, same nonces, same care for reorganisations.

use std::path::PathBuf;
use std::sync::Arc;

use alloy::primitives::Address;
use chassis::{Clock, Registry, Span};
use serde::Deserialize;
use tokio::sync::mpsc;
use wire::At;

use crate::cargo::{Freight, Shelved};
use crate::chain::{Chain, ChainError};
use crate::config::{Config, Confirmation};
use crate::keys::Unlock;
use crate::ledger::{Ledger, LedgerError};
use crate::limits;
pub use crate::limits::CARGO_MAX;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::party::Party;
use crate::pledge::{Pledge, Receipt, Said};
use crate::worker::{Anchoring, StartError, Worker, on_ledger};

/// Everything that the service needs.
#[derive(Debug, Clone)]
pub struct SponsorConfig {
    /// Where the chain is asked.
    pub rpc: Node,
    /// Where the registry contract is.
    pub contract: Address,
    /// The service's own key; it pays. No party may share it.
    pub key_file: PathBuf,
    /// What opens it.
    pub unlock: Unlock,
    /// The service's ledger.
    pub ledger: PathBuf,
    /// The service's name; its own stream is that of the server `{name}/sponsor`.
    pub name: String,
    /// When roots are written.
    pub gather: Gather,
    /// When they count as on chain for good.
    pub confirmation: Confirmation,
    /// How often the queue and the chain are looked at.
    pub poll: Span,
    /// How long one answer of the chain may take.
    pub timeout: Span,
    /// What one unit of gas may cost at most, in gwei.
    pub fee_cap_gwei: u64,
}

/// When the roots that wait are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gather {
    /// How long the first root waits for others.
    pub age: Span,
    /// Roots of one transaction, at most.
    pub parties_max: usize,
}

impl Default for Gather {
    fn default() -> Self {
        Self { age: Span::seconds(10), parties_max: 100 }
    }
}

/// Why a root is not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It is no pledge.
    #[error("not a pledge: {0}")]
    Malformed(#[from] wire::Fault),
    /// Too many wait to be looked at.
    #[error("too many roots are offered at once")]
    Full,
}

/// A root that was offered and not looked at yet.
struct Offer {
    name: String,
    pledge: Pledge,
}

/// The door of the service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sponsor {
    offers: mpsc::Sender<Offer>,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the service has to say to a party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The party, `area/sensor`.
    pub name: String,
    /// What.
    pub receipt: Receipt,
}

impl Sponsor {
    /// Opens ledger and key and prepares for the chain. The work is done by [`Anchoring::run`]; what it has to say comes out of the
    /// receiver, and is dropped while that is full: a party that hears nothing offers again.
    ///
    /// # Errors
    /// [`StartError`] names what can't be used.
    pub fn start(
        config: SponsorConfig,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<(Self, Anchoring, mpsc::Receiver<Notice>), StartError> {
        if !(1..=limits::CARGO_MAX).contains(&config.gather.parties_max) {
            return Err(crate::config::ConfigFault { field: "sponsor.parties_max", fix: "must be 1 to 400" }.into());
        }
        let (offers, offered) = mpsc::channel(limits::OFFERS_MAX);
        let (notices, heard) = mpsc::channel(limits::OFFERS_MAX);
        let party = Party::server(format!("{}/sponsor", config.name));
        let worker = Config {
            confirmation: config.confirmation,
            poll: config.poll,
            timeout: config.timeout,
            fee_cap_gwei: config.fee_cap_gwei,
            unlock: config.unlock,
            ..Config::new(config.rpc, config.contract, config.key_file, config.ledger, party)
        };
        let anchoring = Worker::carry(worker, config.gather, Mail { offered, notices }, clock, registry)?;
        Ok((Self { offers }, anchoring, heard))
    }

    /// Takes a root of the terminal `name` in, to be looked at. It does not touch disk or network.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn offer(&self, name: &str, payload: &[u8]) -> Result<(), OfferError> {
        let pledge = Pledge::parse(payload)?;
        self.offers.try_send(Offer { name: name.to_owned(), pledge }).map_err(|_| OfferError::Full)
    }
}

/// What comes in and what goes out.
pub(crate) struct Mail {
    offered: mpsc::Receiver<Offer>,
    notices: mpsc::Sender<Notice>,
}

/// Gathers offered roots into batches of the service.
pub(crate) struct Loader {
    ledger: Arc<Ledger>,
    chain: Chain,
    contract: Address,
    submitter: Address,
    gather: Gather,
    mail: Mail,
    metrics: Metrics,
}

impl Loader {
    pub fn new(
        ledger: Arc<Ledger>,
        chain: Chain,
        (contract, submitter): (Address, Address),
        gather: Gather,
        mail: Mail,
        metrics: Metrics,
    ) -> Self {
        Self { ledger, chain, contract, submitter, gather, mail, metrics }
    }

    /// Looks at what was offered, tells what was written, and closes a batch that is due.
    pub async fn collect(&mut self, now: At) -> Result<(), LedgerError> {
        for _ in 0..limits::OFFERS_MAX {
            let Ok(offer) = self.mail.offered.try_recv() else { break };
            self.take(offer, now).await?;
        }
        self.tell_written().await?;
        self.load(now).await
    }

    fn say(&self, name: &str, root: wire::Digest, said: Said) {
        let notice = Notice { name: name.to_owned(), receipt: Receipt { root, said } };
        if self.mail.notices.try_send(notice).is_err() {
            tracing::debug!(name, "a notice was dropped; the party will ask again");
        }
    }

    async fn take(&self, Offer { name, pledge }: Offer, now: At) -> Result<(), LedgerError> {
        let root = pledge.entry.root;
        let refuse = |reason: String| {
            tracing::info!(name, reason, "a root was refused");
            self.metrics.refused_roots.inc();
            self.say(&name, root, Said::Refused(reason));
        };
        let ledger = Arc::clone(&self.ledger);
        let target = on_ledger(move || ledger.target()).await?;
        let venue = pledge.venue;
        let here = target.is_none_or(|target| target.identity.chain_id == venue.chain_id);
        if !here || (venue.contract, venue.submitter) != (self.contract, self.submitter) {
            refuse(format!("this service writes to {} as {}", self.contract, self.submitter));
            return Ok(());
        }
        let party = Party::terminal(name.as_str());
        let Some(account) = pledge.signer(&party) else {
            refuse("the signature is nobody's".to_owned());
            return Ok(());
        };
        let freight = Freight { name: name.clone(), entry: pledge.entry, signature: pledge.signature };
        let ledger = Arc::clone(&self.ledger);
        match on_ledger(move || ledger.shelve(&freight, account, now)).await? {
            Shelved::Waiting | Shelved::Carried(None) => self.say(&name, root, Said::Taken),
            Shelved::Carried(Some(tx)) => self.say(&name, root, Said::Written(tx)),
            Shelved::OtherAccount(known) => refuse(format!("it was signed by {account}, and the party is known by {known}")),
        }
        Ok(())
    }

    async fn tell_written(&self) -> Result<(), LedgerError> {
        let ledger = Arc::clone(&self.ledger);
        let untold = on_ledger(move || {
            let with_cargo = |(batch, tx)| Ok((batch, tx, ledger.cargo(batch)?));
            ledger.untold()?.into_iter().map(with_cargo).collect::<Result<Vec<_>, LedgerError>>()
        });
        for (batch, tx, cargo) in untold.await? {
            for freight in &cargo {
                self.say(&freight.name, freight.entry.root, Said::Written(tx));
            }
            let ledger = Arc::clone(&self.ledger);
            on_ledger(move || ledger.told(batch)).await?;
        }
        Ok(())
    }

    /// Closes a batch if one is due. While one waits for its signature the next ones gather.
    async fn load(&self, now: At) -> Result<(), LedgerError> {
        let (ledger, limit) = (Arc::clone(&self.ledger), self.gather.parties_max);
        let (waiting, since, busy) = on_ledger(move || {
            let (waiting, since) = ledger.waiting(limit)?;
            Ok((waiting, since, ledger.has_batched()?))
        })
        .await?;
        let age = i64::try_from(self.gather.age.duration().as_nanos()).unwrap_or(i64::MAX);
        // A clock that jumped back makes it due rather than late.
        let old = since.is_some_and(|since| now < since || now.saturating_sub(since) >= age);
        if busy || waiting.is_empty() || !(old || waiting.len() >= limit) {
            return Ok(());
        }
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        for freight in waiting {
            match self.head_before(&freight).await? {
                // The chain is away: nothing is closed now.
                Err(_) => return Ok(()),
                Ok(head) if head == freight.entry.prev => fit.push(freight),
                Ok(head) => {
                    let reason = format!("the stream's head is 0x{}", wire::digest::to_hex(&head));
                    self.metrics.refused_roots.inc();
                    self.say(&freight.name, freight.entry.root, Said::Refused(reason));
                    unfit.push(freight);
                }
            }
        }
        let ledger = Arc::clone(&self.ledger);
        on_ledger(move || {
            ledger.discard(&unfit)?;
            if fit.is_empty() {
                return Ok(());
            }
            let batch = ledger.load(&fit, now)?;
            tracing::info!(batch = batch.number, parties = fit.len(), "roots go together");
            Ok(())
        })
        .await
    }

    /// The head that a root must build upon: behind the last one that was carried, or where the chain has the stream.
    async fn head_before(&self, freight: &Freight) -> Result<Result<wire::Digest, ChainError>, LedgerError> {
        let (ledger, name) = (Arc::clone(&self.ledger), freight.name.clone());
        let carried = on_ledger(move || ledger.last_carried(&name)).await?;
        if let Some(head) = carried.map(|last| last.entry.head()).filter(|head| *head == freight.entry.prev) {
            return Ok(Ok(head));
        }
        Ok(self.chain.head_of(self.contract, self.submitter, &freight.party().stream()).await)
    }
}
