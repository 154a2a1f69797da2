//! Reading records of a series, piece by piece.

use archive::{Archive, Cursor, Entry, ReadError, Scan};
use wire::Series;

use super::logic::Window;

/// Records that are read at once.
const PIECE: usize = 1_000;

/// Reads on a thread where waiting for the disk hurts nobody.
pub(super) async fn on_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

/// All records of a series within a window.
pub(super) fn read(archive: &Archive, series: &Series, window: Window) -> Result<Vec<Entry>, ReadError> {
    let mut all = Vec::new();
    walk(archive, series, window, |entry| all.push(entry))?;
    Ok(all)
}

/// Shows every record of a series within a window, in order of time.
pub(super) fn walk(archive: &Archive, series: &Series, window: Window, mut show: impl FnMut(Entry)) -> Result<(), ReadError> {
    let mut after = None;
    loop {
        let scan = Scan { series: series.clone(), from: window.from, to: window.to, after, limit: PIECE };
        let entries = archive.scan(&scan)?;
        let is_all = entries.len() < PIECE;
        after = entries.last().map(|entry| Cursor::after(&entry.record));
        entries.into_iter().for_each(&mut show);
        if is_all {
            return Ok(());
        }
    }
}
