//! Reading an agent's data folder from outside, with the agent running or not: for proofs, audits and "where is it now".

use std::path::{Path, PathBuf};

use store::{Readers, Snapshot};
use wire::{Digest, RecordKey, RecordView, RunView};

use crate::outbox::reading_back::{self, ReadFault};
pub use crate::outbox::reading_back::{Chunk, Tombstone, Whereabouts};
use crate::outbox::targets;
pub use crate::outbox::targets::{Measured, Moved};
use crate::outbox::{Origin, OutboxError, options, read_origin};
use crate::progress::Progress;
use crate::state::State;

/// The outbox's file within a data folder.
pub const OUTBOX_FILE: &str = "outbox.sqlite";
/// The anchor ledger's file within a data folder.
pub const LEDGER_FILE: &str = "anchor.sqlite";

/// Why a record could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// The folder can't be opened.
    #[error(transparent)]
    Open(#[from] OutboxError),
    /// The database can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
}

/// An agent's data folder, opened for reading.
#[derive(Debug)]
pub struct Terminal {
    folder: PathBuf,
    readers: Readers,
    /// The state that was held, if one was.
    held: Option<Snapshot>,
    origin: Origin,
    sensor: String,
}

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// What holds it.
    pub place: Place,
}

/// What holds a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The outbox, in no chunk yet.
    Outbox {
        /// Its leaf.
        leaf: Digest,
        /// Its payload, while no relay has acknowledged it.
        payload: Option<Vec<u8>>,
        /// Why it was rejected.
        reason: Option<String>,
    },
    /// A chunk.
    Chunk {
        /// The chunk.
        chunk: Chunk,
        /// The record's leaf is number `index` of the chunk's, from 0.
        index: u64,
    },
    /// Nothing: it was given up.
    Tombstone(Tombstone),
}

impl Terminal {
    /// Opens the data folder of an agent.
    ///
    /// # Errors
    /// [`OutboxError`] when no agent has worked there.
    pub fn open(folder: &Path) -> Result<Self, OutboxError> {
        let path = folder.join(OUTBOX_FILE);
        if !path.exists() {
            return Err(OutboxError::Missing(folder.to_owned()));
        }
        let connection = store::open_reader(&path, &options())?;
        let (origin, sensor) = read_origin(&connection)?;
        Ok(Self { folder: folder.to_owned(), readers: Readers::new(path, options(), 1), held: None, origin, sensor })
    }

    /// [`Terminal::open`] for an audit, which looks at the database as it is now, whatever the agent does meanwhile.
    ///
    /// # Errors
    /// As [`Terminal::open`].
    pub fn hold(folder: &Path) -> Result<Self, OutboxError> {
        let opened = Self::open(folder)?;
        let held = Snapshot::open(&folder.join(OUTBOX_FILE), &options())?;
        let (origin, sensor) = held.read(read_origin)?;
        Ok(Self { held: Some(held), origin, sensor, ..opened })
    }

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&store::rusqlite::Connection) -> Result<T, ReadFault>,
    ) -> Result<T, ReadFault> {
        match &self.held {
            Some(held) => held.read(read),
            None => self.readers.read(|tx| read(tx)),
        }
    }

    /// Epoch and secret: what gives a record its salt.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The sensor, `area/sensor`.
    pub fn sensor(&self) -> &str {
        &self.sensor
    }

    /// Where the anchor ledger is, if the agent anchors.
    pub fn ledger(&self) -> PathBuf {
        self.folder.join(LEDGER_FILE)
    }

    /// The salt of one record.
    pub fn salt(&self, key: &RecordKey) -> [u8; 16] {
        // Only the key goes into the salt.
        let view = RecordView {
            series: key.series.as_str(),
            epoch: key.epoch,
            seq: key.seq,
            at: 0,
            operation: wire::Operation::Store,
            payload: &[],
        };
        self.origin.secret.salt(&view)
    }

    /// Where a record is; `None` when this agent never had it.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn standing(&self, key: &RecordKey) -> Result<Option<Standing>, TerminalError> {
        if key.epoch != self.origin.epoch {
            return Ok(None);
        }
        let found = self.readers.read(|tx| -> Result<_, ReadFault> {
            if let Some(open) = reading_back::open_row(tx, key)? {
                let payload = open.run.as_deref().map(|run| payload(run, key.seq)).transpose()?;
                let place = Place::Outbox { leaf: open.leaf, payload, reason: open.reason };
                return Ok(Some(Standing { state: open.state, place }));
            }
            if let Some(chunk) = reading_back::chunk_of(tx, key)? {
                let index = key.seq - chunk.header.intervals.first().unwrap_or(key.seq);
                return Ok(Some(Standing { state: chunk.state, place: Place::Chunk { chunk, index } }));
            }
            let tombstone = reading_back::tombstone_of(tx, key)?;
            Ok(tombstone.map(|found| Standing { state: State::ServerRejected, place: Place::Tombstone(found) }))
        })?;
        Ok(found)
    }

    /// Where a record is, as the view `record_states` says; `None` when this agent never took it.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn whereabouts(&self, key: &RecordKey) -> Result<Option<Whereabouts>, TerminalError> {
        if key.epoch != self.origin.epoch {
            return Ok(None);
        }
        Ok(self.readers.read(|tx| reading_back::whereabouts(tx, key))?)
    }

    /// The leaves of a chunk in the order of their numbers; `None` when the budget for leaves made them go.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn leaves(&self, chunk: i64) -> Result<Option<Vec<Digest>>, TerminalError> {
        Ok(self.readers.read(|tx| reading_back::leaves(tx, chunk))?)
    }

    /// Chunks after chunk `id`, oldest first.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn chunks_after(&self, id: i64, limit: usize) -> Result<Vec<Chunk>, TerminalError> {
        Ok(self.readers.read(|tx| reading_back::chunks_after(tx, self.origin.epoch, id, limit))?)
    }

    /// Everything that was given up on purpose.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn tombstones(&self) -> Result<Vec<Tombstone>, TerminalError> {
        Ok(self.readers.read(reading_back::tombstones)?)
    }

    /// The last round-trip time of each relay, by name. Empty while there is only one relay: nothing is measured then.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn relays(&self) -> Result<Vec<Measured>, TerminalError> {
        Ok(self.readers.read(targets::relays)?)
    }

    /// The newest `limit` changes of the target, newest first: the first of them names the target.
    ///
    /// # Errors
    /// [`TerminalError::Read`].
    pub fn moves(&self, limit: usize) -> Result<Vec<Moved>, TerminalError> {
        Ok(self.readers.read(|tx| targets::moves(tx, limit))?)
    }

    /// How many records stand where.
    ///
    /// # Errors
    /// [`TerminalError::Open`].
    pub fn progress(&self) -> Result<Progress, TerminalError> {
        let connection = store::open_reader(&self.folder.join(OUTBOX_FILE), &options()).map_err(OutboxError::from)?;
        Ok(crate::outbox::count(&connection)?)
    }
}

fn payload(run: &[u8], seq: u64) -> Result<Vec<u8>, ReadFault> {
    let (run, _) = RunView::parse(run).map_err(|_| ReadFault::Invalid("run"))?;
    let record = run.records().find(|record| record.seq == seq).ok_or(ReadFault::Invalid("run"))?;
    Ok(record.payload.to_vec())
}
