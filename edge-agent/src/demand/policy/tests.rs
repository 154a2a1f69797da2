use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const POLICY: Policy = Policy { curtailable_kw: 3.0, minimum_kw: 1.0 };
const SECOND: i64 = 1_000_000_000;

fn event(randomize: Option<&str>) -> Event {
    let json = serde_json::json!({"id": "p-1", "createdDateTime": "1970-01-01T00:00:00Z", "modificationDateTime": "1970-01-01T00:00:00Z",
        "programID": "p", "priority": 0,
        "intervalPeriod": {"start": "1970-01-01T00:00:10Z", "duration": "PT20S", "randomizeStart": randomize},
        "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [-5.0]}]}]});
    serde_json::from_value(json).unwrap()
}

/// A response to the event above that promises what the policy allows.
fn respond(event: &Event, load_kw: f64, now: At, rng: &mut StdRng) -> Option<Response> {
    let mut response = Response::to(event, load_kw, now, rng)?;
    response.promised_kw = share(POLICY, std::slice::from_ref(&response), now)[0];
    Some(response)
}

fn running(event: &str, priority: u32, (begins, ends): (i64, i64), asked_kw: f64) -> Response {
    Response {
        event: event.to_owned(),
        program: "p".to_owned(),
        priority,
        modified: 0,
        asked_kw,
        baseline_kw: 6.0,
        promised_kw: 0.0,
        opted_out: false,
        begins,
        ends,
    }
}

#[test]
fn b4_b6_a_promise_is_within_what_is_curtailable_what_is_asked_and_leaves_the_comfort() {
    for (load, asked, promised) in [(8.0, 5.0, 3.0), (2.5, 5.0, 1.5), (8.0, 0.5, 0.5), (1.0, 5.0, 0.0), (0.2, 5.0, 0.0)] {
        assert_eq!(POLICY.promise(load, asked, 0.0), promised, "{load} {asked}");
    }
    assert_eq!((POLICY.promise(8.0, 5.0, 2.0), POLICY.promise(2.5, 5.0, 1.0), POLICY.promise(8.0, 5.0, 4.0)), (1.0, 0.5, 0.0));
}

#[test]
fn b6_a_response_begins_within_the_spread_holds_and_reports() {
    let mut rng = StdRng::seed_from_u64(1);
    let response = respond(&event(None), 6.0, 0, &mut rng).unwrap();
    assert_eq!((response.begins, response.ends, response.promised_kw), (10 * SECOND, 30 * SECOND, 3.0));
    let duties = [9_999_999_999, 10 * SECOND, 29_999_999_999, 30 * SECOND].map(|now| response.duty(now));
    assert_eq!(duties, [Duty::Wait, Duty::Hold, Duty::Hold, Duty::Report]);
    let mut starts = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let spread = respond(&event(Some("PT5S")), 6.0, 0, &mut rng).unwrap();
        assert!((10 * SECOND..=15 * SECOND).contains(&spread.begins) && spread.ends == spread.begins + 20 * SECOND);
        starts.insert(spread.begins);
    }
    assert!(starts.len() > 90, "they are spread");
    // Too late, or not readable: no response.
    assert_eq!(respond(&event(None), 6.0, 30 * SECOND, &mut rng), None);
    assert_eq!(respond(&Event { interval_period: None, ..event(None) }, 6.0, 0, &mut rng), None);
    assert_eq!(respond(&Event { intervals: None, ..event(None) }, 6.0, 0, &mut rng), None);
    assert_eq!(respond(&event(Some("soon")), 6.0, 0, &mut rng), None);
    assert_eq!(respond(&event(None).withdrawn(5), 6.0, 0, &mut rng), None, "it was cancelled");
}

#[test]
fn b6_events_that_overlap_share_what_may_be_switched_off_by_priority() {
    // Of 3 kW the important one gets its 2, the other what is left; one that does not overlap gets all.
    let responses = [
        running("low", 5, (0, 100), 2.5),
        running("high", 0, (50, 150), 2.0),
        running("alone", 9, (150, 200), 9.0),
        running("none", u32::MAX, (60, 70), 1.0),
    ];
    assert_eq!(share(POLICY, &responses, 10), [1.0, 2.0, 3.0, 0.0]);
    // Of equals the earlier keeps what it has.
    let equals = [running("second", 1, (10, 100), 2.0), running("first", 1, (0, 100), 2.0)];
    assert_eq!(share(POLICY, &equals, 0), [1.0, 2.0]);
    // Who opted out gives nothing, and leaves it to others; what is over stays as it was said.
    let opted = Response { opted_out: true, ..running("high", 0, (50, 150), 2.0) };
    assert_eq!(share(POLICY, &[responses[0].clone(), opted], 10), [2.5, 0.0]);
    let over = Response { promised_kw: 2.5, ..running("low", 5, (0, 100), 2.5) };
    assert_eq!(share(POLICY, &[over, running("high", 0, (50, 150), 2.0)], 100), [2.5, 2.0]);
}

#[test]
fn b6_the_set_point_takes_off_what_was_promised_to_all_that_run_and_names_the_most_important() {
    let mut responses = vec![running("low", 5, (0, 100), 2.5), running("high", 0, (50, 150), 2.0)];
    for (response, kw) in responses.iter_mut().zip([1.0, 2.0]) {
        response.promised_kw = kw;
    }
    let shown = |now| setpoint(&responses, now).map(|(first, kw, until)| (first.event.as_str(), kw, until));
    assert_eq!((shown(0), shown(60), shown(120)), (Some(("low", 5.0, 100)), Some(("high", 3.0, 100)), Some(("high", 4.0, 150))));
    assert_eq!(shown(150), None);
    let opted = [Response { opted_out: true, ..responses[0].clone() }];
    assert!(setpoint(&opted, 10).is_none());
}

#[test]
fn c13_promise_and_result_say_baseline_usage_and_how_good_they_are() {
    let response = respond(&event(None), 6.0, 0, &mut StdRng::seed_from_u64(1)).unwrap();
    let promise = response.promise("a/b");
    assert_eq!((promise.event_id.as_str(), promise.number(openadr::LOAD_SHED_DELTA_AVAILABLE)), ("p-1", Some(3.0)));
    assert_eq!((promise.number(openadr::DEMAND), promise.text(openadr::OPERATING_STATE)), (None, None));
    let out = Response { opted_out: true, promised_kw: 0.0, ..response.clone() }.promise("a/b");
    let said = (out.number(openadr::LOAD_SHED_DELTA_AVAILABLE), out.text(openadr::OPERATING_STATE));
    assert_eq!(said, (Some(0.0), Some("RUNNING_OPTED_OUT")));
    let result = response.result("a/b", Some(Mean { kw: 3.6, covered: 0.9 }));
    let numbers = [openadr::BASELINE, openadr::DEMAND, openadr::USAGE].map(|kind| result.number(kind).unwrap());
    assert_eq!(numbers, [6.0, 3.6, 0.02]);
    let quality = |mean| response.result("a/b", mean).text(openadr::DATA_QUALITY).unwrap().to_owned();
    assert_eq!(quality(Some(Mean { kw: 1.0, covered: 0.9 })), "OK");
    assert_eq!(quality(Some(Mean { kw: 1.0, covered: 0.1 })), "ESTIMATED");
    assert_eq!((quality(None), response.result("a/b", None).number(openadr::DEMAND)), ("MISSING".to_owned(), None));
    let units: Vec<_> = result.payload_descriptors.unwrap().into_iter().map(|of| (of.payload_type, of.units.unwrap())).collect();
    let unit = |kind: &str, unit: &str| (kind.to_owned(), unit.to_owned());
    assert_eq!(units, [unit("BASELINE", "KW"), unit("DEMAND", "KW"), unit("USAGE", "KWH")]);
}
