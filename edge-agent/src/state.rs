//! The terminal's state machine (B1, B2): which state follows which, and nothing else.
//!
//! Pure: the outbox asks it before it writes a state, so a state that this table does not know cannot get into the database.
//!
//! ```text
//! Pending -> SentToServer -> ServerAccepted -> SentToChain -> OnChain
//!    ^------------'  |                              ^-----------'   (a block vanished)
//!                    '-----> ServerRejected
//! ```

use std::fmt;

/// Where a record is on its way, named after the patent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
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

/// What can happen to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A frame that holds it is about to be published.
    Sent,
    /// The relay can't take it now, and said so.
    Deferred,
    /// The relay acknowledged it.
    Accepted,
    /// The relay refused it for good.
    Rejected,
    /// The transaction of its batch was submitted.
    Submitted,
    /// The transaction of its batch is final.
    Finalised,
    /// The block of its batch is no longer part of the chain.
    Reverted,
}

/// An event that can't happen in a state: whoever reported it is wrong, and the state stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record that is {state} can't be {event:?}")]
pub struct Impossible {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// Every state, in the order of the way.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::SentToServer, Self::ServerAccepted, Self::ServerRejected, Self::SentToChain, Self::OnChain];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Impossible`] when the event does not fit the state.
    pub const fn after(self, event: Event) -> Result<Self, Impossible> {
        use Event as E;
        use State as S;
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

    /// The number in the database.
    pub(crate) const fn code(self) -> i64 {
        self as i64
    }

    /// The state with this number.
    pub(crate) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// Whether the relay's answer is still to come, so that the payload must be kept.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::SentToServer)
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

    const EVENTS: [Event; 7] =
        [Event::Sent, Event::Deferred, Event::Accepted, Event::Rejected, Event::Submitted, Event::Finalised, Event::Reverted];

    /// The whole table, written down a second time. `-` is impossible.
    const TABLE: [(State, [&str; 7]); 6] = [
        //                       Sent            Deferred   Accepted          Rejected          Submitted      Finalised  Reverted
        (State::Pending, ["SentToServer", "-", "-", "-", "-", "-", "-"]),
        (State::SentToServer, ["SentToServer", "Pending", "ServerAccepted", "ServerRejected", "-", "-", "-"]),
        (State::ServerAccepted, ["-", "-", "-", "-", "SentToChain", "OnChain", "-"]),
        (State::ServerRejected, ["-", "-", "-", "-", "-", "-", "-"]),
        (State::SentToChain, ["-", "-", "-", "-", "SentToChain", "OnChain", "SentToChain"]),
        (State::OnChain, ["-", "-", "-", "-", "-", "OnChain", "SentToChain"]),
    ];

    #[test]
    fn b1_b2_every_state_knows_every_event() {
        assert_eq!(TABLE.map(|(state, _)| state), State::ALL);
        for (state, row) in TABLE {
            for (event, wanted) in EVENTS.into_iter().zip(row) {
                let got = state.after(event).map_or("-", State::as_str);
                assert_eq!(got, wanted, "{state} after {event:?}");
            }
        }
    }

    #[test]
    fn b2_nothing_reaches_the_chain_without_the_relays_word() {
        // Every walk of up to six events: on chain implies accepted before, and rejected is the end.
        let mut walks = vec![(State::Pending, false)];
        for _ in 0..6 {
            walks = walks
                .into_iter()
                .flat_map(|(state, accepted)| EVENTS.map(|event| (state.after(event), accepted || event == Event::Accepted)))
                .filter_map(|(state, accepted)| Some((state.ok()?, accepted)))
                .collect();
            for (state, accepted) in &walks {
                let beyond = matches!(state, State::ServerAccepted | State::SentToChain | State::OnChain);
                assert_eq!(beyond, *accepted, "{state}");
            }
        }
    }

    #[test]
    fn states_are_read_back_from_their_numbers() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
        assert_eq!(State::from_code(6), None);
    }
}
