//! What can be set about demand response: `[demand]` of `config/cloud.toml`.

use chassis::Span;
use serde::Deserialize;
use wire::openadr::is_id;
use wire::power::Kind;
use wire::system::demand_stream;
use wire::topics::SegmentName;
use wire::{SensorId, Series};

use super::baseline::Terms;
use super::callbacks::Callbacks;
use crate::config::ConfigError;

/// Programs at most: each costs a look at its meters an interval.
const PROGRAMS_MAX: usize = 1_000;

/// Demand response.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// The programs.
    #[serde(default, rename = "program")]
    pub programs: Vec<Program>,
    /// How often it is looked whether an interval has ended or an event is to be settled.
    #[serde(default = "poll")]
    pub poll: Span,
    /// How often an event is published again until it ends: who connects late hears of it then.
    #[serde(default = "repeat")]
    pub repeat: Span,
    /// How far back events are shown.
    #[serde(default = "kept")]
    pub kept: Span,
    /// Under which address clients of other makers reach OpenADR here, when they can't tell themselves: `https://host/openadr3/3.1.0`.
    #[serde(default)]
    pub url: Option<String>,
    /// Whom the cloud calls about changes.
    #[serde(default)]
    pub callbacks: Callbacks,
}

fn poll() -> Span {
    Span::seconds(1)
}

fn repeat() -> Span {
    Span::seconds(10)
}

fn kept() -> Span {
    Span::seconds(7 * 86_400)
}

/// In which unit the readings of a stream are: text that is a number. Limits, promises and sums are always power, in kilowatts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Unit {
    /// Power, kilowatts: a reading counts until the next one.
    #[default]
    #[serde(rename = "kW")]
    Kilowatt,
    /// Power, watts.
    #[serde(rename = "W")]
    Watt,
    /// Energy, kilowatt hours: a register that counts up. Power is what it gains, over the time between two readings.
    #[serde(rename = "kWh")]
    KilowattHour,
    /// Energy, watt hours.
    #[serde(rename = "Wh")]
    WattHour,
}

impl Unit {
    /// A value of this unit in kilowatts, or kilowatt hours.
    pub(crate) fn kilo(self, value: f64) -> f64 {
        match self {
            Self::Kilowatt | Self::KilowattHour => value,
            Self::Watt | Self::WattHour => value / 1_000.0,
        }
    }

    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Kilowatt | Self::Watt => Kind::Power,
            Self::KilowattHour | Self::WattHour => Kind::Energy,
        }
    }
}

/// A program: an area, its limit, and what is asked when the limit is exceeded.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its name, and its OpenADR id: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// The area.
    pub area: String,
    /// The stream of every sensor there that is added up.
    #[serde(default = "stream")]
    pub stream: String,
    /// In which unit its readings are.
    #[serde(default)]
    pub unit: Unit,
    /// What the area may take, kilowatts.
    pub limit_kw: f64,
    /// Power is averaged over intervals of this length, which begin at whole multiples of it since 1970.
    #[serde(default = "quarter")]
    pub interval: Span,
    /// For how long a reading counts at most, and how far two readings of a register may be apart; as long as the interval without it.
    #[serde(default)]
    pub hold: Option<Span>,
    /// How baselines are made.
    #[serde(default)]
    pub baseline: Terms,
    /// How long after an interval's end its readings are waited for.
    #[serde(default = "grace")]
    pub grace: Span,
    /// From the publication of an event to its start.
    #[serde(default = "notice")]
    pub notice: Span,
    /// How long an event lasts.
    #[serde(default = "quarter")]
    pub duration: Span,
    /// Terminals begin within this time after the start, by chance, so that they don't switch all at once.
    #[serde(default = "notice")]
    pub randomize_start: Span,
    /// OpenADR priority of the events that the cloud makes: smaller goes first.
    #[serde(default)]
    pub priority: u32,
    /// Targets of the program and of the events that the cloud makes; a VEN sees them if it was granted one of these. Without any the
    /// grants alone decide.
    #[serde(default)]
    pub targets: Vec<String>,
}

fn stream() -> String {
    "power/active".to_owned()
}

fn quarter() -> Span {
    Span::seconds(900)
}

fn grace() -> Span {
    Span::seconds(10)
}

fn notice() -> Span {
    Span::seconds(0)
}

impl Program {
    /// A program with every default.
    pub fn new(name: &str, area: &str, limit_kw: f64) -> Self {
        Self {
            name: name.to_owned(),
            area: area.to_owned(),
            stream: stream(),
            unit: Unit::default(),
            limit_kw,
            interval: quarter(),
            hold: None,
            baseline: Terms::default(),
            grace: grace(),
            notice: notice(),
            duration: quarter(),
            randomize_start: notice(),
            priority: 0,
            targets: Vec::new(),
        }
    }

    /// For how long a reading counts, nanoseconds.
    pub(crate) fn hold(&self) -> i64 {
        let span = self.hold.unwrap_or(self.interval);
        i64::try_from(span.duration().as_nanos()).unwrap_or(i64::MAX / 4)
    }

    /// Where the cloud `name` writes events and settlements of this program.
    pub(crate) fn series(&self, name: &str) -> Option<Series> {
        Series::new(&SensorId::new(&self.area, name).ok()?, &demand_stream(&self.name)).ok()
    }
}

impl Demand {
    /// Demand response with `programs` and every default.
    pub fn new(programs: Vec<Program>) -> Self {
        Self { programs, poll: poll(), repeat: repeat(), kept: kept(), url: None, callbacks: Callbacks::default() }
    }

    /// Checks what the types can't; `cloud` is the cloud's name.
    ///
    /// # Errors
    /// The first key that does not hold.
    pub(crate) fn check(&self, cloud: &str) -> Result<(), ConfigError> {
        let fault = |key: String, fix: &str| Err(ConfigError::Demand(format!("{key} {fix}")));
        for (key, span) in [("poll", self.poll), ("repeat", self.repeat), ("kept", self.kept)] {
            if span.duration().is_zero() {
                return fault(key.to_owned(), "must not be zero");
            }
        }
        if let Some(url) = &self.url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return fault("url".to_owned(), "is not an address, like https://host/openadr3/3.1.0");
        }
        if let Err((key, fix)) = self.callbacks.check_limits() {
            return fault(format!("callbacks.{key}"), fix);
        }
        if self.programs.len() > PROGRAMS_MAX {
            return fault("program".to_owned(), "is there more than 1000 times; split the areas over several clouds");
        }
        for (index, program) in self.programs.iter().enumerate() {
            let key = |name: &str| format!("program[{index}].{name}");
            if !is_id(&program.name) || SegmentName::new(&program.name).is_err() {
                return fault(key("name"), "must be 1 to 64 characters of A-Z a-z 0-9 _ -");
            }
            if self.programs[..index].iter().any(|other| other.name == program.name) {
                return fault(key("name"), "is the name of another program too; give each its own");
            }
            let sensor = SensorId::new(&program.area, "meter");
            let Ok(sensor) = sensor else { return fault(key("area"), "must be 1 to 64 characters of A-Z a-z 0-9 _ . -") };
            if Series::new(&sensor, &program.stream).is_err() {
                return fault(key("stream"), "is not the name of a stream, like power/active");
            }
            if program.series(cloud).is_none() {
                return fault(key("name"), "makes a stream that is too long; shorten it");
            }
            if !program.limit_kw.is_finite() || program.limit_kw <= 0.0 {
                return fault(key("limit_kw"), "must be a number above 0");
            }
            if program.interval.duration().is_zero() {
                return fault(key("interval"), "must not be zero");
            }
            if program.hold.is_some_and(|hold| hold.duration().is_zero()) {
                return fault(key("hold"), "must not be zero; leave it out, and it is as long as the interval");
            }
            if let Err((name, fix)) = program.baseline.check() {
                return fault(key(&format!("baseline.{name}")), fix);
            }
            if program.duration.duration() <= program.randomize_start.duration() {
                return fault(
                    key("duration"),
                    "must be longer than randomize_start: else there is no time in which all take part",
                );
            }
        }
        Ok(())
    }
}
