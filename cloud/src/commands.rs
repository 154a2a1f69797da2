//! Orders to relays: `down/{relay}/commands`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use broker::{Hub, Message};
use wire::topics::Down;
use wire::{At, Command, RelayId, Topic};

/// Sends orders. Clones share the numbers.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    /// Set when the broker listens: before that nobody can be reached.
    hub: Arc<OnceLock<Hub>>,
    last: Arc<AtomicU64>,
}

impl Commands {
    /// Numbers go on from the time of day, so that those of the next run of the process are others.
    pub(crate) fn new(now: At) -> Self {
        Self { hub: Arc::default(), last: Arc::new(AtomicU64::new(u64::try_from(now / 1_000_000).unwrap_or(0))) }
    }

    /// From now on orders go out through this broker.
    pub(crate) fn through(&self, hub: Hub) {
        // A second broker would be a mistake of the start; the first stays.
        let _ = self.hub.set(hub);
    }

    /// A number for the next order.
    pub(crate) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether somebody listens for the relay's orders: it, or its proxy.
    pub(crate) fn reaches(&self, relay: &RelayId) -> bool {
        self.hub.get().is_some_and(|hub| hub.wanted(&topic(relay)))
    }

    /// Sends an order. False if nobody listens for it; whether the relay gets it is said by its reply alone.
    pub(crate) async fn send(&self, relay: &RelayId, command: &Command) -> bool {
        let topic = topic(relay);
        let Some(hub) = self.hub.get().filter(|hub| hub.wanted(&topic)) else { return false };
        hub.publish(Message::new(topic, command.encode())).await;
        true
    }
}

fn topic(relay: &RelayId) -> String {
    Topic::Down { relay: relay.into(), kind: Down::Commands }.to_string()
}
