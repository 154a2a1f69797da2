//! Where chunks are built: on a thread of its own that stands behind everybody else who wants a processor.
//!
//! Compressing and hashing take as much processor time as taking the records in. On this thread, which holds no lock and no turn of the
//! writer's, they take what intake leaves, and a tenth of a processor where it leaves nothing. Whoever closes segments says when they
//! have fallen so far behind that they may take their full share.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use store::Fault;
use wire::EpochSecret;

use crate::chunk::{Builder, ChunkRow, Origin, Readings};
use crate::error::ReadError;
use crate::lanes::Total;
use crate::options::Segment;

/// Orders that wait while one is worked at: the next one is there when it is done.
const AHEAD: usize = 2;
/// Of the scheduler's 40 steps, each of which is worth a quarter of the processor: ten give a tenth of what others get.
const BEHIND: i32 = 10;
/// Segments that may wait to be closed before that takes its full share: what open pages take of memory and of a restart's time grows with
/// them.
const SEGMENTS_BEHIND: u64 = 3;

/// Whether a chunk stands behind everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Haste {
    /// There is time.
    None,
    /// There is more to do than may wait.
    Needed,
}

impl Haste {
    /// For an open segment that holds so much.
    pub(crate) fn of(open: Total, segment: &Segment) -> Self {
        let is_behind = open.records >= segment.records_max.saturating_mul(SEGMENTS_BEHIND)
            || open.bytes >= segment.bytes_max.saturating_mul(SEGMENTS_BEHIND);
        if is_behind { Self::Needed } else { Self::None }
    }
}

/// Sorted readings of one origin that shall become chunks.
pub(crate) struct Order {
    pub(crate) series: u32,
    pub(crate) name: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) via: u32,
    pub(crate) secret: Option<Arc<EpochSecret>>,
    pub(crate) readings: Readings,
}

/// Takes orders, and gives the chunks in the order of these.
pub(crate) struct Workshop<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    records_max: usize,
    haste: Haste,
    orders: SyncSender<Order>,
    made: Receiver<io::Result<Vec<ChunkRow>>>,
    under_way: usize,
}

impl<'scope, 'env> Workshop<'scope, 'env> {
    /// Opens a workshop for as long as `scope` lasts.
    pub(crate) fn open(scope: &'scope Scope<'scope, 'env>, records_max: usize, haste: Haste) -> Result<Self, ReadError> {
        let (orders, waiting) = sync_channel(AHEAD);
        let (done, made) = sync_channel(AHEAD + 1);
        let builder = Builder::new(records_max).map_err(failed)?;
        let run = move || build(builder, haste, &waiting, &done);
        thread::Builder::new().name("chunks".into()).spawn_scoped(scope, run).map_err(failed)?;
        Ok(Self { scope, records_max, haste, orders, made, under_way: 0 })
    }

    /// From now on there is less time, or still as much. A thread can't become more important than it is, so another one goes on; the
    /// chunks that were under way are given.
    pub(crate) fn hurry(&mut self, haste: Haste) -> Result<Vec<ChunkRow>, ReadError> {
        let mut made = Vec::new();
        if haste > self.haste {
            while let Some(rows) = self.next()? {
                made.extend(rows);
            }
            *self = Self::open(self.scope, self.records_max, haste)?;
        }
        Ok(made)
    }

    /// Has chunks made of these readings, and gives those of an earlier order when enough is under way.
    pub(crate) fn order(&mut self, order: Order) -> Result<Option<Vec<ChunkRow>>, ReadError> {
        let made = if self.under_way > AHEAD { self.next()? } else { None };
        self.orders.send(order).map_err(|_| gone())?;
        self.under_way += 1;
        Ok(made)
    }

    /// The chunks of the oldest order; nothing if all are given.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<ChunkRow>>, ReadError> {
        if self.under_way == 0 {
            return Ok(None);
        }
        self.under_way -= 1;
        self.made.recv().map_err(|_| gone())?.map(Some).map_err(failed)
    }
}

fn build(mut builder: Builder, haste: Haste, orders: &Receiver<Order>, done: &SyncSender<io::Result<Vec<ChunkRow>>>) {
    if haste == Haste::None
        && let Err(error) = rustix::process::nice(BEHIND)
    {
        tracing::debug!(%error, "chunks are built with the priority of everything else");
    }
    for order in orders {
        let Order { series, name, epoch, via, secret, readings } = &order;
        let origin = Origin { series: *series, name, epoch: *epoch, via: *via, secret: secret.as_deref() };
        let mut rows = Vec::new();
        let made = builder.build(origin, readings, |row| rows.push(row));
        if done.send(made.map(|()| rows)).is_err() {
            return;
        }
    }
}

fn failed(error: io::Error) -> ReadError {
    ReadError::Writer(Fault::Work(format!("can't compress a chunk: {error}").into()))
}

fn gone() -> ReadError {
    failed(io::Error::other("its thread has ended"))
}

#[cfg(test)]
mod tests {
    use wire::Operation;

    use super::*;

    fn order(first: u64) -> Order {
        let mut readings = Readings::default();
        for seq in first..first + 10 {
            readings.push(&wire::RecordView {
                series: "a/b/c",
                epoch: wire::Epoch(1),
                seq,
                at: 1,
                operation: Operation::Store,
                payload: b"1",
            });
        }
        Order { series: 1, name: "a/b/c".into(), epoch: 1, via: 0, secret: None, readings }
    }

    /// The nice values of this process's threads of that name.
    fn nice_values(name: &str) -> Vec<i32> {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        let named: Vec<String> = stats.filter(|stat| stat.contains(&format!("({name})"))).collect();
        // The 19th field, and the 17th behind the name.
        named.iter().filter_map(|stat| stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse().ok()).collect()
    }

    #[test]
    fn b5_chunks_are_built_behind_everything_else_until_too_much_waits() {
        let segment = Segment { records_max: 1_000, bytes_max: 1 << 20, ..Segment::default() };
        for (records, bytes, wanted) in
            [(2_999, 0, Haste::None), (0, (3 << 20) - 1, Haste::None), (3_000, 0, Haste::Needed), (0, 3 << 20, Haste::Needed)]
        {
            let haste = Haste::of(Total { records, bytes }, &segment);
            assert_eq!(haste, wanted, "{records} records, {bytes} bytes");
            thread::scope(|scope| {
                let mut workshop = Workshop::open(scope, 8, haste).unwrap();
                assert_eq!(priority_while(&mut workshop), if wanted == Haste::None { BEHIND } else { 0 });
                assert!(workshop.hurry(Haste::Needed).unwrap().is_empty());
                assert_eq!(priority_while(&mut workshop), 0, "there is no time any more");
            });
        }
    }

    /// How far the builder stands behind this process, seen when it has done something.
    fn priority_while(workshop: &mut Workshop<'_, '_>) -> i32 {
        assert!(workshop.order(order(1)).unwrap().is_none());
        assert_eq!(workshop.next().unwrap().unwrap().len(), 2, "10 readings in chunks of at most 8");
        let own = nice_values("chunks");
        let others = nice_values(std::fs::read_to_string("/proc/self/comm").unwrap().trim());
        own.last().unwrap() - others.first().unwrap()
    }

    #[test]
    fn chunks_come_in_the_order_of_their_orders() {
        let firsts = thread::scope(|scope| {
            let mut workshop = Workshop::open(scope, 100, Haste::None).unwrap();
            let mut made = Vec::new();
            for first in (1..=200).step_by(10) {
                if first > 100 {
                    made.extend(workshop.hurry(Haste::Needed).unwrap());
                }
                made.extend(workshop.order(order(first)).unwrap().into_iter().flatten());
            }
            while let Some(rows) = workshop.next().unwrap() {
                made.extend(rows);
            }
            made.iter().filter_map(|row| row.seqs.first()).collect::<Vec<_>>()
        });
        assert_eq!(firsts, (1..=200).step_by(10).collect::<Vec<u64>>());
    }
}
