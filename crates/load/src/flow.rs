//! What publishers and subscribers of one run tell each other while it goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mio::Waker;

use crate::clock::Nanos;

/// Shared by the publishing and the subscribing thread.
pub(crate) struct Flow {
    from: AtomicU64,
    until: AtomicU64,
    delivered: AtomicU64,
    last_arrival: AtomicU64,
    publisher_waits: AtomicBool,
    publisher: Waker,
    stop: AtomicBool,
}

impl Flow {
    /// `publisher` wakes the publishing loop.
    pub(crate) fn new(publisher: Waker) -> Self {
        Self {
            from: AtomicU64::new(Nanos::MAX),
            until: AtomicU64::new(Nanos::MAX),
            delivered: AtomicU64::new(0),
            last_arrival: AtomicU64::new(0),
            publisher_waits: AtomicBool::new(false),
            publisher,
            stop: AtomicBool::new(false),
        }
    }

    /// The stretch of time that counts.
    pub(crate) fn measure(&self, from: Nanos, until: Nanos) {
        self.from.store(from, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
    }

    pub(crate) fn measured(&self) -> (Nanos, Nanos) {
        (self.from.load(Ordering::Relaxed), self.until.load(Ordering::Relaxed))
    }

    /// Subscribers got that many more.
    pub(crate) fn deliver(&self, count: u64, now: Nanos) {
        self.delivered.fetch_add(count, Ordering::SeqCst);
        self.last_arrival.store(now, Ordering::Relaxed);
        if self.publisher_waits.load(Ordering::SeqCst) && self.publisher_waits.swap(false, Ordering::SeqCst) {
            // The publisher polls with a timeout too, so a lost wake-up costs milliseconds and not the run.
            let _ = self.publisher.wake();
        }
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::SeqCst)
    }

    pub(crate) fn last_arrival(&self) -> Nanos {
        self.last_arrival.load(Ordering::Relaxed)
    }

    /// The publisher wants to hear of the next delivery.
    pub(crate) fn wait_for_delivery(&self) {
        self.publisher_waits.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
