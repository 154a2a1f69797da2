//! What the types of a configuration can't check.

use chassis::ConfigFault;
use wire::{Series, filter, system};

use super::{Config, CsvConfig, InputConfig, Kind};
use crate::limits;

impl Config {
    /// Checks what the types can't.
    ///
    /// # Errors
    /// [`ConfigFault::Key`] names the first key that does not hold, and the fix.
    pub fn check(&self) -> Result<(), ConfigFault> {
        let fault = |key: &str, problem: &str| Err(ConfigFault::key(key, problem));
        if self.relays.is_empty() {
            return fault("relays", "is empty; name at least one relay");
        }
        for (index, relay) in self.relays.iter().enumerate() {
            if self.relays[..index].iter().any(|other| other.name == relay.name) {
                return fault(&format!("relays[{index}].name"), "is the name of another relay too; give each its own");
            }
            if relay.password.is_some() && relay.user.is_none() {
                return fault(&format!("relays[{index}].user"), "is missing though there is a password; add it");
            }
        }
        self.check_numbers()?;
        for (index, rule) in self.streams.iter().enumerate() {
            if !filter::valid_filter(&rule.filter) {
                return fault(&format!("stream[{index}].match"), "is not a filter; write levels with + and #, like \"power/#\"");
            }
        }
        match (self.kind, &self.demand) {
            (Kind::User, None) => return fault("demand", "is missing; a user terminal needs it, or write kind = \"meter\""),
            (Kind::Meter, Some(_)) => return fault("kind", "is not \"user\", but only user terminals have a [demand] section"),
            (Kind::User, Some(demand)) => demand.check(&self.sensor)?,
            (Kind::Meter, None) => {}
        }
        self.check_inputs()
    }

    fn check_numbers(&self) -> Result<(), ConfigFault> {
        let fault = |key: &str, problem: String| Err(ConfigFault::key(key, problem));
        if self.send.frame_records_max == 0 {
            return fault("send.frame_records_max", "is 0; write 1 or more".to_owned());
        }
        if self.send.frame_bytes_max.bytes() < limits::FRAME_BYTES_MIN as u64 {
            let min = limits::FRAME_BYTES_MIN / 1024;
            return fault("send.frame_bytes_max", format!("is too small for the largest reading; write {min}KiB or more"));
        }
        if self.send.inflight_max == 0 {
            return fault("send.inflight_max", "is 0; write 1 or more".to_owned());
        }
        if let Err(problem) = self.backoff() {
            return fault("send.backoff_min", problem);
        }
        if self.send.refused_retry.duration().is_zero() {
            return fault("send.refused_retry", "is zero; write at least 1s".to_owned());
        }
        if self.probe.count == 0 || self.probe.count > limits::PROBES_MAX {
            return fault("probe.count", format!("is not from 1 to {}", limits::PROBES_MAX));
        }
        for (key, span) in [
            ("probe.rtt_limit", self.probe.rtt_limit),
            ("probe.timeout", self.probe.timeout),
            ("probe.distance", self.probe.distance),
            ("probe.gone_after", self.probe.gone_after),
            ("probe.look_again", self.probe.look_again),
        ] {
            if span.duration().is_zero() {
                return fault(key, "is zero; write at least 1ms".to_owned());
            }
        }
        if self.report.every.duration().is_zero() {
            return fault("report.every", "is zero; write at least 1s, or report.enabled = false".to_owned());
        }
        if self.outbox.bytes_max.bytes() == 0 {
            return fault("outbox.bytes_max", "is 0; nothing could be taken".to_owned());
        }
        if self.chunk.records_max == 0 {
            return fault("chunk.records_max", "is 0; write 1 or more".to_owned());
        }
        if self.chunk.poll.duration().is_zero() {
            return fault("chunk.poll", "is zero; write at least 10ms".to_owned());
        }
        Ok(())
    }

    pub(crate) fn backoff(&self) -> Result<link::Backoff, String> {
        let (min, max) = (self.send.backoff_min.duration(), self.send.backoff_max.duration());
        link::Backoff::try_new(min, max, 0.5).map_err(|fault| format!("does not hold: {fault}"))
    }

    fn check_inputs(&self) -> Result<(), ConfigFault> {
        for (index, input) in self.inputs.iter().enumerate() {
            let fault = |key: &str, problem: String| Err(ConfigFault::key(format!("input[{index}].{key}"), problem));
            if input.name().is_empty() {
                return fault("name", "is empty; give the input a name".to_owned());
            }
            if self.inputs[..index].iter().any(|other| other.name() == input.name()) {
                return fault("name", "is the name of another input too; give each its own".to_owned());
            }
            match input {
                InputConfig::Csv(csv) => self.check_csv(index, csv)?,
                InputConfig::Lines(_) => {
                    if self.inputs[..index].iter().any(|other| matches!(other, InputConfig::Lines(_))) {
                        return fault("kind", "is \"lines\" twice, but there is one stdin; remove one".to_owned());
                    }
                }
                InputConfig::Mqtt(mqtt) => {
                    let prefix = mqtt.filter.strip_suffix('#').unwrap_or("+");
                    if !filter::valid_filter(&mqtt.filter) || prefix.contains('+') {
                        return fault("filter", "must end in # and have no other wildcard, like \"sensors/#\"".to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    fn check_csv(&self, index: usize, csv: &CsvConfig) -> Result<(), ConfigFault> {
        let fault = |key: &str, problem: String| Err(ConfigFault::key(format!("input[{index}].{key}"), problem));
        if csv.columns.is_empty() {
            return fault("columns", "is empty; name at least one column and its stream".to_owned());
        }
        for (column, stream) in &csv.columns {
            if let Err(problem) = Series::new(&self.sensor, stream) {
                return fault("columns", format!("gives column {column:?} a stream that is not valid: {problem}"));
            }
            if system::is_reserved(stream) {
                return fault(
                    "columns",
                    format!("gives column {column:?} a stream under forebay/, which is reserved; choose another"),
                );
            }
        }
        if csv.speed.is_some() && csv.duration.is_some() {
            return fault("speed", "and duration exclude each other; keep one".to_owned());
        }
        if csv.speed.is_some_and(|speed| !speed.is_finite() || speed <= 0.0) {
            return fault("speed", "is not a positive number; remove it to go as fast as possible".to_owned());
        }
        Ok(())
    }
}
