//! Which operation a stream's records carry (A2).

use wire::{IdFault, Operation, SensorId, Series, filter, system};

use crate::config::StreamRule;

/// Why nothing may be published on a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// It is not a valid name.
    #[error(transparent)]
    Name(#[from] IdFault),
    /// It is one of those that the agent itself writes.
    #[error("stream {0:?} is under forebay/, which is kept for what the agent says about itself; choose another name")]
    Reserved(String),
}

/// Rules over the streams of one sensor; the first that matches decides.
#[derive(Debug, Clone)]
pub struct Rules {
    sensor: SensorId,
    rules: Vec<StreamRule>,
}

impl Rules {
    /// Rules for `sensor`. Their filters were checked with the configuration.
    pub fn new(sensor: SensorId, rules: Vec<StreamRule>) -> Self {
        Self { sensor, rules }
    }

    /// The series of a stream, and what is to be done with its records.
    ///
    /// # Errors
    /// The stream is not a valid name, or reserved.
    pub fn of(&self, stream: &str) -> Result<(Series, Operation), StreamFault> {
        let series = Series::new(&self.sensor, stream)?;
        if system::is_reserved(stream) {
            return Err(StreamFault::Reserved(stream.to_owned()));
        }
        let rule = self.rules.iter().find(|rule| filter::matches(&rule.filter, stream));
        Ok((series, rule.map_or(Operation::Store, |rule| rule.operation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a2_operation_is_the_first_rules_that_matches_and_store_without_one() {
        let rule = |filter: &str, operation| StreamRule { filter: filter.to_owned(), operation };
        let rules = Rules::new(
            "a/b".parse().unwrap(),
            vec![rule("power/raw", Operation::Store), rule("power/#", Operation::Forward), rule("+/alarm", Operation::Forward)],
        );
        for (stream, operation) in [
            ("power/raw", Operation::Store),
            ("power/active", Operation::Forward),
            ("power", Operation::Forward),
            ("door/alarm", Operation::Forward),
            ("door/alarm/old", Operation::Store),
            ("temperature", Operation::Store),
        ] {
            assert_eq!(rules.of(stream).unwrap(), (format!("a/b/{stream}").parse().unwrap(), operation), "{stream}");
        }
        assert!(rules.of("power/+").is_err() && rules.of("").is_err());
        assert!(rules.of("forebay/targets").unwrap_err().to_string().contains("choose another name"));
    }
}
