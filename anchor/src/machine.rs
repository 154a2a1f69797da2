//! The way of one batch, as a pure step: what it is now and what was seen give what it is next and what to do.
//!
//! ```text
//! Batched -> Signed -> Sent -> Mined -> Final
//!    ^         |        |  ^     |        |
//!    |         v        v  +-----+--------+   its block vanished: the same bytes are sent again
//!    +---- Failed <-----+                     another head than ours: parked, alarmed, looked at again
//! ```
//!
//! Nothing in here reads a clock, a file or a socket. A process that died between any two steps starts again from the
//! stored state: `Signed` is sent (once more), `Sent` is looked for, and the contract's compare-and-swap makes a second
//! writing of the same batch impossible.

use std::time::Duration;

use wire::At;
use wire::state::ChainEvent;

use crate::chain::Mined;
use crate::limits;
use crate::refusal::Refusal;

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Closed: its root stands, no transaction is signed.
    Batched,
    /// A transaction is signed and stored; it may or may not have reached a node.
    Signed,
    /// A node took it.
    Sent,
    /// It is in a block that could still vanish.
    Mined,
    /// It is on chain for good, as far as the configured confirmation goes.
    Final,
    /// It can't be written: see the reason.
    Failed,
}

impl State {
    /// All states, in the order of the way.
    pub const ALL: [Self; 6] = [Self::Batched, Self::Signed, Self::Sent, Self::Mined, Self::Final, Self::Failed];

    /// Its name in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batched => "BATCHED",
            Self::Signed => "SIGNED",
            Self::Sent => "SENT",
            Self::Mined => "MINED",
            Self::Final => "FINAL",
            Self::Failed => "FAILED",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Why a batch is [`State::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The stream's head is one that this ledger never made: somebody else writes with the key.
    ForeignHead,
    /// Its transaction was mined and failed, again and again.
    Reverts,
}

impl Failure {
    /// Its name in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForeignHead => "foreign head",
            Self::Reverts => "reverts",
        }
    }

    /// The failure of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::ForeignHead, Self::Reverts].into_iter().find(|failure| failure.as_str() == name)
    }
}

/// What is stored about the way of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub state: State,
    /// When it came there, or was last handed to a node; 0 if it is to be handed over again at once.
    pub since: At,
    /// Since when its newest transaction is on offer: when it was signed, or when its block vanished.
    pub offered_at: At,
    /// How often a nonce was found used without a receipt, or out of reach.
    pub unseen: u32,
    /// How often its transaction was mined and failed.
    pub reverts: u32,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Where it was mined.
    pub mined: Option<Mined>,
}

impl Progress {
    /// Of a batch that was just closed.
    #[must_use]
    pub fn closed(now: At) -> Self {
        Self { state: State::Batched, since: now, offered_at: now, unseen: 0, reverts: 0, failure: None, mined: None }
    }
}

/// Where the stream's head on chain stands, as this ledger sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// At this batch, or at a later one of ours.
    Reached,
    /// At the batch before this one.
    Before,
    /// At an older one of ours: what was built on it has vanished, or the node lags behind.
    Older,
    /// At one that we never made.
    Foreign,
}

/// Where the nonce of a transaction that is not mined stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonce {
    /// It is the account's next: the transaction can be mined.
    Next,
    /// It was used, by another transaction.
    Used,
    /// One before it is missing, so the transaction can't be mined: what had used that nonce has vanished.
    Ahead,
}

impl Nonce {
    /// Of a transaction's nonce, seen from the account's next one.
    #[must_use]
    pub fn of(transaction: u64, next: u64) -> Self {
        match transaction.cmp(&next) {
            std::cmp::Ordering::Less => Self::Used,
            std::cmp::Ordering::Equal => Self::Next,
            std::cmp::Ordering::Greater => Self::Ahead,
        }
    }
}

/// What the chain shows of a batch that has transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// One of its transactions wrote it.
    Wrote(Mined),
    /// One of its transactions was mined and failed, none wrote it.
    Failed(Head),
    /// None of its transactions is mined.
    Nothing {
        /// The stream's head.
        head: Head,
        /// Where the newest transaction's nonce stands in the account's.
        nonce: Nonce,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is this batch's turn: all before it are mined, and the time to wait has passed.
    Turn,
    /// A transaction was signed and stored.
    Signed,
    /// None could be signed now: no funds, fees above the cap, or the head not where it should be yet.
    Held,
    /// The node took the transaction.
    Taken,
    /// The node refused it.
    Refused(Refusal),
    /// The chain was looked at.
    Seen(Sight),
    /// The block is no longer part of the chain, and no other holds the batch.
    Vanished,
    /// The block is confirmed as configured.
    Confirmed,
    /// The stream's head is foreign: found before signing.
    Foreign,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sign a transaction with a nonce that is free, store it, report [`Event::Signed`].
    Sign,
    /// Sign a transaction with the same nonce that pays more, store it, report [`Event::Signed`].
    Replace,
    /// Hand the newest transaction to the node, report what it says.
    Send,
    /// Look at the receipts of all its transactions, the head and the nonce; report [`Event::Seen`].
    Look,
    /// Wait for the next turn.
    Wait,
    /// Wait longer each time: nothing is expected to change soon.
    Rest,
}

fn after(now: At, since: At, wait: Duration) -> bool {
    // A clock that jumped back must not hold a batch for ever.
    now < since || now.saturating_sub(since) >= i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX)
}

/// One step. An event that can't happen in a state (a report that came late) changes nothing.
#[must_use]
pub fn step(before: &Progress, event: &Event, now: At) -> (Progress, Action) {
    match event {
        Event::Turn => (*before, turn(before.state)),
        Event::Signed => match before.state {
            State::Batched | State::Signed | State::Sent | State::Failed => {
                let signed = Progress { offered_at: now, ..enter(before, State::Signed, now) };
                (signed, Action::Send)
            }
            State::Mined | State::Final => (*before, Action::Wait),
        },
        Event::Held => (*before, Action::Rest),
        Event::Taken => match before.state {
            State::Signed | State::Sent => (enter(before, State::Sent, now), Action::Wait),
            _ => (*before, Action::Wait),
        },
        Event::Refused(refusal) => refused(before, refusal, now),
        Event::Seen(sight) => seen(before, *sight, now),
        Event::Vanished => match before.state {
            State::Mined | State::Final => {
                (Progress { mined: None, offered_at: now, ..enter(before, State::Sent, 0) }, Action::Look)
            }
            _ => (*before, Action::Wait),
        },
        Event::Confirmed => match before.state {
            State::Mined => (enter(before, State::Final, now), Action::Wait),
            _ => (*before, Action::Wait),
        },
        Event::Foreign => match before.state {
            State::Mined | State::Final => (*before, Action::Wait),
            _ => (fail(before, Failure::ForeignHead, now), Action::Rest),
        },
    }
}

/// What a step of the batch is for the records in it. A batch that is to be signed anew was submitted all the same.
#[must_use]
pub fn record_event(before: State, after: State) -> Option<ChainEvent> {
    match (before, after) {
        (State::Final, State::Final) => None,
        (_, State::Final) => Some(ChainEvent::Finalised),
        (State::Final, _) => Some(ChainEvent::Reverted),
        (State::Batched, State::Signed | State::Sent | State::Mined | State::Failed) => Some(ChainEvent::Submitted),
        _ => None,
    }
}

fn turn(state: State) -> Action {
    match state {
        State::Batched => Action::Sign,
        State::Signed => Action::Send,
        State::Sent | State::Failed => Action::Look,
        State::Mined | State::Final => Action::Wait,
    }
}

fn enter(before: &Progress, state: State, now: At) -> Progress {
    Progress { state, since: now, failure: None, ..*before }
}

fn fail(before: &Progress, failure: Failure, now: At) -> Progress {
    // Keeps the time of the first failure.
    let since = if before.state == State::Failed { before.since } else { now };
    Progress { failure: Some(failure), ..enter(before, State::Failed, since) }
}

fn refused(before: &Progress, refusal: &Refusal, now: At) -> (Progress, Action) {
    if !matches!(before.state, State::Signed | State::Sent) {
        return (*before, Action::Wait);
    }
    match refusal {
        Refusal::AlreadyKnown => (enter(before, State::Sent, now), Action::Wait),
        // Used by this very transaction, most likely: the answer to its first sending was lost.
        Refusal::NonceTooLow => (enter(before, State::Sent, now), Action::Look),
        Refusal::Underpriced | Refusal::FeeBelowBase => (*before, Action::Replace),
        Refusal::HeadMismatch(_) | Refusal::Reverts(_) => (*before, Action::Look),
        Refusal::NoFunds | Refusal::Busy | Refusal::Other(_) => (*before, Action::Rest),
    }
}

fn seen(before: &Progress, sight: Sight, now: At) -> (Progress, Action) {
    match sight {
        Sight::Wrote(mined) => {
            let found = Progress { mined: Some(mined), unseen: 0, ..*before };
            match before.state {
                // The same block as before, or another one that it moved to.
                State::Mined | State::Final => (found, Action::Wait),
                _ => (enter(&found, State::Mined, now), Action::Wait),
            }
        }
        _ if matches!(before.state, State::Mined | State::Final) => (*before, Action::Wait),
        Sight::Failed(Head::Foreign) | Sight::Nothing { head: Head::Foreign, .. } => {
            (fail(before, Failure::ForeignHead, now), Action::Rest)
        }
        // Its receipt is on the way, or what it builds on is.
        Sight::Failed(Head::Reached | Head::Older) | Sight::Nothing { head: Head::Reached | Head::Older, .. } => {
            (*before, Action::Wait)
        }
        Sight::Failed(Head::Before) if before.reverts + 1 >= limits::REVERTS_MAX => {
            (fail(&Progress { reverts: limits::REVERTS_MAX, ..*before }, Failure::Reverts, now), Action::Rest)
        }
        Sight::Failed(Head::Before) => {
            let again = Progress { reverts: before.reverts + 1, ..enter(before, State::Batched, now) };
            (again, Action::Rest)
        }
        Sight::Nothing { head: Head::Before, .. } if before.state == State::Batched => (*before, Action::Wait),
        // The head is ours again; what was signed before, if anything was, can't do harm.
        Sight::Nothing { head: Head::Before, .. } if before.state == State::Failed => {
            (Progress { unseen: 0, ..enter(before, State::Batched, now) }, Action::Sign)
        }
        Sight::Nothing { head: Head::Before, nonce: Nonce::Used | Nonce::Ahead } if before.unseen + 1 >= limits::UNSEEN_MAX => {
            let again = Progress { unseen: 0, ..enter(before, State::Batched, now) };
            (again, Action::Sign)
        }
        Sight::Nothing { head: Head::Before, nonce: Nonce::Used | Nonce::Ahead } => {
            (Progress { unseen: before.unseen + 1, ..*before }, Action::Wait)
        }
        Sight::Nothing { head: Head::Before, nonce: Nonce::Next } => {
            let waiting = Progress { unseen: 0, ..*before };
            if after(now, before.offered_at, limits::REPLACE_AFTER) {
                (waiting, Action::Replace)
            } else if after(now, before.since, limits::RESEND_AFTER) {
                (waiting, Action::Send)
            } else {
                (waiting, Action::Wait)
            }
        }
    }
}

#[cfg(test)]
mod tests;
