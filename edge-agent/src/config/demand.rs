//! What a user terminal is told about demand response.

use std::path::PathBuf;

use chassis::{ConfigFault, Span};
use serde::Deserialize;
use wire::system::demand_stream;
use wire::topics::SegmentName;
use wire::{SensorId, Series};

use super::Address;

/// What an agent is beside (B4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A meter or any other device: collects data.
    #[default]
    Meter,
    /// A user terminal: answers demand-response events, too.
    User,
}

/// In which unit the readings of the power stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Unit {
    /// Kilowatts.
    #[default]
    #[serde(rename = "kW")]
    Kilowatt,
    /// Watts.
    #[serde(rename = "W")]
    Watt,
}

impl Unit {
    /// One of it, in kilowatts.
    pub(crate) fn kilowatts(self) -> f64 {
        match self {
            Self::Kilowatt => 1.0,
            Self::Watt => 0.001,
        }
    }
}

/// Where events come from, and what may be promised.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemandConfig {
    /// The cloud's MQTT address, `host:port`.
    pub cloud: Address,
    /// User name there; anonymous without one.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the user's password; white space around it is left out.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The programs that it takes part in.
    pub programs: Vec<String>,
    /// The stream that shows what it takes.
    #[serde(default = "stream")]
    pub stream: String,
    /// In which unit.
    #[serde(default)]
    pub unit: Unit,
    /// How far back the readings of that stream count as the load of now.
    #[serde(default = "baseline")]
    pub baseline: Span,
    /// Load that may be switched off, kilowatts.
    pub curtailable_kw: f64,
    /// What must be left, kilowatts.
    #[serde(default)]
    pub minimum_kw: f64,
    /// Events with targets are for this terminal if they name one of these, or its sensor.
    #[serde(default)]
    pub targets: Vec<String>,
    /// While there is a file of this name the user takes no part: events are answered with that, and what runs is let go.
    #[serde(default)]
    pub opt_out_file: Option<PathBuf>,
}

fn stream() -> String {
    "power/active".to_owned()
}

fn baseline() -> Span {
    Span::seconds(900)
}

impl DemandConfig {
    /// Of a terminal that listens to `programs` at `cloud`, anonymous, with every default.
    pub fn new(cloud: Address, programs: Vec<String>, curtailable_kw: f64) -> Self {
        Self {
            cloud,
            user: None,
            password_file: None,
            programs,
            stream: stream(),
            unit: Unit::default(),
            baseline: baseline(),
            curtailable_kw,
            minimum_kw: 0.0,
            targets: Vec::new(),
            opt_out_file: None,
        }
    }

    pub(super) fn check(&self, sensor: &SensorId) -> Result<(), ConfigFault> {
        let fault = |key: &str, problem: &str| Err(ConfigFault::key(format!("demand.{key}"), problem));
        if self.programs.is_empty() {
            return fault("programs", "is empty; name at least one program of the cloud");
        }
        let valid = |name: &String| SegmentName::new(name).is_ok() && Series::new(sensor, &demand_stream(name)).is_ok();
        if !self.programs.iter().all(valid) {
            return fault("programs", "names what can't be a program; write 1 to 64 of A-Z a-z 0-9 _ -");
        }
        if Series::new(sensor, &self.stream).is_err() {
            return fault("stream", "is not the name of a stream, like power/active");
        }
        if self.password_file.is_some() && self.user.is_none() {
            return fault("user", "is missing though there is a password; add it");
        }
        if self.baseline.duration().is_zero() {
            return fault("baseline", "is zero; write as long as the program's interval");
        }
        for (key, value) in [("curtailable_kw", self.curtailable_kw), ("minimum_kw", self.minimum_kw)] {
            if !value.is_finite() || value < 0.0 {
                return fault(key, "is not a number of at least 0");
            }
        }
        Ok(())
    }
}
