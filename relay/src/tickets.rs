//! What the connection answers to frames. Custody moves by receipts, never by a PUBACK: acknowledgements are only counted, refusals
//! matter.

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

/// What came.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Acknowledgements of so many frames and bytes.
    Acknowledged {
        /// Frames.
        frames: u64,
        /// Their bytes.
        bytes: usize,
    },
    /// A refusal.
    Refused(Refused),
}

/// A frame whose acknowledgement is waited for.
#[derive(Debug)]
struct Waiting {
    number: u64,
    told: bool,
    bytes: usize,
    ticket: Ticket,
}

/// Acknowledgements under way. They come in order, so only the first is waited for.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    waiting: VecDeque<Waiting>,
    /// Behind acknowledgements that were told of first.
    refused: Option<Refused>,
}

impl Tickets {
    /// A frame was handed to the connection.
    pub(crate) fn push(&mut self, number: u64, told: bool, bytes: usize, ticket: Ticket) {
        self.waiting.push_back(Waiting { number, told, bytes, ticket });
    }

    /// The connection is gone, and the answers with it.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next refusal, or the acknowledgements before it; pending while there is neither.
    pub(crate) async fn next(&mut self) -> Answer {
        std::future::poll_fn(|cx| {
            if let Some(refused) = self.refused.take() {
                return Poll::Ready(Answer::Refused(refused));
            }
            let (mut frames, mut bytes) = (0, 0);
            while let Some(front) = self.waiting.front_mut() {
                let Poll::Ready(outcome) = Pin::new(&mut front.ticket).poll(cx) else { break };
                let Some(Waiting { number, told, bytes: size, .. }) = self.waiting.pop_front() else { break };
                match outcome {
                    Ok(()) => {
                        frames += 1;
                        bytes += size;
                    }
                    // Lost with its connection: the end of that is seen elsewhere and starts everything over.
                    Err(PublishError::Lost | PublishError::Closed) => {}
                    Err(error) if frames > 0 => {
                        self.refused = Some(Refused { number, told, error });
                        break;
                    }
                    Err(error) => return Poll::Ready(Answer::Refused(Refused { number, told, error })),
                }
            }
            if frames > 0 { Poll::Ready(Answer::Acknowledged { frames, bytes }) } else { Poll::Pending }
        })
        .await
    }
}
