//! Keeps the cloud's index of this relay's chunks true (A5, A6, A13): sums on each connection, then pages of what changes.
//!
//! One message is on its way at a time, at a bounded rate: the index is small beside the records and must not hold them up. What did not
//! arrive is said again; a connection that ends makes everything before it void, because the next one begins with sums.

mod agenda;
mod progress;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use archive::{Archive, ReadError};
use chassis::Stop;
use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::Intervals;
use wire::index::{ENTRIES_MAX, Index, IndexEntry, STRETCHES_MAX, Stretch, sum};
use wire::topics::Up;
use wire::uplink::NUMBER_MAX;

use crate::metrics::{Metrics, Said};
use crate::outlet::Outlet;
use agenda::{Agenda, Next};
pub(crate) use progress::Progress;

/// Entries of a stretch that has a sum, and of a page, at most.
const STRETCH_ENTRIES: usize = 1_024;
const PAGE_ENTRIES: usize = 1_024;
/// Bytes of a page, about, unless its first entry is larger.
const PAGE_BYTES: usize = 256 * 1024;
/// Bytes a second that are said of the index.
const BYTES_PER_SECOND: usize = 2 << 20;
/// A connection is to have lasted this long before anything is said on it: what waits for the cloud goes first.
const SETTLING: Duration = Duration::from_millis(250);
/// Pauses after a message that the cloud did not take: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Stretches that the cloud asks for. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<(Mutex<(Intervals, u64)>, Notify)>);

impl Asked {
    pub(crate) fn add(&self, numbers: Intervals) {
        let (asked, told) = &*self.0;
        // Bounded: each command names a few thousand stretches, and what was asked twice is one.
        let (asked, times) = &mut *asked.lock();
        *times += 1;
        asked.extend(&numbers);
        if asked.as_slice().len() > STRETCHES_MAX {
            *asked = Intervals::of(1, NUMBER_MAX);
        }
        told.notify_one();
    }

    /// How often something was asked for.
    pub(crate) fn times(&self) -> u64 {
        self.0.0.lock().1
    }

    /// What is asked for, and how often that was.
    async fn take(&self) -> (Intervals, u64) {
        let (asked, told) = &*self.0;
        loop {
            {
                let (asked, times) = &mut *asked.lock();
                if !asked.is_empty() {
                    return (std::mem::take(asked), *times);
                }
            }
            told.notified().await;
        }
    }
}

/// Says to the cloud what is in the storage area.
pub(crate) struct Sender {
    pub(crate) archive: Archive,
    pub(crate) outlet: Outlet,
    pub(crate) asked: Asked,
    /// Told how far the cloud has taken what is said.
    pub(crate) progress: Progress,
    pub(crate) metrics: Metrics,
}

impl Sender {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Never.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), Infallible> {
        tokio::select! {
            biased;
            () = stop.stopped() => Ok(()),
            never = self.speak() => never,
        }
    }

    async fn speak(self) -> Result<(), Infallible> {
        let mut connections = self.outlet.connections();
        let mut changes = self.archive.watch_index();
        let mut agenda = Agenda::default();
        let mut number = 0;
        let mut pause = PAUSES.0;
        // What changed before is in the sums of the first connection.
        let (mut seen, mut asked_times) = (*changes.borrow_and_update(), 0);
        loop {
            let current = *connections.borrow_and_update();
            if current != number {
                number = current;
                self.progress.start_over();
                pause = PAUSES.0;
                agenda.start_over();
                tokio::select! {
                    () = tokio::time::sleep(SETTLING) => {}
                    _ = connections.changed() => continue,
                }
            }
            let next = if number > 0 { agenda.next() } else { None };
            let Some(next) = next else {
                if number > 0 {
                    self.progress.said(seen, asked_times);
                }
                // What changes while something is said comes behind it: so this moment comes again however much changes.
                tokio::select! {
                    // Neither ends before this does.
                    _ = connections.changed() => {}
                    _ = changes.changed() => {
                        seen = *changes.borrow_and_update();
                        agenda.change(&self.archive.take_index_changes());
                    }
                    (asked, times) = self.asked.take() => {
                        asked_times = times;
                        agenda.state(&asked);
                    }
                }
                continue;
            };
            let wait = tokio::select! {
                said = self.say(next, &mut agenda) => match said {
                    Some(bytes) => {
                        pause = PAUSES.0;
                        Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64)
                    }
                    None => {
                        let wait = pause;
                        pause = (pause * 2).min(PAUSES.1);
                        wait
                    }
                },
                // Sums come first on a new connection, and what was about to be said is in them.
                _ = connections.changed() => continue,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = connections.changed() => {}
            }
        }
    }

    /// Says one thing; gives its bytes, or nothing if it did not arrive.
    async fn say(&self, next: Next, agenda: &mut Agenda) -> Option<usize> {
        let archive = self.archive.clone();
        let (made, kind) = match next {
            Next::Sums => (crate::blocking(move || sums(&archive)).await, Said::Sums),
            Next::Page(stretch) => (crate::blocking(move || page(&archive, stretch)).await, Said::Page),
        };
        let index = match made {
            Ok(index) => index,
            Err(error) => {
                tracing::error!(%error, "the index can't be read; it is tried again");
                agenda.put_back(next);
                return None;
            }
        };
        let said = match &index {
            Index::Page { stretch, .. } => {
                agenda.covered(*stretch);
                Next::Page(*stretch)
            }
            Index::Sums { .. } => Next::Sums,
        };
        let bytes = index.encode();
        let length = bytes.len();
        match self.outlet.publish(Up::Index, bytes).await {
            Ok(()) => {
                self.metrics.index_said(kind);
                Some(length)
            }
            Err(error) => {
                tracing::warn!(%error, "the cloud did not take a part of the index; it is said again");
                self.metrics.index_not_taken();
                agenda.put_back(said);
                None
            }
        }
    }
}

/// As much of a stretch as fits a page. Blocks.
fn page(archive: &Archive, stretch: Stretch) -> Result<Index, ReadError> {
    let mut entries = archive.index_entries(stretch, PAGE_ENTRIES)?;
    let mut through = stretch.through;
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += about(entry);
        bytes <= PAGE_BYTES
    });
    let fitting = fitting.count().max(1);
    if fitting < entries.len() || entries.len() == PAGE_ENTRIES {
        entries.truncate(fitting);
        through = entries.last().map_or(through, |last| last.chunk);
    }
    Ok(Index::Page { relay_epoch: archive.epoch(), stretch: Stretch { through, ..stretch }, entries })
}

/// Bytes that an entry takes on the wire, at most.
fn about(entry: &IndexEntry) -> usize {
    entry.series.as_str().len() + entry.seqs.as_slice().len() * 18 + 96
}

/// Sums over everything, the last stretch without an end, so that entries behind the last chunk fall, too. Blocks.
fn sums(archive: &Archive) -> Result<Index, ReadError> {
    // So many stretches must do, however many chunks there are.
    let chunks = archive.index_len()? as usize;
    let each = STRETCH_ENTRIES.max(chunks / (STRETCHES_MAX / 2));
    let mut stretches: Vec<(Stretch, u64, wire::Digest)> = Vec::new();
    let mut after = 0;
    loop {
        let entries = archive.index_entries(Stretch { after, through: NUMBER_MAX }, each)?;
        let last = entries.last().filter(|_| entries.len() == each && stretches.len() + 1 < STRETCHES_MAX);
        let through = last.map_or(NUMBER_MAX, |entry| entry.chunk);
        stretches.push((Stretch { after, through }, entries.len() as u64, sum(&entries)));
        if through == NUMBER_MAX {
            return Ok(Index::Sums { relay_epoch: archive.epoch(), stretches });
        }
        after = through;
    }
}

const _: () = assert!(PAGE_ENTRIES <= ENTRIES_MAX);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use archive::{Append, Lane, Options, Selection};
    use wire::{Operation, RunBuilder};

    use super::*;

    fn chunks(folder: &std::path::Path, count: u64) -> Archive {
        let clock = Arc::new(AtomicI64::new(1));
        let mut options = Options::new("relay-1".parse().unwrap(), Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)));
        options.chunk_records_max = 1;
        let archive = Archive::open(folder, options).unwrap().0;
        let mut run = RunBuilder::new("a/b/c".parse().unwrap(), Operation::Store);
        (0..count).for_each(|at| run.push(at.cast_signed(), b"x").unwrap());
        archive.append_blocking(Append::Raw { lane: Lane::Store, runs: vec![run] }).unwrap().wait().unwrap();
        archive.close_now().unwrap();
        archive
    }

    #[test]
    fn a5_sums_join_from_the_first_number_to_the_last_that_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let archive = chunks(folder.path(), 2_500);
        let said = sums(&archive).unwrap();
        assert_eq!(Index::parse(&said.encode()).as_ref(), Ok(&said));
        let Index::Sums { stretches, .. } = said else { panic!() };
        let seen: Vec<_> = stretches.iter().map(|(stretch, entries, _)| (stretch.after, stretch.through, *entries)).collect();
        assert_eq!(seen, [(0, 1_024, 1_024), (1_024, 2_048, 1_024), (2_048, NUMBER_MAX, 452)]);
        // Of an empty storage area it is one stretch, and everything that the cloud knows is stale.
        archive.hand_over(&Selection::Chunks).unwrap();
        let pages = Intervals::of(1, *archive.watch_outgoing().borrow());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(archive.delivered(&pages).unwrap()).unwrap();
        let Index::Sums { stretches, .. } = sums(&archive).unwrap() else { panic!() };
        assert_eq!(stretches, [(Stretch { after: 0, through: NUMBER_MAX }, 0, sum([]))]);
    }

    #[test]
    fn a5_a_page_states_what_fits_and_says_how_far_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let archive = chunks(folder.path(), 2_500);
        let mut after = 0;
        let mut seen = Vec::new();
        while after < NUMBER_MAX {
            let Index::Page { stretch, entries, .. } = page(&archive, Stretch { after, through: NUMBER_MAX }).unwrap() else {
                panic!()
            };
            assert_eq!(stretch.after, after);
            after = stretch.through;
            seen.extend(entries.iter().map(|entry| entry.chunk));
        }
        assert_eq!(seen, (1..=2_500).collect::<Vec<_>>());
    }
}
