//! Where chunks are built: on a thread of its own that stands behind everybody else who wants a processor.
//!
//! Compressing and hashing take as much processor time as taking the records in. On this thread, which holds no lock and no turn of the
//! writer's, they take what intake leaves, and a tenth of a processor where it leaves nothing. Whoever closes segments says when they
//! have fallen so far behind that they may take their full share.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use store::Fault;
use wire::EpochSecret;

use crate::chunk::{Builder, ChunkRow, Origin, Readings};
use crate::error::ReadError;

/// Orders that wait while one is worked at: the next one is there when it is done.
const AHEAD: usize = 2;
/// Of the scheduler's 40 steps, each of which is worth a quarter of the processor: ten give a tenth of what others get.
const BEHIND: i32 = 10;

/// Whether a chunk stands behind everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// There is time.
    None,
    /// There is more to do than may wait.
    Needed,
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
pub(crate) struct Workshop {
    orders: SyncSender<Order>,
    made: Receiver<io::Result<Vec<ChunkRow>>>,
    under_way: usize,
}

impl Workshop {
    /// Opens a workshop for as long as `work` lasts.
    pub(crate) fn open<T>(
        records_max: usize,
        haste: Haste,
        work: impl FnOnce(&mut Self) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let (orders, waiting) = sync_channel(AHEAD);
        let (done, made) = sync_channel(AHEAD + 1);
        let builder = Builder::new(records_max).map_err(failed)?;
        thread::scope(|scope| {
            let run = move || build(builder, haste, &waiting, &done);
            thread::Builder::new().name("chunks".into()).spawn_scoped(scope, run).map_err(failed)?;
            work(&mut Self { orders, made, under_way: 0 })
        })
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
