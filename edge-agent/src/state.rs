//! The terminal's state machine (B1, B2). It is [`wire::state`]'s, which the outbox asks before it writes a state.

pub use wire::state::{TerminalEvent as Event, TerminalState as State};

/// An event that can't happen in a state.
pub type Impossible = wire::state::Impossible<State, Event>;
