//! What the storage area holds that the index does not name (C6): the open segment, and chunks without a root.

use std::time::{Duration, Instant};

use wire::{At, Intervals, Series, Unstated};

use crate::archive::Archive;
use crate::error::ReadError;
use crate::ledger::series_name;

/// How long the writer thread may take from a commit to telling of it: it does both one after the other.
const TELLING_MAX: Duration = Duration::from_secs(5);

/// What is not in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotIndexed {
    /// Its series.
    pub unstated: Unstated,
    /// What [`Archive::watch_index`] shows when all other chunks of the storage area are among the changes of the index.
    pub index: u64,
}

impl Archive {
    /// What the storage area holds that the index does not name. Whoever knows the series that came into the segment `known.0` up to
    /// page `known.1` is told the others only; names take about `names_bytes` at most, and `more` says that there are others.
    ///
    /// Each record that was acknowledged before the call is named here by its series, or in a chunk that the index names once the changes up to
    /// `index` are said, or in a page that [`Archive::all_undelivered`] names if it is asked after this, or the cloud has it.
    ///
    /// # Errors
    /// As [`Archive::scan`], and if more than `rootless_max` series have chunks without a root.
    pub fn not_indexed(&self, known: (u64, u64), names_bytes: usize, rootless_max: usize) -> Result<NotIndexed, ReadError> {
        let shared = &*self.inner.shared;
        // The segment first: what leaves it before the next look is then found there.
        let listing = shared.buffer.listing(known);
        let (rootless, at, published) = self.inner.readers.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT series, min(at_min), max(at_max) FROM chunks INDEXED BY chunks_without_root
                 WHERE root IS NULL AND id <= (SELECT chunks_published FROM marks) GROUP BY series LIMIT ?1",
            )?;
            let mut rows = statement.query([i64::try_from(rootless_max).unwrap_or(i64::MAX - 1) + 1])?;
            let (mut rootless, mut at): (Vec<Series>, Option<(At, At)>) = (Vec::new(), listing.at);
            while let Some(row) = rows.next()? {
                rootless.push(series_name(shared, row.get(0)?)?);
                at = wider(at, (row.get(1)?, row.get(2)?));
            }
            let published: i64 = tx.query_row("SELECT chunks_published FROM marks", [], |row| row.get(0))?;
            Ok::<_, ReadError>((rootless, at, published.cast_unsigned()))
        })?;
        if rootless.len() > rootless_max {
            return Err(ReadError::Unready("too many series have chunks whose epoch's secret is not known"));
        }
        // A commit is seen in the database a moment before it is told of.
        let begun = Instant::now();
        while shared.index.last() < published {
            if begun.elapsed() > TELLING_MAX {
                return Err(ReadError::Unready("the writer does not tell of its last commit"));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let index = *shared.index.watch().borrow();
        let (mut series, mut bytes) = (Vec::new(), 0);
        let (mut through, mut more) = (listing.last, false);
        for group in listing.series.chunk_by(|(one, _), (other, _)| one == other) {
            if bytes > names_bytes {
                // Series that came with one page are named together.
                (through, more) = (group[0].0 - 1, true);
                break;
            }
            for (_, id) in group {
                let name = series_name(shared, *id)?;
                bytes += name.as_str().len();
                series.push(name);
            }
        }
        let after = if known.0 == listing.done { known.1 } else { 0 };
        let unstated = Unstated { segment: listing.done, after, through, more, at, series, rootless };
        Ok(NotIndexed { unstated, index })
    }

    /// All outgoing pages that have no receipt yet.
    pub fn all_undelivered(&self) -> Intervals {
        self.inner.shared.outgoing.all_undelivered()
    }
}

fn wider(at: Option<(At, At)>, (min, max): (At, At)) -> Option<(At, At)> {
    Some(at.map_or((min, max), |(low, high)| (low.min(min), high.max(max))))
}
