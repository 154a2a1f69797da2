//! What demand response is made of, opened together.

use std::path::Path;
use std::sync::Arc;

use archive::{Archive, ReadError};
use wire::At;

use super::book::Book;
use super::config::Demand;
use super::vens::{Vens, VensFault};

/// The database of VENs within the data folder.
const VENS_FILE: &str = "vens.sqlite";

/// Why demand response does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The events can't be read back.
    #[error("its events can't be read from the archive")]
    Events(#[source] ReadError),
    /// The VENs can't be opened.
    #[error("its VENs can't be opened: {0}")]
    Vens(String),
}

impl From<VensFault> for OpenFault {
    fn from(fault: VensFault) -> Self {
        Self::Vens(fault.to_string())
    }
}

/// Book and VENs.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) book: Book,
    pub(crate) vens: Arc<Vens>,
}

impl Service {
    /// Reads what was asked before. Blocks.
    pub(crate) fn open(cloud: &str, data: &Path, settings: Demand, archive: Archive, now: At) -> Result<Self, OpenFault> {
        let book = Book::open(cloud, settings, archive, now).map_err(OpenFault::Events)?;
        Ok(Self { book, vens: Arc::new(Vens::open(&data.join(VENS_FILE))?) })
    }
}
