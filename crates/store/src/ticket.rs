//! The claim on one job's answer.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::sync::oneshot;

use crate::writer::Fault;

/// The claim on one job's answer: a future, or a blocking [`Ticket::wait`]. Dropping it does not take the job back.
#[derive(Debug)]
#[must_use = "a job is durable only when its ticket says so"]
pub struct Ticket<D>(oneshot::Receiver<Result<D, Fault>>);

impl<D> Ticket<D> {
    pub(crate) fn pair() -> (Reply<D>, Self) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender), Self(receiver))
    }

    /// Blocks this thread until the job is committed or has failed.
    ///
    /// # Errors
    /// Why the job's group was not committed.
    pub fn wait(self) -> Result<D, Fault> {
        block_on(self)
    }
}

impl<D> Future for Ticket<D> {
    type Output = Result<D, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A reply dropped unsent means that the thread is gone.
        Pin::new(&mut self.0).poll(context).map(|sent| sent.unwrap_or(Err(Fault::Stopped)))
    }
}

/// The other end of a ticket.
#[derive(Debug)]
pub(crate) struct Reply<D>(oneshot::Sender<Result<D, Fault>>);

impl<D> Reply<D> {
    pub(crate) fn send(self, answer: Result<D, Fault>) {
        // Nobody waits any more: the answer is still true.
        let _ = self.0.send(answer);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future on this thread, which sleeps in between. Works within a runtime too, where it blocks the worker it runs on.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
