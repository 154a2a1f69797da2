//! The secrets of the epochs whose records are here.

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use wire::{Announcement, Epoch, EpochSecret, SensorId};

/// Known secrets, by epoch and scope.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    known: RwLock<FxHashMap<u64, Vec<Scoped>>>,
}

/// One origin's secret of an epoch; no sensor means that it is a relay's own.
type Scoped = (Option<SensorId>, Arc<EpochSecret>);

impl Secrets {
    pub(crate) fn add(&self, announced: &Announcement) {
        let mut known = self.known.write();
        let scopes = known.entry(announced.epoch.0).or_default();
        if !scopes.iter().any(|(scope, _)| *scope == announced.scope) {
            scopes.push((announced.scope.clone(), Arc::new(announced.secret.clone())));
        }
    }

    /// Whether this announcement is known. One that contradicts a known secret counts as known: the first stays.
    pub(crate) fn knows(&self, announced: &Announcement) -> bool {
        let known = self.known.read();
        let Some((_, secret)) =
            known.get(&announced.epoch.0).and_then(|scopes| scopes.iter().find(|(scope, _)| *scope == announced.scope))
        else {
            return false;
        };
        if **secret != announced.secret {
            tracing::warn!(epoch = %announced.epoch, scope = ?announced.scope, "another secret was announced for a known epoch; the first stays");
        }
        true
    }

    /// The secret of an epoch that is no sensor's.
    pub(crate) fn own(&self, epoch: Epoch) -> Option<Arc<EpochSecret>> {
        let known = self.known.read();
        known.get(&epoch.0)?.iter().find(|(scope, _)| scope.is_none()).map(|(_, secret)| secret.clone())
    }

    /// The secret that salts the records of `series` in `epoch`: the sensor's own goes before a relay's.
    pub(crate) fn of(&self, series: &str, epoch: Epoch) -> Option<Arc<EpochSecret>> {
        let known = self.known.read();
        let scopes = known.get(&epoch.0)?;
        let own = scopes.iter().find(|(scope, _)| scope.as_ref().is_some_and(|sensor| sensor.owns(series)));
        own.or_else(|| scopes.iter().find(|(scope, _)| scope.is_none())).map(|(_, secret)| secret.clone())
    }
}
