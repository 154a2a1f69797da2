//! The messages of a feed: the same topic and the same properties as live ones.

use std::fmt::Write;
use std::sync::Arc;

use broker::Message;
use bytes::Bytes;
use wire::{At, Epoch, Operation};

use crate::moment::Stamper;

/// What the messages of one piece have in common.
pub(super) struct Heading<'a> {
    pub(super) topic: &'a Arc<str>,
    pub(super) series: &'a str,
    pub(super) epoch: Epoch,
}

/// Writes messages into a batch.
#[derive(Default)]
pub(super) struct Scribe {
    stamper: Stamper,
    key: String,
}

/// Messages that go to the session together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    pub(super) bytes: usize,
}

/// One record as a message needs it.
pub(super) struct Line<'a> {
    pub(super) seq: u64,
    pub(super) at: At,
    pub(super) operation: Operation,
    pub(super) via: &'a str,
    pub(super) payload: Bytes,
    pub(super) is_past: bool,
}

impl Scribe {
    pub(super) fn write(&mut self, heading: &Heading<'_>, line: Line<'_>, batch: &mut Batch) {
        self.key.clear();
        // Writing to a string can't fail.
        let _ = write!(self.key, "{}@{}.{}", heading.series, heading.epoch, line.seq);
        batch.bytes += line.payload.len();
        let mut message = Message::new(heading.topic.clone(), line.payload)
            .user_property("key", &self.key)
            .user_property("at", self.stamper.stamp(line.at))
            .user_property("relay", line.via)
            .user_property("operation", line.operation.as_str());
        if line.is_past {
            message = message.user_property("historical", "true");
        }
        batch.messages.push(message);
    }
}
