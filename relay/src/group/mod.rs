//! A relay among others (A7 to A9): its heartbeats, what it collected, and its service as the proxy of the others.

pub(crate) mod metrics;
pub(crate) mod proxy;
mod pulse;
mod session;
pub(crate) mod volume;

use std::time::Duration;

pub use metrics::GroupMetrics;
pub(crate) use proxy::Proxy;
pub(crate) use pulse::Pulse;
pub(crate) use session::Passing;
pub(crate) use volume::Volume;

/// A relay's place in its group.
#[derive(Debug)]
pub struct Member {
    pub(crate) pulse: Pulse,
    pub(crate) proxy: Proxy,
}

impl Member {
    /// Time between heartbeats.
    pub(crate) fn interval(&self) -> Duration {
        self.pulse.interval()
    }
}
