//! What all connections of one broker share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use chassis::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::feeds::{Count, Feeds};
use crate::hub::Hub;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::settings::Settings;

pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) policy: Policy,
    pub(crate) intake: Arc<dyn Intake>,
    pub(crate) feeds: Option<Arc<dyn Feeds>>,
    pub(crate) feeds_open: Arc<Count>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) hub: Hub,
    pub(crate) sessions: Sessions,
    /// Connections open, those that are being refused not counted.
    pub(crate) open: AtomicUsize,
    numbers: AtomicU64,
}

impl Core {
    pub(crate) fn new(
        settings: Settings,
        policy: Policy,
        intake: Arc<dyn Intake>,
        feeds: Option<Arc<dyn Feeds>>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        hub: Hub,
    ) -> Core {
        Core {
            settings,
            policy,
            intake,
            feeds,
            feeds_open: Arc::default(),
            clock,
            metrics,
            hub,
            sessions: Sessions::default(),
            open: AtomicUsize::new(0),
            numbers: AtomicU64::new(1),
        }
    }

    /// A number that no other connection of this broker has had; never 0.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a connection is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Another connection has come with the same client id.
    TakenOver = 1,
    /// The broker stops: finish what is in hand.
    Stop = 2,
}

/// The way to reach a connection.
#[derive(Debug)]
struct Control {
    user: Option<String>,
    order: AtomicU8,
    told: Notify,
}

impl Control {
    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.told.notify_one();
    }
}

/// The client id belongs to a connection of another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign;

/// A connection's hold on its client id; given back when it is dropped.
pub(crate) struct Seat {
    core: Arc<Core>,
    client: Arc<str>,
    control: Arc<Control>,
}

impl Seat {
    /// Takes the client id, and tells the connection that had it. Nobody can throw out another user.
    pub(crate) fn take(core: &Arc<Core>, client: &str, user: Option<String>) -> Result<Seat, Foreign> {
        let client: Arc<str> = client.into();
        let control = Arc::new(Control { user, order: AtomicU8::new(0), told: Notify::new() });
        let mut table = core.sessions.0.lock();
        if table.by_client.get(&client).is_some_and(|other| other.user != control.user) {
            return Err(Foreign);
        }
        if let Some(other) = table.by_client.insert(client.clone(), control.clone()) {
            other.tell(Order::TakenOver);
        }
        if table.stopping {
            control.tell(Order::Stop);
        }
        drop(table);
        Ok(Seat { core: core.clone(), client, control })
    }

    /// Resolves once for each order. Cancel safe.
    pub(crate) async fn told(&self) -> Option<Order> {
        self.control.told.notified().await;
        match self.control.order.load(Ordering::Acquire) {
            1 => Some(Order::TakenOver),
            2 => Some(Order::Stop),
            _ => None,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.core.sessions.0.lock();
        // Another connection may have taken the id meanwhile.
        if table.by_client.get(&self.client).is_some_and(|held| Arc::ptr_eq(held, &self.control)) {
            table.by_client.remove(&self.client);
        }
    }
}

/// Client ids and their connections.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_client: HashMap<Arc<str>, Arc<Control>>,
    stopping: bool,
}

impl Sessions {
    pub(crate) fn stop_all(&self) {
        let mut table = self.0.lock();
        table.stopping = true;
        for control in table.by_client.values() {
            control.tell(Order::Stop);
        }
    }
}
