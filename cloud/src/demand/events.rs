//! Events in OpenADR's words: those that the cloud makes, and those that an operator wants. Pure.
//!
//! An operator's event asks for what can be settled: one stretch of time, one reduction in kilowatts. Prices, alerts and repeated intervals
//! are not what these programs are about, and are refused by name.

use wire::At;
use wire::openadr::{
    self, Event, EventRequest, Interval, IntervalPeriod, PayloadDescriptor, ReportDescriptor, ValuesMap, number_of,
};

use super::config::Program;
use super::logic::{Ask, Window};
use super::sums::Coverage;

/// Longest event: a week.
const DURATION_MAX: i64 = 7 * 86_400_000_000_000;
/// Farthest start from now: a year.
const AHEAD_MAX: i64 = 366 * 86_400_000_000_000;

/// Which field of a request is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub(crate) struct RequestFault {
    pub(crate) field: &'static str,
    pub(crate) why: &'static str,
}

impl RequestFault {
    pub(crate) const fn new(field: &'static str, why: &'static str) -> Self {
        Self { field, why }
    }
}

/// What an operator's request asks for.
pub(crate) fn ask(
    program: &Program,
    request: &EventRequest,
    (baseline, (area_kw, coverage)): (Window, (f64, Coverage)),
    now: At,
) -> Result<Ask, RequestFault> {
    let fault = |field, why| Err(RequestFault::new(field, why));
    if request.object_type != "EVENT" {
        return fault("objectType", "is not EVENT");
    }
    if request.duration.is_some() {
        return fault("duration", "repeats intervals, which is not done here; leave it out");
    }
    let [interval] = request.intervals.as_deref().unwrap_or_default() else {
        return fault("intervals", "are not exactly one; make an event for each");
    };
    let Some(period) = interval.interval_period.as_ref().or(request.interval_period.as_ref()) else {
        return fault("intervalPeriod", "is missing");
    };
    let Some(start) = openadr::time_nanos(&period.start) else {
        return fault("intervalPeriod.start", "is not a time of RFC 3339 since 1970");
    };
    let Some(duration) = period.duration.as_deref().and_then(openadr::duration_nanos) else {
        return fault("intervalPeriod.duration", "is not a duration of ISO 8601 like PT15M");
    };
    let Some(randomize) = period.randomize_start.as_deref().map_or(Some(0), openadr::duration_nanos) else {
        return fault("intervalPeriod.randomizeStart", "is not a duration of ISO 8601 like PT1M");
    };
    if duration <= randomize || duration > DURATION_MAX {
        return fault("intervalPeriod.duration", "is not longer than randomizeStart, or is longer than a week");
    }
    let window = Window { from: start, to: start.saturating_add(duration) };
    if window.to <= now || start > now.saturating_add(AHEAD_MAX) {
        return fault("intervalPeriod.start", "makes the event end before now, or begin in more than a year");
    }
    match number_of(&interval.payloads, openadr::DISPATCH_SETPOINT_RELATIVE) {
        Some(change) if change < 0.0 => {
            Ok(Ask { asked_kw: -change, area_kw, coverage, limit_kw: program.limit_kw, baseline, window, randomize })
        }
        _ => fault("intervals[0].payloads", "has no DISPATCH_SETPOINT_RELATIVE below 0, in kW: what the area shall take less"),
    }
}

/// The event that a request makes; `created` and `modified` are its times.
pub(crate) fn of_request(program: &Program, request: EventRequest, id: String, (created, modified): (At, At)) -> Event {
    Event {
        id,
        created_date_time: openadr::time_text(created),
        modification_date_time: openadr::time_text(modified),
        object_type: "EVENT".to_owned(),
        program_id: program.name.clone(),
        event_name: request.event_name,
        priority: request.priority,
        targets: Some(request.targets.unwrap_or_default()),
        report_descriptors: Some(request.report_descriptors.unwrap_or_else(wanted)),
        payload_descriptors: Some(
            request
                .payload_descriptors
                .unwrap_or_else(|| vec![PayloadDescriptor::of_event(openadr::DISPATCH_SETPOINT_RELATIVE, openadr::KW)]),
        ),
        interval_period: request.interval_period,
        intervals: request.intervals,
    }
}

/// Name of an event that was posted at `now`.
pub(crate) fn posted_id(program: &Program, now: At, count: u32) -> String {
    match count {
        0 => format!("{}-op-{}", program.name, now / 1_000_000),
        count => format!("{}-op-{}-{count}", program.name, now / 1_000_000),
    }
}

/// The event that the cloud makes of an ask.
pub(crate) fn of_ask(program: &Program, ask: &Ask, now: At) -> Event {
    let made_at = openadr::time_text(now);
    let payloads = vec![
        ValuesMap::number(openadr::DISPATCH_SETPOINT_RELATIVE, -ask.asked_kw),
        ValuesMap::number(openadr::AREA_DEMAND, ask.area_kw),
        ValuesMap::number(openadr::AREA_LIMIT, ask.limit_kw),
    ];
    let kinds = [openadr::DISPATCH_SETPOINT_RELATIVE, openadr::AREA_DEMAND, openadr::AREA_LIMIT];
    Event {
        // The interval that led to it: whoever judges it again gives the same name.
        id: format!("{}-{}", program.name, ask.baseline.to / 1_000_000),
        created_date_time: made_at.clone(),
        modification_date_time: made_at,
        object_type: "EVENT".to_owned(),
        program_id: program.name.clone(),
        event_name: Some(format!("{} takes {:.3} kW, {:.3} kW too many", program.area, ask.area_kw, ask.asked_kw)),
        priority: Some(program.priority),
        targets: Some(program.targets.clone()),
        report_descriptors: Some(wanted()),
        payload_descriptors: Some(kinds.map(|kind| PayloadDescriptor::of_event(kind, openadr::KW)).to_vec()),
        interval_period: Some(IntervalPeriod {
            start: openadr::time_text(ask.window.from),
            duration: Some(openadr::duration_text(ask.window.to - ask.window.from)),
            randomize_start: (ask.randomize > 0).then(|| openadr::duration_text(ask.randomize)),
        }),
        intervals: Some(vec![Interval { id: 0, interval_period: None, payloads }]),
    }
}

/// The reports that every event asks for.
fn wanted() -> Vec<ReportDescriptor> {
    let wanted = [
        (openadr::LOAD_SHED_DELTA_AVAILABLE, openadr::KW),
        (openadr::BASELINE, openadr::KW),
        (openadr::DEMAND, openadr::KW),
        (openadr::USAGE, openadr::KWH),
    ];
    let report = |(kind, units): (&str, &str)| ReportDescriptor { payload_type: kind.to_owned(), units: Some(units.to_owned()) };
    let without_unit = [openadr::OPERATING_STATE, openadr::DATA_QUALITY];
    let without_unit = without_unit.map(|kind| ReportDescriptor { payload_type: kind.to_owned(), units: None });
    wanted.into_iter().map(report).chain(without_unit).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn request(change: impl FnOnce(&mut Value)) -> EventRequest {
        let mut request = json!({"programID": "peak", "priority": 1,
            "intervalPeriod": {"start": "1970-01-01T00:01:00Z", "duration": "PT30S", "randomizeStart": "PT5S"},
            "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-2.5]}]}]});
        change(&mut request);
        serde_json::from_value(request).unwrap()
    }

    #[test]
    fn c13_an_operators_event_asks_for_one_reduction_in_one_stretch_of_time_or_is_refused_by_field() {
        let program = Program::new("peak", "a", 10.0);
        let before = (Window { from: 0, to: 10 * SECOND }, (8.0, Coverage::default()));
        let asked = ask(&program, &request(|_| ()), before, 20 * SECOND).unwrap();
        assert_eq!((asked.asked_kw, asked.area_kw, asked.randomize), (2.5, 8.0, 5 * SECOND));
        assert_eq!(asked.window, Window { from: 60 * SECOND, to: 90 * SECOND });
        let event = of_request(&program, request(|_| ()), "e".to_owned(), (1, 2));
        assert_eq!(
            (event.priority, event.targets.as_deref(), event.number("DISPATCH_SETPOINT_RELATIVE")),
            (Some(1), Some(&[][..]), Some(-2.5))
        );
        let cases: [(&str, Value, &str); 9] = [
            ("/intervals/0/payloads/0/values/0", json!(2.5), "intervals[0].payloads"),
            ("/intervals/0/payloads/0/type", json!("PRICE"), "intervals[0].payloads"),
            ("/intervals", json!([]), "intervals"),
            ("/intervalPeriod/start", json!("0001-01-01T00:00:00Z"), "intervalPeriod.start"),
            ("/intervalPeriod/start", json!("1969-01-01T00:00:00Z"), "intervalPeriod.start"),
            ("/intervalPeriod/duration", json!("30s"), "intervalPeriod.duration"),
            ("/intervalPeriod/duration", json!("PT5S"), "intervalPeriod.duration"),
            ("/intervalPeriod/randomizeStart", json!("-PT5S"), "intervalPeriod.randomizeStart"),
            ("/intervalPeriod", Value::Null, "intervalPeriod"),
        ];
        for (at, value, field) in cases {
            let wrong = request(|whole| *whole.pointer_mut(at).unwrap() = value.clone());
            assert_eq!(ask(&program, &wrong, before, 20 * SECOND).unwrap_err().field, field, "{at} {value}");
        }
        assert_eq!(ask(&program, &request(|_| ()), before, 90 * SECOND).unwrap_err().field, "intervalPeriod.start");
        let repeated = request(|whole| whole["duration"] = json!("P7D"));
        assert_eq!(ask(&program, &repeated, before, 20 * SECOND).unwrap_err().field, "duration");
    }
}
