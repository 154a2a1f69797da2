//! An event that was made, and what became of it.

use serde::{Deserialize, Serialize};
use wire::openadr::Event;
use wire::{At, RecordKey};

use super::logic::{Ask, Settlement};

/// An event as its record holds it: OpenADR, and one member more.
#[derive(Serialize, Deserialize)]
pub(super) struct EventRecord {
    #[serde(flatten)]
    pub(super) event: Event,
    pub(super) forebay: Ask,
}

/// An event that was made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Made {
    /// As it was published last.
    pub(crate) event: Event,
    /// What it asks for.
    pub(crate) ask: Ask,
    /// Its record.
    pub(crate) key: RecordKey,
    /// Its records before it was changed, the oldest first.
    pub(crate) earlier: Vec<RecordKey>,
    /// When it was cancelled, and the record that says so.
    pub(crate) cancelled: Option<(At, RecordKey)>,
    /// What came of it, and the record that says so, once it is over.
    pub(crate) settled: Option<(Settlement, RecordKey)>,
}

impl Made {
    pub(super) fn new(EventRecord { event, forebay: ask }: EventRecord, key: RecordKey) -> Self {
        Self { event, ask, key, earlier: Vec::new(), cancelled: None, settled: None }
    }

    /// Another record of the same event.
    pub(super) fn change(&mut self, EventRecord { event, forebay: ask }: EventRecord, key: RecordKey) {
        let before = std::mem::replace(&mut self.key, key);
        self.earlier.push(before);
        (self.event, self.ask) = (event, ask);
    }

    /// When the last terminal has ended.
    pub(crate) fn ends(&self) -> At {
        let over = self.ask.over();
        self.cancelled.as_ref().map_or(over, |(at, _)| over.min(*at))
    }

    /// Whether it was cancelled before its start: then there is nothing to be measured.
    pub(crate) fn is_void(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|(at, _)| *at <= self.ask.window.from)
    }
}
