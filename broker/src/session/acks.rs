//! Acknowledgements that wait for their commit, in the order of the publishes.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use crate::codec::write;
use crate::intake::{Commit, Refusal};

/// First byte of a PUBACK.
pub(crate) const PUBACK: u8 = 0x40;
/// First byte of a PUBREC.
pub(crate) const PUBREC: u8 = 0x50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) packet_id: u16,
    pub(crate) first: u8,
    pub(crate) reason: u8,
    /// The intake has it, so the commit decides.
    pub(crate) offered: bool,
}

/// What one socket read brought.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) acks: Vec<Ack>,
    pub(crate) commit: Option<Commit>,
    pub(crate) bytes: usize,
}

/// Batches, oldest first. Only the front one is waited for.
#[derive(Default)]
pub(crate) struct Acks {
    batches: VecDeque<Batch>,
    bytes: usize,
    count: usize,
}

/// A batch whose commit has resolved.
pub(crate) struct Settled {
    pub(crate) acks: Vec<Ack>,
    pub(crate) refusal: Option<Refusal>,
}

impl Acks {
    pub(crate) fn push(&mut self, batch: Batch) {
        self.bytes += batch.bytes;
        self.count += batch.acks.len();
        self.batches.push_back(batch);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Acknowledgements that wait.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The front batch, when its commit has resolved. Pending while there is none.
    pub(crate) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Settled> {
        let Some(front) = self.batches.front_mut() else { return Poll::Pending };
        let refusal = match &mut front.commit {
            None => None,
            Some(commit) => match commit.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => outcome.err(),
            },
        };
        let batch = self.batches.pop_front().unwrap_or_default();
        if self.batches.is_empty() {
            // An idle connection holds no queue.
            self.batches = VecDeque::new();
        }
        self.bytes -= batch.bytes;
        self.count -= batch.acks.len();
        Poll::Ready(Settled { acks: batch.acks, refusal })
    }
}

impl Settled {
    /// Writes the acknowledgements; with a refusal those that the commit decided about carry its code. For 3.1.1, which has no
    /// code, writing ends before the first of them and `false` says so: the connection is to be closed.
    pub(crate) fn write(&self, v5: bool, out: &mut Vec<u8>) -> bool {
        out.reserve(self.acks.len() * 5);
        for ack in &self.acks {
            let reason = match self.refusal {
                Some(refusal) if ack.offered && ack.reason == 0 => refusal.reason_code(),
                _ => ack.reason,
            };
            if reason >= 0x80 && !v5 {
                return false;
            }
            write::ack(out, ack.first, ack.packet_id, reason);
        }
        // A refused QoS 0 publish has no acknowledgement that could carry the code.
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(packet_id: u16, offered: bool) -> Ack {
        Ack { packet_id, first: PUBACK, reason: 0, offered }
    }

    #[test]
    fn a_refused_commit_decides_about_what_it_held_only() {
        let settled = Settled { acks: vec![ack(1, false), ack(2, true), ack(3, false)], refusal: Some(Refusal::QuotaExceeded) };
        let mut out = vec![];
        assert!(settled.write(true, &mut out));
        assert_eq!(out, [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x97, 0x40, 2, 0, 3]);
        out.clear();
        assert!(!settled.write(false, &mut out));
        assert_eq!(out, [0x40, 2, 0, 1], "3.1.1: only what came before");
    }

    #[test]
    fn batches_settle_in_order() {
        let mut acks = Acks::default();
        acks.push(Batch { acks: vec![ack(1, true)], commit: Some(Box::pin(std::future::pending())), bytes: 5 });
        acks.push(Batch { acks: vec![ack(2, false)], commit: None, bytes: 6 });
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(acks.poll_settled(&mut cx).is_pending());
        assert_eq!((acks.bytes(), acks.count(), acks.batches()), (11, 2, 2));
    }
}
