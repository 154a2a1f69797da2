//! What a leaf of a batch commits to.

use wire::{ChunkHeader, Digest, Fault, Statement};

/// The content of one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A chunk that the party holds.
    Chunk(ChunkHeader),
    /// A chunk that a relay holds, as it stated it.
    Statement(Statement),
}

impl Content {
    /// Reads what [`Content::encode`] wrote.
    ///
    /// # Errors
    /// [`Fault`] for anything but the canonical bytes of one of the two.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        /// The head of an array of five items, which a statement is; a header has seven.
        const STATEMENT: u8 = 0x85;
        match bytes.first() {
            Some(&STATEMENT) => Statement::parse(bytes).map(Self::Statement),
            _ => ChunkHeader::parse(bytes).map(Self::Chunk),
        }
    }

    /// Writes the canonical bytes behind what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Chunk(header) => header.encode(out),
            Self::Statement(statement) => statement.encode(out),
        }
    }

    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        match self {
            Self::Chunk(header) => header.leaf(),
            Self::Statement(statement) => statement.leaf(),
        }
    }

    /// The chunk's header.
    #[must_use]
    pub fn header(&self) -> &ChunkHeader {
        match self {
            Self::Chunk(header) => header,
            Self::Statement(statement) => &statement.header,
        }
    }

    /// How many records the party itself holds by it. Those of a statement come, if they come, in a chunk of their own.
    #[must_use]
    pub fn records(&self) -> u64 {
        match self {
            Self::Chunk(header) => header.count,
            Self::Statement(_) => 0,
        }
    }
}
