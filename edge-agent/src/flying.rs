//! A frame on its way: timed, and its answer written down.

use std::sync::Arc;
use std::time::Duration;

use chassis::Clock;
use link::{PublishError, Ticket, reason_text};
use store::Fault;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use wire::{Operation, SensorId};

use crate::frames::Frame;
use crate::metrics::{Answer, Metrics};
use crate::outbox::{Outbox, Verdict};

/// The MQTT 5 reason code that says: not from you. Somebody may have to correct the relay's grants; readings must not pay for it.
const NOT_AUTHORIZED: u8 = 0x87;
/// Those that say: never, as it is.
const TOPIC_NAME_INVALID: u8 = 0x90;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

/// What became of a frame.
pub(crate) enum Outcome {
    /// Answered and written down.
    Settled,
    /// The first acknowledgement on this connection of a frame that announced the secret.
    Announced(u64),
    /// The relay can't take more now.
    Deferred,
    /// The relay does not let us.
    Refused,
    /// Too large for this relay as it was packed.
    TooLarge,
    /// The relay can't read it; so many records were in it, in more rows than one.
    Unreadable(u64),
    /// The connection ended first.
    Lost,
    /// The answer could not be written down.
    Unwritten(Fault),
}

/// A frame that was handed to the link. In a task of its own, so that its time is taken when the answer comes.
pub(crate) struct Flying {
    pub(crate) outbox: Outbox,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sensor: SensorId,
    /// The connection on which it announces the secret.
    pub(crate) announces: Option<u64>,
    pub(crate) started: Instant,
    /// A send that takes longer is told to `slow`, at that moment.
    pub(crate) limit: Duration,
    pub(crate) slow: Arc<Notify>,
    pub(crate) frame: Frame,
}

impl Flying {
    pub(crate) async fn answered(self, handed: Result<Ticket, PublishError>) -> Outcome {
        let answer = match handed {
            Ok(ticket) => self.time(ticket).await,
            Err(error) => Err(error),
        };
        let records = self.frame.records();
        let mut refused = false;
        let verdict = match answer {
            Ok(()) => {
                self.metrics.sent_in(self.started.elapsed().as_secs_f64());
                Verdict::Accepted
            }
            Err(PublishError::Lost | PublishError::Closed) => {
                self.metrics.answered(Answer::Lost, records);
                return Outcome::Lost;
            }
            Err(PublishError::TooLarge { .. }) if self.frame.row_count() > 1 => return Outcome::TooLarge,
            Err(PublishError::Refused { reason_code: PAYLOAD_FORMAT_INVALID }) if self.frame.row_count() > 1 => {
                self.metrics.answered(Answer::Deferred, records);
                return Outcome::Unreadable(records);
            }
            Err(error) => {
                if matches!(error, PublishError::Refused { .. }) {
                    self.metrics.sent_in(self.started.elapsed().as_secs_f64());
                }
                refused = matches!(error, PublishError::Refused { reason_code: NOT_AUTHORIZED });
                verdict_of(&error)
            }
        };
        let operation = self.frame.operation();
        let (answer, outcome) = match &verdict {
            Verdict::Accepted => (Answer::Accepted, self.announces.map_or(Outcome::Settled, Outcome::Announced)),
            Verdict::Deferred => (Answer::Deferred, if refused { Outcome::Refused } else { Outcome::Deferred }),
            Verdict::Rejected(reason) => {
                self.warn_rejected(operation, reason);
                (Answer::Rejected, Outcome::Settled)
            }
        };
        self.metrics.answered(answer, records);
        match self.outbox.resolve(self.frame.into_rows(), verdict, self.clock.now()).await {
            Ok(()) => outcome,
            Err(fault) => Outcome::Unwritten(fault),
        }
    }

    /// The ticket's answer. Every send is timed (A3).
    async fn time(&self, mut ticket: Ticket) -> Result<(), PublishError> {
        tokio::select! {
            biased;
            answer = &mut ticket => return answer,
            () = sleep_until(self.started + self.limit) => self.slow.notify_one(),
        }
        ticket.await
    }

    fn warn_rejected(&self, operation: Operation, reason: &str) {
        let (sensor, records) = (&self.sensor, self.frame.records());
        tracing::error!(%sensor, records, %operation, reason, "the relay refused records for good; they leave tombstones");
    }
}

/// What it means for the records.
fn verdict_of(error: &PublishError) -> Verdict {
    match error {
        PublishError::Refused { reason_code: code @ (TOPIC_NAME_INVALID | PAYLOAD_FORMAT_INVALID) } => {
            Verdict::Rejected(reason_text(*code))
        }
        PublishError::Invalid(_) | PublishError::TooLarge { .. } => Verdict::Rejected(error.to_string()),
        // QuotaExceeded, NotAuthorized, and whatever else may pass.
        PublishError::Refused { .. } | PublishError::Lost | PublishError::Closed => Verdict::Deferred,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b7_only_what_can_never_pass_rejects_for_good_and_says_why() {
        // Every reason that MQTT has: a grant that is missing or revoked (0x87), a quota (0x97), a relay that is busy (0x89) or stops (0x8B)
        // may pass, so no record may be given up for it.
        for code in 0x80..=0xff {
            let verdict = verdict_of(&PublishError::Refused { reason_code: code });
            match code {
                0x90 => assert_eq!(verdict, Verdict::Rejected("topic name invalid (0x90)".to_owned())),
                0x99 => assert_eq!(verdict, Verdict::Rejected("payload format invalid (0x99)".to_owned())),
                _ => assert_eq!(verdict, Verdict::Deferred, "{code:#x}"),
            }
        }
        for (error, why) in [
            (PublishError::TooLarge { bytes: 900, max: 500 }, "the packet has 900 bytes, the peer takes 500"),
            (PublishError::Invalid("the topic is empty"), "the message can't be sent: the topic is empty"),
        ] {
            assert_eq!(verdict_of(&error), Verdict::Rejected(why.to_owned()));
        }
        for error in [PublishError::Lost, PublishError::Closed] {
            assert_eq!(verdict_of(&error), Verdict::Deferred);
        }
    }
}
