//! Randomness that can be had again.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The variable that makes a test run with a given seed again.
pub const VARIABLE: &str = "FOREBAY_SEED";

/// The seed of one test; it prints itself when the test fails.
#[derive(Debug)]
pub struct Seed(u64);

impl Seed {
    /// From the variable `FOREBAY_SEED`, else a new one.
    ///
    /// # Panics
    /// When the variable is not a number.
    pub fn new() -> Self {
        let seed = match std::env::var(VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE}={text} is not a whole number")),
            Err(_) => rand::rng().next_u64(),
        };
        Self(seed)
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0
    }

    /// A generator that starts from this seed.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }
}

impl Default for Seed {
    fn default() -> Self {
        Self::new()
    }
}

impl From<u64> for Seed {
    /// A seed that once found something.
    fn from(seed: u64) -> Self {
        Self(seed)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with {VARIABLE}={}", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (a, b) = (Seed::from(7), Seed::from(7));
        assert_eq!(a.rng().next_u64(), b.rng().next_u64());
        assert_ne!(a.rng().next_u64(), Seed::from(8).rng().next_u64());
    }
}
