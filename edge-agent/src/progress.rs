//! How many records stand where: counted by the writer, after each commit, from the first opening of the database on.

/// Counts over the whole life of an agent's database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Committed to the outbox: the agent has custody, or had it.
    pub taken: u64,
    /// Never taken because the outbox was full; each has a sequence number and a tombstone.
    pub dropped: u64,
    /// Handed to a relay at least once, acknowledged or not.
    pub sent: u64,
    /// Acknowledged by a relay.
    pub accepted: u64,
    /// Refused by a relay for good; each has a tombstone.
    pub rejected: u64,
    /// In a chunk, and so ready for the chain.
    pub grouped: u64,
    /// Final on the chain.
    pub anchored: u64,
    /// Bytes of the outbox's budget in use.
    pub open_bytes: u64,
}

impl Progress {
    /// Records whose payload is still kept here, because no relay has answered for them.
    pub fn pending(&self) -> u64 {
        self.taken.saturating_sub(self.accepted + self.rejected)
    }
}
