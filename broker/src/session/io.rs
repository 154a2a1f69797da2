//! The socket of a session with its two buffers. Both are given back while nothing is in them, so an idle connection holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read brings at most.
const READ_BYTES: usize = 64 * 1024;
/// An empty buffer of more than this is given back.
const KEPT_BYTES: usize = 512;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

pub(crate) struct Io<S> {
    stream: S,
    /// Read and not yet worked off.
    pub(crate) inbox: Vec<u8>,
    outbox: Vec<u8>,
    written: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Read,
    Wrote,
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    pub(crate) fn new(stream: S, inbox: Vec<u8>, outbox: Vec<u8>) -> Io<S> {
        Io { stream, inbox, outbox, written: 0 }
    }

    /// Where to put what is to be written.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// Bytes waiting to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.outbox.len() - self.written
    }

    /// Writes what there is, or reads if `reading`; whichever the socket lets first, writing before reading.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, reading: bool) -> Poll<io::Result<Done>> {
        if self.unwritten() > 0
            && let Poll::Ready(count) = Pin::new(&mut self.stream).poll_write(cx, &self.outbox[self.written..])
        {
            let count = count?;
            if count == 0 {
                return Poll::Ready(Ok(Done::Ended));
            }
            self.written += count;
            if self.unwritten() == 0 {
                self.written = 0;
                reset(&mut self.outbox);
            }
            return Poll::Ready(Ok(Done::Wrote));
        }
        if !reading {
            return Poll::Pending;
        }
        if self.inbox.is_empty() {
            reset(&mut self.inbox);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut chunk = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(Done::Ended));
            }
            self.inbox.extend_from_slice(chunk.filled());
            Poll::Ready(Ok(Done::Read))
        })
    }

    /// Writes all that waits, and closes the sending side.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        self.stream.write_all(&self.outbox[self.written..]).await?;
        self.stream.shutdown().await
    }
}

fn reset(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}
