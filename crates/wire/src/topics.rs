//! Every topic that Forebay itself speaks on, both ways: [`Topic::parse`] reads what [`Topic`]'s `Display` writes, and nothing else.
//!
//! The names inside are checked when they are made, so a topic that can be written can be read. Parsing borrows from the
//! text; only the message of a refusal allocates.

use std::fmt;

use crate::ids::{IdFault, RelayId, SEGMENT_BYTES_MAX, SensorId, Series, check_segment};
use crate::record::Operation;

/// Why a topic is not one of Forebay's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
    /// The topic begins with none of our first levels. Such topics are free for anybody's use.
    #[error("not a topic of Forebay's")]
    Foreign,
    /// The topic begins as one of ours and goes on as none.
    #[error("topic is not of the form {form}")]
    Form {
        /// What it should look like.
        form: &'static str,
    },
    /// One of its names is not valid.
    #[error("topic of the form {form}: {fault}")]
    Name {
        /// The form.
        form: &'static str,
        /// What is wrong with the name.
        #[source]
        fault: IdFault,
    },
}

macro_rules! borrowed_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name<'a>(&'a str);

        impl<'a> $name<'a> {
            /// The name as text.
            #[must_use]
            pub fn as_str(self) -> &'a str {
                self.0
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
    };
}

borrowed_name! {
    /// One valid segment: a relay, a client, a program or a party.
    SegmentName
}
borrowed_name! {
    /// A valid `area/sensor`, borrowed.
    SensorName
}
borrowed_name! {
    /// A valid `area/sensor/stream…`, borrowed.
    SeriesName
}

impl<'a> SegmentName<'a> {
    /// Checks a segment.
    ///
    /// # Errors
    /// [`IdFault::Segment`] when it is none.
    pub fn new(text: &'a str) -> Result<Self, IdFault> {
        check_segment(text).map(|()| Self(text))
    }
}

impl<'a> SensorName<'a> {
    /// Checks a sensor's name.
    ///
    /// # Errors
    /// [`IdFault`] says which part of it is wrong.
    pub fn new(text: &'a str) -> Result<Self, IdFault> {
        let Some((area, sensor)) = text.split_once('/') else {
            let text = text.chars().take(SEGMENT_BYTES_MAX).collect();
            return Err(IdFault::Form { text, form: "area/sensor" });
        };
        check_segment(area)?;
        check_segment(sensor)?;
        Ok(Self(text))
    }
}

impl<'a> SeriesName<'a> {
    /// Checks the name of a series.
    ///
    /// # Errors
    /// [`IdFault`] says which part of it is wrong.
    pub fn new(text: &'a str) -> Result<Self, IdFault> {
        Series::check(text).map(|()| Self(text))
    }
}

impl<'a> From<&'a RelayId> for SegmentName<'a> {
    fn from(relay: &'a RelayId) -> Self {
        Self(relay.as_str())
    }
}

impl<'a> From<&'a SensorId> for SensorName<'a> {
    fn from(sensor: &'a SensorId) -> Self {
        Self(sensor.as_str())
    }
}

impl<'a> From<&'a Series> for SeriesName<'a> {
    fn from(series: &'a Series) -> Self {
        Self(series.as_str())
    }
}

macro_rules! last_level {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The last level of the topic.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }

            fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

last_level! {
    /// What a relay sends to the cloud.
    Up {
        /// Frames of records.
        Frames = "frames",
        /// What the relay keeps itself.
        Index = "index",
        /// Counts of a period.
        Stats = "stats",
        /// Answers to commands.
        Reply = "reply",
    }
}

last_level! {
    /// What the cloud sends to a relay.
    Down {
        /// Frames that are durable at the cloud.
        Receipts = "receipts",
        /// Orders.
        Commands = "commands",
        /// Who is the group's proxy.
        Lease = "lease",
    }
}

last_level! {
    /// The two sides of demand response.
    Demand {
        /// From the cloud to the user terminals.
        Events = "events",
        /// Their answers.
        Reports = "reports",
    }
}

last_level! {
    /// Between a party and the anchor service.
    Anchor {
        /// Roots to be anchored.
        Roots = "roots",
        /// What became of them.
        Receipts = "receipts",
    }
}

/// A topic of Forebay's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Topic<'a> {
    /// `op/{operation}/{area}/{sensor}/{stream…}`: one raw reading, from any MQTT device to the relay.
    Reading {
        /// What the relay does with it.
        operation: Operation,
        /// The series it belongs to.
        series: SeriesName<'a>,
    },
    /// `op/{operation}/{area}/{sensor}`: a frame, from an edge agent to the relay.
    Frame {
        /// What the relay does with its records.
        operation: Operation,
        /// The agent's sensor.
        sensor: SensorName<'a>,
    },
    /// `probe/{area}/{sensor}`: an empty message whose PUBACK is timed.
    Probe {
        /// The agent's sensor.
        sensor: SensorName<'a>,
    },
    /// `up/{relay}/…`: from a relay to the cloud.
    Up {
        /// The relay that speaks.
        relay: SegmentName<'a>,
        /// About what.
        kind: Up,
    },
    /// `down/{relay}/…`: from the cloud to a relay.
    Down {
        /// The relay that is spoken to.
        relay: SegmentName<'a>,
        /// About what.
        kind: Down,
    },
    /// `data/{area}/{sensor}/{stream…}`: one reading, from the cloud to its readers.
    Data {
        /// The series it belongs to.
        series: SeriesName<'a>,
    },
    /// `query/{client}`: a question about the past.
    Query {
        /// The client that asks.
        client: SegmentName<'a>,
    },
    /// `demand/{program}/…`: demand response.
    Demand {
        /// The program.
        program: SegmentName<'a>,
        /// Which way.
        kind: Demand,
    },
    /// `anchor/{area}/{sensor}/…`: anchoring by the anchor service.
    Anchor {
        /// The party whose roots they are: a terminal, named as its sensor.
        party: SensorName<'a>,
        /// Which way.
        kind: Anchor,
    },
}

const OP_FORM: &str = "op/{store|forward}/{area}/{sensor}/{stream…}";
const PROBE_FORM: &str = "probe/{area}/{sensor}";
const UP_FORM: &str = "up/{relay}/{frames|index|stats|reply}";
const DOWN_FORM: &str = "down/{relay}/{receipts|commands|lease}";
const DATA_FORM: &str = "data/{area}/{sensor}/{stream…}";
const QUERY_FORM: &str = "query/{client}";
const DEMAND_FORM: &str = "demand/{program}/{events|reports}";
const ANCHOR_FORM: &str = "anchor/{area}/{sensor}/{roots|receipts}";

impl<'a> Topic<'a> {
    /// Reads a topic.
    ///
    /// # Errors
    /// [`TopicFault::Foreign`] when it is none of ours, otherwise what is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, TopicFault> {
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        match first {
            "op" => operated(rest),
            "probe" => SensorName::new(rest).map(|sensor| Self::Probe { sensor }).map_err(name_fault(PROBE_FORM)),
            "up" => named(rest, UP_FORM, Up::parse).map(|(relay, kind)| Self::Up { relay, kind }),
            "down" => named(rest, DOWN_FORM, Down::parse).map(|(relay, kind)| Self::Down { relay, kind }),
            "data" => SeriesName::new(rest).map(|series| Self::Data { series }).map_err(name_fault(DATA_FORM)),
            "query" => SegmentName::new(rest).map(|client| Self::Query { client }).map_err(name_fault(QUERY_FORM)),
            "demand" => named(rest, DEMAND_FORM, Demand::parse).map(|(program, kind)| Self::Demand { program, kind }),
            "anchor" => anchored(rest),
            _ => Err(TopicFault::Foreign),
        }
    }
}

fn name_fault(form: &'static str) -> impl FnOnce(IdFault) -> TopicFault {
    move |fault| TopicFault::Name { form, fault }
}

/// `{operation}/{area}/{sensor}`, with or without a stream.
fn operated(rest: &str) -> Result<Topic<'_>, TopicFault> {
    let fault = || TopicFault::Form { form: OP_FORM };
    let (operation, name) = rest.split_once('/').ok_or_else(fault)?;
    let operation = operation.parse::<Operation>().map_err(|_| fault())?;
    if name.bytes().filter(|byte| *byte == b'/').nth(1).is_some() {
        SeriesName::new(name).map(|series| Topic::Reading { operation, series })
    } else {
        SensorName::new(name).map(|sensor| Topic::Frame { operation, sensor })
    }
    .map_err(name_fault(OP_FORM))
}

/// `{area}/{sensor}/{kind}`.
fn anchored(rest: &str) -> Result<Topic<'_>, TopicFault> {
    let fault = || TopicFault::Form { form: ANCHOR_FORM };
    let (party, last) = rest.rsplit_once('/').ok_or_else(fault)?;
    let kind = Anchor::parse(last).ok_or_else(fault)?;
    Ok(Topic::Anchor { party: SensorName::new(party).map_err(name_fault(ANCHOR_FORM))?, kind })
}

/// `{name}/{kind}`.
fn named<'a, K>(
    rest: &'a str,
    form: &'static str,
    kind: impl FnOnce(&str) -> Option<K>,
) -> Result<(SegmentName<'a>, K), TopicFault> {
    let fault = || TopicFault::Form { form };
    let (name, last) = rest.split_once('/').ok_or_else(fault)?;
    let kind = kind(last).ok_or_else(fault)?;
    Ok((SegmentName::new(name).map_err(name_fault(form))?, kind))
}

impl fmt::Display for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading { operation, series } => write!(f, "op/{}/{series}", operation.as_str()),
            Self::Frame { operation, sensor } => write!(f, "op/{}/{sensor}", operation.as_str()),
            Self::Probe { sensor } => write!(f, "probe/{sensor}"),
            Self::Up { relay, kind } => write!(f, "up/{relay}/{}", kind.as_str()),
            Self::Down { relay, kind } => write!(f, "down/{relay}/{}", kind.as_str()),
            Self::Data { series } => write!(f, "data/{series}"),
            Self::Query { client } => write!(f, "query/{client}"),
            Self::Demand { program, kind } => write!(f, "demand/{program}/{}", kind.as_str()),
            Self::Anchor { party, kind } => write!(f, "anchor/{party}/{}", kind.as_str()),
        }
    }
}
