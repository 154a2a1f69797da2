//! What demand response is made of, opened together.

use std::path::Path;
use std::sync::Arc;

use archive::{Archive, ReadError};
use wire::At;

use super::book::Book;
use super::clients::{Clients, ClientsFault};
use super::config::Demand;
use super::notices;

/// The database of clients within the data folder.
const CLIENTS_FILE: &str = "vens.sqlite";

/// Why demand response does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The events can't be read back.
    #[error("its events can't be read from the archive")]
    Events(#[source] ReadError),
    /// The clients' database can't be opened.
    #[error("its clients' database can't be opened: {0}")]
    Clients(String),
}

impl From<ClientsFault> for OpenFault {
    fn from(fault: ClientsFault) -> Self {
        Self::Clients(fault.to_string())
    }
}

/// Book and clients.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) book: Book,
    pub(crate) clients: Arc<Clients>,
}

impl Service {
    /// Reads what was asked before. Blocks.
    pub(crate) fn open(cloud: &str, data: &Path, settings: Demand, archive: Archive, now: At) -> Result<Self, OpenFault> {
        let book = Book::open(cloud, settings, archive, now).map_err(OpenFault::Events)?;
        let clients = Clients::open(&data.join(CLIENTS_FILE))?;
        notices::begin(&book, &clients)?;
        Ok(Self { book, clients: Arc::new(clients) })
    }
}
