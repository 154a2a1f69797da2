use proptest::prelude::*;
use wire::topics::{Anchor, Demand, Down, SegmentName, SensorName, SeriesName, TopicFault, Up};
use wire::{Operation, Topic};

use crate::{hostile_text, segment, series};

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![Just(Operation::Store), Just(Operation::Forward)]
}

proptest! {
    #[test]
    fn every_topic_that_is_built_is_read_back(
        operation in operation(), series in series(), area in segment(), name in segment(),
        up in prop::sample::select(Up::ALL), down in prop::sample::select(Down::ALL),
        demand in prop::sample::select(Demand::ALL), anchor in prop::sample::select(Anchor::ALL),
    ) {
        let sensor = format!("{area}/{name}");
        let (series, sensor) = (SeriesName::new(&series).unwrap(), SensorName::new(&sensor).unwrap());
        let name = SegmentName::new(&name).unwrap();
        for topic in [
            Topic::Reading { operation, series },
            Topic::Frame { operation, sensor },
            Topic::Probe { sensor },
            Topic::Up { relay: name, kind: up },
            Topic::Down { relay: name, kind: down },
            Topic::Data { series },
            Topic::Query { client: name },
            Topic::Demand { program: name, kind: demand },
            Topic::Anchor { party: sensor, kind: anchor },
        ] {
            let text = topic.to_string();
            prop_assert_eq!(Topic::parse(&text), Ok(topic), "{}", text);
            prop_assert!(wire::filter::valid_topic(&text));
        }
    }

    #[test]
    fn whatever_is_read_is_rebuilt_identically(text in hostile_text()) {
        if let Ok(topic) = Topic::parse(&text) {
            prop_assert_eq!(topic.to_string(), text);
        }
    }
}

#[test]
fn topics_read_as_the_table_of_the_design_says() {
    let series = SeriesName::new("cityA/meter-0017/power/active").unwrap();
    let sensor = SensorName::new("cityA/meter-0017").unwrap();
    let relay = SegmentName::new("relay-1").unwrap();
    for (text, topic) in [
        ("op/store/cityA/meter-0017/power/active", Topic::Reading { operation: Operation::Store, series }),
        ("op/forward/cityA/meter-0017", Topic::Frame { operation: Operation::Forward, sensor }),
        ("probe/cityA/meter-0017", Topic::Probe { sensor }),
        ("up/relay-1/frames", Topic::Up { relay, kind: Up::Frames }),
        ("down/relay-1/receipts", Topic::Down { relay, kind: Down::Receipts }),
        ("data/cityA/meter-0017/power/active", Topic::Data { series }),
        ("query/relay-1", Topic::Query { client: relay }),
        ("demand/relay-1/events", Topic::Demand { program: relay, kind: Demand::Events }),
        ("anchor/cityA/meter-0017/roots", Topic::Anchor { party: sensor, kind: Anchor::Roots }),
    ] {
        assert_eq!(Topic::parse(text), Ok(topic));
        assert_eq!(topic.to_string(), text);
    }
}

#[test]
fn what_is_nearly_a_topic_is_refused() {
    for text in [
        "op",
        "op/",
        "op/store",
        "op/store/",
        "op/store/a",
        "op/store/a/",
        "op/store/a/b/",
        "op/store//b",
        "op/Store/a/b",
        "op/keep/a/b",
        "op/store/a/b//c",
        "op/store/a/+",
        "op/store/a/b/#",
        "op/store/a/b/1/2/3/4/5/6/7/8/9",
        "probe/a",
        "probe/a/b/c",
        "up/frames",
        "up/r/frames/",
        "up/r/receipts",
        "up/r/s/frames",
        "down/r/frames",
        "down//lease",
        "data/a/b",
        "data/a/b/+",
        "query",
        "query/",
        "query/a/b",
        "query/a+b",
        "demand/p/roots",
        "anchor/p",
        "anchor/é/roots",
        "anchor/p/roots",
        "anchor/a/b/c/roots",
        "anchor/a/b/root",
    ] {
        assert!(Topic::parse(text).is_err_and(|fault| fault != TopicFault::Foreign), "{text}");
    }
    for text in ["", "/", "/op/store/a/b", "OP/store/a/b", "$SYS/up", "é", "updown/r/lease", "#", "+/r/frames"] {
        assert_eq!(Topic::parse(text), Err(TopicFault::Foreign), "{text}");
    }
}
