//! Carries batches to the chain: does what the machine says, and tells it what happened.

use std::sync::Arc;

use alloy::primitives::{Address, U256};
use chassis::Clock;
use wire::Digest;

use crate::chain::{Block, Chain, ChainError, Fees, Identity};
use crate::config::{Config, Confirmation};
use crate::keys::Key;
use crate::ledger::{Ledger, LedgerError, Target};
use crate::limits;
use crate::machine::{Action, Event, Failure, Head, Nonce, Sight, State, step};
use crate::metrics::Metrics;
use crate::pledge::Pledge;
use crate::refusal::Refusal;
use crate::registry::{self, Entry};
use crate::rows::{Batch, Transaction};
use crate::signing::Draft;
use crate::way::Way;
use crate::worker::{Health, on_ledger};

/// Why a round ended early.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The chain gave no answer; to be tried again.
    Chain(ChainError),
    /// The ledger failed.
    Ledger(LedgerError),
}

impl From<ChainError> for Trouble {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

impl From<LedgerError> for Trouble {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// How long to wait for the next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// As configured.
    Poll,
    /// Longer each time.
    Rest,
}

/// What an action came to.
pub(crate) enum Report {
    Event(Event),
    /// A transaction that is signed and not stored yet.
    Signed(Box<Transaction>, Entry),
    /// A root that is signed for the anchor service and not stored yet.
    Pledged(Box<Pledge>),
}

/// Steps of one batch in one round; more than the longest way through the machine.
const STEPS_MAX: usize = 16;

pub(crate) struct Courier {
    pub(crate) chain: Chain,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) confirmation: Confirmation,
    pub(crate) key: Key,
    pub(crate) way: Way,
    submitter: Address,
    contract: Address,
    stream: Digest,
    fee_cap: u128,
    clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    /// The chain as it was met, until there is a reason to doubt that it is the same.
    target: Option<Target>,
    /// The newest block when the chain was last seen.
    top: Option<Block>,
    /// Whether somebody else has used a nonce of the account since the start.
    misused: bool,
}

impl Courier {
    pub fn new(
        config: &Config,
        chain: Chain,
        (key, way): (Key, Way),
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        Self {
            chain,
            way,
            submitter: config.sponsor.unwrap_or_else(|| key.address()),
            ledger,
            confirmation: config.confirmation,
            key,
            contract: config.contract,
            stream: config.party.stream(),
            fee_cap: u128::from(config.fee_cap_gwei) * 1_000_000_000,
            clock,
            metrics,
            health: Health::Starting,
            target: None,
            top: None,
            misused: false,
        }
    }

    /// What the last round found.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Asks again which chain this is, before anything else.
    pub fn doubt(&mut self) {
        self.target = None;
    }

    /// Whether it is not known that this is the ledger's chain.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.target.is_none()
    }

    /// One round: confirms what is mined, and carries batches as far as they go.
    pub async fn round(&mut self) -> Result<Pause, Trouble> {
        self.health = if self.misused { Health::ForeignNonce } else { Health::Fine };
        let Some(target) = self.meet().await? else {
            return Ok(Pause::Rest);
        };
        let latest = self.chain.latest().await?;
        if !self.follows(&latest).await? {
            // Reorganised or rolled back, or another chain behind the same address.
            self.doubt();
            let Some(_) = self.meet().await? else { return Ok(Pause::Rest) };
        }
        self.top = Some(latest);
        self.confirm(latest, &target).await?;
        if self.is_in_doubt() {
            return Ok(Pause::Rest);
        }
        for _ in 0..limits::BATCHES_A_ROUND {
            let Some(batch) = self.front().await? else { break };
            let (state, pause) = self.carry(&target, batch, Event::Turn).await?;
            if state != State::Mined {
                return Ok(pause);
            }
        }
        Ok(Pause::Poll)
    }

    /// Whether the newest block stands on the one that was the newest before.
    async fn follows(&self, latest: &Block) -> Result<bool, Trouble> {
        let Some(top) = self.top else { return Ok(true) };
        if top.number >= latest.number {
            return Ok(top.hash == latest.hash);
        }
        Ok(self.chain.block_by_number(top.number).await?.is_some_and(|block| block.hash == top.hash))
    }

    /// Makes sure that this is the chain that the ledger was begun on.
    pub(crate) async fn meet(&mut self) -> Result<Option<Target>, Trouble> {
        if let Some(target) = self.target {
            return Ok(Some(target));
        }
        let identity = self.chain.identity(self.contract).await?;
        let ledger = Arc::clone(&self.ledger);
        let kept = match on_ledger(move || ledger.target()).await? {
            Some(kept) => kept,
            None if identity.code_hash != registry::code_hash() => {
                self.health = Health::WrongContract;
                return Ok(None);
            }
            None => self.begin(identity).await?,
        };
        let now = Target { identity, contract: self.contract, submitter: self.submitter, stream: self.stream, ..kept };
        if kept != now {
            self.health = Health::OtherChain;
            return Ok(None);
        }
        self.target = Some(kept);
        Ok(Some(kept))
    }

    async fn begin(&self, identity: Identity) -> Result<Target, Trouble> {
        let submitter = self.submitter;
        let base_head = self.chain.head_of(self.contract, submitter, &self.stream).await?;
        let target = Target { identity, contract: self.contract, submitter, stream: self.stream, base_head };
        let ledger = Arc::clone(&self.ledger);
        let kept = on_ledger(move || ledger.meet(&target)).await?;
        tracing::info!(chain_id = identity.chain_id, contract = %self.contract, %submitter, "met the chain");
        Ok(kept)
    }

    async fn front(&self) -> Result<Option<Batch>, Trouble> {
        let ledger = Arc::clone(&self.ledger);
        Ok(on_ledger(move || ledger.front()).await?)
    }

    /// Carries one batch as far as it goes now. Whatever a step changes is stored before the next one.
    pub(crate) async fn carry(&mut self, target: &Target, mut batch: Batch, first: Event) -> Result<(State, Pause), Trouble> {
        let mut report = Report::Event(first);
        for _ in 0..STEPS_MAX {
            let action = self.apply(&mut batch, report).await?;
            let state = batch.progress.state;
            report = match action {
                Action::Wait => return Ok((state, Pause::Poll)),
                Action::Rest => {
                    match batch.progress.failure {
                        Some(Failure::ForeignHead) => self.health = Health::ForeignHead,
                        Some(Failure::Reverts) => self.health = Health::Refused("the transaction reverts".into()),
                        None => {}
                    }
                    return Ok((state, Pause::Rest));
                }
                Action::Sign => self.sign(target, &batch).await?,
                Action::Replace => self.replace(target, &batch).await?,
                Action::Send => Report::Event(self.send(&batch).await?),
                Action::Look => Report::Event(Event::Seen(self.look(target, &batch).await?)),
            };
        }
        Ok((batch.progress.state, Pause::Rest))
    }

    pub(crate) async fn apply(&mut self, batch: &mut Batch, report: Report) -> Result<Action, Trouble> {
        let event = match &report {
            Report::Event(event) => event,
            Report::Signed(..) | Report::Pledged(_) => &Event::Signed,
        };
        let nonce = match event {
            Event::Seen(Sight::Nothing { nonce, .. }) => Some(*nonce),
            _ => None,
        };
        let before = batch.progress;
        let (after, action) = step(&before, event, self.clock.now());
        let (number, ledger) = (batch.number, Arc::clone(&self.ledger));
        match report {
            Report::Signed(signed, entry) => {
                batch.prev = Some(entry.prev);
                on_ledger(move || ledger.sign(&signed, &entry, &after)).await?;
            }
            Report::Pledged(pledge) => {
                batch.prev = Some(pledge.entry.prev);
                let account = self.key.address();
                on_ledger(move || ledger.pledge(number, &pledge, account, &after)).await?;
            }
            Report::Event(_) if after != before => on_ledger(move || ledger.save(number, &after)).await?,
            Report::Event(_) => {}
        }
        let gave_up = after.state == State::Batched && matches!(before.state, State::Signed | State::Sent);
        if gave_up && nonce == Some(Nonce::Used) {
            self.suspect(number).await?;
        }
        if after.failure == Some(Failure::ForeignHead) && before.failure.is_none() {
            let (now, ledger) = (self.clock.now(), Arc::clone(&self.ledger));
            on_ledger(move || ledger.alarm(number, "foreign head", now)).await?;
        }
        if after.state != before.state {
            tracing::info!(batch = number, from = before.state.as_str(), to = after.state.as_str(), "batch");
            if matches!(before.state, State::Mined | State::Final) && after.state == State::Sent {
                self.metrics.vanished.inc();
            }
        }
        batch.progress = after;
        Ok(action)
    }

    /// A batch's nonce was used, and not by the batch. By another transaction of this ledger, or by somebody who has the key?
    async fn suspect(&mut self, number: u64) -> Result<(), Trouble> {
        let ledger = Arc::clone(&self.ledger);
        for transaction in on_ledger(move || ledger.rivals(number)).await? {
            if self.chain.receipt(&transaction.hash).await?.is_some() {
                return Ok(());
            }
        }
        self.misused = true;
        self.health = Health::ForeignNonce;
        self.metrics.foreign_nonces.inc();
        let (now, ledger) = (self.clock.now(), Arc::clone(&self.ledger));
        on_ledger(move || ledger.alarm(number, "foreign nonce", now)).await?;
        tracing::error!(
            batch = number,
            "somebody else has used a nonce of this key: take another key, and find out who has this one"
        );
        Ok(())
    }

    /// Signs with a free nonce, if everything is as it should be. Uses no nonce otherwise.
    async fn sign(&mut self, target: &Target, batch: &Batch) -> Result<Report, Trouble> {
        let entry = self.entry(target, batch).await?;
        let head = self.chain.head_of(target.contract, target.submitter, &target.stream).await?;
        match self.place(target, batch, &entry, &head).await? {
            Head::Before => {}
            Head::Foreign => return Ok(Report::Event(Event::Foreign)),
            Head::Reached => return Ok(Report::Event(Event::Seen(self.look(target, batch).await?))),
            Head::Older => {
                self.reopen(target, &head).await?;
                return Ok(Report::Event(Event::Held));
            }
        }
        if let Way::Sponsored(_) = &self.way {
            return Ok(self.pledge(target, entry));
        }
        let input = self.input(target, batch, &entry).await?;
        let gas = match self.chain.estimate(target.submitter, Some(target.contract), input.clone()).await {
            Ok(gas) => gas + gas * limits::GAS_SPARE_PERCENT / 100,
            Err(ChainError::Refused(refusal)) => return Ok(Report::Event(self.hold(&refusal))),
            Err(away) => return Err(away.into()),
        };
        let Some(fees) = self.affordable(self.chain.fees().await?) else {
            return Ok(Report::Event(Event::Held));
        };
        let (number, ledger) = (batch.number, Arc::clone(&self.ledger));
        let floor = on_ledger(move || ledger.nonce_floor(number)).await?;
        let nonce = self.chain.nonce(target.submitter).await?.max(floor);
        let draft = Draft { chain_id: target.identity.chain_id, nonce, to: Some(target.contract), input, gas, fees };
        self.seal(target, batch, &draft, entry).await
    }

    /// Signs the newest transaction once more, with a fee that nodes take as a replacement.
    async fn replace(&mut self, target: &Target, batch: &Batch) -> Result<Report, Trouble> {
        if let Way::Sponsored(_) = &self.way {
            // The same root is offered once more.
            return Ok(Report::Event(Event::Signed));
        }
        let (Some(newest), Some(entry)) = (self.transactions(batch.number).await?.into_iter().next(), batch.entry()) else {
            return self.sign(target, batch).await;
        };
        let more = |fee: u128| fee.saturating_mul(100 + limits::REPLACE_PERCENT) / 100 + 1;
        let now = self.chain.fees().await?;
        let fees = Fees { cap: now.cap.max(more(newest.fees.cap)), tip: now.tip.max(more(newest.fees.tip)) };
        if fees.cap > self.fee_cap {
            self.health = Health::FeesTooHigh;
            return Ok(Report::Event(Event::Held));
        }
        let draft = Draft {
            chain_id: target.identity.chain_id,
            nonce: newest.nonce,
            to: Some(target.contract),
            input: self.input(target, batch, &entry).await?,
            gas: newest.gas,
            fees,
        };
        self.seal(target, batch, &draft, entry).await
    }

    async fn seal(&mut self, target: &Target, batch: &Batch, draft: &Draft, entry: Entry) -> Result<Report, Trouble> {
        let price = U256::from(draft.fees.cap) * U256::from(draft.gas);
        if self.chain.balance(target.submitter).await? < price {
            return Ok(Report::Event(self.hold(&Refusal::NoFunds)));
        }
        match draft.sign(&self.key) {
            Some(signed) => {
                let transaction = draft.transaction(signed, batch.number, self.clock.now());
                Ok(Report::Signed(Box::new(transaction), entry))
            }
            None => Ok(Report::Event(self.hold(&Refusal::Other("the key does not sign".into())))),
        }
    }

    /// The fees to pay now, if they are within the configured cap.
    fn affordable(&mut self, fees: Fees) -> Option<Fees> {
        // The cap leaves room for the base fee to double; what is needed now is half of that.
        if fees.tip + (fees.cap - fees.tip) / 2 > self.fee_cap {
            self.health = Health::FeesTooHigh;
            return None;
        }
        Some(Fees { cap: fees.cap.min(self.fee_cap), tip: fees.tip.min(self.fee_cap) })
    }

    /// Notes why nothing can be signed or sent now.
    pub(crate) fn hold(&mut self, refusal: &Refusal) -> Event {
        self.health = match refusal {
            Refusal::NoFunds => Health::NoFunds,
            other => Health::Refused(other.to_string()),
        };
        Event::Held
    }

    async fn send(&mut self, batch: &Batch) -> Result<Event, Trouble> {
        if let Way::Sponsored(post) = &self.way {
            let post = Arc::clone(post);
            return self.offer(batch, &*post).await;
        }
        let Some(newest) = self.transactions(batch.number).await?.into_iter().next() else {
            return Err(LedgerError::Damaged { batch: batch.number, what: "transaction" }.into());
        };
        self.metrics.sent.inc();
        match self.chain.send(&newest.raw).await {
            Ok(()) => Ok(Event::Taken),
            Err(ChainError::Refused(refusal)) => {
                tracing::debug!(batch = batch.number, nonce = newest.nonce, %refusal, "not taken");
                if matches!(refusal, Refusal::NoFunds | Refusal::Other(_)) {
                    let _held = self.hold(&refusal);
                }
                Ok(Event::Refused(refusal))
            }
            Err(away) => Err(away.into()),
        }
    }

    pub(crate) async fn transactions(&self, number: u64) -> Result<Vec<Transaction>, Trouble> {
        let ledger = Arc::clone(&self.ledger);
        Ok(on_ledger(move || ledger.transactions(number)).await?)
    }
}
