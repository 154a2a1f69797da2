//! What is kept: pages, chunks and range scans over one store. One engine for relay and cloud.
//!
//! A *page* is what one commit wrote: canonical runs, one behind the other, one row. Pages of the storage area become *chunks* when their
//! segment is closed: one series' readings in order, compressed, under one Merkle root. Pages of the outgoing lanes wait for the cloud's
//! receipt and are then deleted.
//!
//! Promises:
//! - An append is durable, as a whole, when its [`Appending`] resolves with `Ok`, and not before.
//! - Raw readings get sequence numbers without gaps within (series, epoch); a commit that fails gives none away.
//! - [`Append::Ingest`] keeps each record exactly once, however often and through whichever relay it comes, and says new, duplicate or
//!   conflict in the transaction that keeps it.
//! - All of that holds after kill -9 at any point: what was counted is found again from the last snapshot and the pages behind it.
//! - Scans never block the writer, and see what was durable when they began.

mod anchored;
mod append;
mod archive;
mod buffer;
mod chunk;
mod close;
mod cursor;
mod engine;
mod error;
mod examine;
mod find;
mod handover;
mod held;
mod index;
mod lanes;
mod leaving;
mod ledger;
mod names;
mod open;
mod options;
mod read;
mod rebuilt;
mod recover;
mod scan;
mod schema;
mod secrets;
mod shared;
mod shown;
mod tail;
mod view;
mod walk;
mod workshop;

pub use anchored::BatchStanding;
pub use append::{Append, AppendError, Appended, Appending, FrameRef, Lane};
pub use archive::{APPEND_BYTES_MAX, Archive, Stats};
pub use close::Closed;
pub use cursor::{Cursor, CursorFault};
pub use error::{Damage, OpenError, ReadError};
pub use examine::{ExamineError, Examined, Unsound, Why, examine};
pub use handover::{HandedOver, HandingOver, Selection};
pub use index::IndexChange;
pub use lanes::{Page, Total};
pub use open::NotIndexed;
pub use options::{Budgets, Fresh, Now, Observer, Options, Segment};
pub use rebuilt::Rebuilt;
pub use recover::Recovered;
pub use scan::{Entry, Scan};
pub use shown::Showing;
pub use store::Fault;
pub use tail::{Behind, Committed, Follower, SeriesId, Stretch};
pub use view::{FoundChunk, OpenRun, StoredChunk, TimedLeaf, View};
pub use walk::{HeldOf, Passed, Walk, Walked};
