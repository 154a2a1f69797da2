//! What becomes of a request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has decided.
    Waiting,
    /// Granted, until its end.
    Approved,
    /// Not granted.
    Rejected,
    /// Taken back by whoever asked, before a decision.
    Withdrawn,
    /// Granted once, and taken away before its end.
    Revoked,
}

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Approve,
    Reject,
    Withdraw,
    Revoke,
}

impl Event {
    /// The state that it leads to.
    const fn leads_to(self) -> State {
        match self {
            Self::Approve => State::Approved,
            Self::Reject => State::Rejected,
            Self::Withdraw => State::Withdrawn,
            Self::Revoke => State::Revoked,
        }
    }

    /// The word for it when it is done.
    pub(crate) const fn done(self) -> &'static str {
        self.leads_to().as_str()
    }
}

impl State {
    /// All that there are.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Approved, Self::Rejected, Self::Withdrawn, Self::Revoked];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
            Self::Revoked => "revoked",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The state after an event; `None` when it can't happen now.
    pub(crate) fn after(self, event: Event) -> Option<Self> {
        let may = match event {
            Event::Approve | Event::Reject | Event::Withdraw => self == Self::Waiting,
            Event::Revoke => self == Self::Approved,
        };
        may.then_some(event.leads_to())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a11_a_request_is_decided_once_and_only_an_approved_one_is_revoked() {
        for state in State::ALL {
            let possible: Vec<_> = [Event::Approve, Event::Reject, Event::Withdraw, Event::Revoke]
                .into_iter()
                .filter_map(|event| state.after(event))
                .collect();
            match state {
                State::Waiting => assert_eq!(possible, [State::Approved, State::Rejected, State::Withdrawn]),
                State::Approved => assert_eq!(possible, [State::Revoked]),
                State::Rejected | State::Withdrawn | State::Revoked => assert!(possible.is_empty()),
            }
            assert_eq!(State::named(state.as_str()), Some(state));
        }
    }
}
