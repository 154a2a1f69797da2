//! What the cloud says to this relay.

use archive::Archive;
use link::{Link, Qos, Received};
use tokio::task::JoinSet;
use wire::group::Lease;
use wire::topics::{Down, SegmentName, Topic};
use wire::{Command, Receipt, RelayId};

/// A message of the cloud.
pub(crate) enum Word {
    Receipt(Receipt),
    Command(Command),
    Lease(Lease),
    /// For another relay, whose proxy this one is.
    Foreign(Received),
}

/// Listens to the cloud.
pub(crate) struct Ears {
    relay: RelayId,
    archive: Archive,
    topics: Vec<String>,
    opening: JoinSet<()>,
}

impl Ears {
    /// Ears for `relay`; for leases only if it is in a group.
    pub(crate) fn new(relay: &RelayId, archive: Archive, in_group: bool) -> Self {
        let topic = |kind: &Down| Topic::Down { relay: SegmentName::from(relay), kind: *kind }.to_string();
        let kinds = Down::ALL.iter().filter(|kind| in_group || **kind != Down::Lease);
        Self { relay: relay.clone(), archive, topics: kinds.map(topic).collect(), opening: JoinSet::new() }
    }

    /// What is to be subscribed on every connection.
    pub(crate) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Subscribes again, beside the loop: no receipt came, perhaps because the cloud refused the subscription at a time.
    pub(crate) fn open_again(&mut self, link: &Link) {
        while self.opening.try_join_next().is_some() {}
        if self.opening.is_empty() {
            let (link, topics) = (link.clone(), self.topics.clone());
            self.opening.spawn(async move {
                if let Err(error) = link.subscribe_all(topics, Qos::One).await {
                    tracing::error!(%error, "the relay's subscription is refused, so nothing can be deleted here; grant it down/{{relay}}/#");
                }
            });
        }
    }

    /// Reads one message; what is not for us, or can't be read, is nothing.
    pub(crate) fn hear(&self, message: Received) -> Option<Word> {
        if message.retain {
            tracing::warn!(topic = message.topic, "a retained message is ignored: the cloud says everything when it is true");
            return None;
        }
        let Ok(Topic::Down { relay, kind }) = Topic::parse(&message.topic) else { return None };
        if relay.as_str() != self.relay.as_str() {
            return Some(Word::Foreign(message));
        }
        let word = match kind {
            Down::Receipts => Receipt::parse(&message.payload).map(Word::Receipt),
            Down::Commands => Command::parse(&message.payload).map(Word::Command),
            Down::Lease => Lease::parse(&message.payload).map(Word::Lease),
        };
        match word {
            // Two databases of one name may talk to one cloud while a relay is rebuilt: numbers are each one's own.
            Ok(Word::Receipt(receipt)) if receipt.relay_epoch != self.archive.epoch() => None,
            Ok(word) => Some(word),
            Err(fault) => {
                tracing::warn!(topic = message.topic, %fault, "a message of the cloud can't be read and is ignored");
                None
            }
        }
    }
}
