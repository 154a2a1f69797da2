//! OpenADR 3.1 objects, as far as demand response here needs them: programs, events, reports; of VENs in [`clients`].
//!
//! Member names are those of the published schema (and of OpenLEADR's `openleadr-wire`). What others send may have more members; they are
//! ignored. Times are RFC 3339, durations ISO 8601.

pub mod clients;

use serde::{Deserialize, Serialize};

pub use clients::{
    MqttBinding, MqttMethod, Notification, Notifiers, ObjectOperation, ObjectType, Operation, Resource, ResourceRequest,
    Subscription, SubscriptionRequest, Topics, TopicsAnswer, Ven, VenRequest,
};

/// Reduction wanted, as a change of power: negative kW.
pub const DISPATCH_SETPOINT_RELATIVE: &str = "DISPATCH_SETPOINT_RELATIVE";
/// What the area took when the event was made, kW. A private type: a terminal can judge its share by it.
pub const AREA_DEMAND: &str = "FOREBAY_AREA_DEMAND";
/// What the area may take, kW. A private type.
pub const AREA_LIMIT: &str = "FOREBAY_AREA_LIMIT";
/// Mean power before the event, kW.
pub const BASELINE: &str = "BASELINE";
/// Mean power during the event, kW.
pub const DEMAND: &str = "DEMAND";
/// Energy during the event, kWh.
pub const USAGE: &str = "USAGE";
/// Reduction that is promised, kW.
pub const LOAD_SHED_DELTA_AVAILABLE: &str = "LOAD_SHED_DELTA_AVAILABLE";
/// What state a resource is in.
pub const OPERATING_STATE: &str = "OPERATING_STATE";
/// State of a terminal whose user takes no part.
pub const OPTED_OUT: &str = "RUNNING_OPTED_OUT";
/// How good the values beside it are.
pub const DATA_QUALITY: &str = "DATA_QUALITY";
/// Readings cover at least half of the time.
pub const QUALITY_OK: &str = "OK";
/// Readings cover less, or others stand for them.
pub const QUALITY_ESTIMATED: &str = "ESTIMATED";
/// There are no readings.
pub const QUALITY_MISSING: &str = "MISSING";
/// Unit of power.
pub const KW: &str = "KW";
/// Unit of energy.
pub const KWH: &str = "KWH";

/// Longest identifier.
const ID_BYTES_MAX: usize = 128;

/// Whether a text may be the id of an object: 1 to 128 of `A-Z a-z 0-9 _ -`, and not the word null.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) && !text.eq_ignore_ascii_case("null")
}

/// When, how long, and how far starts are spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntervalPeriod {
    /// RFC 3339.
    pub start: String,
    /// ISO 8601.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// ISO 8601: each terminal begins within this time after the start, by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub randomize_start: Option<String>,
}

/// Values of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValuesMap {
    /// What they are.
    #[serde(rename = "type")]
    pub kind: String,
    /// Numbers here; others may send text, truth values and points.
    pub values: Vec<serde_json::Value>,
}

impl ValuesMap {
    /// One number.
    #[must_use]
    pub fn number(kind: &str, value: f64) -> Self {
        Self { kind: kind.to_owned(), values: vec![value.into()] }
    }

    /// One word.
    #[must_use]
    pub fn text(kind: &str, value: &str) -> Self {
        Self { kind: kind.to_owned(), values: vec![value.into()] }
    }
}

/// The first number of a kind.
#[must_use]
pub fn number_of(payloads: &[ValuesMap], kind: &str) -> Option<f64> {
    let found = payloads.iter().find(|payload| payload.kind == kind)?;
    found.values.first()?.as_f64().filter(|value| value.is_finite())
}

/// A stretch of time with its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// A number that its maker chose.
    pub id: i32,
    /// When, if not as the object says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_period: Option<IntervalPeriod>,
    /// The values.
    pub payloads: Vec<ValuesMap>,
}

/// In which unit values of a kind are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PayloadDescriptor {
    /// EVENT_PAYLOAD_DESCRIPTOR or REPORT_PAYLOAD_DESCRIPTOR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_type: Option<String>,
    /// The kind.
    pub payload_type: String,
    /// The unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
}

impl PayloadDescriptor {
    /// Of values in an event.
    #[must_use]
    pub fn of_event(kind: &str, units: &str) -> Self {
        Self::new("EVENT_PAYLOAD_DESCRIPTOR", kind, units)
    }

    /// Of values in a report.
    #[must_use]
    pub fn of_report(kind: &str, units: &str) -> Self {
        Self::new("REPORT_PAYLOAD_DESCRIPTOR", kind, units)
    }

    fn new(object: &str, kind: &str, units: &str) -> Self {
        Self { object_type: Some(object.to_owned()), payload_type: kind.to_owned(), units: Some(units.to_owned()) }
    }
}

/// A report that an event asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportDescriptor {
    /// The kind of values.
    pub payload_type: String,
    /// The unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
}

/// A demand-response program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its name in the configuration.
    pub id: String,
    /// RFC 3339.
    pub created_date_time: String,
    /// RFC 3339.
    pub modification_date_time: String,
    /// PROGRAM.
    pub object_type: String,
    /// Its name.
    pub program_name: String,
    /// Kinds and units of its values.
    pub payload_descriptors: Vec<PayloadDescriptor>,
    /// Area, limit and stream.
    pub attributes: Vec<ValuesMap>,
    /// Empty: who sees it is a matter of grants.
    pub targets: Vec<String>,
}

/// A call for less power.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Unique for good.
    pub id: String,
    /// RFC 3339.
    pub created_date_time: String,
    /// RFC 3339.
    pub modification_date_time: String,
    /// EVENT.
    #[serde(default = "event_type")]
    pub object_type: String,
    /// The program.
    #[serde(rename = "programID")]
    pub program_id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_name: Option<String>,
    /// Smaller goes first; none is last.
    pub priority: Option<u32>,
    /// Empty: who sees it is a matter of grants.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
    /// Which reports are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_descriptors: Option<Vec<ReportDescriptor>>,
    /// Kinds and units of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_descriptors: Option<Vec<PayloadDescriptor>>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_period: Option<IntervalPeriod>,
    /// How much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Vec<Interval>>,
}

/// What is said to make or change an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRequest {
    /// EVENT.
    #[serde(default = "event_type")]
    pub object_type: String,
    /// The program.
    #[serde(rename = "programID")]
    pub program_id: String,
    /// For people.
    #[serde(default)]
    pub event_name: Option<String>,
    /// How long its intervals are repeated.
    #[serde(default)]
    pub duration: Option<String>,
    /// Smaller goes first; none is last.
    #[serde(default)]
    pub priority: Option<u32>,
    /// Who is meant.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
    /// Which reports are wanted.
    #[serde(default)]
    pub report_descriptors: Option<Vec<ReportDescriptor>>,
    /// Kinds and units of its values.
    #[serde(default)]
    pub payload_descriptors: Option<Vec<PayloadDescriptor>>,
    /// When.
    #[serde(default)]
    pub interval_period: Option<IntervalPeriod>,
    /// How much.
    #[serde(default)]
    pub intervals: Option<Vec<Interval>>,
}

fn event_type() -> String {
    "EVENT".to_owned()
}

/// `start` of an event that is withdrawn: with a duration of zero it lies in the past, and lasts for no time.
pub const WITHDRAWN_START: &str = "0001-01-01T00:00:00Z";

impl Event {
    /// The event as it is said again once it is cancelled: the way that the standard's guide names.
    #[must_use]
    pub fn withdrawn(&self, at: crate::At) -> Self {
        let never = IntervalPeriod { start: WITHDRAWN_START.to_owned(), duration: Some(duration_text(0)), randomize_start: None };
        Self { interval_period: Some(never), modification_date_time: time_text(at), ..self.clone() }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        let duration = self.interval_period.as_ref().and_then(|period| period.duration.as_deref());
        duration.and_then(duration_nanos) == Some(0)
    }

    /// The first number of a kind in its first interval that has one.
    #[must_use]
    pub fn number(&self, kind: &str) -> Option<f64> {
        self.intervals.as_deref()?.iter().find_map(|interval| number_of(&interval.payloads, kind))
    }
}

/// The values of one resource in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportResource {
    /// Which.
    pub resource_name: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_period: Option<IntervalPeriod>,
    /// The values.
    pub intervals: Vec<Interval>,
}

/// What a terminal says about an event, without what the server adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportRequest {
    /// REPORT.
    #[serde(default = "report_type")]
    pub object_type: String,
    /// The event.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// Who reports.
    pub client_name: String,
    /// `promise` or `result` from our terminals; free for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_name: Option<String>,
    /// Kinds and units of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_descriptors: Option<Vec<PayloadDescriptor>>,
    /// The values.
    pub resources: Vec<ReportResource>,
}

fn report_type() -> String {
    "REPORT".to_owned()
}

impl ReportRequest {
    /// The first number of a kind in it.
    #[must_use]
    pub fn number(&self, kind: &str) -> Option<f64> {
        let mut intervals = self.resources.iter().flat_map(|resource| &resource.intervals);
        intervals.find_map(|interval| number_of(&interval.payloads, kind))
    }

    /// The first text of a kind in it.
    #[must_use]
    pub fn text(&self, kind: &str) -> Option<&str> {
        let intervals = self.resources.iter().flat_map(|resource| &resource.intervals);
        let payload = intervals.flat_map(|interval| &interval.payloads).find(|payload| payload.kind == kind)?;
        payload.values.first()?.as_str()
    }
}

/// A report as the server shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Unique for good.
    pub id: String,
    /// RFC 3339.
    pub created_date_time: String,
    /// RFC 3339.
    pub modification_date_time: String,
    /// Who sent it.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// What was said.
    #[serde(flatten)]
    pub content: ReportRequest,
}

/// An ISO 8601 duration of whole nanoseconds as text: `PT15M`.
#[must_use]
pub fn duration_text(nanos: i64) -> String {
    jiff::SignedDuration::from_nanos(nanos).to_string()
}

/// Reads an ISO 8601 duration without years and months, in nanoseconds; a day has 24 hours. `None` if it is none, or negative.
#[must_use]
pub fn duration_nanos(text: &str) -> Option<i64> {
    // The parser takes other forms too, like "15m".
    let span: jiff::Span = text.starts_with('P').then(|| text.parse().ok())??;
    if span.get_years() != 0 || span.get_months() != 0 {
        return None;
    }
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    i64::try_from(duration.as_nanos()).ok().filter(|nanos| *nanos >= 0)
}

/// A time as RFC 3339 in UTC.
#[must_use]
pub fn time_text(at: crate::At) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default().to_string()
}

/// Reads RFC 3339, in nanoseconds since 1970.
#[must_use]
pub fn time_nanos(text: &str) -> Option<crate::At> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    crate::At::try_from(moment.as_nanosecond()).ok().filter(|at| *at >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand after the schema's own example.
    const EVENT: &str = r#"{"id":"object-999-foo","createdDateTime":"2023-06-15T09:30:00Z","modificationDateTime":"2023-06-15T09:30:00Z",
        "objectType":"EVENT","programID":"object-999","eventName":"price event 11-18-2022","duration":"PT1H","priority":0,"targets":null,
        "reportDescriptors":null,"payloadDescriptors":null,
        "intervalPeriod":{"start":"2023-06-15T09:30:00Z","duration":"PT1H","randomizeStart":"PT5M"},
        "intervals":[{"id":0,"payloads":[{"type":"DISPATCH_SETPOINT_RELATIVE","values":[-0.17]}]}]}"#;

    #[test]
    fn c13_objects_have_the_member_names_of_the_schema() {
        let event: Event = serde_json::from_str(EVENT).unwrap();
        assert_eq!(
            (event.program_id.as_str(), event.priority, event.number(DISPATCH_SETPOINT_RELATIVE)),
            ("object-999", Some(0), Some(-0.17))
        );
        let period = event.interval_period.clone().unwrap();
        assert_eq!(duration_nanos(&period.randomize_start.unwrap()), Some(300_000_000_000));
        let again = serde_json::to_value(&event).unwrap();
        for member in [
            "id",
            "createdDateTime",
            "modificationDateTime",
            "objectType",
            "programID",
            "eventName",
            "priority",
            "targets",
            "intervalPeriod",
            "intervals",
        ] {
            assert!(again.get(member).is_some(), "{member}");
        }
        assert_eq!(again["intervals"][0]["payloads"][0]["type"], "DISPATCH_SETPOINT_RELATIVE");
        let report: ReportRequest = serde_json::from_str(
            r#"{"eventID":"e1","clientName":"c","resources":[{"resourceName":"r","intervals":[{"id":0,"payloads":[{"type":"USAGE","values":[2,"x"]}]}]}]}"#,
        )
        .unwrap();
        assert_eq!((report.object_type.as_str(), report.number(USAGE), report.number(BASELINE)), ("REPORT", Some(2.0), None));
    }

    #[test]
    fn durations_and_times_are_read_and_written() {
        for (text, nanos) in
            [("PT15M", 900_000_000_000_i64), ("PT1H30M", 5_400_000_000_000), ("PT0S", 0), ("P1D", 86_400_000_000_000)]
        {
            assert_eq!(duration_nanos(text), Some(nanos), "{text}");
        }
        for nanos in [0, 1_500_000_000, 900_000_000_000, 90_061_000_000_000] {
            assert_eq!(duration_nanos(&duration_text(nanos)), Some(nanos), "{}", duration_text(nanos));
        }
        assert_eq!(duration_text(900_000_000_000), "PT15M");
        for bad in ["", "15m", "-PT1M", "P1Y", "P1M"] {
            assert_eq!(duration_nanos(bad), None, "{bad}");
        }
        assert_eq!(time_nanos(&time_text(1_451_606_400_000_000_001)), Some(1_451_606_400_000_000_001));
        assert!(is_id("cityA-peak_1") && !is_id("a.b") && !is_id("") && !is_id("null"));
    }
}
