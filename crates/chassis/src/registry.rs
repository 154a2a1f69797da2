//! Metrics of one process, passed to whoever counts something.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry as Inner};

/// A shared prometheus-client registry. There is no global one: each process, and each test, makes its own.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metric and gives it back. The help text has no full stop, and a counter's name no `_total`: the text format adds both.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.inner().register(name, help, metric.clone());
        metric
    }

    /// A new counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A new gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A new histogram with these upper bounds, in the unit that the name says.
    pub fn histogram(&self, name: &str, help: &str, bounds: impl IntoIterator<Item = f64>) -> Histogram {
        self.register(name, help, Histogram::new(bounds))
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.inner()) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(),
        }
    }

    /// The names of all metrics as the text shows them, for comparing with the manual.
    pub fn names(&self) -> Vec<String> {
        let text = self.encode();
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|rest| rest.split(' ').next())
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_was_registered_by_any_clone() {
        let registry = Registry::new();
        let counter = registry.clone().counter("relay_envelopes", "Envelopes taken");
        let seconds = registry.histogram("store_commit_seconds", "Time of a commit", [0.001, 0.01]);
        registry.gauge("outbox_rows", "Rows waiting").set(3);
        counter.inc_by(2);
        seconds.observe(0.005);
        let text = registry.encode();
        assert!(text.contains("relay_envelopes_total 2"), "{text}");
        assert!(text.contains("outbox_rows 3"), "{text}");
        assert!(text.contains("store_commit_seconds_bucket{le=\"0.01\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert_eq!(registry.names(), ["outbox_rows", "relay_envelopes", "store_commit_seconds"]);
    }
}
