//! One monotonic clock for publishers and subscribers, so that a stamp in a payload can be compared at its arrival.

use std::time::{Duration, Instant};

/// Nanoseconds since this run began.
pub(crate) type Nanos = u64;

/// The clock of one run; copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunClock(Instant);

impl RunClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Nanos {
        nanos(self.0.elapsed())
    }
}

/// A duration in the clock's unit; what does not fit is the largest value.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
