use wire::openadr::{Interval, ReportResource, ValuesMap};

use super::*;
use crate::demand::baseline::Method;

const RULES: Rules = Rules { limit_kw: 10.0, interval: 100, grace: 5, notice: 20, duration: 200, randomize: 30 };

fn load(kw: f64) -> Sum {
    Sum { kw, ..Sum::default() }
}

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
    assert_eq!(watch.judge(&RULES, Window { from: 0, to: 100 }, &load(10.0), 105), None, "at the limit is within it");
    assert_eq!(watch.due(&RULES, 199), None);
    assert_eq!(watch.due(&RULES, 1_000), Some(Window { from: 800, to: 900 }));
}

#[test]
fn b6_above_the_limit_the_difference_is_asked_for_and_nothing_more_until_the_event_is_over() {
    let mut watch = Watch::default();
    let ask = watch.judge(&RULES, Window { from: 0, to: 100 }, &load(14.0), 110).unwrap();
    assert_eq!((ask.asked_kw, ask.area_kw, ask.window), (4.0, 14.0, Window { from: 130, to: 330 }));
    assert_eq!((ask.common(), ask.over()), (Window { from: 160, to: 330 }, 360));
    for from in [100, 200, 300] {
        assert_eq!(watch.judge(&RULES, Window { from, to: from + 100 }, &load(99.0), from + 105), None, "{from}");
    }
    assert!(watch.judge(&RULES, Window { from: 400, to: 500 }, &load(10.1), 505).is_some());
    // Another run knows what the first one asked.
    let mut next = Watch::default();
    next.has_asked(&ask);
    assert_eq!(next.due(&RULES, 150), None);
    assert_eq!(next.judge(&RULES, Window { from: 100, to: 200 }, &load(99.0), 205), None);
}

#[test]
fn c13_the_last_promise_before_the_start_counts_and_meters_decide_what_was_measured() {
    let ask = Watch::default().judge(&RULES, Window { from: 0, to: 100 }, &load(14.0), 110).unwrap();
    let mut opted_out = heard("a/u6", 1, 127, &[(LOAD_SHED_DELTA_AVAILABLE, 0.0)]);
    opted_out.report.resources[0].intervals[0].payloads.push(ValuesMap::text(OPERATING_STATE, OPTED_OUT));
    let reports = vec![
        heard("a/u1", 3, 400, &[(DEMAND, 1.0), ("BASELINE", 4.0)]),
        heard("a/u1", 2, 121, &[(LOAD_SHED_DELTA_AVAILABLE, 2.0)]),
        heard("a/u1", 1, 120, &[(LOAD_SHED_DELTA_AVAILABLE, 9.0)]),
        // The event begins at 130: from then on a promise stands.
        heard("a/u1", 4, 131, &[(LOAD_SHED_DELTA_AVAILABLE, 8.0)]),
        heard("a/u2", 1, 135, &[(LOAD_SHED_DELTA_AVAILABLE, 1.0)]),
        heard("a/u2", 2, 136, &[(LOAD_SHED_DELTA_AVAILABLE, 7.0)]),
        heard("a/u3", 1, 500, &[(LOAD_SHED_DELTA_AVAILABLE, 5.0)]),
        heard("a/u4", 1, 126, &[(LOAD_SHED_DELTA_AVAILABLE, -5.0)]),
        opted_out,
    ];
    let shown = |sensor: &str, baseline: f64, during: Option<f64>| {
        let baseline = Baseline { kw: baseline, method: Method::IntervalBefore };
        let during = during.map(|kw| Mean { kw, covered: 0.75 });
        (sensor.parse().unwrap(), Shown { before_kw: Some(99.0), during, baseline: Some(baseline) })
    };
    let shown =
        [shown("a/u1", 4.0, Some(1.5)), shown("a/u2", 3.0, None), shown("a/u3", 2.0, Some(0.0)), shown("a/u6", 5.0, Some(1.0))];
    let coverage = Coverage { meters: 5, reported: 3, estimated: 1, missing: 1 };
    let area = Sum { kw: 7.0, coverage, estimated: vec!["a/m2".parse().unwrap()], missing: vec!["a/m3".parse().unwrap()] };
    let settled = settle(&ask, ask.over(), reports, &Measured { shown: shown.into(), area });
    assert_eq!((settled.asked_kw, settled.promised_kw, settled.measured_kw), (4.0, 3.0, 2.5));
    assert_eq!((settled.area_before_kw, settled.area_during_kw), (14.0, 7.0));
    assert_eq!((settled.coverage_during, settled.estimated.len(), settled.missing.len()), (coverage, 1, 1));
    // Too late, or less than nothing: neither promised.
    let sensors: Vec<_> = settled.parts.keys().map(|sensor| sensor.as_str()).collect();
    assert_eq!(sensors, ["a/u1", "a/u2", "a/u6"]);
    let first = &settled.parts[&"a/u1".parse::<SensorId>().unwrap()];
    assert_eq!((first.promised_kw, first.reported_kw, first.measured_kw()), (Some(2.0), Some(1.0), Some(2.5)));
    assert_eq!((first.promise.as_ref().unwrap().seq, first.covered), (2, Some(0.75)));
    assert_eq!(first.result.as_ref().unwrap().seq, 3);
    let out = &settled.parts[&"a/u6".parse::<SensorId>().unwrap()];
    assert_eq!((out.promised_kw, out.opted_out), (Some(0.0), true));
    let kept: Settlement = serde_json::from_str(&serde_json::to_string(&settled).unwrap()).unwrap();
    assert_eq!(kept, settled);
    // One of before this was told of is still read.
    let old = r#"{"asked_kw":4.0,"promised_kw":3.0,"measured_kw":2.5,"area_before_kw":14.0,"area_during_kw":7.0,
        "parts":{"a/u1":{"promised_kw":2.0,"promise":null,"reported_kw":null,"result":null,"before_kw":4.0,"during_kw":1.5}}}"#;
    let old: Settlement = serde_json::from_str(old).unwrap();
    assert_eq!(old.parts.values().next().unwrap().measured_kw(), Some(2.5));
}
