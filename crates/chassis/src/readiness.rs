//! Ready is a list of what is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Knows which parts of the process can't do their work yet. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    waiting: BTreeMap<u64, (String, String)>,
}

/// One part's say in [`Readiness`]. A part that drops its latch unready stays on the list for ever: it died.
#[derive(Debug)]
pub struct Latch {
    name: String,
    id: u64,
    list: Readiness,
}

impl Readiness {
    /// A list without parts, hence ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part that is not ready yet.
    pub fn latch(&self, name: impl Into<String>) -> Latch {
        let name = name.into();
        let mut parts = self.parts();
        let id = parts.next;
        parts.next += 1;
        parts.waiting.insert(id, (name.clone(), "starting".to_owned()));
        drop(parts);
        Latch { name, id, list: self.clone() }
    }

    /// True when every part is ready.
    pub fn is_ready(&self) -> bool {
        self.parts().waiting.is_empty()
    }

    /// What is not ready, and why, in the order of adding.
    pub fn waiting_for(&self) -> Vec<(String, String)> {
        self.parts().waiting.values().cloned().collect()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latch {
    /// This part can do its work.
    pub fn ready(&self) {
        self.list.parts().waiting.remove(&self.id);
    }

    /// This part can't do its work (any more), and why.
    pub fn not_ready(&self, why: impl Into<String>) {
        let entry = (self.name.clone(), why.into());
        self.list.parts().waiting.insert(self.id, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_not_ready_and_why() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let store = readiness.latch("store");
        let uplink = readiness.latch("uplink");
        assert!(!readiness.is_ready());
        store.ready();
        store.ready();
        uplink.not_ready("cloud refused the password");
        assert_eq!(readiness.waiting_for(), [("uplink".to_owned(), "cloud refused the password".to_owned())]);
        uplink.ready();
        assert!(readiness.is_ready());
        uplink.not_ready("disconnected");
        drop(uplink);
        assert!(!readiness.is_ready());
    }
}
