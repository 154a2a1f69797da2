//! One reading on its way in, checked once so that nothing behind can refuse it.

use wire::frame::PAYLOAD_BYTES_MAX;
use wire::{At, Operation, Series};

use crate::limits::READING_OVERHEAD_BYTES;

/// A reading that the outbox can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    series: Series,
    operation: Operation,
    at: At,
    payload: Vec<u8>,
}

/// Why something is no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadingFault {
    /// Its time is before 1970.
    #[error("time is before 1970")]
    Time,
    /// Its payload is too large.
    #[error("value of {0} bytes is larger than {PAYLOAD_BYTES_MAX}")]
    Payload(usize),
}

impl Reading {
    /// Checks a reading.
    ///
    /// # Errors
    /// [`ReadingFault`] names the field.
    pub fn new(series: Series, operation: Operation, at: At, payload: impl Into<Vec<u8>>) -> Result<Self, ReadingFault> {
        let payload = payload.into();
        if at < 0 {
            return Err(ReadingFault::Time);
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ReadingFault::Payload(payload.len()));
        }
        Ok(Self { series, operation, at, payload })
    }

    /// The series it belongs to.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// What the relay shall do with it.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// When it was generated.
    pub fn at(&self) -> At {
        self.at
    }

    /// Its bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What it takes of the outbox's byte budget.
    pub fn cost(&self) -> u64 {
        self.payload.len() as u64 + READING_OVERHEAD_BYTES
    }
}

/// How far an input has been read. Committed together with the readings, so that a restart neither repeats nor skips one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Name of the input in the configuration.
    pub input: String,
    /// What the number counts in. A position in another source is not a position in this one.
    pub source: String,
    /// How many items are taken.
    pub taken: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_refused_before_it_can_hurt_its_batch() {
        let series: Series = "a/b/c".parse().unwrap();
        assert_eq!(Reading::new(series.clone(), Operation::Store, -1, *b"x"), Err(ReadingFault::Time));
        let large = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(Reading::new(series.clone(), Operation::Store, 0, large), Err(ReadingFault::Payload(PAYLOAD_BYTES_MAX + 1)));
        assert_eq!(Reading::new(series, Operation::Store, 0, *b"xyz").unwrap().cost(), 3 + READING_OVERHEAD_BYTES);
    }
}
