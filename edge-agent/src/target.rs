//! Which relay is the target. The one place that decides it.

use crate::config::RelayConfig;

/// The relays that an agent may send to, and the one that it sends to.
#[derive(Debug, Clone)]
pub struct Targets {
    relays: Vec<RelayConfig>,
}

impl Targets {
    /// The choice among `relays`; `None` when there is none.
    pub fn new(relays: Vec<RelayConfig>) -> Option<Self> {
        (!relays.is_empty()).then_some(Self { relays })
    }

    /// The relay that the next frame goes to: the first that is configured.
    pub fn current(&self) -> &RelayConfig {
        &self.relays[0]
    }
}
