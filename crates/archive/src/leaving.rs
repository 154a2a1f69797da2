//! What leaves the storage area, and what the index says of the rest: the archive's face for relays.

use tokio::sync::watch;
use wire::Intervals;
use wire::index::{IndexEntry, Stretch};

use crate::archive::Archive;
use crate::error::ReadError;
use crate::handover::{self, HandedOver, HandingOver, Selection};
use crate::index::{self, IndexChange};

impl Archive {
    /// Moves records of the storage area to the backlog lane, so that the cloud gets them and they are deleted on its receipt (A6, A13).
    /// Each page moves in one transaction: a record is always in exactly one of the two places. Knows no budget: who must go by one
    /// takes [`Archive::hand_over_page`].
    ///
    /// # Errors
    /// What moved before the failure stays moved; the call can be repeated.
    pub fn hand_over(&self, selection: &Selection) -> Result<HandedOver, ReadError> {
        let mut handing = HandingOver::new(selection.clone());
        while !handing.is_done() {
            self.hand_over_page(&mut handing)?;
        }
        Ok(handing.into_handed())
    }

    /// The next page of a hand-over.
    ///
    /// # Errors
    /// As [`Archive::hand_over`].
    pub fn hand_over_page(&self, handing: &mut HandingOver) -> Result<(), ReadError> {
        self.closer(|closer| handover::page(closer, handing))
    }

    /// Those of these outgoing pages that have no receipt yet.
    pub fn undelivered(&self, pages: &Intervals) -> Intervals {
        self.inner.shared.outgoing.undelivered(pages)
    }

    /// The index's entries of a stretch of chunk numbers, in order, at most `limit`: published chunks with a root, and those that were
    /// handed over and have no receipt yet (A5).
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn index_entries(&self, stretch: Stretch, limit: usize) -> Result<Vec<IndexEntry>, ReadError> {
        let inner = &*self.inner;
        inner.readers.read(|tx| index::entries(tx, &inner.shared, stretch, limit))
    }

    /// About how many entries the index has.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn index_len(&self) -> Result<u64, ReadError> {
        let count = "SELECT chunk_count + (SELECT count(*) FROM leaving WHERE chunk IS NOT NULL) FROM marks";
        self.inner.readers.read(|tx| Ok(tx.query_row(count, [], |row| row.get::<_, i64>(0))?.max(0).cast_unsigned()))
    }

    /// What came into the index or left it since the last call, or since the archive was opened.
    pub fn take_index_changes(&self) -> IndexChange {
        self.inner.shared.index.take()
    }

    /// Changes whenever there are index changes to take.
    pub fn watch_index(&self) -> watch::Receiver<u64> {
        self.inner.shared.index.watch()
    }

    /// Bytes of the database file that hold nothing and are used again before it grows.
    ///
    /// # Errors
    /// As [`Archive::scan`].
    pub fn reusable_bytes(&self) -> Result<u64, ReadError> {
        self.inner.readers.read(|tx| {
            let pragma = |name: &str| tx.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
            Ok((pragma("freelist_count")? * pragma("page_size")?).cast_unsigned())
        })
    }
}
