//! What a user terminal answers to an event (B4, B6). Pure: event, load, time and chance come in, a response comes out.
//!
//! Events that overlap share what may be switched off: the one with the smallest priority number gets its part first, what it leaves goes
//! to the next. A response that was given before is lowered when a more important event comes, and the terminal says so.

use rand::{Rng, RngExt};
use wire::At;
use wire::openadr::{self, Event, Interval, IntervalPeriod, PayloadDescriptor, ReportRequest, ReportResource, ValuesMap};
use wire::power::Mean;

/// What the user of a terminal allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Policy {
    /// Load that may be switched off, kilowatts.
    pub(crate) curtailable_kw: f64,
    /// What must be left, kilowatts: comfort.
    pub(crate) minimum_kw: f64,
}

impl Policy {
    /// The reduction that may be promised at a load when so much is asked of the whole area, and so much is promised to others already.
    pub(crate) fn promise(&self, load_kw: f64, asked_kw: f64, promised_kw: f64) -> f64 {
        (self.curtailable_kw - promised_kw).min(load_kw - self.minimum_kw - promised_kw).min(asked_kw).max(0.0)
    }
}

/// A response to one event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Response {
    pub(crate) event: String,
    pub(crate) program: String,
    /// Smaller goes first; the largest number of all stands for none.
    pub(crate) priority: u32,
    /// When the event was changed last, as it says.
    pub(crate) modified: At,
    /// What is asked of the whole area.
    pub(crate) asked_kw: f64,
    /// The load that the promise is measured from.
    pub(crate) baseline_kw: f64,
    pub(crate) promised_kw: f64,
    /// Whether the user wants no part in it.
    pub(crate) opted_out: bool,
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
    /// A response that promises nothing yet: see [`share`]. `None` when the event can't be read, asks for nothing, or is over.
    pub(crate) fn to(event: &Event, load_kw: f64, now: At, rng: &mut impl Rng) -> Option<Self> {
        let own = event.intervals.as_deref().and_then(|intervals| intervals.first()?.interval_period.as_ref());
        let period = own.or(event.interval_period.as_ref())?;
        let start = openadr::time_nanos(&period.start)?;
        let duration = openadr::duration_nanos(period.duration.as_deref()?)?;
        let spread = period.randomize_start.as_deref().map_or(Some(0), openadr::duration_nanos)?;
        let asked_kw = -event.number(openadr::DISPATCH_SETPOINT_RELATIVE)?;
        let begins = start.checked_add(rng.random_range(0..=spread))?;
        let ends = begins.checked_add(duration)?;
        (asked_kw > 0.0 && now < ends && load_kw.is_finite()).then(|| Self {
            event: event.id.clone(),
            program: event.program_id.clone(),
            priority: event.priority.unwrap_or(u32::MAX),
            modified: modified(event),
            asked_kw,
            baseline_kw: load_kw,
            promised_kw: 0.0,
            opted_out: false,
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

    fn overlaps(&self, other: &Self) -> bool {
        self.begins < other.ends && other.begins < self.ends
    }

    /// The more important first; of equals the earlier, so that what was promised stays.
    fn rank(&self) -> (u32, At, &str) {
        (self.priority, self.begins, &self.event)
    }

    /// The report that promises.
    pub(crate) fn promise(&self, sensor: &str) -> ReportRequest {
        let mut payloads = vec![
            ValuesMap::number(openadr::LOAD_SHED_DELTA_AVAILABLE, self.promised_kw),
            ValuesMap::number(openadr::BASELINE, self.baseline_kw),
        ];
        if self.opted_out {
            payloads.push(ValuesMap::text(openadr::OPERATING_STATE, openadr::OPTED_OUT));
        }
        self.report(sensor, "promise", payloads)
    }

    /// The report of what came of it; `mean` is that of the readings while the event ran, if there were any.
    pub(crate) fn result(&self, sensor: &str, mean: Option<Mean>) -> ReportRequest {
        let mut payloads = vec![ValuesMap::number(openadr::BASELINE, self.baseline_kw)];
        let quality = match mean {
            None => openadr::QUALITY_MISSING,
            Some(mean) if mean.is_whole() => openadr::QUALITY_OK,
            Some(_) => openadr::QUALITY_ESTIMATED,
        };
        if let Some(Mean { kw, .. }) = mean {
            let hours = (self.ends - self.begins) as f64 / 3_600e9;
            payloads.push(ValuesMap::number(openadr::DEMAND, kw));
            payloads.push(ValuesMap::number(openadr::USAGE, kw * hours));
        }
        payloads.push(ValuesMap::text(openadr::DATA_QUALITY, quality));
        self.report(sensor, "result", payloads)
    }

    fn report(&self, sensor: &str, name: &str, payloads: Vec<ValuesMap>) -> ReportRequest {
        let unit = |kind: &str| match kind {
            openadr::USAGE => Some(openadr::KWH),
            openadr::OPERATING_STATE | openadr::DATA_QUALITY => None,
            _ => Some(openadr::KW),
        };
        let described = payloads.iter().filter_map(|payload| Some((&payload.kind, unit(&payload.kind)?)));
        ReportRequest {
            object_type: "REPORT".to_owned(),
            event_id: self.event.clone(),
            client_name: sensor.to_owned(),
            report_name: Some(name.to_owned()),
            payload_descriptors: Some(described.map(|(kind, unit)| PayloadDescriptor::of_report(kind, unit)).collect()),
            resources: vec![ReportResource {
                resource_name: sensor.to_owned(),
                interval_period: Some(IntervalPeriod {
                    start: openadr::time_text(self.begins),
                    duration: Some(openadr::duration_text((self.ends - self.begins).max(0))),
                    randomize_start: None,
                }),
                intervals: vec![Interval { id: 0, interval_period: None, payloads }],
            }],
        }
    }
}

/// When an event was changed last.
pub(crate) fn modified(event: &Event) -> At {
    openadr::time_nanos(&event.modification_date_time).unwrap_or_default()
}

/// What is promised to each of the responses, so that events that overlap share what the policy allows; those that are over keep theirs.
pub(crate) fn share(policy: Policy, responses: &[Response], now: At) -> Vec<f64> {
    let mut order: Vec<usize> = (0..responses.len()).collect();
    order.sort_by(|one, other| responses[*one].rank().cmp(&responses[*other].rank()));
    let mut shares: Vec<f64> = responses.iter().map(|response| response.promised_kw).collect();
    let mut done: Vec<usize> = Vec::with_capacity(order.len());
    for index in order {
        let response = &responses[index];
        if response.duty(now) != Duty::Report {
            let before = done.iter().filter(|other| responses[**other].overlaps(response));
            let promised: f64 = before.map(|other| shares[*other]).sum();
            shares[index] = match response.opted_out {
                true => 0.0,
                false => policy.promise(response.baseline_kw, response.asked_kw, promised),
            };
        }
        done.push(index);
    }
    shares
}

/// What may be taken while events run: all that they were promised is taken off. Told with the most important of them, until the first ends.
pub(crate) fn setpoint(responses: &[Response], now: At) -> Option<(&Response, f64, At)> {
    let held = || responses.iter().filter(|response| response.duty(now) == Duty::Hold && !response.opted_out);
    let first = held().min_by(|one, other| one.rank().cmp(&other.rank()))?;
    let promised: f64 = held().map(|response| response.promised_kw).sum();
    let until = held().map(|response| response.ends).min()?;
    Some((first, (first.baseline_kw - promised).max(0.0), until))
}

#[cfg(test)]
mod tests;
