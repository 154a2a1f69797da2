use wire::openadr::{Interval, ReportResource, ValuesMap};

use super::*;

const RULES: Rules = Rules { limit_kw: 10.0, interval: 100, grace: 5, notice: 20, duration: 200, randomize: 30 };

fn report(kinds: &[(&str, f64)]) -> ReportRequest {
    let payloads = kinds.iter().map(|(kind, value)| ValuesMap::number(kind, *value)).collect();
    let intervals = vec![Interval { id: 0, interval_period: None, payloads }];
    ReportRequest {
        object_type: "REPORT".into(),
        event_id: "e".into(),
        client_name: "c".into(),
        report_name: None,
        payload_descriptors: None,
        resources: vec![ReportResource { resource_name: "r".into(), interval_period: None, intervals }],
    }
}

fn heard(sensor: &str, seq: u64, at: At, kinds: &[(&str, f64)]) -> Heard {
    let key = format!("{sensor}/forebay/demand/p@1.{seq}").parse().unwrap();
    Heard { key, at, report: report(kinds) }
}

#[test]
fn b6_an_interval_is_due_once_when_its_grace_is_over_and_only_the_newest() {
    let mut watch = Watch::default();
    assert_eq!(watch.due(&RULES, 104), None);
    assert_eq!(watch.due(&RULES, 105), Some(Window { from: 0, to: 100 }));
    assert_eq!(watch.judge(&RULES, Window { from: 0, to: 100 }, 10.0, 105), None, "at the limit is within it");
    assert_eq!(watch.due(&RULES, 199), None);
    assert_eq!(watch.due(&RULES, 1_000), Some(Window { from: 800, to: 900 }));
}

#[test]
fn b6_above_the_limit_the_difference_is_asked_for_and_nothing_more_until_the_event_is_over() {
    let mut watch = Watch::default();
    let ask = watch.judge(&RULES, Window { from: 0, to: 100 }, 14.0, 110).unwrap();
    assert_eq!((ask.asked_kw, ask.area_kw, ask.window), (4.0, 14.0, Window { from: 130, to: 330 }));
    assert_eq!((ask.common(), ask.over()), (Window { from: 160, to: 330 }, 360));
    for from in [100, 200, 300] {
        assert_eq!(watch.judge(&RULES, Window { from, to: from + 100 }, 99.0, from + 105), None, "{from}");
    }
    assert!(watch.judge(&RULES, Window { from: 400, to: 500 }, 10.1, 505).is_some());
    // Another run knows what the first one asked.
    let mut next = Watch::default();
    next.has_asked(&ask);
    assert_eq!(next.due(&RULES, 150), None);
    assert_eq!(next.judge(&RULES, Window { from: 100, to: 200 }, 99.0, 205), None);
}

#[test]
fn c13_the_first_promise_and_the_last_result_count_and_meters_decide_what_was_measured() {
    let ask = Watch::default().judge(&RULES, Window { from: 0, to: 100 }, 14.0, 110).unwrap();
    let reports = vec![
        heard("a/u1", 3, 400, &[(DEMAND, 1.0), ("BASELINE", 4.0)]),
        heard("a/u1", 1, 120, &[(LOAD_SHED_DELTA_AVAILABLE, 2.0)]),
        heard("a/u1", 2, 121, &[(LOAD_SHED_DELTA_AVAILABLE, 9.0)]),
        heard("a/u2", 1, 125, &[(LOAD_SHED_DELTA_AVAILABLE, 1.0)]),
        heard("a/u3", 1, 500, &[(LOAD_SHED_DELTA_AVAILABLE, 5.0)]),
        heard("a/u4", 1, 126, &[(LOAD_SHED_DELTA_AVAILABLE, -5.0)]),
    ];
    let mean = |sensor: &str, before, during| (sensor.parse().unwrap(), [before, during]);
    let means: Means = [
        mean("a/u1", Some(4.0), Some(1.5)),
        mean("a/u2", Some(3.0), None),
        mean("a/u3", Some(2.0), Some(0.0)),
        mean("a/m1", Some(5.0), Some(5.5)),
    ]
    .into();
    let settled = settle(&ask, reports, &means);
    assert_eq!((settled.asked_kw, settled.promised_kw, settled.measured_kw), (4.0, 3.0, 2.5));
    assert_eq!((settled.area_before_kw, settled.area_during_kw), (14.0, 7.0));
    // Too late, or less than nothing: neither promised.
    let sensors: Vec<_> = settled.parts.keys().map(|sensor| sensor.as_str()).collect();
    assert_eq!(sensors, ["a/u1", "a/u2"]);
    let first = &settled.parts[&"a/u1".parse::<SensorId>().unwrap()];
    assert_eq!((first.promised_kw, first.reported_kw, first.measured_kw()), (Some(2.0), Some(1.0), Some(2.5)));
    assert_eq!(first.promise.as_ref().unwrap().seq, 1);
    assert_eq!(first.result.as_ref().unwrap().seq, 3);
    let kept: Settlement = serde_json::from_str(&serde_json::to_string(&settled).unwrap()).unwrap();
    assert_eq!(kept, settled);
}
