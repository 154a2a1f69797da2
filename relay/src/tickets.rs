//! What the connection answers to frames. Only refusals matter: custody moves by receipts, never by a PUBACK.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use link::{PublishError, Ticket};

/// A frame that was refused on its way.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its number.
    pub(crate) number: u64,
    /// Whether it carried announcements of secrets.
    pub(crate) told: bool,
    /// Why.
    pub(crate) error: PublishError,
}

/// Acknowledgements under way. They come in order, so only the first is waited for.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    waiting: VecDeque<(u64, bool, Ticket)>,
}

impl Tickets {
    /// A frame was handed to the connection.
    pub(crate) fn push(&mut self, number: u64, told: bool, ticket: Ticket) {
        self.waiting.push_back((number, told, ticket));
    }

    /// The connection is gone, and the answers with it.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The next refusal; pending while there is none.
    pub(crate) async fn refused(&mut self) -> Refused {
        std::future::poll_fn(|cx| {
            while let Some((number, told, ticket)) = self.waiting.front_mut() {
                let (number, told) = (*number, *told);
                let Poll::Ready(outcome) = Pin::new(ticket).poll(cx) else { return Poll::Pending };
                self.waiting.pop_front();
                match outcome {
                    // Lost with its connection: the end of that is seen elsewhere and starts everything over.
                    Ok(()) | Err(PublishError::Lost | PublishError::Closed) => {}
                    Err(error) => return Poll::Ready(Refused { number, told, error }),
                }
            }
            Poll::Pending
        })
        .await
    }
}
