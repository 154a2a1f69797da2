//! Pauses that double, with jitter; randomness comes in as an argument.

use std::time::Duration;

use rand::{Rng, RngExt};

/// How long to wait before the next attempt: doubles from `min` to `max`, each pause shortened by a random part.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter: f64,
    next: Duration,
}

/// Why a [`Backoff`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackoffFault {
    /// `min` is zero: attempts would follow each other without a pause.
    #[error("backoff.min is zero; give at least 1ms")]
    Zero,
    /// `max` is below `min`.
    #[error("backoff.max is below backoff.min; raise max or lower min")]
    Order,
    /// `jitter` is not a part of the pause.
    #[error("backoff.jitter must be between 0.0 and 1.0")]
    Jitter,
}

impl Default for Backoff {
    /// 200 ms to 30 s, each pause shortened by up to a half.
    fn default() -> Self {
        Self { min: Duration::from_millis(200), max: Duration::from_secs(30), jitter: 0.5, next: Duration::from_millis(200) }
    }
}

impl Backoff {
    /// Checks the three values once, so that no later step can fail.
    pub fn try_new(min: Duration, max: Duration, jitter: f64) -> Result<Self, BackoffFault> {
        if min.is_zero() {
            return Err(BackoffFault::Zero);
        }
        if max < min {
            return Err(BackoffFault::Order);
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(BackoffFault::Jitter);
        }
        Ok(Self { min, max, jitter, next: min })
    }

    /// The next pause. The doubling happens here, the randomness is the caller's.
    pub fn pause(&mut self, rng: &mut impl Rng) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.max);
        self.jittered(whole, rng)
    }

    /// `whole`, shortened by the random part of this backoff.
    pub fn jittered(&self, whole: Duration, rng: &mut impl Rng) -> Duration {
        whole.mul_f64(1.0 - self.jitter * rng.random::<f64>())
    }

    /// Starts from `min` again; called after a useful success, never after a mere connect.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// The longest pause.
    pub fn max(&self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn refuses_values_that_make_no_backoff() {
        let ms = Duration::from_millis;
        assert_eq!(Backoff::try_new(ms(0), ms(5), 0.1), Err(BackoffFault::Zero));
        assert_eq!(Backoff::try_new(ms(6), ms(5), 0.1), Err(BackoffFault::Order));
        assert_eq!(Backoff::try_new(ms(1), ms(5), 1.1), Err(BackoffFault::Jitter));
        assert_eq!(Backoff::try_new(ms(1), ms(5), f64::NAN), Err(BackoffFault::Jitter));
    }

    #[test]
    fn doubles_to_its_maximum_and_starts_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::try_new(ms(10), ms(50), 0.0).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let mut pauses = || (0..5).map(|_| backoff.pause(&mut rng)).collect::<Vec<_>>();
        assert_eq!(pauses(), [ms(10), ms(20), ms(40), ms(50), ms(50)]);
        backoff.reset();
        assert_eq!(backoff.pause(&mut rng), ms(10));
    }

    #[test]
    fn jitter_only_shortens_and_never_below_its_part() {
        let ms = Duration::from_millis;
        let mut rng = StdRng::seed_from_u64(7);
        let backoff = Backoff::try_new(ms(100), ms(100), 0.5).unwrap();
        let pauses: Vec<_> = (0..1000).map(|_| backoff.jittered(ms(100), &mut rng)).collect();
        assert!(pauses.iter().all(|p| *p >= ms(50) && *p <= ms(100)));
        assert!(pauses.iter().any(|p| *p < ms(60)) && pauses.iter().any(|p| *p > ms(90)));
    }
}
