//! How it is kept: SQLite opened right, migrations, the writer thread and its group commit.
//!
//! An acknowledgement anywhere in Forebay is the consequence of one thing: [`Writer`] replied, and it replies after the commit. One
//! thread owns the writing connection of a database; whatever was submitted while the previous commit ran becomes the next group,
//! so a lone job pays one sync of the disk and nothing else, and a thousand jobs at once also pay one.
//!
//! Promises: a database opened by [`open()`] runs with `journal_mode=WAL` and `synchronous=FULL`, read back and not assumed; its file is
//! readable by its owner only; a file that was migrated by a newer program is refused; a corrupt one is told apart from every other
//! failure so that [`quarantine()`] can put it aside and a fresh one can go on.

mod faults;
mod lock;
mod open;
mod quarantine;
mod queue;
mod readers;
mod snapshot;
mod steps;
mod ticket;
mod worker;
mod writer;

#[doc(hidden)]
pub use faults::Faults;
pub use lock::{Lock, LockError};
pub use open::{OpenError, Options, open, open_reader};
pub use quarantine::quarantine;
pub use readers::{ReadError, Readers};
pub use rusqlite;
pub use snapshot::Snapshot;
pub use steps::{Step, check_steps};
pub use ticket::Ticket;
pub use writer::{Busy, Counters, Fault, Limits, Work, Writer};
