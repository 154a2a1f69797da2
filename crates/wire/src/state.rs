//! The states of a record on both sides, named after the patent (B1, B2, B3): which follows which, and nothing else.
//!
//! Pure: whoever stores a state asks here first, so a step that is not in these tables gets into no database. The tables
//! stand in `docs/semantics.md` a second time, and a test compares them.
//!
//! ```text
//! terminal  Pending -> SentToServer -> ServerAccepted -> SentToChain -> OnChain
//!              ^------------'  |                            ^------------'   (a block vanished)
//!                              '-----> ServerRejected
//! server    RequestCompleted -> SentToChain -> OnChain
//!                                    ^------------'
//! ```
//!
//! The way over the chain is the same on both sides, and the anchor ledger keeps it once a batch, as [`Anchored`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a record is at its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TerminalState {
    /// Taken: committed here, and not on the way to a relay.
    Pending,
    /// Handed to a relay, which has not answered yet.
    SentToServer,
    /// Durable at a relay. The payload is forgotten here, key and leaf are kept.
    ServerAccepted,
    /// The relay will not have it, whatever we do.
    ServerRejected,
    /// Its batch was submitted to the chain, and is not final (or failed and is tried again).
    SentToChain,
    /// Its batch is final on the chain.
    OnChain,
}

/// What can happen to a record at its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TerminalEvent {
    /// A frame that holds it is about to be published.
    Sent,
    /// The relay can't take it now, and said so.
    Deferred,
    /// The relay acknowledged it.
    Accepted,
    /// The relay refused it for good.
    Rejected,
    /// See [`ChainEvent::Submitted`].
    Submitted,
    /// See [`ChainEvent::Finalised`].
    Finalised,
    /// See [`ChainEvent::Reverted`].
    Reverted,
}

/// Where a record is at the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServerState {
    /// Durable here and answered for, not on its way to the chain yet.
    RequestCompleted,
    /// Its batch was submitted to the chain, and is not final (or failed and is tried again).
    SentToChain,
    /// Its batch is final on the chain.
    OnChain,
}

/// How far a batch has come, for the records in it: what both sides share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anchored {
    /// Closed; nothing was submitted.
    Waiting,
    /// Submitted once, and not final, whatever has become of it since.
    SentToChain,
    /// Final.
    OnChain,
}

/// What can happen to the records of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainEvent {
    /// A transaction of their batch was signed, to be handed to a node at once, or it could not be written.
    Submitted,
    /// The transaction of their batch is final.
    Finalised,
    /// The block of their batch is no longer part of the chain.
    Reverted,
}

/// An event that can't happen in a state: whoever reported it is wrong, and the state stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record that is {state} can't be {event:?}")]
pub struct Impossible<S: fmt::Display, E: fmt::Debug> {
    /// The state.
    pub state: S,
    /// The event.
    pub event: E,
}

impl TerminalState {
    /// Every state, in the order of the way.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::SentToServer, Self::ServerAccepted, Self::ServerRejected, Self::SentToChain, Self::OnChain];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Impossible`] when the event does not fit the state.
    pub const fn after(self, event: TerminalEvent) -> Result<Self, Impossible<Self, TerminalEvent>> {
        use TerminalEvent as E;
        use TerminalState as S;
        Ok(match (self, event) {
            // Sent again is sent: after a restart or a lost connection nobody knows whether the relay has it.
            (S::Pending | S::SentToServer, E::Sent) => S::SentToServer,
            (S::SentToServer, E::Deferred) => S::Pending,
            (S::SentToServer, E::Accepted) => S::ServerAccepted,
            (S::SentToServer, E::Rejected) => S::ServerRejected,
            (S::ServerAccepted | S::SentToChain, E::Submitted) => S::SentToChain,
            // Whoever polls the ledger may see only the last of two steps.
            (S::ServerAccepted | S::SentToChain | S::OnChain, E::Finalised) => S::OnChain,
            (S::SentToChain | S::OnChain, E::Reverted) => S::SentToChain,
            (state, event) => return Err(Impossible { state, event }),
        })
    }

    /// The name in tables, views and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::SentToServer => "SentToServer",
            Self::ServerAccepted => "ServerAccepted",
            Self::ServerRejected => "ServerRejected",
            Self::SentToChain => "SentToChain",
            Self::OnChain => "OnChain",
        }
    }

    /// The number in the terminal's database.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// The state with this number.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// Whether the relay's answer is still to come, so that the payload must be kept.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::SentToServer)
    }

    /// How far it is on its way over the chain; `None` before the relay's word, and without it.
    pub const fn anchored(self) -> Option<Anchored> {
        match self {
            Self::Pending | Self::SentToServer | Self::ServerRejected => None,
            Self::ServerAccepted => Some(Anchored::Waiting),
            Self::SentToChain => Some(Anchored::SentToChain),
            Self::OnChain => Some(Anchored::OnChain),
        }
    }
}

impl TerminalEvent {
    /// Every event.
    pub const ALL: [Self; 7] =
        [Self::Sent, Self::Deferred, Self::Accepted, Self::Rejected, Self::Submitted, Self::Finalised, Self::Reverted];
}

impl ServerState {
    /// Every state, in the order of the way.
    pub const ALL: [Self; 3] = [Self::RequestCompleted, Self::SentToChain, Self::OnChain];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Impossible`] when the event does not fit the state.
    pub const fn after(self, event: ChainEvent) -> Result<Self, Impossible<Self, ChainEvent>> {
        use ChainEvent as E;
        use ServerState as S;
        Ok(match (self, event) {
            (S::RequestCompleted | S::SentToChain, E::Submitted) => S::SentToChain,
            (S::RequestCompleted | S::SentToChain | S::OnChain, E::Finalised) => S::OnChain,
            (S::SentToChain | S::OnChain, E::Reverted) => S::SentToChain,
            (state, event) => return Err(Impossible { state, event }),
        })
    }

    /// The name in tables, views and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestCompleted => "RequestCompleted",
            Self::SentToChain => "SentToChain",
            Self::OnChain => "OnChain",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// How far it is on its way over the chain.
    pub const fn anchored(self) -> Anchored {
        match self {
            Self::RequestCompleted => Anchored::Waiting,
            Self::SentToChain => Anchored::SentToChain,
            Self::OnChain => Anchored::OnChain,
        }
    }
}

impl Anchored {
    /// Every state, in the order of the way.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::SentToChain, Self::OnChain];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Impossible`] when the event does not fit the state.
    pub const fn after(self, event: ChainEvent) -> Result<Self, Impossible<Self, ChainEvent>> {
        match ServerState::of(self).after(event) {
            Ok(next) => Ok(next.anchored()),
            Err(_) => Err(Impossible { state: self, event }),
        }
    }

    /// What must have happened for `self` to become `now`, for those who see a ledger only from time to time; `None` if nothing did.
    pub const fn event_to(self, now: Self) -> Option<ChainEvent> {
        match (self, now) {
            (Self::Waiting, Self::SentToChain) => Some(ChainEvent::Submitted),
            (Self::Waiting | Self::SentToChain, Self::OnChain) => Some(ChainEvent::Finalised),
            (Self::OnChain, Self::SentToChain) => Some(ChainEvent::Reverted),
            // A batch that waits has not moved, and a ledger that began anew does not take back what an older one submitted.
            (_, Self::Waiting) | (Self::SentToChain, Self::SentToChain) | (Self::OnChain, Self::OnChain) => None,
        }
    }
}

impl ChainEvent {
    /// Every event.
    pub const ALL: [Self; 3] = [Self::Submitted, Self::Finalised, Self::Reverted];
}

impl ServerState {
    /// The cloud's name for it.
    pub const fn of(anchored: Anchored) -> Self {
        match anchored {
            Anchored::Waiting => Self::RequestCompleted,
            Anchored::SentToChain => Self::SentToChain,
            Anchored::OnChain => Self::OnChain,
        }
    }
}

impl TerminalState {
    /// The terminal's name for it.
    pub const fn of(anchored: Anchored) -> Self {
        match anchored {
            Anchored::Waiting => Self::ServerAccepted,
            Anchored::SentToChain => Self::SentToChain,
            Anchored::OnChain => Self::OnChain,
        }
    }
}

impl From<ChainEvent> for TerminalEvent {
    fn from(event: ChainEvent) -> Self {
        match event {
            ChainEvent::Submitted => Self::Submitted,
            ChainEvent::Finalised => Self::Finalised,
            ChainEvent::Reverted => Self::Reverted,
        }
    }
}

impl fmt::Display for TerminalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Anchored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "Waiting",
            Self::SentToChain => "SentToChain",
            Self::OnChain => "OnChain",
        })
    }
}

#[cfg(test)]
mod tests;
