//! The receipt ladder (C2): how far one record has come, as far as the cloud knows.
//!
//! Whatever is here was taken by its agent and durable at its relay before: custody only moves by an acknowledgement that follows a
//! commit. What is not here may be known to be at a relay, by the index. Whether its terminal has anchored it, the cloud can't say.

use archive::{Archive, ReadError};
use serde::{Deserialize, Serialize};
use wire::digest::to_hex;
use wire::state::ServerState;
use wire::{At, RecordKey, RelayId};

use crate::anchoring::Anchorage;
use crate::gaps::with_graves;
use crate::graves::{Graves, Stretch, Tombstone};
use crate::index::{self, Index, Standing};
use crate::moment;

/// The highest rung that a record has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Not here, and no relay has stated that it keeps it.
    NotHeld,
    /// Durable at a relay, or on the way from there.
    RelayDurable,
    /// Durable here.
    CloudDurable,
    /// Its chunk has a Merkle root, which waits for a batch.
    RootKnown,
    /// Its chunk is in a batch.
    Batched,
    /// A transaction for the batch is signed, and not final.
    SentToChain,
    /// On chain for good.
    OnChain,
}

/// Where the archive keeps a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// In a page of the open segment, as its commit left it.
    Page,
    /// In a chunk.
    Chunk,
}

/// What a relay has done with a record that it had stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// It keeps it.
    Keeps,
    /// It has handed it over, and it has not arrived.
    OnTheWay,
    /// The database that it was in is gone.
    Lost,
}

/// What is known of a record that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Absent {
    /// It was given up on purpose, together with its neighbours.
    Tombstone {
        /// The first sequence number that was given up.
        from_seq: u64,
        /// The last one.
        to_seq: u64,
        /// Why and where.
        #[serde(flatten)]
        tombstone: Tombstone,
    },
    /// A relay has stated it, and it has not come here.
    AtRelay {
        /// The relay.
        relay: RelayId,
        /// Whether it has it.
        custody: Custody,
        /// Its chunk there.
        relay_chunk: u64,
        /// The chunk's Merkle root in hex, which it will be compared with.
        relay_root: String,
    },
    /// Later records are here: it is missing, together with its neighbours.
    Gap {
        /// The first sequence number of the gap.
        from_seq: u64,
        /// The last one.
        to_seq: u64,
        /// The last sequence number received of the epoch.
        last_seq: u64,
    },
    /// It lies beyond the last one received; it may not exist.
    Beyond {
        /// The last sequence number received of the epoch; `null` if nothing of it was.
        last_seq: Option<u64>,
    },
    /// It was received, and the archive does not have it any more.
    Gone,
}

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The record.
    pub key: RecordKey,
    /// The highest rung that it has reached.
    pub rung: Rung,
    /// Whether it is durable here.
    pub archived: bool,
    /// Why not, if not.
    pub absent: Option<Absent>,
    /// Its server state in the words of the patent; `null` while it is not here.
    pub state: Option<ServerState>,
    /// Since when it is in that state; records of a closed segment share the time when the last of them was durable.
    #[serde(default)]
    pub since: Option<String>,
    /// When it was generated.
    pub at: Option<String>,
    /// The relay that brought it.
    pub relay: Option<RelayId>,
    /// Where the archive keeps it.
    pub kept: Option<Kept>,
    /// Its chunk in the archive, once its segment is closed.
    pub chunk: Option<i64>,
    /// The chunk's Merkle root in hex, once the secret of the epoch is known.
    pub root: Option<String>,
    /// The batch that its chunk is anchored with.
    pub batch: Option<Batch>,
}

/// A batch on its way to the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its number in the cloud's stream.
    pub number: u64,
    /// The state in the words of the anchor ledger.
    pub detail: String,
    /// Why it can't be written for now.
    #[serde(default)]
    pub failure: Option<String>,
    /// Hash of its transaction: of the one that wrote it, or else of the newest one signed.
    pub transaction: Option<String>,
    /// The block that holds it.
    pub block: Option<u64>,
}

impl Whereabouts {
    /// What the archive knows of a record.
    pub(crate) fn in_archive(archive: &Archive, key: RecordKey) -> Result<Self, ReadError> {
        let mut found = Self {
            key,
            rung: Rung::NotHeld,
            archived: false,
            absent: None,
            state: None,
            since: None,
            at: None,
            relay: None,
            kept: None,
            chunk: None,
            root: None,
            batch: None,
        };
        let mut entry = archive.get(&found.key)?;
        if entry.is_none() {
            let absent = absent(archive, &found.key)?;
            // It may have come between the two looks.
            entry = if absent == Absent::Gone { archive.get(&found.key)? } else { None };
            found.absent = entry.is_none().then_some(absent);
        }
        let Some(entry) = entry else { return Ok(found) };
        found.archived = true;
        found.rung = Rung::CloudDurable;
        found.state = Some(ServerState::RequestCompleted);
        found.since = archive.taken_at(&found.key)?.map(moment::format);
        found.at = Some(moment::format(entry.record.at));
        found.relay = Some(entry.via);
        found.chunk = archive.chunk_of(&found.key)?.map(|(chunk, _)| chunk);
        found.kept = Some(if found.chunk.is_some() { Kept::Chunk } else { Kept::Page });
        if let Some(chunk) = found.chunk
            && let Some((_, header)) = archive.chunks_after(chunk - 1, 1)?.into_iter().find(|(id, _)| *id == chunk)
        {
            found.root = Some(to_hex(&header.root));
            found.rung = Rung::RootKnown;
        }
        Ok(found)
    }

    /// Adds what the index knows of a record that is not here.
    pub(crate) fn look_in(&mut self, index: &Index) -> Result<(), index::ReadError> {
        if self.absent.is_none() {
            return Ok(());
        }
        let known = index.of_series(&self.key.series, (At::MIN, At::MAX))?;
        // Those at hand come first.
        let holds = |known: &&index::Known| known.epoch == self.key.epoch && known.seqs.contains(self.key.seq);
        let Some(known) = known.iter().find(holds) else { return Ok(()) };
        let custody = match known.standing {
            Standing::Stated => Custody::Keeps,
            Standing::Left => Custody::OnTheWay,
            Standing::Lost => Custody::Lost,
        };
        if custody != Custody::Lost {
            self.rung = Rung::RelayDurable;
        }
        let (relay, relay_chunk, relay_root) = (known.relay.clone(), known.chunk, to_hex(&known.root));
        self.absent = Some(Absent::AtRelay { relay, custody, relay_chunk, relay_root });
        Ok(())
    }

    /// Adds what the anchor ledger knows of its chunk.
    pub(crate) fn is_batched(&mut self, anchorage: &Anchorage) {
        let place = &anchorage.place;
        let progress = &place.batch.progress;
        let state = ServerState::of(place.batch.record);
        let mined = progress.mined.as_ref();
        self.rung = match state {
            ServerState::RequestCompleted => Rung::Batched,
            ServerState::SentToChain => Rung::SentToChain,
            ServerState::OnChain => Rung::OnChain,
        };
        self.state = Some(state);
        if state != ServerState::RequestCompleted {
            self.since = Some(moment::format(place.batch.record_since));
        }
        self.batch = Some(Batch {
            number: place.batch.number,
            detail: progress.state.as_str().to_owned(),
            failure: progress.failure.map(|failure| failure.as_str().to_owned()),
            transaction: anchorage.tx.map(|tx| format!("0x{}", to_hex(&tx))),
            block: mined.map(|mined| mined.block_number),
        });
    }
}

/// What the numbers received say about a record that the archive does not have.
fn absent(archive: &Archive, key: &RecordKey) -> Result<Absent, ReadError> {
    let received = archive.received(std::slice::from_ref(&key.series))?.pop().unwrap_or_default();
    let graves = Graves::of(archive, &key.series.sensor_id())?;
    let mut epochs = with_graves(&key.series, received, &graves);
    let (held, known_to) = epochs.remove(&key.epoch).unwrap_or_default();
    let last_seq = held.last();
    if key.seq > last_seq.unwrap_or(0).max(known_to) {
        return Ok(Absent::Beyond { last_seq });
    }
    let missing = graves.explain(&key.series, key.epoch, &held.missing(1, last_seq.unwrap_or(0).max(known_to)));
    let of = missing.into_iter().find(|stretch| (stretch.from_seq..=stretch.to_seq).contains(&key.seq));
    Ok(match of {
        None => Absent::Gone,
        Some(Stretch { from_seq, to_seq, tombstone: Some(tombstone) }) => Absent::Tombstone { from_seq, to_seq, tombstone },
        Some(Stretch { from_seq, to_seq, tombstone: None }) => Absent::Gap { from_seq, to_seq, last_seq: last_seq.unwrap_or(0) },
    })
}
