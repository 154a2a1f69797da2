//! What is said between sensors, relays, the cloud and the chain: ids, topics, records, frames, digests, Merkle trees and grants.
//!
//! This crate is pure: no sockets, no files, no clock, no randomness. Everything that two processes must agree upon to the last
//! byte lives here, and the byte vectors under `tests/vectors` hold it in place.
//!
//! The vocabulary is small. A sensor produces [`Record`]s in a [`Series`]; each has a [`RecordKey`] that identifies it for good. Records
//! travel as *runs* (consecutive sequence numbers of one series) inside frames, in canonical CBOR only: a decoder here refuses
//! any other encoding of the same value, so the fields of a record always rebuild the bytes that its digest is over.

pub mod cbor;
pub mod digest;
pub mod filter;
pub mod frame;
pub mod grants;
pub mod group;
pub mod ids;
pub mod index;
pub mod intervals;
pub mod merkle;
pub mod openadr;
pub mod packed;
pub mod power;
pub mod record;
mod sha;
pub mod state;
pub mod statement;
pub mod system;
pub mod topics;
pub mod unstated;
pub mod uplink;

pub use cbor::Fault;
pub use digest::{ChunkHeader, Digest, EpochSecret};
pub use frame::{FrameView, RunBuilder, RunView, Runs, encode_frame};
pub use ids::{Epoch, IdFault, RecordKey, RelayId, SensorId, Series};
pub use intervals::Intervals;
pub use record::{At, Operation, Record, RecordView};
pub use statement::{Shown, Statement};
pub use topics::Topic;
pub use unstated::Unstated;
pub use uplink::{Announcement, Command, Receipt, UpFrame};
