//! Anchoring beside ingest: the archive's chunks as a source for the anchor worker, and where a record stands by its ledger.
//!
//! The worker polls the archive and has a database of its own; nothing that the chain does reaches ingest.

use std::sync::Arc;
use std::time::Duration;

use anchor::changes::{Change, LedgerId};
use anchor::ledger::Standing;
use anchor::machine::Failure;
use anchor::rows::Place;
use anchor::{ChunkSource, Ledger, LedgerError, Proof, ProveError, SourceError};
use archive::{Archive, BatchStanding, ReadError};
use chassis::Stop;
use wire::digest::Salt;
use wire::{ChunkHeader, Digest, Epoch, EpochSecret, Record, RecordKey};

use crate::proving::AtRelay;

/// Changes of the ledger that one commit of the archive takes over.
const CHANGES_PIECE: usize = 256;
/// Announcements of epoch secrets that are looked through at once.
const ANNOUNCEMENTS_PIECE: usize = 1_024;

/// The archive, as the anchor worker sees it.
pub(crate) struct Chunks(pub(crate) Archive);

impl ChunkSource for Chunks {
    fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<(i64, ChunkHeader)>, SourceError> {
        self.0.chunks_after(id, limit).map_err(SourceError::new)
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }
}

/// What the archive contributes to the proof of one record.
pub(crate) struct Evidence {
    chunk: i64,
    leaves: Vec<Digest>,
    index: usize,
    record: Record,
    salt: Salt,
}

/// What a record in the archive still lacks for a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// Its segment is still open.
    #[error("the record is not part of a chunk yet; ask again later")]
    Chunk,
    /// The origin has not announced the epoch's secret, without which nobody can compute leaves.
    #[error("the secret of the record's epoch was not announced yet; ask again later")]
    Secret,
}

impl Evidence {
    /// Gathers it; `None` if the record is not in the archive.
    pub(crate) fn gather(archive: &Archive, key: &RecordKey) -> Result<Option<Result<Self, Missing>>, ReadError> {
        let Some(entry) = archive.get(key)? else { return Ok(None) };
        let Some((chunk, index)) = archive.chunk_of(key)? else { return Ok(Some(Err(Missing::Chunk))) };
        let (Some(leaves), Some(secret)) = (archive.chunk_leaves(chunk)?, secret_of(archive, key)?) else {
            return Ok(Some(Err(Missing::Secret)));
        };
        let salt = secret.salt(&entry.record.view());
        Ok(Some(Ok(Self { chunk, leaves, index, record: entry.record, salt })))
    }
}

/// The secret that salts a record: the sensor's own goes before a relay's, and the first announced stays, as in the archive itself.
fn secret_of(archive: &Archive, key: &RecordKey) -> Result<Option<EpochSecret>, ReadError> {
    // Events and settlements of demand response: the archive itself is their origin.
    let own = (key.epoch == archive.epoch()).then(|| archive.secret().clone());
    let (mut after, mut of_relay) = (0, own);
    loop {
        let announced = archive.announcements_after(after, ANNOUNCEMENTS_PIECE)?;
        let Some((last, _)) = announced.last() else { return Ok(of_relay) };
        after = *last;
        for (_, announcement) in announced.into_iter().filter(|(_, announcement)| announcement.epoch == key.epoch) {
            match announcement.scope {
                Some(sensor) if sensor.owns(key.series.as_str()) => return Ok(Some(announcement.secret)),
                Some(_) => {}
                None => of_relay = of_relay.or(Some(announcement.secret)),
            }
        }
    }
}

/// Why the archive could not take over what the ledger says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowFault {
    #[error("the ledger: {0}")]
    Ledger(#[from] LedgerError),
    #[error("the archive: {0}")]
    Read(#[from] ReadError),
    #[error("the archive: {0}")]
    Write(#[from] archive::Fault),
    #[error("a look did not end: {0}")]
    Look(#[from] tokio::task::JoinError),
}

/// Has the archive say with SQL what the ledger says, a look behind, until told to stop (B3).
pub(crate) async fn follow(anchored: Anchored, archive: Archive, poll: Duration, stop: Stop) -> Result<(), FollowFault> {
    loop {
        let (from, into) = (anchored.clone(), archive.clone());
        let (ledger, news) = tokio::task::spawn_blocking(move || from.news(&into)).await??;
        let more = news.len() >= CHANGES_PIECE;
        if !news.is_empty() {
            archive.follow_ledger(ledger, news)?.await?;
        }
        if more {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            () = stop.stopped() => return Ok(()),
        }
    }
}

/// Where a chunk is anchored.
pub(crate) struct Anchorage {
    pub(crate) place: Place,
    /// The transaction that wrote its batch, or the newest one signed.
    pub(crate) tx: Option<Digest>,
}

/// What the cloud's own ledger knows.
#[derive(Clone)]
pub(crate) struct Anchored(pub(crate) Arc<Ledger>);

impl Anchored {
    /// Where a chunk is anchored, if it is in a batch.
    pub(crate) fn place(&self, chunk: i64) -> Result<Option<Anchorage>, LedgerError> {
        let Some(place) = self.0.batch_of_chunk(chunk)? else { return Ok(None) };
        let tx = match place.batch.progress.mined {
            Some(mined) => Some(mined.tx),
            None => self.0.transactions(place.batch.number)?.first().map(|newest| newest.hash),
        };
        Ok(Some(Anchorage { place, tx }))
    }

    /// The proof of one record, with all later batches if it shall hold without logs.
    pub(crate) fn prove(&self, evidence: &Evidence, up_to_head: bool) -> Result<Proof, ProveError> {
        let Evidence { chunk, leaves, index, record, salt } = evidence;
        let proof = anchor::prove(&self.0, &anchor::Evidence { chunk: *chunk, leaves, index: *index, record, salt: *salt })?;
        if up_to_head { proof.up_to_head(&self.0) } else { Ok(proof) }
    }

    /// Where what a relay stated is anchored, if it is in a batch.
    pub(crate) fn place_stated(&self, source: Epoch, statement: i64) -> Result<Option<Place>, LedgerError> {
        self.0.batch_of(source, statement)
    }

    /// The proof of one record that a relay keeps.
    pub(crate) fn prove_stated(&self, at_relay: &AtRelay, up_to_head: bool) -> Result<Proof, ProveError> {
        let proof = anchor::prove_stated(&self.0, at_relay.source, at_relay.statement, at_relay.shown.clone())?;
        if up_to_head { proof.up_to_head(&self.0) } else { Ok(proof) }
    }

    /// What changed since the archive last took something over. How far that was stands in the archive.
    fn news(&self, archive: &Archive) -> Result<(LedgerId, Vec<BatchStanding>), FollowFault> {
        let id = self.0.id()?;
        let after = match archive.followed()? {
            Some((known, change)) if known == id => change,
            _ => 0,
        };
        let changes = self.0.changes_after(after, CHANGES_PIECE)?;
        let standing = |change: Change| BatchStanding {
            change: change.number,
            batch: change.batch,
            chunks: change.chunks,
            record: change.record,
            since: change.since,
            detail: change.detail.as_str(),
            failure: change.failure.map(Failure::as_str),
            tx: change.tx,
        };
        Ok((id, changes.into_iter().map(standing).collect()))
    }

    /// Batches by state.
    pub(crate) fn standing(&self) -> Result<Standing, LedgerError> {
        self.0.standing()
    }
}
