//! The bound on what the backlog may send (C8): a token bucket, as a pure state machine.

use std::time::{Duration, Instant};

/// What was not used may be made up for so long.
const BURST: Duration = Duration::from_millis(100);

/// Bytes a second. A frame may go while there is credit, however large it is, and the next one when its time is paid for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    per_second: Option<u64>,
    /// Everything sent is paid for by then.
    paid_at: Option<Instant>,
}

impl Rate {
    /// At most so many bytes a second; `None` is no bound.
    pub(crate) fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.map(|bytes| bytes.max(1)), paid_at: None }
    }

    /// When the next frame may go, if that is later than now.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.paid_at.filter(|paid_at| now < *paid_at)
    }

    /// A frame of so many bytes went.
    pub(crate) fn sent(&mut self, bytes: usize, now: Instant) {
        let Some(per_second) = self.per_second else { return };
        let price =
            Duration::from_nanos(u64::try_from(bytes as u128 * 1_000_000_000 / u128::from(per_second)).unwrap_or(u64::MAX));
        let from = now.checked_sub(BURST).map_or(now, |earliest| self.paid_at.map_or(earliest, |paid_at| paid_at.max(earliest)));
        self.paid_at = from.checked_add(price);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_over_any_stretch_no_more_goes_than_the_rate_and_one_burst() {
        let start = Instant::now();
        let per_second = 1_000_000;
        for bytes in [1, 999, 50_000, 3_000_000] {
            let mut rate = Rate::new(Some(per_second));
            let (mut now, mut sent) = (start, Vec::new());
            while now < start + Duration::from_secs(20) {
                if let Some(until) = rate.waits_until(now) {
                    assert!(until > now);
                    now = until;
                } else if sent.len() % 1_000 == 999 {
                    // Idle for a while: no more than a burst is made up for.
                    sent.push((now, 0));
                    now += Duration::from_secs(1);
                } else {
                    rate.sent(bytes, now);
                    sent.push((now, bytes as u64));
                }
            }
            for (index, (from, _)) in sent.iter().enumerate().step_by(sent.len().div_ceil(50)) {
                let (to, _) = sent[sent.len() - 1];
                // The last one may be unpaid.
                let all: u64 = sent[index..sent.len() - 1].iter().map(|(_, bytes)| bytes).sum();
                let allowed = (to - *from + BURST).as_micros() as u64 + bytes as u64;
                assert!(all <= allowed, "{bytes}: {all} of {allowed}");
            }
            let all: u64 = sent.iter().map(|(_, bytes)| bytes).sum();
            let idle = sent.iter().filter(|(_, bytes)| *bytes == 0).count() as u64;
            assert!(all + idle * 1_000_000 + 1_000_000 >= 20_000_000, "{bytes}: the rate is reached, {all}");
        }
    }

    #[test]
    fn c8_without_a_bound_nothing_waits() {
        let now = Instant::now();
        let mut rate = Rate::new(None);
        rate.sent(usize::MAX, now);
        assert_eq!(rate.waits_until(now), None);
    }
}
