//! What a user terminal answers to an event (B4, B6). Pure: event, load, time and chance come in, a response comes out.

use rand::{Rng, RngExt};
use wire::At;
use wire::openadr::{self, Event, Interval, IntervalPeriod, PayloadDescriptor, ReportRequest, ReportResource, ValuesMap};

/// What the user of a terminal allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Policy {
    /// Load that may be switched off, kilowatts.
    pub(crate) curtailable_kw: f64,
    /// What must be left, kilowatts: comfort.
    pub(crate) minimum_kw: f64,
}

impl Policy {
    /// The reduction that may be promised at a load when so much is asked of the whole area.
    pub(crate) fn promise(&self, load_kw: f64, asked_kw: f64) -> f64 {
        self.curtailable_kw.min(load_kw - self.minimum_kw).min(asked_kw).max(0.0)
    }
}

/// A response to one event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Response {
    pub(crate) event: String,
    pub(crate) program: String,
    /// The load that the promise is measured from.
    pub(crate) baseline_kw: f64,
    pub(crate) promised_kw: f64,
    /// When this terminal begins and ends.
    pub(crate) begins: At,
    pub(crate) ends: At,
}

/// What is to be done about a response now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing until it begins.
    Wait,
    /// Hold the set-point.
    Hold,
    /// It is over: report.
    Report,
}

impl Response {
    /// Decides; `None` when the event can't be read, asks for nothing, or is over.
    pub(crate) fn to(event: &Event, policy: Policy, load_kw: f64, now: At, rng: &mut impl Rng) -> Option<Self> {
        let period = event.interval_period.as_ref()?;
        let start = openadr::time_nanos(&period.start)?;
        let duration = openadr::duration_nanos(period.duration.as_deref()?)?;
        let spread = period.randomize_start.as_deref().map_or(Some(0), openadr::duration_nanos)?;
        let asked_kw = -event.number(openadr::DISPATCH_SETPOINT_RELATIVE)?;
        let begins = start.checked_add(rng.random_range(0..=spread))?;
        let ends = begins.checked_add(duration)?;
        (asked_kw > 0.0 && now < ends && load_kw.is_finite()).then(|| Self {
            event: event.id.clone(),
            program: event.program_id.clone(),
            baseline_kw: load_kw,
            promised_kw: policy.promise(load_kw, asked_kw),
            begins,
            ends,
        })
    }

    pub(crate) fn duty(&self, now: At) -> Duty {
        match now {
            now if now < self.begins => Duty::Wait,
            now if now < self.ends => Duty::Hold,
            _ => Duty::Report,
        }
    }

    /// What the terminal may take while the event runs.
    pub(crate) fn setpoint_kw(&self) -> f64 {
        self.baseline_kw - self.promised_kw
    }

    /// The report that promises.
    pub(crate) fn promise(&self, sensor: &str) -> ReportRequest {
        let payloads = vec![
            ValuesMap::number(openadr::LOAD_SHED_DELTA_AVAILABLE, self.promised_kw),
            ValuesMap::number(openadr::BASELINE, self.baseline_kw),
        ];
        self.report(sensor, "promise", payloads)
    }

    /// The report of what came of it; `mean_kw` is the mean of the readings while the event ran, if there were any.
    pub(crate) fn result(&self, sensor: &str, mean_kw: Option<f64>) -> ReportRequest {
        let mut payloads = vec![ValuesMap::number(openadr::BASELINE, self.baseline_kw)];
        if let Some(mean_kw) = mean_kw {
            let hours = (self.ends - self.begins) as f64 / 3_600e9;
            payloads.push(ValuesMap::number(openadr::DEMAND, mean_kw));
            payloads.push(ValuesMap::number(openadr::USAGE, mean_kw * hours));
        }
        self.report(sensor, "result", payloads)
    }

    fn report(&self, sensor: &str, name: &str, payloads: Vec<ValuesMap>) -> ReportRequest {
        let unit = |kind: &str| if kind == openadr::USAGE { openadr::KWH } else { openadr::KW };
        let descriptors = payloads.iter().map(|payload| PayloadDescriptor::of_report(&payload.kind, unit(&payload.kind)));
        ReportRequest {
            object_type: "REPORT".to_owned(),
            event_id: self.event.clone(),
            client_name: sensor.to_owned(),
            report_name: Some(name.to_owned()),
            payload_descriptors: Some(descriptors.collect()),
            resources: vec![ReportResource {
                resource_name: sensor.to_owned(),
                interval_period: Some(IntervalPeriod {
                    start: openadr::time_text(self.begins),
                    duration: Some(openadr::duration_text(self.ends - self.begins)),
                    randomize_start: None,
                }),
                intervals: vec![Interval { id: 0, interval_period: None, payloads }],
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const POLICY: Policy = Policy { curtailable_kw: 3.0, minimum_kw: 1.0 };

    fn event(randomize: Option<&str>) -> Event {
        let json = serde_json::json!({"id": "p-1", "createdDateTime": "1970-01-01T00:00:00Z", "modificationDateTime": "1970-01-01T00:00:00Z",
            "programID": "p", "priority": 0,
            "intervalPeriod": {"start": "1970-01-01T00:00:10Z", "duration": "PT20S", "randomizeStart": randomize},
            "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-5.0]}]}]});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn b4_b6_a_promise_is_within_what_is_curtailable_what_is_asked_and_leaves_the_comfort() {
        for (load, asked, promised) in [(8.0, 5.0, 3.0), (2.5, 5.0, 1.5), (8.0, 0.5, 0.5), (1.0, 5.0, 0.0), (0.2, 5.0, 0.0)] {
            assert_eq!(POLICY.promise(load, asked), promised, "{load} {asked}");
        }
    }

    #[test]
    fn b6_a_response_begins_within_the_spread_holds_and_reports() {
        let mut rng = StdRng::seed_from_u64(1);
        let response = Response::to(&event(None), POLICY, 6.0, 0, &mut rng).unwrap();
        assert_eq!((response.begins, response.ends, response.setpoint_kw()), (10_000_000_000, 30_000_000_000, 3.0));
        let duties = [9_999_999_999, 10_000_000_000, 29_999_999_999, 30_000_000_000].map(|now| response.duty(now));
        assert_eq!(duties, [Duty::Wait, Duty::Hold, Duty::Hold, Duty::Report]);
        for _ in 0..100 {
            let spread = Response::to(&event(Some("PT5S")), POLICY, 6.0, 0, &mut rng).unwrap();
            assert!((10_000_000_000..=15_000_000_000).contains(&spread.begins) && spread.ends == spread.begins + 20_000_000_000);
        }
        // Too late, or not readable: no response.
        assert_eq!(Response::to(&event(None), POLICY, 6.0, 30_000_000_000, &mut rng), None);
        assert_eq!(Response::to(&Event { interval_period: None, ..event(None) }, POLICY, 6.0, 0, &mut rng), None);
        assert_eq!(Response::to(&Event { intervals: None, ..event(None) }, POLICY, 6.0, 0, &mut rng), None);
        assert_eq!(Response::to(&event(Some("soon")), POLICY, 6.0, 0, &mut rng), None);
    }

    #[test]
    fn c13_promise_and_result_say_baseline_and_usage() {
        let response = Response::to(&event(None), POLICY, 6.0, 0, &mut StdRng::seed_from_u64(1)).unwrap();
        let promise = response.promise("a/b");
        assert_eq!((promise.event_id.as_str(), promise.number(openadr::LOAD_SHED_DELTA_AVAILABLE)), ("p-1", Some(3.0)));
        assert_eq!(promise.number(openadr::DEMAND), None);
        let result = response.result("a/b", Some(3.6));
        let numbers = [openadr::BASELINE, openadr::DEMAND, openadr::USAGE].map(|kind| result.number(kind).unwrap());
        assert_eq!(numbers, [6.0, 3.6, 0.02]);
        assert_eq!(response.result("a/b", None).number(openadr::DEMAND), None);
    }
}
